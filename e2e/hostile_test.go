package e2e

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"realtime/internal/visitor"
	"realtime/internal/visitor/storm"
)

// deafPeers is how many do not read the long answers that they ask for.
const deafPeers = 5

// stopReading connects peers that do not read, until the server has stopped reading from
// them or has closed them.
func stopReading(t *testing.T, p *visitor.Program) {
	var stopping sync.WaitGroup
	for range deafPeers {
		stopping.Go(func() {
			ws := storm.StopReading(t, p.URL)
			t.Cleanup(func() { ws.Close() })
		})
	}
	stopping.Wait()
}

// The framework would write to them while it holds a lock that everybody needs.
func TestHostile_PeersThatDoNotReadHarmNobody(t *testing.T) {
	t.Parallel()
	const clicks = 10
	p := visitor.Start(t, visitor.Patient...) // they stay
	clicker, watching, poster := visitor.New(t, p.URL).Open(visitor.CounterPage), visitor.New(t, p.URL).Open(visitor.CounterPage), visitor.New(t, p.URL)
	stopReading(t, p)
	for range clicks {
		clicker.Increment()
		clicker.Settle()
		poster.Click()
		visitor.New(t, p.URL).Open(visitor.CounterPage).Close()
	}
	watching.Shows(fmt.Sprintf("Counter: %d ", 2*clicks))
	assert.Eventually(t, func() bool { return p.Connections(visitor.CounterPage) == deafPeers+2 }, visitor.Soon, 10*time.Millisecond)
	assert.Zero(t, p.Metric("realtime_slow_closes_total"))
}

func TestHostile_PeersThatDoNotReadAreClosed(t *testing.T) {
	t.Parallel()
	p := visitor.Start(t)
	stopReading(t, p)
	assert.Eventually(t, func() bool { return p.Metric("realtime_slow_closes_total") == deafPeers }, visitor.Soon, 10*time.Millisecond)
	assert.Eventually(t, func() bool { return p.Connections(visitor.CounterPage) == 0 }, visitor.Soon, 10*time.Millisecond)
}
