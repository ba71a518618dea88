package site

import (
	"maps"
	"sync"
	"time"
)

// The default limits of the actions of one browser.
const (
	DefaultActionRate  = 50
	DefaultActionBurst = 200
)

// rateLimit limits the posts of each session.
type rateLimit struct {
	pause, most time.Duration // each post adds a pause to the time until the limit is whole again

	mu     sync.Mutex
	whole  map[string]time.Time // when the limit of a session will be whole again
	forget time.Time            // when to forget those whose is
}

func newRateLimit(perSecond float64, burst int) *rateLimit {
	pause := time.Duration(float64(time.Second) / perSecond)
	return &rateLimit{pause: pause, most: pause * time.Duration(burst), whole: map[string]time.Time{}}
}

// allow counts a post, and reports whether it is within the limit.
func (l *rateLimit) allow(session string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.After(l.forget) {
		maps.DeleteFunc(l.whole, func(_ string, whole time.Time) bool { return whole.Before(now) })
		l.forget = now.Add(l.most)
	}
	rest := max(time.Until(l.whole[session]), 0) + l.pause
	if rest > l.most {
		return false
	}
	l.whole[session] = now.Add(rest)
	return true
}
