package fanout

import (
	"sync"
	"time"
)

// A round is a refresh on its way to the connections of a page. It is over once 95 % of them
// have rendered and written it: one slow peer does not count.
//
// A quota of CPU time suspends the process when a portion is used up. The last portion of a
// round is paid for afterwards, by a pause like those within the round. So the longest of
// these counts twice.
type round struct {
	observe func(took time.Duration) // nil if nobody asks

	mu    sync.Mutex
	left  int           // connections of the 95 % that have not finished
	stuck int           // how many of them are not awaited, because the last round stalled without so many
	crowd bool          // the next refresh waits for the rest
	last  time.Time     // when a connection last finished, or the round began
	asked time.Time     // when the change came; zero for a refresh that is published again
	pause time.Duration // the longest without progress
	taken time.Duration // by all rounds so far, each with its longest pause counted twice
}

const (
	// fewest is the smallest crowd that the next refresh waits for. In a smaller one, a
	// single stuck peer is more than 5 %.
	fewest = 20

	// stalled is how long a round may go without progress. Whoever is missing then is stuck
	// or closed, or subscribes to another topic. A quota suspends the process for less: its
	// period is 100 ms by default.
	stalled = 250 * time.Millisecond

	// giveUp is the longest duration to observe. It ends the wait for connections that have
	// closed.
	giveUp = 10 * time.Second
)

// begin begins a round. If the last one is not over, this refresh also shows its change, and
// the time since that change is what counts.
func (r *round) begin(connections int, asked time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.left == 0 || now.Sub(r.asked) >= giveUp {
		r.asked = asked
	}
	if now.Sub(r.last) >= stalled {
		r.stuck = r.left
	}
	r.stuck, r.left, r.crowd, r.last, r.pause = min(r.stuck, r.left), connections*95/100, connections >= fewest, now, 0
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
		pause := min(now.Sub(r.last), stalled) // beyond that, the process was suspended
		r.taken += pause + max(pause-r.pause, 0)
		r.pause = max(r.pause, pause)
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
	return r.taken, r.crowd && r.left > r.stuck && time.Since(r.last) < stalled
}
