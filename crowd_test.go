package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/fanout"
	"realtime/internal/wsconn"
)

// refreshesIn is how many refreshes of a tab fit into a time: one per interval,
// the first, and the last.
func refreshesIn(d, interval time.Duration) int { return int(d/interval) + 2 }

func TestFanout_CrowdThatClicksSteadilyAgreesAndIsNotFlooded(t *testing.T) {
	got, took := everyTabClicks(t, 50, 10, 3*time.Second)
	assert.LessOrEqual(t, got.mostRefreshes, refreshesIn(took, fanout.DefaultInterval))
}

func TestFanout_BudgetHoldsForTheTabsThatAreOpen(t *testing.T) {
	stingy := fanout.Options{Budget: 1e-9} // with any tab at all, hours between two refreshes
	server := newServerWith(t, Config{Fanout: stingy})
	tb, peer := newVisitor(t, server).open(counterPage), newVisitor(t, server).open(counterPage)
	tb.increment()
	peer.shows("Counter: 1")
	tb.increment()
	tb.shows("Counter: 2")
	<-time.After(4 * fanout.DefaultInterval)
	peer.never("Counter: 2")
}

func TestFanout_BurstOfACrowdLosesNothing(t *testing.T) {
	got, took := atOnce(t, counterPage, 200, 1000)
	assert.LessOrEqual(t, got.mostRefreshes, refreshesIn(took, fanout.DefaultInterval))
}

func TestFanout_FastFingersLoseNoClick(t *testing.T) {
	atOnce(t, counterPage, 20, 20*200) // as many as the rate limit lets through
}

// Far more than that: every click counts, or is answered that it was too fast.
func TestFanout_FloodIsAnsweredToTheLastClick(t *testing.T) {
	const tabs, perTab = 20, 1000
	c := openCrowd(t, newServer(t), counterPage, tabs)
	c.clickAtOnce(tabs * perTab)
	var got tally
	require.EventuallyWithT(t, func(check *assert.CollectT) {
		got = c.count(0)
		assert.Zero(check, got.unanswered)
	}, soon, 10*time.Millisecond)
	assert.Equal(t, tabs*perTab, got.clicks)
	assert.Positive(t, got.refused)
	counted := int64(got.clicks - got.refused)
	assert.EventuallyWithT(t, func(check *assert.CollectT) {
		got = c.count(counted)
		assert.Zero(check, got.cutOff+got.wrong)
	}, soon, 10*time.Millisecond)
}

func TestFanout_JoinsAndLeavesAreMerged(t *testing.T) {
	server := newServer(t)
	watching := newVisitor(t, server).open(presencePage)
	tabs := make([]*tab, 5)
	for i := range tabs {
		tabs[i] = newVisitor(t, server).open(presencePage)
	}
	begin := time.Now()
	for range 30 {
		for _, tb := range tabs {
			tb.join("guest")
			tb.leave()
		}
	}
	tabs[0].join("the last")
	watching.shows("the last")
	watching.shows("1 user(s) online")
	assert.LessOrEqual(t, watching.frameCount()-1, refreshesIn(time.Since(begin), fanout.DefaultInterval))
}

func TestFanout_CrowdThatJoinsAtOnceIsAHandfulOfRefreshes(t *testing.T) {
	const tabs = 200
	got, took := atOnce(t, presencePage, tabs, tabs)
	interval := max(fanout.DefaultInterval, 2*tabs*presenceCost/time.Duration(runtime.GOMAXPROCS(0)))
	assert.LessOrEqual(t, got.mostRefreshes, refreshesIn(took, interval))
}

// atOnce lets a crowd click at once. Every click counts, and all tabs agree.
func atOnce(t testing.TB, path string, tabs, clicks int) (got tally, took time.Duration) {
	t.Helper()
	c := openCrowd(t, newServer(t), path, tabs)
	begin := time.Now()
	c.expect(int64(clicks))
	c.clickAtOnce(clicks)
	return c.agrees(clicks), time.Since(begin)
}

// everyTabClicks lets every tab of a crowd click at a rate. Every click counts,
// all tabs agree, and none is flooded.
func everyTabClicks(t testing.TB, tabs, perSecond int, duration time.Duration) (got tally, took time.Duration) {
	t.Helper()
	c := openCrowd(t, newServer(t), counterPage, tabs)
	clicks := tabs * perSecond * int(duration/time.Second)
	begin := time.Now()
	c.expect(int64(clicks))
	require.Equal(t, clicks, c.clickSteadily(tabs*perSecond, duration))
	c.agrees(clicks)
	took = time.Since(begin)

	<-time.After(2 * fanout.DefaultInterval) // the last refresh may be an empty one
	got = c.agreed(clicks)
	assert.LessOrEqual(t, float64(got.mostFrames), 35*took.Seconds(), "frames of the busiest tab")
	assert.LessOrEqual(t, got.empty, got.frames/20)
	return got, took
}

// crowd is many visitors with one tab each, on a page or on anything that speaks
// as it does. They only read its number, and are cheap enough to be thousands.
type crowd struct {
	t      testing.TB
	tabs   []*onlooker
	click  []byte // what a click sends
	answer []byte // what every answer to it holds

	target  atomic.Int64 // the number that everyone is waiting for
	missing atomic.Int64 // tabs that do not show it yet
	arrived chan struct{}
}

// onlooker is one tab of a crowd.
type onlooker struct {
	crowd *crowd
	ws    *websocket.Conn
	shown atomic.Int64
	watch bool // note when numbers were shown

	mu      sync.Mutex
	clicked []time.Time         // clicks that are not answered yet
	made    map[int64]time.Time // clicks that are, by the number that they made
	seen    []sight
	frames  int // without the page itself
	empty   int // frames without a number
	refused int
	err     error // why the socket ended
}

// sight is the time at which a tab showed a new number, and the first it had missed.
type sight struct {
	first int64
	at    time.Time
}

// watched is how many tabs of a crowd note what they have seen.
const watched = 50

// openCrowd opens n tabs on a page. A click is an increment or a join.
func openCrowd(t testing.TB, server, path string, n int) *crowd {
	t.Helper()
	return openCrowdOn(t, []string{server}, path, n)
}

// openCrowdOn is openCrowd on several servers in turn.
func openCrowdOn(t testing.TB, servers []string, path string, n int) *crowd {
	t.Helper()
	action, fields := "increment", `{}`
	if path == presencePage {
		action, fields = "join", `{"username":"guest"}`
	}
	c := &crowd{
		t: t, tabs: make([]*onlooker, n), arrived: make(chan struct{}, 1),
		click:  fmt.Appendf(nil, `{"action":%q,"data":%s}`, action, fields),
		answer: fmt.Appendf(nil, `"action":%q`, action),
	}
	dialer := websocket.Dialer{
		HandshakeTimeout: time.Minute,
		ReadBufferSize:   512,
		WriteBufferSize:  512,
		WriteBufferPool:  &sync.Pool{},
	}
	var opening sync.WaitGroup
	next := make(chan int)
	for range 16 {
		opening.Go(func() {
			for i := range next {
				ws, err := dialPage(dialer, servers[i%len(servers)], path)
				if !assert.NoError(t, err) {
					continue
				}
				tb := &onlooker{crowd: c, ws: ws, watch: i%max(1, n/watched) == 0, made: map[int64]time.Time{}}
				_, _, err = ws.ReadMessage() // the page
				assert.NoError(t, err)
				c.tabs[i] = tb
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	opening.Wait()
	require.False(t, t.Failed(), "not every tab is open")
	for _, tb := range c.tabs {
		go tb.read()
	}
	t.Cleanup(c.close)
	return c
}

func (c *crowd) close() {
	for _, tb := range c.tabs {
		tb.ws.Close()
	}
}

func (tb *onlooker) read() {
	var frame []byte
	for {
		_, r, err := tb.ws.NextReader()
		if err == nil {
			frame, err = readInto(frame[:0], r)
		}
		now := time.Now()
		if err != nil {
			tb.mu.Lock()
			tb.err = err
			tb.mu.Unlock()
			return
		}
		number, found := numberIn(frame)
		before := tb.shown.Load()

		tb.mu.Lock()
		tb.frames++
		switch {
		case bytes.Contains(frame, tb.crowd.answer):
			tb.made[number] = tb.clicked[0]
			tb.clicked = tb.clicked[1:]
		case bytes.Contains(frame, []byte(`"action":"`+wsconn.SlowDown)):
			tb.refused++
			tb.clicked = tb.clicked[1:]
		case !found:
			tb.empty++
		}
		if tb.watch && number > before {
			tb.seen = append(tb.seen, sight{before + 1, now})
		}
		tb.mu.Unlock()

		if number > before {
			tb.shown.Store(number)
			if target := tb.crowd.target.Load(); before < target && number >= target && tb.crowd.missing.Add(-1) == 0 {
				tb.crowd.arrived <- struct{}{}
			}
		}
	}
}

// readInto is io.ReadAll into a buffer that is there already.
func readInto(buffer []byte, r io.Reader) ([]byte, error) {
	for {
		if len(buffer) == cap(buffer) {
			buffer = append(buffer, 0)[:len(buffer)]
		}
		n, err := r.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		if err == io.EOF {
			return buffer, nil
		}
		if err != nil {
			return buffer, err
		}
	}
}

// numberIn is the first number in the slots of a frame.
func numberIn(frame []byte) (int64, bool) {
	for {
		_, rest, found := bytes.Cut(frame, []byte(`:"`))
		if !found {
			return 0, false
		}
		value, _, _ := bytes.Cut(rest, []byte(`"`))
		if number, err := strconv.ParseInt(string(value), 10, 64); err == nil {
			return number, true
		}
		frame = rest
	}
}

// click clicks in one tab.
func (tb *onlooker) click() {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.clicked = append(tb.clicked, time.Now())
	tb.ws.WriteMessage(websocket.TextMessage, tb.crowd.click) // of no use in a tab that was cut off
}

// expect makes number what awaitNumber waits for. Nobody shows it yet.
func (c *crowd) expect(number int64) {
	c.missing.Store(int64(len(c.tabs)))
	c.target.Store(number)
}

// awaitNumber waits until every tab shows the expected number, and reports
// whether they did in time.
func (c *crowd) awaitNumber(within time.Duration) bool {
	select {
	case <-c.arrived:
		return true
	case <-time.After(within):
		return false
	}
}

// clickAtOnce clicks so many times, in as many tabs, at once.
func (c *crowd) clickAtOnce(clicks int) {
	var clicking sync.WaitGroup
	for i := range min(clicks, len(c.tabs)) {
		clicking.Go(func() {
			for n := i; n < clicks; n += len(c.tabs) {
				c.tabs[i].click()
			}
		})
	}
	clicking.Wait()
}

// clickSteadily clicks at a rate, in one tab after the other.
func (c *crowd) clickSteadily(perSecond int, duration time.Duration) (clicks int) {
	begin := time.Now()
	for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
		passed := min(time.Since(begin), duration)
		for due := int(passed.Seconds() * float64(perSecond)); clicks < due; clicks++ {
			c.tabs[clicks%len(c.tabs)].click()
		}
		if passed == duration {
			tick.Stop()
			return clicks
		}
	}
}

// clicks is when the crowd clicked, by the number that each click made.
func (c *crowd) clicks() map[int64]time.Time {
	made := map[int64]time.Time{}
	for _, tb := range c.tabs {
		tb.mu.Lock()
		maps.Copy(made, tb.made)
		tb.mu.Unlock()
	}
	return made
}

// tally is what happened to a crowd.
type tally struct {
	clicks, refused, unanswered int
	cutOff, wrong               int
	frames, mostFrames, empty   int
	mostRefreshes               int // frames of one tab that were no answers
}

// agrees waits until every tab shows so many clicks: all that were made.
func (c *crowd) agrees(clicks int) tally {
	c.t.Helper()
	require.True(c.t, c.awaitNumber(soon), "every tab shows %d: %+v", clicks, c.count(int64(clicks)))
	return c.agreed(clicks)
}

// agreed checks that every tab shows so many clicks, and none was lost or cut off.
func (c *crowd) agreed(clicks int) tally {
	c.t.Helper()
	got := c.count(int64(clicks))
	assert.Equal(c.t, clicks, got.clicks)
	assert.Zero(c.t, got.refused+got.cutOff+got.wrong)
	return got
}

// count is what has happened since the tabs were opened. Wrong are those that do
// not show the number.
func (c *crowd) count(number int64) tally {
	var sum tally
	for _, tb := range c.tabs {
		tb.mu.Lock()
		sum.clicks += len(tb.made) + len(tb.clicked) + tb.refused
		sum.refused += tb.refused
		sum.unanswered += len(tb.clicked)
		sum.frames += tb.frames
		sum.mostFrames = max(sum.mostFrames, tb.frames)
		sum.mostRefreshes = max(sum.mostRefreshes, tb.frames-len(tb.made)-tb.refused)
		sum.empty += tb.empty
		if tb.err != nil {
			sum.cutOff++
		}
		if tb.shown.Load() != number {
			sum.wrong++
		}
		tb.mu.Unlock()
	}
	return sum
}
