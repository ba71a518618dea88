package fanout

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// A meter learns how much CPU time a refresh of one connection takes, from what the
// process uses until nearly all connections have rendered and written it. The rest of
// what the process does meanwhile is counted as well: a busy machine makes
// refreshes rarer, not more frequent.
type meter struct {
	left atomic.Int64  // connections that are waited for; 0 or less: none
	cost atomic.Uint64 // nanoseconds for one connection, as the bits of a float64

	mu     sync.Mutex
	began  time.Duration // CPU time at the start
	target int64         // connections that were waited for at the start; 0: nothing is measured
}

const (
	// fewest is the smallest crowd that is measured. The refresh of a smaller one
	// is lost in everything else that the process does.
	fewest = 20

	// most is the share of connections, in percent, that must have rendered a
	// refresh. A few may be busy for much longer.
	most = 95

	// weight is the weight of a new measurement. A burst of clicks makes a single
	// one too high.
	weight = 1.0 / 8
)

// perConnection is what was learned so far, in nanoseconds. It is 0 at first.
func (m *meter) perConnection() float64 { return math.Float64frombits(m.cost.Load()) }

// start begins to measure a refresh of so many connections, unless another one is
// being measured.
func (m *meter) start(connections int, used time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.target > 0 || connections < fewest {
		return
	}
	m.began, m.target = used, int64(connections)*most/100
	m.left.Store(m.target)
}

// count notes that a connection has rendered a refresh.
func (m *meter) count(used func() time.Duration) {
	if m.left.Add(-1) == 0 {
		m.stop(used)
	}
}

// stop ends a measurement, with as many connections as have rendered the refresh.
func (m *meter) stop(used func() time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rendered := m.target - max(m.left.Swap(0), 0)
	if m.target > 0 && rendered > 0 {
		measured := float64(used()-m.began) / float64(rendered)
		if before := m.perConnection(); before > 0 {
			measured = before + (measured-before)*weight
		}
		m.cost.Store(math.Float64bits(measured))
	}
	m.target = 0
}
