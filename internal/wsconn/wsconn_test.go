package wsconn

import (
	"bytes"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
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
	return New(slog.New(slog.DiscardHandler), heartbeat)
}

func dial(t *testing.T, server *httptest.Server, origin string) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	header := http.Header{}
	if origin != "" {
		header.Set("Origin", origin)
	}
	ws, resp, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), header)
	if err == nil {
		t.Cleanup(func() { ws.Close() })
	}
	return ws, resp, err
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

func TestUpgrade_ChecksOrigin(t *testing.T) {
	server := serve(t, quiet(Heartbeat{}), func(livetemplate.WSConn) {})
	for name, row := range map[string]struct {
		origin     string
		wantStatus int
	}{
		"the page's own":         {server.URL, http.StatusSwitchingProtocols},
		"none, not from a page":  {"", http.StatusSwitchingProtocols},
		"another host":           {"https://evil.example", http.StatusForbidden},
		"own host, another port": {"http://127.0.0.1:1", http.StatusForbidden},
		"opaque":                 {"null", http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			_, resp, _ := dial(t, server, row.origin)
			require.NotNil(t, resp)
			assert.Equal(t, row.wantStatus, resp.StatusCode)
		})
	}
}

func TestReadMessage_SkipsBinaryFramesAndSaysSoOnce(t *testing.T) {
	var log bytes.Buffer
	got := make(chan string, 1)
	server := serve(t, New(slog.New(slog.NewTextHandler(&log, nil)), Heartbeat{}), func(conn livetemplate.WSConn) {
		_, data, err := conn.ReadMessage()
		assert.NoError(t, err)
		got <- string(data)
	})
	ws, _, err := dial(t, server, "")
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, ws.WriteMessage(websocket.BinaryMessage, []byte("binary")))
	}
	require.NoError(t, ws.WriteMessage(websocket.TextMessage, []byte("text")))
	assert.Equal(t, "text", <-got)
	assert.Equal(t, 1, strings.Count(log.String(), "binary frames ignored"), "the log:\n%s", log.String())
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
			ws, _, err := dial(t, server, "")
			require.NoError(t, err)
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
	read, written := make(chan error, 1), make(chan bool, 1)
	server := serve(t, quiet(heartbeat), func(conn livetemplate.WSConn) {
		go func() {
			for range 1000 { // far more than the buffers in between hold: a write waits
				conn.WriteMessage(websocket.TextMessage, make([]byte, 64<<10))
			}
			written <- true
		}()
		_, _, err := conn.ReadMessage()
		read <- err
		<-t.Context().Done() // closes nothing itself
	})
	_, _, err := dial(t, server, "") // reads nothing: no message, and no ping to answer
	require.NoError(t, err)
	var timeout net.Error
	require.ErrorAs(t, receive(t, read), &timeout)
	assert.True(t, timeout.Timeout())
	receive(t, written) // the write that the peer held up has ended
}

func TestHeartbeat_KeepsAnIdlePeer(t *testing.T) {
	const pings = 100 // last at least twice as long as the timeout
	heartbeat := Heartbeat{Ping: 10 * time.Millisecond, Timeout: 500 * time.Millisecond}
	got := make(chan error, 1)
	server := serve(t, quiet(heartbeat), func(conn livetemplate.WSConn) {
		_, data, err := conn.ReadMessage()
		if err == nil {
			assert.Equal(t, "still here", string(data))
		}
		got <- err
	})
	ws, _, err := dial(t, server, "")
	require.NoError(t, err)
	answer, answered := ws.PingHandler(), 0
	ws.SetPingHandler(func(data string) error {
		answered++
		if answered == pings {
			assert.NoError(t, ws.WriteMessage(websocket.TextMessage, []byte("still here")))
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
	ws, _, err := dial(t, server, "")
	require.NoError(t, err)
	for range messages {
		<-time.After(10 * time.Millisecond)
		if err := ws.WriteMessage(websocket.TextMessage, []byte("busy")); err != nil {
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
			ws, _, err := dial(t, server, "")
			require.NoError(t, err)
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
	_, _, err := dial(t, server, "")
	require.NoError(t, err)
	assert.NoError(t, <-errs)
	assert.NoError(t, <-errs)
}

func TestWriteMessage_ImprovesOnTheFramework(t *testing.T) {
	var log bytes.Buffer
	written := make(chan bool, 1)
	server := serve(t, New(slog.New(slog.NewTextHandler(&log, nil)), Heartbeat{}), func(conn livetemplate.WSConn) {
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
	ws, _, err := dial(t, server, "")
	require.NoError(t, err)
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

func TestUpgrader_CountsOpenConnections(t *testing.T) {
	upgrader := quiet(Heartbeat{})
	server := serve(t, upgrader, func(conn livetemplate.WSConn) {
		conn.ReadMessage()
		conn.Close()
	})
	var open []*websocket.Conn
	for range 3 {
		ws, _, err := dial(t, server, "")
		require.NoError(t, err)
		open = append(open, ws)
	}
	_, _, err := dial(t, server, "https://evil.example")
	require.Error(t, err)
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
	ws, _, err := dial(t, server, "")
	require.NoError(t, err)
	for range 2 * MaxUnanswered {
		require.NoError(t, ws.WriteMessage(websocket.TextMessage, []byte("message")))
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
