package site

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
)

// The limit itself is that of TestPosts_AboveTheRateAreRefused.
func TestRateLimit_RemembersNoSessionForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newRateLimit(DefaultActionRate, DefaultActionBurst)
		knows := func(want int, after time.Duration) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			l.mu.Lock()
			defer l.mu.Unlock()
			assert.Len(t, l.sessions, want)
		}
		for range DefaultActionBurst {
			l.allow("fast")
		}
		for i := range 2000 {
			l.allow(fmt.Sprint("made up ", i))
		}
		knows(1, 21*time.Millisecond) // the others have posted once
		knows(1, 3900*time.Millisecond)
		knows(0, 200*time.Millisecond)
		for range DefaultActionBurst {
			assert.True(t, l.allow("fast"), "as much as ever")
		}
	})
}

// By default a browser may have 50 live connections, and all of them 10,000, also when
// many connect at once.
func TestCapacity_IsExactAndAsDocumentedByDefault(t *testing.T) {
	a := newAdmission(Options{}, newRefusals(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), "live connection", "refused", ""))
	atOnce := func(browsers int, do func(r *http.Request)) {
		var browsing sync.WaitGroup
		for browser := range browsers {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
				"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Cookie": {fmt.Sprintf("%s=%043d=", sessionCookie, browser)}}
			browsing.Go(func() { do(r) })
		}
		browsing.Wait()
	}
	atOnce(199, func(r *http.Request) {
		for range 50 {
			assert.Empty(t, a.admit(r))
		}
		assert.Equal(t, sessionFull, a.admit(r))
	})
	var mu sync.Mutex
	refused := map[string]int{}
	atOnce(300, func(r *http.Request) { // of which the first 199 have no room, and the others one connection each
		why := a.admit(r)
		mu.Lock()
		defer mu.Unlock()
		refused[why]++
	})
	assert.Equal(t, 50, refused[""])
	assert.Equal(t, 10_000, a.on("/"))
	assert.Equal(t, 250, refused[full]+refused[sessionFull])
	atOnce(199, func(r *http.Request) {
		for range 50 {
			a.release(r)
		}
	})
	assert.Len(t, a.bySession, 50, "who has gone is not kept")
}
