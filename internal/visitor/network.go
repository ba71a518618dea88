package visitor

import (
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Network is a way to a server that can be slow, and can break. It is fast and sound
// until a test calls one of its methods. They can be combined.
type Network struct {
	URL string // of the server, through the network

	t      testing.TB
	server string

	listener     net.Listener
	mu           sync.Mutex
	away         bool
	conns        []net.Conn
	clear        chan struct{} // closed while bytes get through
	delay        time.Duration
	perSecond    int       // bytes that each way takes; 0 means no limit
	there, back  time.Time // when each way has taken all that it was given
	stallsSince  time.Time
	stall, every time.Duration
}

// NewNetwork returns a network to a server, which is a URL or a host and port.
func NewNetwork(t testing.TB, server string) *Network {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n := &Network{t: t, server: strings.TrimPrefix(server, "http://"), listener: listener, clear: make(chan struct{})}
	close(n.clear)
	n.URL = "http://" + n.Addr()
	go n.serve()
	t.Cleanup(func() {
		listener.Close()
		n.Leave()
	})
	return n
}

// Addr returns the host and port of the server, through the network.
func (n *Network) Addr() string { return n.listener.Addr().String() }

// Delay makes everything that is sent from now on arrive later by d, each way. Opening
// a connection takes a round trip more, as it does over TCP.
func (n *Network) Delay(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay = d
}

// Throttle makes each way carry at most so many bytes a second, for all connections
// together; 0 lifts the limit.
func (n *Network) Throttle(bytesPerSecond int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.perSecond = bytesPerSecond
}

// Stall lets nothing through for a time, once in every period, and breaks nothing.
// The first stall begins at once; a stall of 0 ends them.
func (n *Network) Stall(stall, every time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stallsSince, n.stall, n.every = time.Now(), stall, every
}

func (n *Network) serve() {
	for near, err := n.listener.Accept(); err == nil; near, err = n.listener.Accept() {
		n.open(near)
	}
}

// open connects near to the server.
func (n *Network) open(near net.Conn) {
	far, err := net.Dial("tcp", n.server)
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case err != nil:
		near.Close()
	case n.away:
		far.Close()
		near.Close()
	default:
		n.conns = append(n.conns, near, far)
		opened := time.Now().Add(2 * n.delay)
		go n.relay(&n.there, far, near, opened)
		go n.relay(&n.back, near, far, opened)
	}
}

// chunk is what was read at once. It arrives at a time. The end of a connection is a
// chunk, too.
type chunk struct {
	bytes   []byte
	arrives time.Time
	end     bool
}

// relay carries what it reads to the other side, where it arrives in order. Any number
// of chunks are on their way at the same time.
func (n *Network) relay(free *time.Time, to, from net.Conn, opened time.Time) {
	onTheWay := make(chan chunk, 1024)
	go n.deliver(to, onTheWay)
	defer close(onTheWay)
	for {
		buf := make([]byte, 4096)
		size, err := from.Read(buf)
		sent, arrives := n.send(free, size, opened)
		onTheWay <- chunk{buf[:size], arrives, err != nil}
		if err != nil {
			return
		}
		time.Sleep(time.Until(sent)) // meanwhile other connections have their turn
	}
}

// send returns when so many bytes have left, and when they arrive.
func (n *Network) send(free *time.Time, size int, opened time.Time) (sent, arrives time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	sent = slices.MaxFunc([]time.Time{time.Now(), opened, *free}, time.Time.Compare)
	if n.stall > 0 {
		into := sent.Sub(n.stallsSince) % n.every
		sent = sent.Add(max(0, n.stall-into))
	}
	if n.perSecond > 0 {
		sent = sent.Add(time.Duration(size) * time.Second / time.Duration(n.perSecond))
		*free = sent
	}
	return sent, sent.Add(n.delay)
}

// deliver writes what arrives. It goes on taking chunks when nobody reads any more, so
// that relay sees the end.
func (n *Network) deliver(to net.Conn, onTheWay <-chan chunk) {
	defer to.Close()
	for c := range onTheWay {
		time.Sleep(time.Until(c.arrives))
		n.mu.Lock()
		clear := n.clear
		n.mu.Unlock()
		<-clear
		if _, err := to.Write(c.bytes); err != nil || c.end {
			to.Close()
		}
	}
}

// Cut breaks every connection there is. New ones work.
func (n *Network) Cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut()
}

func (n *Network) cut() {
	for _, conn := range n.conns {
		conn.Close()
	}
	n.conns = nil
}

// Leave breaks every connection, and closes new ones at once, until ComeBack.
func (n *Network) Leave() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.away = true
	n.cut()
}

// ComeBack undoes Leave.
func (n *Network) ComeBack() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.away = false
}

// Swallow lets nothing through, and breaks nothing, until release is called.
func (n *Network) Swallow() (release func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear := make(chan struct{})
	n.clear = clear
	release = sync.OnceFunc(func() { close(clear) })
	n.t.Cleanup(release)
	return release
}
