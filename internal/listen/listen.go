// Package listen listens on a TCP port, on all addresses of its host, or on a Unix socket,
// and tells people where. It replaces a stale socket left by a killed server, never one in
// use, and never a file that is not a socket.
package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
)

// unix starts the address of a Unix socket.
const unix = "unix:"

// Listen listens on an address: host:port, or unix: and the path of a socket. Without a host
// it listens on all interfaces; for a name, on each of its addresses that this machine has.
// Port 0 means any free port. Closing the listener removes the file of a Unix socket.
func Listen(address string) (net.Listener, error) {
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

// Advise adds to an error of Listen what helps: another address, and the way to choose one, or
// how to write an address.
func Advise(err error, way string) error {
	var malformed *net.AddrError
	switch {
	case errors.Is(err, syscall.EADDRINUSE), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; choose another with %s", err, way)
	case errors.As(err, &malformed):
		return fmt.Errorf("%w; want host:port, as in localhost:8080", err)
	}
	return err
}

// removeStale removes a socket file on which nobody listens.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("the file exists and is not a socket")
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

// Banner returns the lines that tell people where a listener listens: "Open" and the URL for
// a browser, or "Listening on" and the path of a Unix socket, which no browser opens. If other
// machines can reach it, a line for phones follows, with a QR code if out is a terminal; but
// not if a proxy stands in front, because people then open the proxy.
func Banner(address string, l net.Listener, proxied bool, out *os.File) string {
	if l.Addr().Network() == "unix" {
		return "Listening on " + URL(address, l) + "\n"
	}
	lines := "Open " + URL(address, l) + "\n"
	url := phoneURL(l)
	if proxied || url == "" {
		return lines
	}
	lines += "On a phone in the same network: " + url + "\n"
	if info, err := out.Stat(); err == nil && info.Mode()&fs.ModeCharDevice != 0 {
		lines += qrCode(url)
	}
	return lines
}

// URL returns the URL of a listener, or unix: and the path of a Unix socket. The host is the
// one that was asked for, or localhost for all interfaces. The port is the one in use.
func URL(address string, l net.Listener) string {
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

// filesBeside is how many files are open beside connections: requests, Redis, the log.
const filesBeside = 64

// CheckOpenFiles logs a warning if so many connections need more files than this process
// may open.
func CheckOpenFiles(connections int) {
	if limit, needed := openFiles(), uint64(connections)+filesBeside; limit > 0 && limit < needed {
		slog.Warn("fewer files may be open than -max-connections needs: raise the limit (ulimit -n), or lower -max-connections",
			slog.Uint64("limit", limit), slog.Uint64("needed", needed))
	}
}
