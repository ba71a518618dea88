package listen

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
)

// onTCP listens on all addresses of a host, at one port.
func onTCP(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err == nil && port == "" { // net.Listen would take any port
		err = &net.AddrError{Err: "missing port in address", Addr: address}
	}
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: err}
	}
	hosts, err := addresses(host)
	if err != nil {
		return nil, err
	}
	listeners, err := onAll(hosts, port)
	for try := 0; err != nil && port == "0" && try < 10; try++ { // a port that is free on one address may be in use on another
		listeners, err = onAll(hosts, port)
	}
	switch {
	case err != nil:
		return nil, err
	case len(listeners) == 1:
		return listeners[0], nil
	}
	return join(listeners), nil
}

// addresses returns the addresses of a host. To browsers localhost is both loopback
// addresses, whatever a resolver says.
func addresses(host string) ([]string, error) {
	if _, err := netip.ParseAddr(host); err == nil || host == "" {
		return []string{host}, nil
	}
	name := "." + strings.TrimSuffix(strings.ToLower(host), ".")
	if strings.HasSuffix(name, ".localhost") {
		return []string{"127.0.0.1", "::1"}, nil
	}
	return net.LookupHost(host)
}

// onAll listens at one port on those of the addresses that this machine has. It fails if the
// machine has none of them, or if the port is in use on one.
func onAll(hosts []string, port string) (listeners []net.Listener, err error) {
	for _, host := range hosts {
		listener, failed := net.Listen("tcp", net.JoinHostPort(host, port))
		switch {
		case failed == nil:
			listeners = append(listeners, listener)
			_, port, _ = net.SplitHostPort(listener.Addr().String()) // the others take the same
		case isOfThisMachine(host):
			for _, l := range listeners {
				l.Close()
			}
			return nil, failed
		default:
			err = failed
		}
	}
	if len(listeners) == 0 {
		return nil, err
	}
	return listeners, nil
}

// isOfThisMachine reports whether anything can listen on an address. IPv6 may be switched
// off, and a name may have addresses of other machines.
func isOfThisMachine(host string) bool {
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err == nil {
		listener.Close()
	}
	return err == nil
}

// joined is several listeners as one, with the address of the first.
type joined struct {
	net.Listener
	all      []net.Listener
	accepted chan accepted
	closed   chan struct{}
	closing  sync.Once
}

type accepted struct {
	conn net.Conn
	err  error
}

func join(listeners []net.Listener) *joined {
	j := &joined{Listener: listeners[0], all: listeners, accepted: make(chan accepted), closed: make(chan struct{})}
	for _, l := range listeners {
		go j.acceptFrom(l)
	}
	return j
}

// acceptFrom passes on what a listener accepts, one connection at a time: the others wait in
// the kernel, as with any listener.
func (j *joined) acceptFrom(l net.Listener) {
	for {
		conn, err := l.Accept()
		select {
		case j.accepted <- accepted{conn, err}:
		case <-j.closed:
			if err == nil {
				conn.Close()
			}
			return
		}
	}
}

// Accept returns the next connection from any of the listeners, or the error of one.
func (j *joined) Accept() (net.Conn, error) {
	select {
	case next := <-j.accepted:
		return next.conn, next.err
	case <-j.closed:
		return nil, net.ErrClosed
	}
}

// Close closes all of the listeners.
func (j *joined) Close() (err error) {
	j.closing.Do(func() {
		close(j.closed)
		for _, l := range j.all {
			err = errors.Join(err, l.Close())
		}
	})
	return err
}
