package visitor

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Crowd is many visitors with one tab each. They read only the number of their page, and are
// cheap enough for thousands.
type Crowd struct {
	Tabs []*Onlooker

	t             testing.TB
	click, answer []byte   // the message of a click, and a part of every answer to it
	made          sync.Map // the time of the click that led to a number

	target  atomic.Int64 // the number that everyone is waiting for
	missing atomic.Int64 // tabs that do not show it
	arrived chan struct{}
}

// Onlooker is one tab of a crowd.
type Onlooker struct {
	crowd *Crowd
	ws    *websocket.Conn

	mu                sync.Mutex
	shown             int64
	seen              []sight
	clicked           []time.Time // unanswered clicks
	answered, refused int         // clicks
	frames            int         // without the first update
	empty             int         // frames without a number
	err               error       // why the socket has ended
}

// sight is the time at which a tab showed a new number, and the first number that it had
// not shown.
type sight struct {
	first int64
	at    time.Time
}

// OpenCrowd opens n tabs of a page, spread over servers. A click is an increment or a join.
func OpenCrowd(t testing.TB, path string, n int, servers ...string) *Crowd {
	t.Helper()
	action, fields := "increment", `{}`
	if path == PresencePage {
		action, fields = "join", `{"username":"guest"}`
	}
	c := &Crowd{
		t: t, Tabs: make([]*Onlooker, n), arrived: make(chan struct{}, 1),
		click:  fmt.Appendf(nil, `{"action":%q,"data":%s}`, action, fields),
		answer: fmt.Appendf(nil, `"action":%q`, action),
	}
	dialer := websocket.Dialer{ReadBufferSize: 512, WriteBufferSize: 512, WriteBufferPool: &sync.Pool{}}
	var opening sync.WaitGroup
	atOnce := make(chan struct{}, 16)
	for i := range n {
		atOnce <- struct{}{}
		opening.Go(func() {
			defer func() { <-atOnce }()
			server := servers[i%len(servers)]
			ws, _, err := handshake(dialer, server, path, http.Header{"Origin": {server}})
			if assert.NoError(t, err) {
				c.Tabs[i] = &Onlooker{crowd: c, ws: ws}
				ws.ReadMessage()    // the page
				go c.Tabs[i].read() // at once, to answer pings while others open
			}
		})
	}
	opening.Wait()
	require.False(t, slices.Contains(c.Tabs, nil), "not every tab is open")
	t.Cleanup(c.Close)
	return c
}

// Close closes every tab.
func (c *Crowd) Close() {
	for _, tb := range c.Tabs {
		tb.ws.Close()
	}
}

func (tb *Onlooker) read() {
	for {
		_, frame, err := tb.ws.ReadMessage()
		now := time.Now()
		tb.mu.Lock()
		if tb.err = err; err != nil {
			tb.mu.Unlock()
			return
		}
		number, found := int64(0), number.FindSubmatch(frame)
		if found != nil {
			number, _ = strconv.ParseInt(string(found[1]), 10, 64)
		}
		before := tb.shown
		tb.frames++
		switch {
		case bytes.Contains(frame, tb.crowd.answer):
			tb.crowd.made.Store(number, tb.clicked[0])
			tb.answered, tb.clicked = tb.answered+1, tb.clicked[1:]
		case bytes.Contains(frame, []byte(`"action":"slow-down`)):
			tb.refused, tb.clicked = tb.refused+1, tb.clicked[1:]
		case found == nil:
			tb.empty++
		}
		if number > before {
			tb.seen, tb.shown = append(tb.seen, sight{before + 1, now}), number
		}
		tb.mu.Unlock()
		if target := tb.crowd.target.Load(); before < target && number >= target && tb.crowd.missing.Add(-1) == 0 {
			tb.crowd.arrived <- struct{}{}
		}
	}
}

// number matches the first number in the slots of a frame.
var number = regexp.MustCompile(`:"(\d+)"`)

// Click clicks in one tab.
func (tb *Onlooker) Click() {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.clicked = append(tb.clicked, time.Now())
	tb.ws.WriteMessage(websocket.TextMessage, tb.crowd.click) // fails in a tab that was disconnected
}

// Expect sets the number that AwaitNumber waits for. No tab may show it yet.
func (c *Crowd) Expect(number int64) {
	c.missing.Store(int64(len(c.Tabs)))
	c.target.Store(number)
}

// AwaitNumber waits until every tab has shown the expected number, and reports whether they
// did in time.
func (c *Crowd) AwaitNumber(within time.Duration) bool {
	select {
	case <-c.arrived:
		return true
	case <-time.After(within):
		return false
	}
}

// ClickAtOnce clicks so many times, in all tabs at once.
func (c *Crowd) ClickAtOnce(clicks int) {
	var clicking sync.WaitGroup
	for i := range min(clicks, len(c.Tabs)) {
		clicking.Go(func() {
			for n := i; n < clicks; n += len(c.Tabs) {
				c.Tabs[i].Click()
			}
		})
	}
	clicking.Wait()
}

// Burst makes a new crowd click so many times at once. Every click counts, all tabs agree,
// and besides its answers a tab gets at most one refresh an interval.
func (c *Crowd) Burst(clicks int) {
	c.t.Helper()
	begin := time.Now()
	c.Expect(int64(clicks))
	c.ClickAtOnce(clicks)
	got := c.Agrees(clicks)
	assert.LessOrEqual(c.t, got.MostFrames, clicks/len(c.Tabs)+int(time.Since(begin)/Interval)+2, "frames of the busiest tab")
}

// ClickSteadily clicks at a steady rate, in one tab after the other.
func (c *Crowd) ClickSteadily(perSecond int, duration time.Duration) {
	begin, clicks := time.Now(), 0
	for passed := time.Duration(0); passed < duration; <-time.After(time.Millisecond) {
		passed = min(time.Since(begin), duration)
		for due := int(passed.Seconds() * float64(perSecond)); clicks < due; clicks++ {
			c.Tabs[clicks%len(c.Tabs)].Click()
		}
	}
}

// Tally sums up a crowd.
type Tally struct {
	Clicks, Refused, Unanswered int
	CutOff                      int   // tabs whose socket has ended
	Wrong                       int   // tabs that do not show the number
	Highest                     int64 // number that any tab shows
	Frames, MostFrames          int   // of all tabs, and of the one with most
	Empty                       int   // frames without a number
}

// Agrees waits until every tab shows the number of all clicks, and checks that no click was
// lost and no tab disconnected.
func (c *Crowd) Agrees(clicks int) Tally {
	c.t.Helper()
	require.True(c.t, c.AwaitNumber(Soon), "every tab shows %d: %+v", clicks, c.Count(int64(clicks)))
	got := c.Count(int64(clicks))
	assert.Equal(c.t, clicks, got.Clicks)
	assert.Zero(c.t, got.Refused+got.CutOff+got.Wrong)
	return got
}

// Count returns the tally since the tabs were opened, given the right number.
func (c *Crowd) Count(number int64) Tally {
	var sum Tally
	for _, tb := range c.Tabs {
		tb.mu.Lock()
		sum.Clicks += tb.answered + len(tb.clicked) + tb.refused
		sum.Refused += tb.refused
		sum.Unanswered += len(tb.clicked)
		sum.Highest = max(sum.Highest, tb.shown)
		sum.Frames += tb.frames
		sum.MostFrames = max(sum.MostFrames, tb.frames)
		sum.Empty += tb.empty
		if tb.err != nil {
			sum.CutOff++
		}
		if tb.shown != number {
			sum.Wrong++
		}
		tb.mu.Unlock()
	}
	return sum
}

// Staleness returns, for every new number that a tab has shown since a time, the age of the
// oldest click that it had not shown.
func (c *Crowd) Staleness(since time.Time) (ages []time.Duration) {
	for _, tb := range c.Tabs {
		tb.mu.Lock()
		for _, s := range tb.seen {
			if clicked, known := c.made.Load(s.first); known && s.at.After(since) {
				ages = append(ages, s.at.Sub(clicked.(time.Time)))
			}
		}
		tb.mu.Unlock()
	}
	return ages
}
