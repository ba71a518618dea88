package wsconn

import (
	"bytes"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// serve upgrades every request and hands the connection to handle.
func serve(t *testing.T, upgrader *Upgrader, handle func(livetemplate.WSConn)) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		handle(conn)
	}))
	t.Cleanup(server.Close)
	return server
}

// quiet returns an Upgrader without a log.
func quiet(heartbeat Heartbeat) *Upgrader {
	return New(Options{Log: slog.New(slog.DiscardHandler), Heartbeat: heartbeat})
}

func dial(t *testing.T, server *httptest.Server) *websocket.Conn {
	t.Helper()
	ws, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
	require.NoError(t, err)
	t.Cleanup(func() { ws.Close() })
	return ws
}

// lines is a log that a test can wait for.
type lines chan string

func (l lines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}

// receive is what arrives on ch, before a test would wait for ever.
func receive[T any](t *testing.T, ch <-chan T) (value T) {
	t.Helper()
	select {
	case value = <-ch:
	case <-time.After(10 * time.Second):
		require.FailNow(t, "timeout")
	}
	return value
}

func TestReadMessage_RefusesWhatIsNoAction(t *testing.T) {
	long := strings.Repeat("x", MaxMessage)
	for name, row := range map[string]struct {
		frameType int
		frame     string
		wantCode  int // of the close frame; 0: the connection goes on
		refusals  func(*Stats) *atomic.Int64
	}{
		"binary":               {websocket.BinaryMessage, `{"action":"x"}`, 1003, func(s *Stats) *atomic.Int64 { return &s.NotText }},
		"not UTF-8":            {websocket.TextMessage, "{\"action\":\"\xff\"}", 1007, func(s *Stats) *atomic.Int64 { return &s.NotText }},
		"too long":             {websocket.TextMessage, long + "x", 1009, func(s *Stats) *atomic.Int64 { return &s.TooLong }},
		"far too long":         {websocket.TextMessage, strings.Repeat(long, 64), 1009, func(s *Stats) *atomic.Int64 { return &s.TooLong }},
		"no JSON":              {websocket.TextMessage, `{"action":`, 0, func(s *Stats) *atomic.Int64 { return &s.NotAction }},
		"no object":            {websocket.TextMessage, `[1,2,3]`, 0, func(s *Stats) *atomic.Int64 { return &s.NotAction }},
		"fields of wrong kind": {websocket.TextMessage, `{"action":7,"data":"x"}`, 0, func(s *Stats) *atomic.Int64 { return &s.NotAction }},
		"deeply nested":        {websocket.TextMessage, `{"data":` + strings.Repeat("[", MaxMessage/2), 0, func(s *Stats) *atomic.Int64 { return &s.NotAction }},
		"nested too deep":      {websocket.TextMessage, `{"data":{"x":` + strings.Repeat("[", 11000) + strings.Repeat("]", 11000) + `}}`, 0, func(s *Stats) *atomic.Int64 { return &s.NotAction }},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			upgrader := New(Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
			got, ended := make(chan string, 10), make(chan error, 1)
			server := serve(t, upgrader, func(conn livetemplate.WSConn) {
				for {
					_, data, err := conn.ReadMessage()
					got <- string(data)
					if err != nil {
						ended <- err
						return
					}
				}
			})
			ws := dial(t, server)
			const good = `{"action":"good"}`
			ws.WriteMessage(row.frameType, []byte(row.frame))
			ws.WriteMessage(row.frameType, []byte(row.frame))
			ws.WriteMessage(websocket.TextMessage, []byte(good))
			if row.wantCode == 0 {
				for range 2 {
					_, answer, err := ws.ReadMessage()
					require.NoError(t, err)
					assert.JSONEq(t, `{"tree":{},"meta":{"success":false,"action":"refused"}}`, string(answer))
				}
				assert.Equal(t, good, receive(t, got))
				assert.EqualValues(t, 2, row.refusals(upgrader.Stats).Load())
			} else {
				_, _, err := ws.ReadMessage()
				assert.True(t, websocket.IsCloseError(err, row.wantCode), "the peer got: %v", err)
				assert.Empty(t, receive(t, got), "what came after it is not read")
				err = receive(t, ended)
				assert.False(t, livetemplate.WSIsUnexpectedCloseError(err, livetemplate.WSCloseGoingAway), "the framework warns about %v", err)
				assert.EqualValues(t, 1, row.refusals(upgrader.Stats).Load())
			}
			assert.Equal(t, 1, strings.Count(log.String(), "refused"), "the log:\n%s", log.String())
			assert.NotContains(t, log.String(), "action=", "what a peer sends is not for the log")
		})
	}
}

func TestReadMessage_TakesTheLongestMessage(t *testing.T) {
	got := make(chan int, 1)
	server := serve(t, quiet(Heartbeat{}), func(conn livetemplate.WSConn) {
		_, data, _ := conn.ReadMessage()
		got <- len(data)
	})
	longest := `{"action":"x","data":{"a":"` + strings.Repeat("x", MaxMessage-len(`{"action":"x","data":{"a":""}}`)) + `"}}`
	require.NoError(t, dial(t, server).WriteMessage(websocket.TextMessage, []byte(longest)))
	assert.Equal(t, MaxMessage, receive(t, got))
}

func TestReadMessage_OrdinaryCloseIsGoingAway(t *testing.T) {
	for name, row := range map[string]struct {
		frame        []byte
		wantExpected bool
	}{
		"normal closure": {websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), true},
		"without a code": {nil, true},
		"going away":     {websocket.FormatCloseMessage(websocket.CloseGoingAway, ""), true},
		"protocol error": {websocket.FormatCloseMessage(websocket.CloseProtocolError, ""), false},
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan error, 1)
			server := serve(t, quiet(Heartbeat{}), func(conn livetemplate.WSConn) {
				_, _, err := conn.ReadMessage()
				got <- err
			})
			ws := dial(t, server)
			require.NoError(t, ws.WriteMessage(websocket.CloseMessage, row.frame))

			readErr := <-got
			require.Error(t, readErr)
			unexpected := livetemplate.WSIsUnexpectedCloseError(readErr,
				livetemplate.WSCloseGoingAway, livetemplate.WSCloseAbnormalClosure)
			assert.Equal(t, row.wantExpected, !unexpected, "the framework warns about %v", readErr)
		})
	}
}

func TestHeartbeat_ClosesASilentPeer(t *testing.T) {
	heartbeat := Heartbeat{Ping: 10 * time.Millisecond, Timeout: 300 * time.Millisecond}
	read := make(chan error, 1)
	server := serve(t, quiet(heartbeat), func(conn livetemplate.WSConn) {
		_, _, err := conn.ReadMessage()
		read <- err
	})
	dial(t, server) // reads nothing: no ping to answer
	assert.True(t, isTimeout(receive(t, read)))
}

// A peer that does not read holds up nobody who writes to it, makes only so much
// wait, and is closed: at once when that is full, or after the time for one frame.
func TestWriteMessage_DoesNotWaitForAPeerThatDoesNotRead(t *testing.T) {
	for name, row := range map[string]struct {
		write time.Duration
		fill  int // write while so many bytes wait, at most
	}{
		"a full queue":  {time.Hour, MaxQueued},
		"a frame stuck": {50 * time.Millisecond, MaxQueued / 2},
	} {
		t.Run(name, func(t *testing.T) {
			log := make(lines, 10)
			upgrader := New(Options{Log: slog.New(slog.NewTextHandler(log, nil)), Heartbeat: Heartbeat{Ping: time.Hour, Write: row.write}})
			read, most := make(chan error, 1), make(chan int, 1)
			server := serve(t, upgrader, func(c livetemplate.WSConn) {
				conn, frame, peak := c.(*conn), make([]byte, 8<<10), 0
				for upgrader.Open() > 0 {
					conn.mu.Lock()
					queued := conn.queued
					conn.mu.Unlock()
					if peak = max(peak, queued); queued > row.fill {
						continue
					}
					began := time.Now()
					assert.NoError(t, conn.WriteMessage(websocket.TextMessage, frame))
					assert.Less(t, time.Since(began), time.Second)
				}
				most <- peak
				_, _, err := conn.ReadMessage()
				read <- err
			})
			ws := dial(t, server)
			ws.NetConn().(*net.TCPConn).SetReadBuffer(4096)
			assert.LessOrEqual(t, receive(t, most), MaxQueued)
			assert.Error(t, receive(t, read))
			assert.Zero(t, upgrader.Open())
			assert.Contains(t, receive(t, log), "the peer does not read")
			assert.Empty(t, log)
			assert.EqualValues(t, 1, upgrader.Stats.SlowCloses.Load())
		})
	}
}

// A peer may be slow to read what it has asked for. No more is taken from it
// meanwhile, and nothing is lost.
func TestReadMessage_WaitsForAPeerThatReadsLate(t *testing.T) {
	const messages = MaxUnanswered
	conns := make(chan *conn, 1)
	server := serve(t, quiet(Heartbeat{}), func(c livetemplate.WSConn) {
		conns <- c.(*conn)
		for {
			if _, _, err := c.ReadMessage(); err != nil {
				return
			}
			c.WriteMessage(websocket.TextMessage, make([]byte, MaxQueued/8))
		}
	})
	ws := dial(t, server)
	for range messages {
		require.NoError(t, ws.WriteMessage(websocket.TextMessage, []byte(`{"action":"x"}`)))
	}
	waiting := <-conns
	require.Eventually(t, func() bool {
		waiting.mu.Lock()
		defer waiting.mu.Unlock()
		return waiting.queued > muchQueued
	}, time.Second, time.Millisecond)
	for range messages {
		_, _, err := ws.ReadMessage()
		require.NoError(t, err)
	}
}

func TestHeartbeat_FindsWhoDoesNotReadWithin5SecondsByDefault(t *testing.T) {
	assert.Less(t, DefaultWrite, 5*time.Second)
}

func TestClose_WritesWhatIsQueued(t *testing.T) {
	server := serve(t, quiet(Heartbeat{}), func(conn livetemplate.WSConn) {
		for range 100 {
			conn.WriteMessage(websocket.TextMessage, []byte("queued"))
		}
	})
	ws := dial(t, server)
	for range 100 {
		_, data, err := ws.ReadMessage()
		require.NoError(t, err)
		assert.Equal(t, "queued", string(data))
	}
	_, _, err := ws.ReadMessage()
	assert.True(t, websocket.IsUnexpectedCloseError(err), "then the end: %v", err)
}

func TestCloseAll_IsSpreadOverATimeAndWaitsForNobody(t *testing.T) {
	const peers, over = 20, 400 * time.Millisecond
	patient := Heartbeat{Ping: time.Hour, Timeout: time.Hour}
	upgrader, handled := quiet(patient), make(chan error, peers+1)
	server := serve(t, upgrader, func(conn livetemplate.WSConn) {
		_, _, err := conn.ReadMessage()
		handled <- err
	})
	closed := make(chan time.Time, peers)
	for range peers {
		ws := dial(t, server)
		go func() {
			_, _, err := ws.ReadMessage()
			assert.True(t, websocket.IsCloseError(err, websocket.CloseGoingAway), "closed with: %v", err)
			closed <- time.Now()
		}()
	}
	dial(t, server) // never answers
	assert.Eventually(t, func() bool { return upgrader.Open() == peers+1 }, time.Second, time.Millisecond)
	began := time.Now()
	upgrader.CloseAll(t.Context(), over)
	assert.GreaterOrEqual(t, time.Since(began), over)
	var at []time.Duration
	for range peers {
		at = append(at, receive(t, closed).Sub(began))
	}
	slices.Sort(at)
	assert.Greater(t, at[peers/2]-at[0], over/4, "closed at %v", at)
	for range peers + 1 {
		err := receive(t, handled)
		assert.False(t, livetemplate.WSIsUnexpectedCloseError(err, livetemplate.WSCloseGoingAway), "the framework warns about %v", err)
	}
	assert.Zero(t, upgrader.Open())
}

func TestHeartbeat_KeepsAnIdlePeer(t *testing.T) {
	const pings = 100 // last at least twice as long as the timeout
	heartbeat := Heartbeat{Ping: 10 * time.Millisecond, Timeout: 500 * time.Millisecond}
	got := make(chan error, 1)
	server := serve(t, quiet(heartbeat), func(conn livetemplate.WSConn) {
		_, data, err := conn.ReadMessage()
		if err == nil {
			assert.Equal(t, `{"action":"still here"}`, string(data))
		}
		got <- err
	})
	ws := dial(t, server)
	answer, answered := ws.PingHandler(), 0
	ws.SetPingHandler(func(data string) error {
		answered++
		if answered == pings {
			assert.NoError(t, ws.WriteMessage(websocket.TextMessage, []byte(`{"action":"still here"}`)))
		}
		return answer(data)
	})
	ws.ReadMessage() // answers pings until the server closes
	assert.NoError(t, receive(t, got))
}

func TestHeartbeat_KeepsAPeerWhoSendsButAnswersNoPing(t *testing.T) {
	const messages = 100 // last at least twice as long as the timeout
	heartbeat := Heartbeat{Ping: 10 * time.Millisecond, Timeout: 500 * time.Millisecond}
	received := make(chan int, 1)
	server := serve(t, quiet(heartbeat), func(conn livetemplate.WSConn) {
		n := 0
		for ; n < messages; n++ {
			if _, _, err := conn.ReadMessage(); err != nil {
				break
			}
		}
		received <- n
	})
	ws := dial(t, server)
	for range messages {
		<-time.After(10 * time.Millisecond)
		if err := ws.WriteMessage(websocket.TextMessage, []byte(`{"action":"busy"}`)); err != nil {
			break
		}
	}
	assert.Equal(t, messages, receive(t, received))
}

func TestHeartbeat_LetsTwoPingsGetLostByDefault(t *testing.T) {
	assert.Greater(t, DefaultTimeout, 2*DefaultPing)
}

func TestWriteMessage_ToAPeerWhoHasGoneIsNoError(t *testing.T) {
	for name, leave := range map[string]func(*websocket.Conn){
		"with a close frame": func(ws *websocket.Conn) { ws.WriteMessage(websocket.CloseMessage, nil) },
		"without a word":     func(ws *websocket.Conn) { ws.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan error, 3)
			server := serve(t, quiet(Heartbeat{}), func(conn livetemplate.WSConn) {
				conn.ReadMessage() // until the peer leaves
				for range cap(got) {
					got <- conn.WriteMessage(websocket.TextMessage, []byte("still on its way"))
				}
			})
			ws := dial(t, server)
			leave(ws)
			for range cap(got) {
				assert.NoError(t, receive(t, got))
			}
		})
	}
}

func TestClose_TwiceIsNoError(t *testing.T) {
	errs := make(chan error, 2)
	server := serve(t, quiet(Heartbeat{}), func(conn livetemplate.WSConn) {
		errs <- conn.Close()
		errs <- conn.Close()
	})
	dial(t, server)
	assert.NoError(t, <-errs)
	assert.NoError(t, <-errs)
}

func TestWriteMessage_ImprovesOnTheFramework(t *testing.T) {
	var log bytes.Buffer
	written := make(chan bool, 1)
	server := serve(t, New(Options{Log: slog.New(slog.NewTextHandler(&log, nil))}), func(conn livetemplate.WSConn) {
		for _, frame := range []string{
			`{"tree":{},"meta":{"success":true,"errors":null}}`,
			`{"tree":null,"meta":{"success":false,"errors":{"_rate_limit":"Too many requests. Please slow down."}}}`,
			`{"tree":null,"meta":{"success":false,"errors":{"_rate_limit":"Too many requests. Please slow down."}}}`,
			`{"pong":true}`,
			`{"tree":{"0":"1"},"meta":{"success":true,"errors":null}}`,
		} {
			assert.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte(frame)))
		}
		written <- true
	})
	ws := dial(t, server)
	for _, want := range []string{
		`{"tree":{},"meta":{"success":false,"action":"slow-down"}}`,
		`{"tree":{},"meta":{"success":false,"action":"slow-down"}}`,
		`{"type":"error","code":"pong"}`,
		`{"tree":{"0":"1"},"meta":{"success":true,"errors":null}}`,
	} {
		_, frame, err := ws.ReadMessage()
		require.NoError(t, err)
		assert.Equal(t, want, string(frame))
	}
	receive(t, written)
	assert.Equal(t, 1, strings.Count(log.String(), "rate limit"), "the log:\n%s", log.String())
}

func TestOnRefresh_IsCalledForRefreshesOnly(t *testing.T) {
	refreshes := make(chan bool, 10)
	upgrader := New(Options{})
	upgrader.OnRefresh(func() { refreshes <- true })
	written := make(chan bool, 1)
	server := serve(t, upgrader, func(conn livetemplate.WSConn) {
		for _, frame := range []string{
			`{"tree":{"0":"1"},"meta":{"success":true,"errors":null}}`,
			`{"tree":{},"meta":{"success":true,"errors":null}}`, // is not sent, and was rendered all the same
			`{"tree":{"0":"1"},"meta":{"success":true,"errors":null,"action":"increment"}}`,
			`{"pong":true}`,
		} {
			assert.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte(frame)))
		}
		written <- true
	})
	ws := dial(t, server)
	receive(t, written)
	receive(t, refreshes)
	receive(t, refreshes)
	for range 3 {
		_, _, err := ws.ReadMessage()
		require.NoError(t, err)
	}
	assert.Empty(t, refreshes)
}

func TestUpgrader_CountsOpenConnections(t *testing.T) {
	upgrader := quiet(Heartbeat{})
	server := serve(t, upgrader, func(conn livetemplate.WSConn) {
		conn.ReadMessage()
		conn.Close()
	})
	var open []*websocket.Conn
	for range 3 {
		ws := dial(t, server)
		open = append(open, ws)
	}
	assert.Eventually(t, func() bool { return upgrader.Open() == 3 }, time.Second, time.Millisecond)
	open[0].Close()
	assert.Eventually(t, func() bool { return upgrader.Open() == 2 }, time.Second, time.Millisecond)
	open[1].WriteMessage(websocket.CloseMessage, nil)
	assert.Eventually(t, func() bool { return upgrader.Open() == 1 }, time.Second, time.Millisecond)
}

func TestReadMessage_WaitsForAnswers(t *testing.T) {
	read, answer := make(chan bool, 2*MaxUnanswered), make(chan bool)
	server := serve(t, quiet(Heartbeat{}), func(conn livetemplate.WSConn) {
		go func() {
			for range answer {
				conn.WriteMessage(websocket.TextMessage, []byte("answer"))
			}
		}()
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
			read <- true
		}
	})
	ws := dial(t, server)
	for range 2 * MaxUnanswered {
		require.NoError(t, ws.WriteMessage(websocket.TextMessage, []byte(`{"action":"message"}`)))
	}
	for range MaxUnanswered {
		receive(t, read)
	}
	for range 3 {
		select {
		case <-read:
			require.FailNow(t, "read although too many wait for an answer")
		case <-time.After(noAnswer / 20):
		}
		answer <- true
		receive(t, read)
	}
	receive(t, read) // the rest get no answer at all, and are read in the end
	close(answer)
}
