package site

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
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
		knows := func(want int, why string) {
			t.Helper()
			synctest.Wait()
			l.mu.Lock()
			defer l.mu.Unlock()
			assert.Len(t, l.sessions, want, why)
		}
		for range DefaultActionBurst {
			assert.True(t, l.allow("fast"))
		}
		for i := range 2000 {
			assert.True(t, l.allow(fmt.Sprint("made up ", i)))
		}
		time.Sleep(21 * time.Millisecond)
		knows(1, "the others have posted once")
		time.Sleep(3900 * time.Millisecond)
		knows(1, "its limit is not whole yet")
		time.Sleep(200 * time.Millisecond)
		knows(0, "its limit is whole")
		for range DefaultActionBurst {
			assert.True(t, l.allow("fast"), "as much as ever")
		}
	})
}

// By default a browser may have 50 live connections, and all of them 10,000.
func TestCapacity_IsAsDocumentedByDefault(t *testing.T) {
	a := newAdmission(Options{}, newRefusals(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), "live connection", "refused", ""))
	of := func(browser int) *http.Request {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
			"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Cookie": {fmt.Sprintf("%s=%043d=", sessionCookie, browser)}}
		return r
	}
	for browser := range 200 {
		for range 50 {
			assert.Empty(t, a.admit(of(browser)))
		}
		if browser < 199 {
			assert.Equal(t, sessionFull, a.admit(of(browser)))
		}
	}
	assert.Equal(t, full, a.admit(of(200)))
	for i := range 10_000 {
		a.release(of(i / 50))
	}
	assert.Empty(t, a.bySession, "who has gone is not kept")
}
