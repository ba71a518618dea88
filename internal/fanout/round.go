package fanout

import (
	"sync"
	"time"
)

// A round is a refresh on its way to the connections of a page, until 95 % of them have
// rendered and written it. So one slow peer delays no refresh.
type round struct {
	observe func(took time.Duration) // nil if nobody asks

	mu    sync.Mutex
	left  int           // connections still awaited; 0 if no refresh is under way
	crowd bool          // there are enough connections to wait for
	last  time.Time     // when the latest connection finished, or the round began
	asked time.Time     // when the change came; zero if no change asked for the refresh
	taken time.Duration // by all rounds so far
}

const (
	// fewest is the smallest crowd that refreshes wait for. In a smaller one, a single
	// stuck peer is more than 5 %.
	fewest = 20

	// stalled is how long a round waits for the next connection to finish. The rest are
	// stuck, closed, or subscribe to another topic. It exceeds the period of a control
	// group, 100 ms, for which a quota may suspend the process.
	stalled = 250 * time.Millisecond

	// giveUp is how long the duration of a refresh is measured. Connections that closed
	// would otherwise be awaited forever.
	giveUp = 10 * time.Second
)

// begin begins a round. If the last one is not over, its connections get this refresh
// instead, and its change is still what they wait for.
func (r *round) begin(connections int, asked time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.left == 0 || now.Sub(r.asked) >= giveUp {
		r.asked = asked
	}
	r.left, r.crowd, r.last = connections*95/100, connections >= fewest, now
}

// count notes that a connection has rendered and written a refresh.
func (r *round) count() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left == 0 {
		return
	}
	now := time.Now()
	if r.crowd {
		r.taken += min(now.Sub(r.last), stalled) // if it was longer, the process was suspended
	}
	r.last = now
	r.left--
	if took := now.Sub(r.asked); r.left == 0 && r.observe != nil && took < giveUp {
		r.observe(took)
	}
}

// progress returns how long all rounds have taken so far, and whether one is under way.
func (r *round) progress() (taken time.Duration, underWay bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.taken, r.crowd && r.left > 0 && time.Since(r.last) < stalled
}
