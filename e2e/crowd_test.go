package e2e

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"realtime/internal/visitor"
	"realtime/internal/visitor/storm"
)

// Six tabs for each thing that happens; make test-all has 64.
func TestStress(t *testing.T) {
	t.Parallel()
	storm.Run(t, 6)
}

func TestFanout_BurstOfACrowdLosesNothing(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t, visitor.Patient...)
	visitor.OpenCrowd(t, server, visitor.CounterPage, 100).Burst(1000)
	visitor.OpenCrowd(t, server, visitor.PresencePage, 100).Burst(100)
}

// With next to no budget, hours pass between two refreshes, as soon as it is known
// what one costs.
func TestFanout_BudgetHoldsForTheTabsThatAreOpen(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t, append(visitor.Patient, "-refresh-budget", "1e-9")...)
	visitor.OpenCrowd(t, server, visitor.CounterPage, 30) // what a few cost is not measured
	tb, peer := visitor.New(t, server).Open(visitor.CounterPage), visitor.New(t, server).Open(visitor.CounterPage)
	assert.Eventually(t, func() bool {
		tb.Increment()
		tb.Settle()
		<-time.After(4 * visitor.Interval)
		return peer.Counter() < tb.Counter()
	}, visitor.Soon, time.Millisecond, "a tab that is behind")
}

// connectDeaf connects peers that do not read the long answers that they ask for, until the
// server has stopped reading from them or has closed them.
func connectDeaf(t *testing.T, server string, peers int) {
	var connecting sync.WaitGroup
	for range peers {
		connecting.Go(func() {
			ws := storm.StopReading(t, server)
			t.Cleanup(func() { ws.Close() })
		})
	}
	connecting.Wait()
}

// The framework would write to them while it holds a lock that everybody needs.
func TestHostile_PeersThatDoNotReadHarmNobody(t *testing.T) {
	t.Parallel()
	const deaf, clicks = 5, 10
	p := visitor.Start(t, visitor.Patient...) // they stay
	clicker, watching := visitor.New(t, p.URL).Open(visitor.CounterPage), visitor.New(t, p.URL).Open(visitor.CounterPage)
	poster := visitor.New(t, p.URL)
	connectDeaf(t, p.URL, deaf)
	for range clicks {
		clicker.Increment()
		clicker.Settle()
		poster.Click()
		visitor.New(t, p.URL).Open(visitor.CounterPage).Close()
	}
	watching.Shows(fmt.Sprintf("Counter: %d ", 2*clicks))
	assert.Eventually(t, func() bool { return p.Connections(visitor.CounterPage) == deaf+2 }, visitor.Soon, 10*time.Millisecond)
	assert.Zero(t, p.Metric("realtime_slow_closes_total"))
}

func TestHostile_PeersThatDoNotReadAreClosed(t *testing.T) {
	t.Parallel()
	p := visitor.Start(t)
	connectDeaf(t, p.URL, 5)
	closed := func() bool {
		return p.Metric("realtime_slow_closes_total") == 5 && p.Connections(visitor.CounterPage) == 0
	}
	assert.Eventually(t, closed, visitor.Soon, 10*time.Millisecond)
}
