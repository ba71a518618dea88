package site

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
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
		for range DefaultActionBurst {
			l.allow("fast")
		}
		for i := range 2000 {
			l.allow(fmt.Sprint("made up ", i))
		}
		for _, row := range []struct {
			after time.Duration
			knows int
		}{{21 * time.Millisecond, 1}, {3900 * time.Millisecond, 1}, {200 * time.Millisecond, 0}} { // the others have posted once
			time.Sleep(row.after)
			synctest.Wait()
			l.mu.Lock()
			assert.Len(t, l.sessions, row.knows)
			l.mu.Unlock()
		}
		for range DefaultActionBurst {
			assert.True(t, l.allow("fast"), "as much as ever")
		}
	})
}

// By default a browser may have 50 live connections, and all of them 10,000, also when
// many connect at once.
func TestCapacity_IsExactAndAsDocumentedByDefault(t *testing.T) {
	a := newAdmission(Options{}, newRefusals(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), "live connection", "refused", ""))
	var connecting sync.WaitGroup
	requests := make([]*http.Request, 201)
	admitted := make([]int, len(requests))
	for browser := range requests {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
			"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
		r = r.WithContext(context.WithValue(r.Context(), visitKey{}, &visit{session: fmt.Sprint("browser ", browser)}))
		requests[browser] = r
		connecting.Go(func() {
			for a.admit(r) == "" {
				admitted[browser]++
			}
		})
	}
	connecting.Wait()
	assert.Equal(t, 10_000, a.on("/"))
	assert.Equal(t, 50, slices.Max(admitted))
	for browser, r := range requests {
		for range admitted[browser] {
			a.release(r)
		}
	}
	assert.Empty(t, a.bySession, "who has gone is not kept")
}
