package e2e

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"

	"realtime/internal/visitor"
	"realtime/internal/visitor/storm"
)

// Five peers ask for long answers and do not read them. The framework would write to
// them while it holds a lock that everybody needs.
func TestHostile_PeersThatDoNotReadHarmNobody(t *testing.T) {
	t.Parallel()
	const peers, clicks = 5, 10
	for name, row := range map[string]struct {
		flags []string
		left  int // of those who do not read
	}{
		"nobody waits for them":         {[]string{"-write-timeout", "1h"}, peers},
		"they are closed after a while": {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := visitor.Start(t, row.flags...)
			clicker, watching := visitor.New(t, p.URL).Open(visitor.CounterPage), visitor.New(t, p.URL).Open(visitor.CounterPage)
			poster := visitor.New(t, p.URL)
			var stopping sync.WaitGroup
			for range peers {
				var ws *websocket.Conn
				stopping.Go(func() { ws = storm.StopReading(t, p.URL) })
				defer func() { ws.Close() }()
			}
			stopping.Wait()
			for range clicks {
				clicker.Increment()
				clicker.Settle()
				poster.Click()
				visitor.New(t, p.URL).Open(visitor.CounterPage).Close()
			}
			watching.Shows(fmt.Sprintf("Counter: %d ", 2*clicks))
			assert.EventuallyWithT(t, func(check *assert.CollectT) {
				assert.Equal(check, row.left+2, p.Connections(visitor.CounterPage))
				assert.EqualValues(check, peers-row.left, p.Metric("realtime_slow_closes_total"))
			}, visitor.Soon, 10*time.Millisecond)
		})
	}
}
