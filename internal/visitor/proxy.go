package visitor

import (
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// NewProxy serves a reverse proxy in front of a server, until the test ends. wrap
// may answer requests in the place of the server.
func NewProxy(t testing.TB, server string, wrap func(app http.Handler) http.Handler) (address string) {
	t.Helper()
	target, err := url.Parse(server)
	require.NoError(t, err)
	proxy := httptest.NewServer(wrap(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}))
	t.Cleanup(func() {
		proxy.CloseClientConnections()
		proxy.Close()
	})
	return proxy.URL
}

// RefuseUpgrade answers as a proxy that knows no WebSockets.
func RefuseUpgrade(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "no WebSockets here", http.StatusForbidden)
}

// AnswerUpgrades is a proxy that answers WebSocket handshakes in the app's place.
func AnswerUpgrades(answer http.HandlerFunc) func(http.Handler) http.Handler {
	return func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if websocket.IsWebSocketUpgrade(r) {
				answer(w, r)
				return
			}
			app.ServeHTTP(w, r)
		})
	}
}

// SocketCount counts the open sockets of each page. The zero value is ready to use.
type SocketCount struct {
	mu   sync.Mutex
	open map[string]int
}

// Count is a proxy that counts.
func (c *SocketCount) Count(app http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if websocket.IsWebSocketUpgrade(r) {
			c.add(r.URL.Path, 1)
			defer c.add(r.URL.Path, -1)
		}
		app.ServeHTTP(w, r)
	})
}

func (c *SocketCount) add(path string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[string]int{}
	}
	if c.open[path] += n; c.open[path] == 0 {
		delete(c.open, path)
	}
}

// Open returns the number of open sockets, by the path of their page.
func (c *SocketCount) Open() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.open)
}

// WaitFor waits until exactly these sockets are open.
func (c *SocketCount) WaitFor(t testing.TB, want map[string]int) {
	t.Helper()
	assert.EventuallyWithT(t, func(check *assert.CollectT) { assert.Equal(check, want, c.Open(), "open sockets") }, Soon, 10*time.Millisecond)
}

// KeptWhole is a proxy behind which Chromium keeps a page whole that was left, as
// other browsers do although the page says that it is not to be stored.
func KeptWhole(app http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !websocket.IsWebSocketUpgrade(r) {
			w = storable{w}
		}
		app.ServeHTTP(w, r)
	})
}

type storable struct{ http.ResponseWriter }

func (w storable) WriteHeader(status int) {
	w.Header().Del("Cache-Control")
	w.ResponseWriter.WriteHeader(status)
}
