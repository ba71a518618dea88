// Package storm lets many visitors do everything at once on one program: they join,
// click, flood, stop reading, break the protocol and vanish. Afterwards every number is
// exact, for everyone, and nothing is left of those who have gone.
package storm

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

var seedFlag = flag.Uint64("stress.seed", 0, "`seed` of what a storm draws; 0: another one each time")

// patient flags close nobody for being silent or slow. On a busy machine everybody is.
var patient = []string{"-ping", "1m", "-ping-timeout", "1h", "-write-timeout", "1h"}

// storms are what happens at once. Each writes into the books what the program has to
// count when it is over.
var storms = []func(*storm){
	joinAtOnce, joinLeaveAndReload, clickAtOnce, clickWithoutSocket, comeAndGo, closeTabs,
	closeInHandshake, stopReading, floodWithClicks, sendFrames,
}

// A storm is one of storms under way.
type storm struct {
	*books
	seed uint64
}

// Run lets all storms happen at once, with so many tabs each, and then stops the program.
func Run(t *testing.T, tabs int) {
	t.Helper()
	seed := cmp.Or(*seedFlag, rand.Uint64())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat it with: go test -race -tags all,soak -run '^%s$' %s -stress.seed=%d", t.Name(), testedPackage(t), seed)
		}
	})
	b := open(t, tabs, visitor.Start(t, append(patient, "-grace", "50ms")...))
	var all sync.WaitGroup
	for i, run := range storms {
		all.Go(func() { run(&storm{b, seed + uint64(i)}) })
	}
	all.Wait()
	b.agree()
	b.leaveNothing()
	b.stop()
}

// testedPackage names the package of the test, as the go command takes it.
func testedPackage(t *testing.T) string {
	here, err := filepath.Abs(".")
	require.NoError(t, err)
	path, err := filepath.Rel(visitor.Root(), here)
	require.NoError(t, err)
	return "./" + path
}

// each runs do n times, eight at a time, each with numbers of its own. The framework
// closes its connections one after the other, and no storm is about a backlog of them.
func (s *storm) each(n int, do func(i int, r *rand.Rand)) {
	var workers sync.WaitGroup
	for first := range min(8, n) {
		workers.Go(func() {
			for i := first; i < n; i += 8 {
				do(i, rand.New(rand.NewPCG(s.seed, uint64(i))))
			}
		})
	}
	workers.Wait()
}

func joinAtOnce(s *storm) {
	s.openCrowd(visitor.PresencePage, 2*s.tabs).ClickAtOnce(2 * s.tabs)
	s.add(users, 2*s.tabs)
}

// Tabs of one browser under one name are one user.
func joinLeaveAndReload(s *storm) {
	const perBrowser, names, leave, reload = 4, 3, 3, 4
	type user struct{ browser, name int }
	var mu sync.Mutex
	online := map[user]bool{}
	browsers := make([]*visitor.Visitor, (s.tabs+perBrowser-1)/perBrowser)
	for i := range browsers {
		browsers[i] = visitor.New(s.t, s.program.URL)
		browsers[i].Get(visitor.PresencePage) // for its cookie
	}
	s.each(s.tabs, func(i int, r *rand.Rand) {
		tb := s.openIn(browsers[i/perBrowser], visitor.PresencePage)
		step := 0
		for range 1 + r.IntN(12) {
			switch step = r.IntN(names + 2); step {
			case leave:
				tb.Leave()
			case reload:
				tb.Close()
				tb.Connect()
			default:
				tb.Join(fmt.Sprint("name ", step))
			}
		}
		tb.Settle()
		if step < names {
			mu.Lock()
			defer mu.Unlock()
			online[user{i / perBrowser, step}] = true
		}
	})
	s.add(users, len(online))
}

func clickAtOnce(s *storm) {
	s.openCrowd(visitor.CounterPage, s.tabs).ClickAtOnce(30 * s.tabs)
	s.add(clicks, 30*s.tabs)
}

// A page clicks by a form where scripts do not run, and by a request where no socket opens.
func clickWithoutSocket(s *storm) {
	s.each(s.tabs, func(_ int, r *rand.Rand) {
		v := visitor.New(s.t, s.program.URL)
		page := v.OpenWithoutSocket(visitor.CounterPage)
		forms, requests := r.IntN(8), r.IntN(8)
		for range forms {
			v.Click()
		}
		for range requests {
			page.Act("increment", nil)
		}
		s.add(clicks, forms+requests)
	})
}

// Some go before their join is answered.
func comeAndGo(s *storm) { visitor.ComeAndGo(s.t, s.program.URL, 8*s.tabs) }

// closeTabs closes tabs in each way. What was sent before a close frame counts, also if
// nobody waits for the answer.
func closeTabs(s *storm) {
	closeFrames := [][]byte{nil, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), websocket.FormatCloseMessage(websocket.CloseGoingAway, "")}
	ways := len(closeFrames) + 2 // a closed connection and one that is reset
	s.each(2*s.tabs, func(i int, r *rand.Rand) {
		way, times := i%ways, r.IntN(20)
		counter, joined := s.openTab(visitor.CounterPage), s.openTab(visitor.PresencePage)
		joined.Join("guest")
		for range times {
			counter.Increment()
		}
		s.add(clicks, times)
		for _, tb := range []*visitor.Tab{counter, joined} {
			switch {
			case way < len(closeFrames):
				began := time.Now()
				assert.NoError(s.t, tb.WS.WriteMessage(websocket.CloseMessage, closeFrames[way]))
				s.endsWith(tb, began, websocket.CloseNormalClosure, websocket.CloseGoingAway, websocket.CloseNoStatusReceived)
			case way == len(closeFrames):
				tb.Settle()
			default:
				tb.Settle()
				tb.WS.NetConn().(*net.TCPConn).SetLinger(0) // as in a crash
			}
			s.closed(tb)
		}
	})
}

func closeInHandshake(s *storm) {
	handshake := "GET " + visitor.PresencePage + " HTTP/1.1\r\nHost: " + s.program.Addr() +
		"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	s.each(2*s.tabs, func(_ int, r *rand.Rand) {
		conn, err := net.Dial("tcp", s.program.Addr())
		require.NoError(s.t, err)
		fmt.Fprint(conn, handshake[:min(r.IntN(2*len(handshake)), len(handshake))])
		if r.IntN(2) == 0 {
			conn.(*net.TCPConn).SetLinger(0)
		}
		conn.Close()
	})
}

func stopReading(s *storm) {
	s.each(1+s.tabs/4, func(int, *rand.Rand) { StopReading(s.t, s.program.URL).Close() })
}

// StopReading opens a counter, reads nothing, and sends messages until the server takes
// no more of them or closes the connection.
func StopReading(t testing.TB, server string) *websocket.Conn {
	t.Helper()
	ws, err := visitor.New(t, server).Dial(visitor.CounterPage)
	require.NoError(t, err)
	ws.NetConn().(*net.TCPConn).SetReadBuffer(4096)
	// The answers repeat the action. Those that a burst is given fill the buffers of the
	// kernel, and those that may be under way leave room in the queue of the server.
	message := fmt.Appendf(nil, `{"action":%q}`, strings.Repeat("x", 2000))
	for err == nil {
		ws.SetWriteDeadline(time.Now().Add(time.Second))
		err = ws.WriteMessage(websocket.TextMessage, message)
	}
	return ws
}

// Every click of a flood is answered. Those that are too fast do not count.
func floodWithClicks(s *storm) {
	const perTab, burst = 500, 200 // the rate limit lets a burst through
	tabs := 1 + s.tabs/6
	c := s.openCrowd(visitor.CounterPage, tabs)
	c.ClickAtOnce(tabs * perTab)
	var got visitor.Tally
	require.EventuallyWithT(s.t, func(check *assert.CollectT) {
		got = c.Count(0)
		assert.Zero(check, got.Unanswered)
	}, visitor.Soon, often)
	assert.Equal(s.t, tabs*perTab, got.Clicks)
	assert.GreaterOrEqual(s.t, got.Clicks-got.Refused, tabs*burst)
	s.add(clicks, got.Clicks-got.Refused)
	s.add("messages_refused too_fast", got.Refused)
}

// sendFrames sends what no page sends. It is answered and changes nothing, or it ends
// the connection of its sender.
func sendFrames(s *storm) {
	const perTab = 10
	s.each(max(s.tabs, len(broken)), func(i int, r *rand.Rand) {
		tb := s.openTab(visitor.PresencePage)
		for range perTab {
			m := Messages[r.IntN(len(Messages))]
			assert.NoError(s.t, tb.WS.WriteMessage(websocket.TextMessage, []byte(m.Text)))
			if !m.Action {
				s.add("messages_refused not_action", 1)
			}
		}
		tb.Join("guest")
		tb.Settle() // still served

		last, began := broken[i%len(broken)], time.Now()
		_, err := tb.WS.NetConn().Write(last.bytes)
		assert.NoError(s.t, err)
		if last.refused != "" {
			s.add("messages_refused "+last.refused, 1)
		}
		if last.code != 0 {
			s.endsWith(tb, began, last.code)
		}
		s.closed(tb)
	})
}

// stop stops the program. It tells everybody that is left, and exits with 0.
func (b *books) stop() {
	b.t.Helper()
	b.program.Signal(syscall.SIGTERM)
	for tb := range b.open {
		<-tb.Ended
		assert.EqualError(b.t, tb.Err(), "websocket: close 1001 (going away): the server is stopping")
	}
	<-b.program.Exited
	assert.Zero(b.t, b.program.ExitCode())
}
