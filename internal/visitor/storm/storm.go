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
	"runtime/debug"
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

// Run lets all storms happen at once, each with about so many tabs, and checks the books.
// Then it stops the program.
func Run(t *testing.T, tabs int) {
	t.Helper()
	seed := cmp.Or(*seedFlag, rand.Uint64())
	t.Cleanup(func() {
		if build, _ := debug.ReadBuildInfo(); t.Failed() {
			t.Logf("repeat it with: go test -race -tags all,soak -run '^%s$' %s -stress.seed=%d", t.Name(), strings.TrimSuffix(build.Path, ".test"), seed)
		}
	})
	b := newBooks(t, tabs, append(visitor.Patient, "-grace", "50ms")...)
	var all sync.WaitGroup
	for i, run := range storms {
		all.Go(func() { run(&storm{b, seed + uint64(i)}) })
	}
	all.Wait()
	if t.Failed() {
		t.FailNow() // the books are not complete
	}
	b.agree()
	b.clicking.Increment() // life goes on
	b.clicking.Settle()
	b.add(clicks, 1)
	b.agree()
	b.leaveNothing()

	b.program.Signal(syscall.SIGTERM)
	<-b.program.Exited
	assert.Zero(t, b.program.ExitCode())
	for _, tb := range b.tabs {
		<-tb.Ended
		assert.EqualError(t, tb.Err(), "websocket: close 1001 (going away): the server is stopping")
	}
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
	s.openCrowd(visitor.PresencePage, 2*s.size).ClickAtOnce(2 * s.size)
	s.add(users, 2*s.size)
}

// Tabs of one browser under one name are one user.
func joinLeaveAndReload(s *storm) {
	const perBrowser, names, leave, reload = 4, 3, 3, 4
	last := make([]int, s.size)
	browsers := make([]*visitor.Visitor, (s.size+perBrowser-1)/perBrowser)
	for i := range browsers {
		browsers[i] = s.visitor()
		browsers[i].Get(visitor.PresencePage) // for its cookie
	}
	s.each(s.size, func(i int, r *rand.Rand) {
		tb := s.open(browsers[i/perBrowser], visitor.PresencePage)
		for range 1 + r.IntN(12) {
			switch last[i] = r.IntN(names + 2); last[i] {
			case leave:
				tb.Leave()
			case reload:
				tb.Close()
				tb.Connect()
			default:
				tb.Join(fmt.Sprint("name ", last[i]))
			}
		}
		tb.Settle()
	})
	online := map[[2]int]bool{} // by browser and name
	for i, name := range last {
		if name < names {
			online[[2]int{i / perBrowser, name}] = true
		}
	}
	s.add(users, len(online))
}

func clickAtOnce(s *storm) {
	s.openCrowd(visitor.CounterPage, s.size).ClickAtOnce(30 * s.size)
	s.add(clicks, 30*s.size)
}

// A page clicks by a form where scripts do not run, and by a request where no socket opens.
func clickWithoutSocket(s *storm) {
	s.each(s.size, func(_ int, r *rand.Rand) {
		v, times := s.visitor(), r.IntN(8)
		page := v.OpenWithoutSocket(visitor.CounterPage)
		for range times {
			v.Click()
			page.Act("increment", nil)
		}
		s.add(clicks, 2*times)
	})
}

// Some go before their join is answered.
func comeAndGo(s *storm) { visitor.ComeAndGo(s.t, s.program.URL, 8*s.size) }

// closeTabs closes tabs in each way. What was sent before a close frame counts, also if
// nobody waits for the answer.
func closeTabs(s *storm) {
	closeFrames := [][]byte{nil, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), websocket.FormatCloseMessage(websocket.CloseGoingAway, "")}
	s.each(2*s.size, func(i int, r *rand.Rand) {
		counter, joined := s.visitor().Open(visitor.CounterPage), s.visitor().Open(visitor.PresencePage)
		joined.Join("guest")
		times := r.IntN(20)
		for range times {
			counter.Increment()
		}
		s.add(clicks, times)
		for _, tb := range []*visitor.Tab{counter, joined} {
			way := i % (len(closeFrames) + 2) // without a close frame, or by a reset
			if way < len(closeFrames) {
				assert.NoError(s.t, tb.WS.WriteMessage(websocket.CloseMessage, closeFrames[way]))
				s.ends(tb)
			} else {
				tb.Settle() // what is not read yet may be lost with the connection
			}
			if way == len(closeFrames) {
				tb.WS.NetConn().(*net.TCPConn).SetLinger(0)
			}
			tb.Close()
		}
	})
}

// ends waits until the server has closed a tab.
func (s *storm) ends(tb *visitor.Tab) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return tb.Err() != nil }, visitor.Soon, often, "still open")
}

func closeInHandshake(s *storm) {
	handshake := "GET " + visitor.PresencePage + " HTTP/1.1\r\nHost: " + s.program.Addr() +
		"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	s.each(2*s.size, func(_ int, r *rand.Rand) {
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
	s.each(1+s.size/4, func(int, *rand.Rand) { StopReading(s.t, s.program.URL).Close() })
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
	tabs := 1 + s.size/6
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
	s.each(max(s.size, len(lasts)), func(i int, r *rand.Rand) {
		tb := s.visitor().Open(visitor.PresencePage)
		for range 5 {
			for _, messages := range [][]string{Actions, NoActions} {
				assert.NoError(s.t, tb.WS.WriteMessage(websocket.TextMessage, []byte(messages[r.IntN(len(messages))])))
			}
		}
		s.add("messages_refused not_action", 5)
		tb.Join("guest")
		tb.Settle() // still served
		last := lasts[i%len(lasts)]
		_, err := tb.WS.NetConn().Write([]byte(last.bytes))
		assert.NoError(s.t, err)
		if last.refused != "" {
			s.add("messages_refused "+last.refused, 1)
		}
		if !last.half {
			s.ends(tb)
		}
		tb.Close()
	})
}
