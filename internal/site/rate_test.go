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

func TestRateLimit_IsForEachSessionAndRemembersNoneForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newRateLimit(DefaultActionRate, DefaultActionBurst)
		known := func() int {
			synctest.Wait()
			l.mu.Lock()
			defer l.mu.Unlock()
			return len(l.sessions)
		}
		for i := range 200 {
			assert.True(t, l.allow("fast"), "post %d at once", i+1)
		}
		assert.False(t, l.allow("fast"), "post 201 at once")
		assert.True(t, l.allow("other"))
		time.Sleep(20 * time.Millisecond)
		assert.True(t, l.allow("fast"), "50 a second")
		assert.False(t, l.allow("fast"))
		assert.Equal(t, 1, known(), "the other one is forgotten")
		time.Sleep(3900 * time.Millisecond)
		assert.Equal(t, 1, known(), "its limit is not whole yet")
		time.Sleep(200 * time.Millisecond)
		assert.Zero(t, known())

		for i := range 2000 {
			assert.True(t, l.allow(fmt.Sprint("made up ", i)))
		}
		time.Sleep(21 * time.Millisecond)
		assert.Zero(t, known())
		for range 200 {
			assert.True(t, l.allow("fast"), "as much as ever")
		}
	})
}

// By default a browser may have 50 live connections, and all of them 10,000.
func TestCapacity_IsAsDocumentedByDefault(t *testing.T) {
	a := newAdmission(Options{}, newRefusals(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), "live connection", "refused", ""))
	admit := func(browser int) (why string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
			"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Cookie": {fmt.Sprintf("%s=%043d=", sessionCookie, browser)}}
		return a.admit(r)
	}
	for browser := range 200 {
		for range 50 {
			assert.Empty(t, admit(browser))
		}
		if browser < 199 {
			assert.Equal(t, sessionFull, admit(browser))
		}
	}
	assert.Equal(t, full, admit(200))
}
