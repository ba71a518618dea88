package wsconn

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// serve upgrades every request and hands the connection to handle.
func serve(t *testing.T, log *slog.Logger, handle func(livetemplate.WSConn)) *httptest.Server {
	t.Helper()
	upgrader := New(log)
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

func TestUpgrade_ChecksOrigin(t *testing.T) {
	server := serve(t, slog.New(slog.DiscardHandler), func(livetemplate.WSConn) {})
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
	server := serve(t, slog.New(slog.NewTextHandler(&log, nil)), func(conn livetemplate.WSConn) {
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
			server := serve(t, slog.New(slog.DiscardHandler), func(conn livetemplate.WSConn) {
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

func TestClose_TwiceIsNoError(t *testing.T) {
	errs := make(chan error, 2)
	server := serve(t, slog.New(slog.DiscardHandler), func(conn livetemplate.WSConn) {
		errs <- conn.Close()
		errs <- conn.Close()
	})
	_, _, err := dial(t, server, "")
	require.NoError(t, err)
	assert.NoError(t, <-errs)
	assert.NoError(t, <-errs)
}
