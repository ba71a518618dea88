package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"realtime/internal/visitor"
	"realtime/internal/visitor/storm"
)

// Six tabs for each storm; make soak has more.
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
