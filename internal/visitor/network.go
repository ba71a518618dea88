package visitor

import (
	"context"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Network is a connection to a server that a test can slow down or break. Faults can be
// combined.
type Network struct {
	URL string // of the server, through the network

	t        testing.TB
	server   string
	listener net.Listener

	mu        sync.Mutex
	away      bool
	conns     []net.Conn
	clear     chan struct{} // closed unless bytes are held up
	delay     time.Duration
	perSecond int // bytes a second, for each connection and direction; 0 means no limit
}

// NewNetwork returns a network to a server, which is a URL or a host and port.
func NewNetwork(t testing.TB, server string) *Network {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n := &Network{t: t, server: strings.TrimPrefix(server, "http://"), listener: listener, clear: make(chan struct{})}
	close(n.clear)
	n.URL = "http://" + n.Addr()
	go func() {
		for near, err := listener.Accept(); err == nil; near, err = listener.Accept() {
			go n.open(near)
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		n.Leave()
	})
	return n
}

// Addr returns the host and port of the server, through the network.
func (n *Network) Addr() string { return n.listener.Addr().String() }

func (n *Network) locked(do func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do()
}

// Delay adds a delay of d in each direction. Opening a connection takes an extra round trip,
// as with TCP.
func (n *Network) Delay(d time.Duration) { n.locked(func() { n.delay = d }) }

// Throttle limits each connection to so many bytes a second in each direction; 0 means no
// limit.
func (n *Network) Throttle(bytesPerSecond int) { n.locked(func() { n.perSecond = bytesPerSecond }) }

// Cut breaks all open connections. New ones work.
func (n *Network) Cut() { n.locked(n.cut) }

func (n *Network) cut() {
	for _, conn := range n.conns {
		conn.Close()
	}
	n.conns = nil
}

// Leave breaks all connections, and closes new ones at once, until ComeBack.
func (n *Network) Leave() { n.locked(func() { n.away = true; n.cut() }) }

// ComeBack undoes Leave.
func (n *Network) ComeBack() { n.locked(func() { n.away = false }) }

// Swallow holds up all bytes, without breaking connections, until release is called.
func (n *Network) Swallow() (release func()) {
	clear := make(chan struct{})
	n.locked(func() { n.clear = clear })
	release = sync.OnceFunc(func() { close(clear) })
	n.t.Cleanup(release)
	return release
}

// open connects near to the server.
func (n *Network) open(near net.Conn) {
	far, err := net.Dial("tcp", n.server)
	if err != nil {
		near.Close()
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns = append(n.conns, near, far)
	if n.away {
		n.cut()
		return
	}
	opened := time.Now().Add(2 * n.delay)
	go n.relay(far, near, opened)
	go n.relay(near, far, opened)
}

// chunk is the result of one read.
type chunk struct {
	bytes   []byte
	arrives time.Time
}

// relay copies bytes from one side to the other, delayed and in order, and then closes the
// other side.
func (n *Network) relay(to, from net.Conn, sent time.Time) {
	inFlight := make(chan chunk, 1024)
	go n.deliver(to, inFlight)
	defer close(inFlight)
	for {
		buf := make([]byte, 4096)
		size, err := from.Read(buf)
		n.mu.Lock()
		if now := time.Now(); now.After(sent) {
			sent = now
		}
		if n.perSecond > 0 {
			sent = sent.Add(time.Duration(size) * time.Second / time.Duration(n.perSecond))
		}
		arrives := sent.Add(n.delay)
		n.mu.Unlock()
		inFlight <- chunk{buf[:size], arrives}
		if err != nil {
			return
		}
	}
}

// deliver writes chunks when they arrive. It keeps receiving after a failed write.
func (n *Network) deliver(to net.Conn, inFlight <-chan chunk) {
	defer to.Close()
	for c := range inFlight {
		time.Sleep(time.Until(c.arrives))
		n.mu.Lock()
		clear := n.clear
		n.mu.Unlock()
		<-clear
		to.Write(c.bytes)
	}
}

// NewProxy runs a reverse proxy in front of a server until the test ends. The handler that
// wrap returns may answer requests itself.
func NewProxy(t testing.TB, server string, wrap func(app http.Handler) http.Handler) (address string) {
	t.Helper()
	target, err := url.Parse(server)
	require.NoError(t, err)
	handler := wrap(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		ErrorLog: log.New(io.Discard, "", 0),
	})
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, end := context.WithCancel(r.Context())
		defer context.AfterFunc(t.Context(), end)() // a handler that hangs ends with the test
		handler.ServeHTTP(w, r.WithContext(ctx))
	}))
	t.Cleanup(func() {
		proxy.CloseClientConnections()
		proxy.Close()
	})
	return proxy.URL
}

// RefuseUpgrade answers as a proxy without WebSocket support.
func RefuseUpgrade(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "no WebSockets here", http.StatusForbidden)
}

// AnswerUpgrades returns a wrap for NewProxy that answers WebSocket handshakes itself.
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

// Count is a wrap for NewProxy that counts.
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

// Open returns the number of open sockets of each page.
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

// KeptWhole is a wrap for NewProxy that removes Cache-Control, so that Chromium keeps a page
// in its back/forward cache, as other browsers do anyway.
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
