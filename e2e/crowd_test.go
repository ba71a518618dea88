package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// refreshesIn returns how many refreshes of a tab fit into a time: one per interval,
// the first, and the last.
func refreshesIn(d, interval time.Duration) int { return int(d/interval) + 2 }

func TestFanout_CrowdThatClicksSteadilyAgreesAndIsNotFlooded(t *testing.T) {
	got, took := everyTabClicks(t, 50, 10, 3*time.Second)
	assert.LessOrEqual(t, got.MostRefreshes, refreshesIn(took, interval))
}

// With next to no budget, hours pass between two refreshes, as soon as it is known
// what one costs.
func TestFanout_BudgetHoldsForTheTabsThatAreOpen(t *testing.T) {
	server := newServer(t, "-refresh-budget", "1e-9")
	visitor.OpenCrowd(t, server, visitor.CounterPage, 30)
	tb, peer := visitor.New(t, server).Open(visitor.CounterPage), visitor.New(t, server).Open(visitor.CounterPage)
	tb.Increment()
	peer.Shows("Counter: 1")
	<-time.After(2 * interval)
	tb.Increment()
	peer.Shows("Counter: 2")
	tb.Increment()
	tb.Shows("Counter: 3")
	<-time.After(4 * interval)
	peer.Never("Counter: 3")
}

func TestFanout_BurstOfACrowdLosesNothing(t *testing.T) {
	got, took := atOnce(t, visitor.CounterPage, 200, 1000)
	assert.LessOrEqual(t, got.MostRefreshes, refreshesIn(took, interval))
}

func TestFanout_FastFingersLoseNoClick(t *testing.T) {
	atOnce(t, visitor.CounterPage, 20, 20*200) // as many as the rate limit lets through
}

// Far more than that: every click counts, or is answered that it was too fast.
func TestFanout_FloodIsAnsweredToTheLastClick(t *testing.T) {
	const tabs, perTab = 20, 1000
	c := visitor.OpenCrowd(t, newServer(t), visitor.CounterPage, tabs)
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
	server := newServer(t)
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
	assert.LessOrEqual(t, watching.FrameCount()-1, refreshesIn(time.Since(begin), interval))
}

func TestFanout_CrowdThatJoinsAtOnceIsAHandfulOfRefreshes(t *testing.T) {
	const tabs = 200
	got, took := atOnce(t, visitor.PresencePage, tabs, tabs)
	assert.LessOrEqual(t, got.MostRefreshes, min(10, refreshesIn(took, interval)))
}

// atOnce lets a crowd click at once. Every click counts, and all tabs agree.
func atOnce(t testing.TB, path string, tabs, clicks int) (got visitor.Tally, took time.Duration) {
	t.Helper()
	c := visitor.OpenCrowd(t, newServer(t), path, tabs)
	begin := time.Now()
	c.Expect(int64(clicks))
	c.ClickAtOnce(clicks)
	return c.Agrees(clicks), time.Since(begin)
}

// everyTabClicks lets every tab of a crowd click at a rate. Every click counts,
// all tabs agree, and none is flooded.
func everyTabClicks(t testing.TB, tabs, perSecond int, duration time.Duration) (got visitor.Tally, took time.Duration) {
	t.Helper()
	c := visitor.OpenCrowd(t, newServer(t), visitor.CounterPage, tabs)
	clicks := tabs * perSecond * int(duration/time.Second)
	begin := time.Now()
	c.Expect(int64(clicks))
	require.Equal(t, clicks, c.ClickSteadily(tabs*perSecond, duration))
	c.Agrees(clicks)
	took = time.Since(begin)

	<-time.After(2 * interval) // the last refresh may be an empty one
	got = c.Agreed(clicks)
	assert.LessOrEqual(t, float64(got.MostFrames), 35*took.Seconds(), "frames of the busiest tab")
	assert.LessOrEqual(t, got.Empty, got.Frames/20)
	return got, took
}
