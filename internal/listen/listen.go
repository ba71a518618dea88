// Package listen opens the address that a server listens on: a TCP port, on all addresses
// of its host, or a Unix socket. It replaces the socket file of a server that was killed,
// and never one that is in use or a file that is no socket.
package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
)

// unix begins the address of a Unix socket.
const unix = "unix:"

// On listens on an address, which is host:port, or unix: and the path of a socket.
// Without a host it listens on all interfaces, and on a name it listens on all of its
// addresses that this machine has. Port 0 means any free one. The file of a Unix socket is
// removed when the listener is closed.
func On(address string) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(address, unix)
	if !isUnix {
		return onTCP(address)
	}
	if path == "" {
		return nil, errors.New("listen unix: want unix: and a path")
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen unix %s: %w", path, err)
	}
	return net.Listen("unix", path)
}

// removeStale removes a socket file that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("the file exists and is no socket")
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return errors.New("the socket is in use")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// Says returns how to tell a person where a listener listens: "Open" and the URL for
// a browser, or "Listening on" and the path of a Unix socket, which no browser opens.
func Says(address string, l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return "Listening on " + Where(address, l)
	}
	return "Open " + Where(address, l)
}

// Where returns the URL of a listener, or unix: and the path of a Unix socket. The
// host of the URL is the one that was asked for, or localhost if that was every
// interface. The port is the one that is in use.
func Where(address string, l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return unix + l.Addr().String()
	}
	host, _, _ := net.SplitHostPort(address) // valid, because listening has not failed
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return "http://" + net.JoinHostPort(host, port)
}
