package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

func TestFanout_CrowdThatClicksSteadilyAgreesAndIsNotFlooded(t *testing.T) {
	got, took := visitor.EveryTabClicks(t, 50, 10, 3*time.Second)
	assert.LessOrEqual(t, got.MostRefreshes, visitor.RefreshesIn(took, visitor.Interval))
}

// With next to no budget, hours pass between two refreshes, as soon as it is known
// what one costs.
func TestFanout_BudgetHoldsForTheTabsThatAreOpen(t *testing.T) {
	server := visitor.Serve(t, "-refresh-budget", "1e-9")
	visitor.OpenCrowd(t, server, visitor.CounterPage, 30)
	tb, peer := visitor.New(t, server).Open(visitor.CounterPage), visitor.New(t, server).Open(visitor.CounterPage)
	tb.Increment()
	peer.Shows("Counter: 1")
	<-time.After(2 * visitor.Interval)
	tb.Increment()
	peer.Shows("Counter: 2")
	tb.Increment()
	tb.Shows("Counter: 3")
	<-time.After(4 * visitor.Interval)
	peer.Never("Counter: 3")
}

func TestFanout_BurstOfACrowdLosesNothing(t *testing.T) {
	got, took := visitor.ClickAtOnce(t, visitor.CounterPage, 200, 1000)
	assert.LessOrEqual(t, got.MostRefreshes, visitor.RefreshesIn(took, visitor.Interval))
}

func TestFanout_FastFingersLoseNoClick(t *testing.T) {
	visitor.ClickAtOnce(t, visitor.CounterPage, 20, 20*200) // as many as the rate limit lets through
}

// Far more than that: every click counts, or is answered that it was too fast.
func TestFanout_FloodIsAnsweredToTheLastClick(t *testing.T) {
	const tabs, perTab = 20, 1000
	c := visitor.OpenCrowd(t, visitor.Serve(t), visitor.CounterPage, tabs)
	c.ClickAtOnce(tabs * perTab)
	var got visitor.Tally
	require.EventuallyWithT(t, func(check *assert.CollectT) {
		got = c.Count(0)
		assert.Zero(check, got.Unanswered)
	}, visitor.Soon, 10*time.Millisecond)
	assert.Equal(t, tabs*perTab, got.Clicks)
	assert.Positive(t, got.Refused)
	counted := int64(got.Clicks - got.Refused)
	assert.EventuallyWithT(t, func(check *assert.CollectT) {
		got = c.Count(counted)
		assert.Zero(check, got.CutOff+got.Wrong)
	}, visitor.Soon, 10*time.Millisecond)
}

func TestFanout_JoinsAndLeavesAreMerged(t *testing.T) {
	server := visitor.Serve(t)
	watching := visitor.New(t, server).Open(visitor.PresencePage)
	tabs := make([]*visitor.Tab, 5)
	for i := range tabs {
		tabs[i] = visitor.New(t, server).Open(visitor.PresencePage)
	}
	begin := time.Now()
	for range 30 {
		for _, tb := range tabs {
			tb.Join("guest")
			tb.Leave()
		}
	}
	tabs[0].Join("the last")
	watching.Shows("the last")
	watching.Shows("1 user(s) online")
	assert.LessOrEqual(t, watching.FrameCount()-1, visitor.RefreshesIn(time.Since(begin), visitor.Interval))
}

func TestFanout_CrowdThatJoinsAtOnceIsAHandfulOfRefreshes(t *testing.T) {
	const tabs = 200
	got, took := visitor.ClickAtOnce(t, visitor.PresencePage, tabs, tabs)
	assert.LessOrEqual(t, got.MostRefreshes, min(10, visitor.RefreshesIn(took, visitor.Interval)))
}
