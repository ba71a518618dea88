//go:build all || soak

package all

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
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

var stressSeed = flag.Uint64("stress.seed", 1, "`seed` of what TestStress draws")

// A scenario is a storm on a program of its own. Afterwards every number is exact:
// clicks, users, connections, and what was refused, by reason.
type scenario struct {
	name  string
	flags []string
	run   func(s *stress, r *rand.Rand)
}

// often is how often a condition is checked.
const often = 20 * time.Millisecond

// Patient flags close nobody for being silent or slow, as on a busy machine everybody
// is. The quick flags find a bad peer soon, and leave a good one enough time.
var (
	patient    = []string{"-ping", "1m", "-ping-timeout", "1h", "-write-timeout", "1h"}
	quickPing  = []string{"-ping", "50ms", "-ping-timeout", "3s"}
	quickWrite = []string{"-write-timeout", "1s"}
)

// The limits of the scenarios that are about them.
const (
	fewConnections = 23
	fewPerSession  = 5
)

var scenarios = []scenario{
	{"visitors join at once", nil, joinAtOnce},
	{"visitors join and leave at once", nil, joinAndLeave},
	{"tabs of few browsers join and leave under the same names", nil, joinsAndLeavesInterleave},
	{"sockets click at once", nil, clickBySocket},
	{"forms click at once", nil, clickByForm},
	{"posts of data click at once", nil, clickByPost},
	{"visits come and go", nil, func(s *stress, _ *rand.Rand) { visitor.ComeAndGo(s.t, s.url, 4*s.size) }},
	{"tabs close properly behind their clicks", nil, closeProperly},
	{"tabs close without a word", nil, func(s *stress, r *rand.Rand) { closeTabs(s, (*visitor.Tab).Close) }},
	{"tabs are reset", nil, func(s *stress, r *rand.Rand) { closeTabs(s, reset) }},
	{"tabs close in the middle of a handshake", nil, closeInHandshake},
	{"tabs close while their clicks are on the way", nil, closeWhileClicking},
	{"joined tabs reload within the grace period", []string{"-grace", "1m"}, reload},
	{"peers stop reading in the middle of a frame", quickWrite, func(s *stress, r *rand.Rand) { doNotRead(s, 7) }},
	{"peers flood and never read", quickWrite, floodAndDoNotRead},
	{"peers answer no ping", quickPing, answerNoPing},
	{"peers send half a frame", nil, sendHalfFrames},
	{"peers break the protocol", nil, breakProtocol},
	{"messages are too long", nil, sendTooLong},
	{"messages are no text", nil, sendNoText},
	{"messages are no action", nil, sendNoAction},
	{"floods run into the rate limit", nil, floodBySocket},
	{"handshakes come from other sites", nil, connectFromElsewhere},
	{"forms come from other sites", nil, postFromElsewhere},
	{"forms are too long or end half-way", nil, postBadForms},
	{"cookies are hostile", []string{"-max-per-session", "1"}, sendHostileCookies},
	{"more connect than there is room for", []string{"-max-connections", strconv.Itoa(fewConnections)}, connectAboveMax},
	{"one browser connects more often than it may", []string{"-max-per-session", strconv.Itoa(fewPerSession)}, connectAboveMaxPerSession},
	{"the program stops with tabs open", []string{"-drain", "2s"}, stopWithOpenTabs},
	{"the program restarts while tabs come back", nil, restart},
	{"everything happens at once", quickWrite, everything},
}

func TestStress(t *testing.T) {
	t.Parallel()
	storms(t, 24)
}

// storms runs all scenarios with so many tabs for a storm.
func storms(t *testing.T, size int) {
	t.Logf("-stress.seed=%d", *stressSeed)
	for i, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			s := newStress(t, size, sc.flags)
			sc.run(s, rand.New(rand.NewPCG(*stressSeed, uint64(i))))
			s.agrees()
			s.leavesNothing()
		})
	}
}

func joinAtOnce(s *stress, _ *rand.Rand) {
	s.crowd(visitor.PresencePage, 2*s.size).ClickAtOnce(2 * s.size)
	s.add(users, 2*s.size)
}

func joinAndLeave(s *stress, r *rand.Rand) {
	rounds := draw(r, s.size, 5)
	each(s.size, func(i int) {
		tb := s.open(visitor.PresencePage)
		for range 1 + rounds[i] {
			tb.Join("guest")
			tb.Leave()
		}
		tb.Settle()
	})
}

// Tabs of one browser under one name are one user.
func joinsAndLeavesInterleave(s *stress, r *rand.Rand) {
	type user struct{ visitor, name int }
	online := map[user]bool{}
	steps := make([][]int, s.size) // a name, or 3 to leave
	for i := range steps {
		steps[i] = draw(r, 1+r.IntN(12), 4)
		if last := steps[i][len(steps[i])-1]; last < 3 {
			online[user{i / 4, last}] = true
		}
	}
	visitors := make([]*visitor.Visitor, (s.size+3)/4)
	for i := range visitors {
		visitors[i] = visitor.New(s.t, s.url)
		visitors[i].Get(visitor.PresencePage) // for its cookie
	}
	each(s.size, func(i int) {
		tb := s.openAs(visitors[i/4], visitor.PresencePage)
		for _, step := range steps[i] {
			if step == 3 {
				tb.Leave()
			} else {
				tb.Join(fmt.Sprint("name ", step))
			}
		}
		tb.Settle()
	})
	s.add(users, len(online))
}

func clickBySocket(s *stress, _ *rand.Rand) {
	s.crowd(visitor.CounterPage, s.size).ClickAtOnce(30 * s.size)
	s.add(clicks, 30*s.size)
}

func clickByForm(s *stress, r *rand.Rand) {
	times := draw(r, s.size, 8)
	each(s.size, func(i int) {
		v := visitor.New(s.t, s.url)
		for range times[i] {
			v.Click()
		}
		s.add(clicks, times[i])
	})
}

func clickByPost(s *stress, r *rand.Rand) {
	times := draw(r, s.size, 8)
	each(s.size, func(i int) {
		tb := visitor.New(s.t, s.url).OpenWithoutSocket(visitor.CounterPage)
		for range times[i] {
			tb.Act("increment", nil)
		}
		s.add(clicks, times[i])
	})
}

// What is sent before a close frame counts, also if nobody awaits the answer.
func closeProperly(s *stress, r *rand.Rand) {
	times := draw(r, s.size, 20)
	frames := [][]byte{nil, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), websocket.FormatCloseMessage(websocket.CloseGoingAway, "")}
	each(s.size, func(i int) {
		counter, joined := s.open(visitor.CounterPage), s.open(visitor.PresencePage)
		joined.Join("guest")
		for range times[i] {
			counter.Increment()
		}
		s.add(clicks, times[i])
		for _, tb := range []*visitor.Tab{counter, joined} {
			began := time.Now()
			assert.NoError(s.t, tb.WS.WriteMessage(websocket.CloseMessage, frames[i%3]))
			<-tb.Ended
			s.endedWith(tb.Err(), began, websocket.CloseNormalClosure, websocket.CloseGoingAway, websocket.CloseNoStatusReceived)
			tb.Close()
			s.closed(tb)
		}
	})
}

func closeTabs(s *stress, end func(*visitor.Tab)) {
	each(s.size, func(int) {
		counter, joined := s.open(visitor.CounterPage), s.open(visitor.PresencePage)
		counter.Increment()
		joined.Join("guest")
		counter.Settle()
		s.add(clicks, 1)
		for _, tb := range []*visitor.Tab{counter, joined} {
			end(tb)
			s.closed(tb)
		}
	})
}

// reset ends a tab as a crash does.
func reset(tb *visitor.Tab) {
	tb.WS.NetConn().(*net.TCPConn).SetLinger(0)
	tb.Close()
}

func closeInHandshake(s *stress, r *rand.Rand) {
	handshake := "GET " + visitor.PresencePage + " HTTP/1.1\r\nHost: " + strings.TrimPrefix(s.url, "http://") +
		"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	lengths, lingers := draw(r, 2*s.size, 2*len(handshake)), draw(r, 2*s.size, 2)
	each(2*s.size, func(i int) {
		conn := s.say("%s", handshake[:min(lengths[i], len(handshake))])
		if lingers[i] == 0 {
			conn.SetLinger(0)
		}
		conn.Close()
	})
}

// Which of the clicks arrive is up to the network. All that were answered count,
// and nobody disagrees about the others.
func closeWhileClicking(s *stress, r *rand.Rand) {
	sent, answered := draw(r, s.size, 20), 0
	for _, n := range sent {
		answered += n / 2
	}
	each(s.size, func(i int) {
		tb := s.open(visitor.CounterPage)
		for range sent[i] / 2 {
			tb.Increment()
		}
		tb.Settle()
		for range sent[i] - sent[i]/2 {
			tb.Increment()
		}
		if i%2 == 0 {
			reset(tb)
		} else {
			tb.Close()
		}
		s.closed(tb)
	})
	require.Eventually(s.t, func() bool { return s.program.Connections(visitor.CounterPage) == 2 }, visitor.Soon, often)
	all := 0
	for _, n := range sent {
		all += n
	}
	got := s.counted()[clicks]
	assert.GreaterOrEqual(s.t, got, answered)
	assert.LessOrEqual(s.t, got, all)
	s.add(clicks, got)
}

func reload(s *stress, _ *rand.Rand) {
	tabs := make([]*visitor.Tab, s.size/2)
	each(len(tabs), func(i int) {
		tabs[i] = s.open(visitor.PresencePage)
		tabs[i].Join("guest")
		tabs[i].Settle()
	})
	s.add(users, len(tabs))
	online := fmt.Sprintf(" %d user(s) online", s.want[users])
	s.watching.Shows(online)
	s.watching.StartHistory()
	each(len(tabs), func(i int) {
		for range 3 {
			tabs[i].Close()
			tabs[i].Connect()
			tabs[i].Join("guest")
			tabs[i].Settle()
		}
	})
	s.watching.Settle()
	for _, text := range s.watching.HasRead() {
		assert.Contains(s.t, text, online)
	}
}

// longAnswer is an action whose answer is as long: it names the action.
var longAnswer = fmt.Appendf(nil, `{"action":%q}`, strings.Repeat("x", 60_000))

// doNotRead opens sockets that do not read their answers, which are more than
// the kernel keeps.
func doNotRead(s *stress, answers int) {
	peers := s.size / 4
	each(peers, func(int) {
		ws := s.peer(visitor.CounterPage)
		ws.NetConn().(*net.TCPConn).SetReadBuffer(4096)
		for range answers {
			ws.WriteMessage(websocket.TextMessage, longAnswer) // of no use once the server has closed
		}
	})
	s.healthy.Increment() // while they are held up
	s.healthy.Settle()
	s.add(clicks, 1)
	s.add(slowCloses, peers)
}

func floodAndDoNotRead(s *stress, _ *rand.Rand) { doNotRead(s, 20) }

func answerNoPing(s *stress, _ *rand.Rand) {
	each(s.size, func(i int) {
		assert.NoError(s.t, visitor.Act(s.peer(visitor.PresencePage), "join", map[string]any{"username": fmt.Sprint("silent ", i)}))
	})
}

// maskedFrame is a text frame as a browser sends it. Its mask changes nothing.
func maskedFrame(text string) []byte {
	return append([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...)
}

// Half a frame does not count, whether the socket then ends or stays silent.
func sendHalfFrames(s *stress, r *rand.Rand) {
	frame := maskedFrame(`{"action":"increment"}`)
	lengths := draw(r, s.size, len(frame))
	peers := make([]*websocket.Conn, s.size)
	each(s.size, func(i int) {
		peers[i] = s.peer(visitor.CounterPage)
		peers[i].NetConn().Write(frame)
		for answer := ""; !strings.Contains(answer, `"action":"increment"`); {
			_, data, err := peers[i].ReadMessage()
			require.NoError(s.t, err)
			answer = string(data)
		}
		peers[i].NetConn().Write(frame[:lengths[i]])
		if i%2 == 0 {
			peers[i].Close()
		}
	})
	s.add(clicks, s.size)
	s.add(connections(visitor.CounterPage), s.size/2)
	s.settles()
	each(s.size, func(i int) { peers[i].Close() })
	s.add(connections(visitor.CounterPage), -s.size/2)
}

func breakProtocol(s *stress, _ *rand.Rand) {
	broken := [][]byte{
		{0x81, 0x02, '{', '}'},              // not masked
		{0x83, 0x80, 0, 0, 0, 0},            // an unknown kind of frame
		{0xc1, 0x80, 0, 0, 0, 0},            // a bit of an extension that was not agreed on
		{0x80, 0x80, 0, 0, 0, 0},            // continues no message
		{0x09, 0x80, 0, 0, 0, 0},            // a ping in parts
		{0x89, 0xfe, 0, 126, 0, 0, 0, 0},    // a long ping
		{0x88, 0x82, 0, 0, 0, 0, 0x03, 231}, // a close code below 1000
	}
	each(s.size, func(i int) {
		ws := s.peer(visitor.PresencePage)
		assert.NoError(s.t, visitor.Act(ws, "join", map[string]any{"username": "guest"}))
		ws.NetConn().Write(broken[i%len(broken)])
		s.endsWith(ws, websocket.CloseProtocolError)
	})
}

func sendTooLong(s *stress, r *rand.Rand) {
	lengths := draw(r, s.size, 4096)
	each(len(lengths), func(i int) {
		ws := s.peer(visitor.CounterPage)
		long := `{"action":"increment","data":{"x":"` + strings.Repeat("x", visitor.MaxMessage+lengths[i]) + `"}}`
		assert.NoError(s.t, ws.WriteMessage(websocket.TextMessage, []byte(long)))
		s.endsWith(ws, websocket.CloseMessageTooBig)
	})
	s.add("messages_refused too_long", len(lengths))
}

// What comes after a message that ends the socket does not count.
func sendNoText(s *stress, _ *rand.Rand) {
	each(s.size, func(i int) {
		ws := s.peer(visitor.CounterPage)
		kind, text, code := websocket.BinaryMessage, `{"action":"increment"}`, websocket.CloseUnsupportedData
		if i%2 == 0 {
			kind, text, code = websocket.TextMessage, "{\"action\":\"increment\",\"data\":{\"x\":\"\xff\"}}", websocket.CloseInvalidFramePayloadData
		}
		assert.NoError(s.t, ws.WriteMessage(kind, []byte(text)))
		for range 3 {
			visitor.Act(ws, "increment", nil) // fails if the socket has ended by now
		}
		s.endsWith(ws, code)
	})
	s.add("messages_refused not_text", s.size)
}

func sendNoAction(s *stress, r *rand.Rand) {
	noActions := []string{
		``, `{`, `null "`, `[1,2,3]`, `7`, `{"action":7}`, `{"action":"increment","data":[]}`, `{"action":"increment"} {}`,
		`{"data":` + strings.Repeat("[", 20_000), `{"data":` + strings.Repeat(`{"x":`, 10_500) + "1" + strings.Repeat("}", 10_501),
	}
	const perTab = 20
	picks := draw(r, perTab*s.size, len(noActions))
	each(s.size, func(i int) {
		tb := s.open(visitor.CounterPage)
		for _, pick := range picks[perTab*i : perTab*(i+1)] {
			assert.NoError(s.t, tb.WS.WriteMessage(websocket.TextMessage, []byte(noActions[pick])))
			tb.Increment()
		}
		tb.Settle()
	})
	s.add("messages_refused not_action", perTab*s.size)
	s.add(clicks, perTab*s.size)
}

// Every message of a flood is answered. Those that are too fast do not count.
func floodBySocket(s *stress, _ *rand.Rand) {
	const perTab, burst = 500, 200
	tabs := s.size / 6
	c := s.crowd(visitor.CounterPage, tabs)
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

func connectFromElsewhere(s *stress, _ *rand.Rand) {
	origins := []string{"https://evil.example", "null", s.url + "0", s.url + ".evil.example", "https" + strings.TrimPrefix(s.url, "http")}
	each(s.size, func(i int) {
		_, status := s.knock(visitor.PresencePage, http.Header{"Origin": {origins[i%len(origins)]}})
		assert.Equal(s.t, http.StatusForbidden, status, "from %q", origins[i%len(origins)])
	})
	s.add("connections_refused foreign_origin", s.size)
}

func postFromElsewhere(s *stress, _ *rand.Rand) {
	each(s.size, func(i int) {
		req, err := http.NewRequest(http.MethodPost, s.url+visitor.CounterPage, strings.NewReader("increment="))
		require.NoError(s.t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", "https://evil.example")
		if i%2 == 0 {
			req.Header.Set("Sec-Fetch-Site", "cross-site")
		}
		resp, err := http.DefaultClient.Do(req)
		require.NoError(s.t, err)
		resp.Body.Close()
		assert.Equal(s.t, http.StatusForbidden, resp.StatusCode)
	})
	s.add("requests_refused cross_site", s.size)
}

func postBadForms(s *stress, r *rand.Rand) {
	const form = "increment="
	header := "POST " + visitor.CounterPage + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 10\r\n\r\n"
	lengths := draw(r, s.size, len(form))
	each(s.size, func(i int) {
		resp, _ := visitor.New(s.t, s.url).Post(visitor.CounterPage, url.Values{"increment": {strings.Repeat("x", visitor.MaxForm)}})
		assert.Equal(s.t, http.StatusRequestEntityTooLarge, resp.StatusCode)
		s.say("%s%s", header, form[:lengths[i]]).Close()
		whole := s.say("%s%s", header, form[:lengths[i]]) // slow, and complete in the end
		fmt.Fprint(whole, form[lengths[i]:])
		answer, err := io.ReadAll(whole)
		assert.NoError(s.t, err)
		assert.Contains(s.t, string(answer), "303 See Other")
	})
	s.add("requests_refused too_long", s.size)
	s.add("requests_refused incomplete", s.size)
	s.add(clicks, s.size)
}

// A visitor whose cookie was not made here gets a new session.
func sendHostileCookies(s *stress, _ *rand.Rand) {
	values := []string{"", "x", "../../etc/passwd", strings.Repeat("A", 44), strings.Repeat("A", 43) + "==", strings.Repeat("A", 43) + "%3D",
		strings.Repeat("x", 10_000), `"x"`, "watching; " + visitor.SessionCookie + "=x", "{{.Username}}", "\xff\xfe"}
	each(s.size, func(i int) {
		header := http.Header{"Cookie": {visitor.SessionCookie + "=" + values[i%len(values)]}}
		ws, status := s.knock(visitor.PresencePage, header)
		if !assert.Equal(s.t, http.StatusSwitchingProtocols, status, "with %.50q", header) {
			return
		}
		assert.NoError(s.t, visitor.Act(ws, "join", map[string]any{"username": "guest"}))
	})
	s.add(connections(visitor.PresencePage), s.size)
	s.add(users, s.size)
}

func connectAboveMax(s *stress, _ *rand.Rand) {
	room := fewConnections - len(s.tabs)
	for range 3 {
		s.knockAtOnce(s.size, room, "full", func(int) http.Header { return nil })
	}
}

func connectAboveMaxPerSession(s *stress, _ *rand.Rand) {
	for range 3 {
		cookie := http.Header{"Cookie": {visitor.SessionCookie + "=" + visitor.MadeUpSession()}}
		s.knockAtOnce(s.size, s.size/2+fewPerSession, "session_full", func(i int) http.Header {
			if i%2 == 0 {
				return nil // somebody else, for whom there is room
			}
			return cookie
		})
	}
}

// Everybody who is connected is told that the server is going away. New sockets are
// refused, and pages are still served.
func stopWithOpenTabs(s *stress, _ *rand.Rand) {
	each(s.size, func(i int) { s.open([]string{visitor.CounterPage, visitor.PresencePage}[i%2]) })
	for range 10 {
		s.healthy.Increment()
	}
	s.add(clicks, 10)
	s.agrees()
	s.program.Signal(syscall.SIGTERM)
	s.program.IsStopping("/healthz")
	for range 3 {
		_, status := s.knock(visitor.CounterPage, nil)
		assert.Equal(s.t, http.StatusServiceUnavailable, status)
	}
	assert.Contains(s.t, visitor.New(s.t, s.url).Get(visitor.CounterPage), "Counter: 11 ")
	assert.EqualValues(s.t, 3, s.program.Metric(`realtime_connections_refused_total{reason="stopping"}`))
	s.ended()
	s.startAgain()
	each(len(s.tabs), func(i int) { s.comesBack(s.tabs[i]) })
}

func restart(s *stress, r *rand.Rand) {
	each(s.size/2, func(int) { s.open(visitor.CounterPage) })
	for range 3 {
		times, sum := draw(r, len(s.tabs), 10), 0
		each(len(s.tabs), func(i int) {
			for range times[i] {
				s.tabs[i].Increment()
			}
			s.tabs[i].Settle()
		})
		for i, tb := range s.tabs {
			if tb.Path == visitor.CounterPage {
				sum += times[i]
			}
		}
		s.add(clicks, sum)
		s.agrees()
		s.stopped()
		var back sync.WaitGroup
		for _, tb := range s.tabs {
			back.Go(func() { s.comesBack(tb) })
		}
		s.startAgain()
		back.Wait()
		s.settles()
	}
}

func everything(s *stress, r *rand.Rand) {
	s.size = 6
	var storms sync.WaitGroup
	for _, storm := range []func(*stress, *rand.Rand){
		joinAtOnce, joinAndLeave, joinsAndLeavesInterleave, clickBySocket, clickByForm, clickByPost, closeProperly,
		closeInHandshake, floodAndDoNotRead, breakProtocol, sendTooLong, sendNoText, sendNoAction, floodBySocket,
		connectFromElsewhere, postFromElsewhere, postBadForms,
	} {
		own := rand.New(rand.NewPCG(r.Uint64(), 0))
		storms.Go(func() { storm(s, own) })
	}
	storms.Go(func() { closeTabs(s, (*visitor.Tab).Close) })
	storms.Go(func() { closeTabs(s, reset) })
	storms.Wait()
}
