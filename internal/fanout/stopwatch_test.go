package fanout

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// stopwatched returns a page with so many connections, and the times that it measures.
func stopwatched(connections int) (*machine, *Peers, *[]time.Duration) {
	m := &machine{cores: 1, outbox: outbox{connections: connections}}
	p, times := New(m.options()).Peers(m), &[]time.Duration{}
	p.OnRefreshed(func(took time.Duration) { *times = append(*times, took) })
	return m, p, times
}

func TestOnRefreshed_MeasuresFromTheFirstChangeToTheLastWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, times := stopwatched(100)
		p.PublishTo("all", "Changed")
		pass(3 * time.Millisecond)
		m.refresh(94, 0)
		assert.Empty(t, *times)
		pass(4 * time.Millisecond)
		m.refresh(1, 0)
		m.refresh(5, 0) // the slowest ones do not count
		assert.Equal(t, []time.Duration{7 * time.Millisecond}, *times)

		pass(3 * time.Millisecond)
		p.PublishTo("all", "Changed") // waits from 10 ms on
		pass(15 * time.Millisecond)
		p.PublishTo("all", "Changed") // merged
		pass(interval - 25*time.Millisecond)
		pass(time.Millisecond)
		m.refresh(100, 0)
		assert.Equal(t, interval-10*time.Millisecond+time.Millisecond, (*times)[1])
	})
}

func TestOnRefreshed_CountsAllButWhoeverMadeTheChangeInASmallCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for connections, peers := range map[int]int{1: 0, 2: 1, 3: 2, 20: 19} {
			m, p, times := stopwatched(connections)
			p.PublishTo("all", "Changed")
			pass(time.Millisecond)
			for range peers {
				assert.Empty(t, *times, "%d connections", connections)
				m.refresh(1, 0)
			}
			assert.Len(t, *times, min(peers, 1), "%d connections", connections)
		}
	})
}

// Refreshes that take longer than an interval are measured to their end. Those that
// never end are not measured, and do not keep later ones from it.
func TestOnRefreshed_OverlappingAndUnfinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, times := stopwatched(10)
		p.PublishTo("all", "Changed")
		pass(interval)
		p.PublishTo("all", "Changed")
		pass(interval)
		m.refresh(9, 0)
		assert.Equal(t, []time.Duration{2 * interval}, *times)

		p.PublishTo("all", "Changed")
		m.refresh(5, 0) // the others close
		pass(giveUp)
		m.refresh(4, 0) // of something else, much later
		assert.Len(t, *times, 1)
		p.PublishTo("all", "Changed")
		m.refresh(5, 0)
		pass(giveUp)
		p.PublishTo("all", "Changed")
		pass(time.Millisecond)
		m.refresh(9, 0)
		assert.Equal(t, []time.Duration{2 * interval, time.Millisecond}, *times)
	})
}
