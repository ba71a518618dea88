package site

import (
	"maps"
	"sync"
	"time"
)

// How many actions count a second, and how many at once: those of each connection, and the
// posts of each browser. A key that is held down repeats less than 50 times a second.
const (
	actionRate  = 50
	actionBurst = 200
)

// Each post adds a pause to the time until the limit of a session is whole again.
const (
	pause   = time.Second / actionRate
	longest = actionBurst * pause
)

// rateLimit limits the posts of each session.
type rateLimit struct {
	mu     sync.Mutex
	whole  map[string]time.Time // when the limit of a session will be whole again
	forget time.Time            // when to forget those whose is
}

// allow counts a post, and reports whether it is within the limit.
func (l *rateLimit) allow(session string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.After(l.forget) {
		maps.DeleteFunc(l.whole, func(_ string, whole time.Time) bool { return whole.Before(now) })
		l.forget = now.Add(longest)
	}
	rest := max(time.Until(l.whole[session]), 0) + pause
	if rest > longest {
		return false
	}
	l.whole[session] = now.Add(rest)
	return true
}
