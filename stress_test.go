package main

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/wsconn"
)

var stressSeed = flag.Uint64("stress.seed", 1, "`seed` of what TestStress draws")

// A scenario is a storm on an app of its own. Afterwards every number is exact:
// clicks, users, connections, and what was refused, by reason.
type scenario struct {
	name string
	cfg  Config
	run  func(s *stress, r *rand.Rand)
}

// often is how soon a condition is looked at again.
const often = 20 * time.Millisecond

// By default nobody is closed for being silent or slow: a busy machine makes
// everybody so. The quick ones find a bad peer soon, and leave a good one time.
var (
	patient    = wsconn.Heartbeat{Ping: time.Minute, Timeout: time.Hour, Write: time.Hour}
	quickPing  = wsconn.Heartbeat{Ping: 50 * time.Millisecond, Timeout: 3 * time.Second}
	quickWrite = wsconn.Heartbeat{Ping: time.Minute, Timeout: time.Hour, Write: time.Second}
)

var scenarios = []scenario{
	{"visitors join at once", Config{}, joinAtOnce},
	{"visitors join and leave at once", Config{}, joinAndLeave},
	{"tabs of few browsers join and leave under the same names", Config{}, joinsAndLeavesInterleave},
	{"sockets click at once", Config{}, clickBySocket},
	{"forms click at once", Config{}, clickByForm},
	{"posts of data click at once", Config{}, clickByPost},
	{"visits come and go", Config{}, func(s *stress, _ *rand.Rand) { comeAndGo(s.t, s.url, 4*s.size) }},
	{"tabs close properly behind their clicks", Config{}, closeProperly},
	{"tabs close without a word", Config{}, func(s *stress, r *rand.Rand) { closeTabs(s, (*tab).close) }},
	{"tabs are reset", Config{}, func(s *stress, r *rand.Rand) { closeTabs(s, reset) }},
	{"tabs close in the middle of a handshake", Config{}, closeInHandshake},
	{"tabs close while their clicks are on the way", Config{}, closeWhileClicking},
	{"joined tabs reload within the grace period", Config{Grace: time.Minute}, reload},
	{"peers stop reading in the middle of a frame", Config{Heartbeat: quickWrite}, func(s *stress, r *rand.Rand) { doNotRead(s, 7) }},
	{"peers flood and never read", Config{Heartbeat: quickWrite}, floodAndDoNotRead},
	{"peers answer no ping", Config{Heartbeat: quickPing}, answerNoPing},
	{"peers send half a frame", Config{}, sendHalfFrames},
	{"peers break the protocol", Config{}, breakProtocol},
	{"messages are too long", Config{}, sendTooLong},
	{"messages are no text", Config{}, sendNoText},
	{"messages are no action", Config{}, sendNoAction},
	{"floods run into the rate limit", Config{}, floodBySocket},
	{"handshakes come from other sites", Config{}, connectFromElsewhere},
	{"forms come from other sites", Config{}, postFromElsewhere},
	{"forms are too long or end half-way", Config{}, postBadForms},
	{"cookies are hostile", Config{MaxPerSession: 1}, sendHostileCookies},
	{"more connect than there is room for", Config{MaxConnections: 23}, connectAboveMax},
	{"one browser connects more often than it may", Config{MaxPerSession: 5}, connectAboveMaxPerSession},
	{"the app stops with tabs open", Config{}, stopWithOpenTabs},
	{"the app restarts while tabs come back", Config{}, restart},
	{"everything happens at once", Config{Heartbeat: quickWrite}, everything},
}

func TestStress(t *testing.T) {
	t.Logf("-stress.seed=%d", *stressSeed)
	before := runtime.NumGoroutine()
	for i, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Cleanup(func() { nothingRuns(t, before+2) }) // with the scenario and this check; runs last
			s := newStress(t, sc.cfg)
			sc.run(s, rand.New(rand.NewPCG(*stressSeed, uint64(i))))
			s.agrees()
		})
	}
}

func joinAtOnce(s *stress, _ *rand.Rand) {
	s.crowd(presencePage, 2*s.size).clickAtOnce(2 * s.size)
	s.add(users, 2*s.size)
}

func joinAndLeave(s *stress, r *rand.Rand) {
	rounds := draw(r, s.size, 5)
	each(s.size, func(i int) {
		tb := s.open(presencePage)
		for range 1 + rounds[i] {
			tb.join("guest")
			tb.leave()
		}
		tb.settle()
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
	visitors := make([]*visitor, (s.size+3)/4)
	for i := range visitors {
		visitors[i] = newVisitor(s.t, s.url)
		visitors[i].get(presencePage) // for its cookie
	}
	each(s.size, func(i int) {
		tb := s.openAs(visitors[i/4], presencePage)
		for _, step := range steps[i] {
			if step == 3 {
				tb.leave()
			} else {
				tb.join(fmt.Sprint("name ", step))
			}
		}
		tb.settle()
	})
	s.add(users, len(online))
}

func clickBySocket(s *stress, _ *rand.Rand) {
	s.crowd(counterPage, s.size).clickAtOnce(30 * s.size)
	s.add(clicks, 30*s.size)
}

func clickByForm(s *stress, r *rand.Rand) {
	times := draw(r, s.size, 8)
	each(s.size, func(i int) {
		v := newVisitor(s.t, s.url)
		for range times[i] {
			v.click()
		}
		s.add(clicks, times[i])
	})
}

func clickByPost(s *stress, r *rand.Rand) {
	times := draw(r, s.size, 8)
	each(s.size, func(i int) {
		tb := newVisitor(s.t, s.url).openWithoutSocket(counterPage)
		for range times[i] {
			tb.act("increment", nil)
		}
		s.add(clicks, times[i])
	})
}

// What is sent before a close frame counts, also if nobody awaits the answer.
func closeProperly(s *stress, r *rand.Rand) {
	times := draw(r, s.size, 20)
	frames := [][]byte{nil, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), websocket.FormatCloseMessage(websocket.CloseGoingAway, "")}
	each(s.size, func(i int) {
		counter, joined := s.open(counterPage), s.open(presencePage)
		joined.join("guest")
		for range times[i] {
			counter.increment()
		}
		s.add(clicks, times[i])
		for _, tb := range []*tab{counter, joined} {
			began := time.Now()
			assert.NoError(s.t, tb.ws.WriteMessage(websocket.CloseMessage, frames[i%3]))
			<-tb.ended
			s.endedWith(tb.err, began, websocket.CloseNormalClosure, websocket.CloseGoingAway, websocket.CloseNoStatusReceived)
			tb.close()
			s.closed(tb)
		}
	})
}

func closeTabs(s *stress, end func(*tab)) {
	each(s.size, func(int) {
		counter, joined := s.open(counterPage), s.open(presencePage)
		counter.increment()
		joined.join("guest")
		counter.settle()
		s.add(clicks, 1)
		for _, tb := range []*tab{counter, joined} {
			end(tb)
			s.closed(tb)
		}
	})
}

// reset ends a tab as a crash does.
func reset(tb *tab) {
	tb.ws.NetConn().(*net.TCPConn).SetLinger(0)
	tb.close()
}

func closeInHandshake(s *stress, r *rand.Rand) {
	handshake := "GET " + presencePage + " HTTP/1.1\r\nHost: " + strings.TrimPrefix(s.url, "http://") +
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
		tb := s.open(counterPage)
		for range sent[i] / 2 {
			tb.increment()
		}
		tb.settle()
		for range sent[i] - sent[i]/2 {
			tb.increment()
		}
		if i%2 == 0 {
			reset(tb)
		} else {
			tb.close()
		}
		s.closed(tb)
	})
	require.Eventually(s.t, func() bool { return s.app.pages.sockets.on(counterPage) == 2 }, soon, often)
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
	tabs := make([]*tab, s.size/2)
	each(len(tabs), func(i int) {
		tabs[i] = s.open(presencePage)
		tabs[i].join("guest")
		tabs[i].settle()
	})
	s.add(users, len(tabs))
	online := fmt.Sprintf(" %d user(s) online", s.want[users])
	s.watching.shows(online)
	s.watching.startHistory()
	each(len(tabs), func(i int) {
		for range 3 {
			tabs[i].close()
			tabs[i].connect()
			tabs[i].join("guest")
			tabs[i].settle()
		}
	})
	s.watching.settle()
	s.watching.mu.Lock()
	defer s.watching.mu.Unlock()
	for _, text := range s.watching.history {
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
		ws := s.peer(counterPage)
		ws.NetConn().(*net.TCPConn).SetReadBuffer(4096)
		for range answers {
			ws.WriteMessage(websocket.TextMessage, longAnswer) // of no use once the server has closed
		}
	})
	s.healthy.increment() // while they are held up
	s.healthy.settle()
	s.add(clicks, 1)
	s.add(slowCloses, peers)
}

func floodAndDoNotRead(s *stress, _ *rand.Rand) { doNotRead(s, 20) }

func answerNoPing(s *stress, _ *rand.Rand) {
	each(s.size, func(i int) {
		assert.NoError(s.t, act(s.peer(presencePage), "join", map[string]any{"username": fmt.Sprint("silent ", i)}))
	})
}

// maskedFrame is a text frame as a browser sends it. Its mask changes nothing.
func maskedFrame(text string) []byte {
	return append([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...)
}

// Half a frame does not count, whether the end of the socket comes behind it or
// nothing.
func sendHalfFrames(s *stress, r *rand.Rand) {
	frame := maskedFrame(`{"action":"increment"}`)
	lengths := draw(r, s.size, len(frame))
	peers := make([]*websocket.Conn, s.size)
	each(s.size, func(i int) {
		peers[i] = s.peer(counterPage)
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
	s.add(connections(counterPage), s.size/2)
	s.settles()
	each(s.size, func(i int) { peers[i].Close() })
	s.add(connections(counterPage), -s.size/2)
}

func breakProtocol(s *stress, _ *rand.Rand) {
	broken := [][]byte{
		{0x81, 0x02, '{', '}'},              // not masked
		{0x83, 0x80, 0, 0, 0, 0},            // no such kind of frame
		{0xc1, 0x80, 0, 0, 0, 0},            // a bit that nobody has asked for
		{0x80, 0x80, 0, 0, 0, 0},            // goes on with nothing
		{0x09, 0x80, 0, 0, 0, 0},            // a ping in parts
		{0x89, 0xfe, 0, 126, 0, 0, 0, 0},    // a long ping
		{0x88, 0x82, 0, 0, 0, 0, 0x03, 231}, // a close code below 1000
	}
	each(s.size, func(i int) {
		ws := s.peer(presencePage)
		assert.NoError(s.t, act(ws, "join", map[string]any{"username": "guest"}))
		ws.NetConn().Write(broken[i%len(broken)])
		s.endsWith(ws, websocket.CloseProtocolError)
	})
}

func sendTooLong(s *stress, r *rand.Rand) {
	lengths := draw(r, s.size, 4096)
	each(len(lengths), func(i int) {
		ws := s.peer(counterPage)
		long := `{"action":"increment","data":{"x":"` + strings.Repeat("x", wsconn.MaxMessage+lengths[i]) + `"}}`
		assert.NoError(s.t, ws.WriteMessage(websocket.TextMessage, []byte(long)))
		s.endsWith(ws, websocket.CloseMessageTooBig)
	})
	s.add("messages_refused too long", len(lengths))
}

// What comes behind a message that ends the socket does not count.
func sendNoText(s *stress, _ *rand.Rand) {
	each(s.size, func(i int) {
		ws := s.peer(counterPage)
		kind, text, code := websocket.BinaryMessage, `{"action":"increment"}`, websocket.CloseUnsupportedData
		if i%2 == 0 {
			kind, text, code = websocket.TextMessage, "{\"action\":\"increment\",\"data\":{\"x\":\"\xff\"}}", websocket.CloseInvalidFramePayloadData
		}
		assert.NoError(s.t, ws.WriteMessage(kind, []byte(text)))
		for range 3 {
			act(ws, "increment", nil) // fails if the socket has ended by now
		}
		s.endsWith(ws, code)
	})
	s.add("messages_refused not text", s.size)
}

func sendNoAction(s *stress, r *rand.Rand) {
	noActions := []string{
		``, `{`, `null "`, `[1,2,3]`, `7`, `{"action":7}`, `{"action":"increment","data":[]}`, `{"action":"increment"} {}`,
		`{"data":` + strings.Repeat("[", 20_000), `{"data":` + strings.Repeat(`{"x":`, 10_500) + "1" + strings.Repeat("}", 10_501),
	}
	const perTab = 20
	picks := draw(r, perTab*s.size, len(noActions))
	each(s.size, func(i int) {
		tb := s.open(counterPage)
		for _, pick := range picks[perTab*i : perTab*(i+1)] {
			assert.NoError(s.t, tb.ws.WriteMessage(websocket.TextMessage, []byte(noActions[pick])))
			tb.increment()
		}
		tb.settle()
	})
	s.add("messages_refused no action", perTab*s.size)
	s.add(clicks, perTab*s.size)
}

// Every message of a flood is answered. Those that are too fast do not count.
func floodBySocket(s *stress, _ *rand.Rand) {
	const perTab, burst = 500, 200
	tabs := s.size / 6
	c := s.crowd(counterPage, tabs)
	c.clickAtOnce(tabs * perTab)
	var got tally
	require.EventuallyWithT(s.t, func(check *assert.CollectT) {
		got = c.count(0)
		assert.Zero(check, got.unanswered)
	}, soon, often)
	assert.Equal(s.t, tabs*perTab, got.clicks)
	assert.GreaterOrEqual(s.t, got.clicks-got.refused, tabs*burst)
	s.add(clicks, got.clicks-got.refused)
	s.add("messages_refused too fast", got.refused)
}

func connectFromElsewhere(s *stress, _ *rand.Rand) {
	origins := []string{"https://evil.example", "null", s.url + "0", s.url + ".evil.example", "https" + strings.TrimPrefix(s.url, "http")}
	each(s.size, func(i int) {
		_, status := s.knock(presencePage, http.Header{"Origin": {origins[i%len(origins)]}})
		assert.Equal(s.t, http.StatusForbidden, status, "from %q", origins[i%len(origins)])
	})
	s.add("connections_refused foreign origin", s.size)
}

func postFromElsewhere(s *stress, _ *rand.Rand) {
	each(s.size, func(i int) {
		req, err := http.NewRequest(http.MethodPost, s.url+counterPage, strings.NewReader("increment="))
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
	s.add("requests_refused cross-site", s.size)
}

func postBadForms(s *stress, r *rand.Rand) {
	const form = "increment="
	header := "POST " + counterPage + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 10\r\n\r\n"
	lengths := draw(r, s.size, len(form))
	each(s.size, func(i int) {
		resp, _ := newVisitor(s.t, s.url).post(counterPage, url.Values{"increment": {strings.Repeat("x", maxForm)}})
		assert.Equal(s.t, http.StatusRequestEntityTooLarge, resp.StatusCode)
		s.say("%s%s", header, form[:lengths[i]]).Close()
		whole := s.say("%s%s", header, form[:lengths[i]]) // slow, and complete in the end
		fmt.Fprint(whole, form[lengths[i]:])
		answer, err := io.ReadAll(whole)
		assert.NoError(s.t, err)
		assert.Contains(s.t, string(answer), "303 See Other")
	})
	s.add("requests_refused too long", s.size)
	s.add("requests_refused too slow", s.size)
	s.add(clicks, s.size)
}

// Who brings a cookie that was not made here gets a session of their own.
func sendHostileCookies(s *stress, _ *rand.Rand) {
	values := []string{"", "x", "../../etc/passwd", strings.Repeat("A", 44), strings.Repeat("A", 43) + "==", strings.Repeat("A", 43) + "%3D",
		strings.Repeat("x", 60_000), `"x"`, "watching; " + sessionCookie + "=x", "{{.Username}}", "\xff\xfe"}
	each(s.size, func(i int) {
		header := http.Header{"Cookie": {sessionCookie + "=" + values[i%len(values)]}}
		ws, status := s.knock(presencePage, header)
		if !assert.Equal(s.t, http.StatusSwitchingProtocols, status, "with %.50q", header) {
			return
		}
		assert.NoError(s.t, act(ws, "join", map[string]any{"username": "guest"}))
	})
	s.add(connections(presencePage), s.size)
	s.add(users, s.size)
}

func connectAboveMax(s *stress, _ *rand.Rand) {
	room := s.cfg.MaxConnections - len(s.tabs)
	for range 3 {
		s.knockAtOnce(s.size, room, full, func(int) http.Header { return nil })
	}
}

func connectAboveMaxPerSession(s *stress, _ *rand.Rand) {
	for range 3 {
		cookie := http.Header{"Cookie": {sessionCookie + "=" + newSession()}}
		s.knockAtOnce(s.size, s.size/2+s.cfg.MaxPerSession, sessionFull, func(i int) http.Header {
			if i%2 == 0 {
				return nil // somebody else, for whom there is room
			}
			return cookie
		})
	}
}

// Whoever is connected is told that the server goes away. Nobody gets in any
// more, and pages are still served.
func stopWithOpenTabs(s *stress, _ *rand.Rand) {
	each(s.size, func(i int) { s.open([]string{counterPage, presencePage}[i%2]) })
	for range 10 {
		s.healthy.increment()
	}
	s.add(clicks, 10)
	s.agrees()
	s.stopped()
	for range 3 {
		_, status := s.knock(counterPage, nil)
		assert.Equal(s.t, http.StatusServiceUnavailable, status)
	}
	assert.Contains(s.t, newVisitor(s.t, s.url).get(counterPage), "Counter: 11 ")
	s.want = map[string]int{clicks: 11, "connections_refused stopping": 3}
	s.settles()
	s.http.Close()
	s.startAgain()
	each(len(s.tabs), func(i int) { s.comesBack(s.tabs[i]) })
}

func restart(s *stress, r *rand.Rand) {
	each(s.size/2, func(int) { s.open(counterPage) })
	for range 3 {
		times, sum := draw(r, len(s.tabs), 10), 0
		each(len(s.tabs), func(i int) {
			for range times[i] {
				s.tabs[i].increment()
			}
			s.tabs[i].settle()
		})
		for i, tb := range s.tabs {
			if tb.path == counterPage {
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
		s.http.Close()
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
	storms.Go(func() { closeTabs(s, (*tab).close) })
	storms.Go(func() { closeTabs(s, reset) })
	storms.Wait()
}
