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

	"github.com/stretchr/testify/assert"
)

// The limit itself is that of TestPosts_AboveTheRateAreRefused.
func TestRateLimit_RemembersNoSessionForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &rateLimit{whole: map[string]time.Time{}}
		for range actionBurst {
			l.allow("fast")
		}
		for i := range 2000 {
			l.allow(fmt.Sprint("made up ", i))
		}
		assert.False(t, l.allow("fast"))
		time.Sleep(2*longest + 1)
		assert.True(t, l.allow("late"))
		assert.Len(t, l.whole, 1, "those whose limit is whole are forgotten")
		for range actionBurst {
			assert.True(t, l.allow("fast"), "as much as ever")
		}
	})
}

// By default a browser may have 50 live connections, and all of them 10,000, also when
// many connect at once.
func TestCapacity_IsExactAndAsDocumentedByDefault(t *testing.T) {
	a := newAdmission(Options{}, newRefusals(slog.New(slog.DiscardHandler), "live connection"))
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
	assert.Equal(t, 10_000, a.open)
	assert.Equal(t, 50, slices.Max(admitted))
	for browser, r := range requests {
		for range admitted[browser] {
			a.release(r)
		}
	}
	assert.Empty(t, a.bySession, "who has gone is not kept")
}
