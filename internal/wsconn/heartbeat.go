package wsconn

import (
	"maps"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/gorilla/websocket"
)

// By default a vanished peer is found within 7 seconds, and a peer may miss every other
// ping. A peer that does not read is found within 6. Of a pause of this process, half a
// second counts.
const (
	DefaultPing    = 3 * time.Second
	DefaultTimeout = 7 * time.Second
	DefaultWrite   = 3 * time.Second
)

// Heartbeat finds peers that have vanished or have stopped reading. A browser
// answers pings by itself, also for a tab in the background.
type Heartbeat struct {
	Ping    time.Duration // time between two pings; default: DefaultPing
	Timeout time.Duration // longest time without a pong or a message; default: DefaultTimeout
	Write   time.Duration // longest time for writing a single frame; default: DefaultWrite
}

// never is a tick that never comes.
const never = math.MaxInt64

// mostCounted is how much of a pause counts, in ticks: half of the shortest default.
const mostCounted = 5

// countFrom counts ticks from a time on, and checks the timeouts of every connection at
// each, for as long as there are connections. A deadline would expire while this process is
// stopped, swapped out or starved, and blame the peers for it.
func (u *Upgrader) countFrom(since time.Time) {
	time.AfterFunc(time.Until(since.Add(u.tick)), func() {
		runtime.Gosched() // let those who are ready to read or write go first
		passed := int64(time.Since(since) / u.tick)
		since = since.Add(time.Duration(passed) * u.tick)
		now := u.ticks.Add(min(passed, mostCounted))
		u.mu.Lock()
		all := slices.AppendSeq(make([]*conn, 0, len(u.open)), maps.Keys(u.open))
		if u.counting = len(all) > 0; u.counting {
			u.countFrom(since)
		}
		u.mu.Unlock()
		for _, c := range all {
			c.check(now)
		}
	})
}

// after returns the tick at which a timeout expires, up to a tick early.
func (u *Upgrader) after(d time.Duration) int64 { return u.ticks.Load() + max(int64(d/u.tick), 2) }

// heardBy returns the tick by which a peer must be heard again, always after the next
// ping.
func (u *Upgrader) heardBy() int64 {
	return max(u.after(u.heartbeat.Timeout), u.after(u.heartbeat.Ping)+2)
}

// expect sets the tick by which the peer must be heard. Once it has been sent a close
// frame, that no longer extends its time.
func (c *conn) expect(tick int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.goodbye {
		c.hearBy = tick
	}
}

// check closes the connection of a peer that does not read or has vanished, or sends a
// ping if one is due. It gives up on answers that are overdue.
func (c *conn) check(now int64) {
	c.mu.Lock()
	stuck, gone, ping := now >= c.writeBy, now >= c.hearBy, now >= c.pingAt
	if ping {
		c.pingAt = c.upgrader.after(c.upgrader.heartbeat.Ping)
	}
	if now >= c.answerBy {
		c.unanswered = 0
		c.room.Signal()
	}
	c.mu.Unlock()
	switch {
	case stuck:
		c.tooSlow()
	case gone:
		c.cut()
	case ping:
		c.enqueue(frame{messageType: websocket.PingMessage})
	}
}
