package visitor

import (
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Network is a way to a server that can break.
type Network struct {
	URL string // of the server, through the network

	t      testing.TB
	server string

	mu       sync.Mutex
	listener net.Listener
	conns    []net.Conn
	clear    chan struct{} // closed while bytes get through
}

// NewNetwork returns a network to a server.
func NewNetwork(t testing.TB, server string) *Network {
	t.Helper()
	n := &Network{t: t, server: strings.TrimPrefix(server, "http://"), clear: make(chan struct{})}
	close(n.clear)
	n.listen("127.0.0.1:0")
	n.URL = "http://" + n.listener.Addr().String()
	t.Cleanup(n.Leave)
	return n
}

func (n *Network) listen(addr string) {
	n.t.Helper()
	listener, err := net.Listen("tcp", addr)
	require.NoError(n.t, err)
	n.listener = listener
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", n.server)
			if err != nil {
				near.Close()
				continue
			}
			n.mu.Lock()
			n.conns = append(n.conns, near, far)
			n.mu.Unlock()
			go n.relay(far, near)
			go n.relay(near, far)
		}
	}()
}

func (n *Network) relay(to, from net.Conn) {
	defer to.Close()
	buf := make([]byte, 4096)
	for {
		size, err := from.Read(buf)
		n.mu.Lock()
		clear := n.clear
		n.mu.Unlock()
		<-clear
		if _, writeErr := to.Write(buf[:size]); err != nil || writeErr != nil {
			return
		}
	}
}

// Cut breaks every connection there is. New ones work.
func (n *Network) Cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, conn := range n.conns {
		conn.Close()
	}
	n.conns = nil
}

// Leave refuses new connections, as if the server were away, and cuts those there are.
func (n *Network) Leave() {
	n.listener.Close()
	n.Cut()
}

// ComeBack undoes Leave.
func (n *Network) ComeBack() {
	n.t.Helper()
	n.listen(n.listener.Addr().String())
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
