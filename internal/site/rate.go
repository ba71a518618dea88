package site

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// The default limits of the actions of one browser.
const (
	DefaultActionRate  = 50
	DefaultActionBurst = 200
)

// rateLimit limits the posts of each session. It remembers a session only until its
// limit is whole again.
type rateLimit struct {
	rate  rate.Limit // a second
	burst int        // at once

	mu       sync.Mutex
	sessions map[string]*rate.Limiter
}

func newRateLimit(perSecond float64, burst int) *rateLimit {
	return &rateLimit{rate: rate.Limit(perSecond), burst: burst, sessions: map[string]*rate.Limiter{}}
}

// allow counts a post, and reports whether it is within the limit.
func (l *rateLimit) allow(session string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.sessions[session]
	if limiter == nil {
		limiter = rate.NewLimiter(l.rate, l.burst)
		l.sessions[session] = limiter
		defer l.forgetLaterLocked(session)
	}
	return limiter.Allow()
}

// forgetLaterLocked forgets a session as soon as it could have no effect.
func (l *rateLimit) forgetLaterLocked(session string) {
	missing := float64(l.burst) - l.sessions[session].Tokens()
	if missing <= 0 {
		delete(l.sessions, session)
		return
	}
	time.AfterFunc(time.Duration(missing/float64(l.rate)*float64(time.Second)), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.forgetLaterLocked(session)
	})
}
