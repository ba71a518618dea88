package fanout

import (
	"sync"
	"sync/atomic"
	"time"
)

// A stopwatch measures the time from a change until nearly all connections have
// written the refresh that it asked for.
type stopwatch struct {
	observe func(took time.Duration) // nil: nothing is measured
	left    atomic.Int64             // connections that are waited for; 0 or less: none

	mu    sync.Mutex
	asked time.Time // when the change came; zero: nothing is being measured
}

// giveUp is how long a refresh is measured. Connections that have ended meanwhile
// would be waited for without end. One that does not read ends earlier.
const giveUp = 10 * time.Second

// start begins to measure a refresh of so many connections, unless another one is
// being measured. With few connections all but one count, because whoever makes a
// change is not refreshed.
func (s *stopwatch) start(connections int, asked time.Time) {
	target := int64(connections) * most / 100
	if s.observe == nil || target == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.asked.IsZero() && time.Since(s.asked) < giveUp {
		return
	}
	s.asked = asked
	s.left.Store(target)
}

// count notes that a connection has written a refresh.
func (s *stopwatch) count() {
	if s.left.Add(-1) != 0 {
		return
	}
	s.mu.Lock()
	took := time.Since(s.asked)
	s.asked = time.Time{}
	s.mu.Unlock()
	if took < giveUp {
		s.observe(took)
	}
}
