// Package phone tells people which address a phone in the same network opens, as text
// and as a QR code. It sends nothing to find that out, and does not know whether a
// firewall lets the phone in.
package phone

import (
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"
	"rsc.io/qr"
)

// Says returns what to tell a person about a listener: a line with the URL for phones,
// and the same URL as a QR code if out is a terminal. It is empty if phones cannot
// reach the listener.
func Says(l net.Listener, out io.Writer) string {
	url := URL(l)
	if url == "" {
		return ""
	}
	line := "On a phone in the same network: " + url + "\n"
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return line + code(url)
	}
	return line
}

// URL returns the URL of a listener for other machines in the same network. It is
// empty for a Unix socket, for a listener of this machine only, and if this machine is
// in no network.
func URL(l net.Listener) string {
	tcp, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	at := tcp.AddrPort()
	ip := at.Addr().Unmap()
	if ip.IsUnspecified() {
		ip = best(own(), leaving("udp4", "192.0.2.1:9"), leaving("udp6", "[2001:db8::1]:9"))
	}
	if !ip.IsGlobalUnicast() { // loopback, link-local or none
		return ""
	}
	return "http://" + netip.AddrPortFrom(ip, at.Port()).String()
}

// own returns the addresses of this machine in networks that it shares with others.
func own() (addresses []netip.Addr) {
	interfaces, _ := net.Interfaces() // without any, there is nothing to tell
	for _, i := range interfaces {
		if !shared(i.Flags) {
			continue
		}
		found, _ := i.Addrs()
		for _, address := range found {
			if network, err := netip.ParsePrefix(address.String()); err == nil {
				addresses = append(addresses, network.Addr())
			}
		}
	}
	return addresses
}

// shared tells whether a phone can be in the network of an interface. VPNs are
// point-to-point, and a bridge for containers that do not run is up without running.
func shared(flags net.Flags) bool {
	return flags&net.FlagUp != 0 && flags&net.FlagRunning != 0 && flags&(net.FlagLoopback|net.FlagPointToPoint) == 0
}

// leaving returns the address that traffic to a target leaves from, or the zero Addr if
// there is no route. Connecting a UDP socket sends nothing. The targets are reserved
// for documentation, and stand for any address in the internet.
func leaving(network, target string) netip.Addr {
	conn, err := net.Dial(network, target)
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// best returns the address that a phone most likely reaches, or the zero Addr. IPv4
// comes first, because every home network has it; then the address that traffic leaves
// from; then private ones.
func best(own []netip.Addr, leaving ...netip.Addr) (chosen netip.Addr) {
	most := -1
	for _, ip := range own {
		if !ip.IsGlobalUnicast() {
			continue
		}
		points := 0
		for i, good := range []bool{ip.IsPrivate(), slices.Contains(leaving, ip), ip.Is4()} {
			if good {
				points += 1 << i
			}
		}
		if points > most {
			chosen, most = ip, points
		}
	}
	return chosen
}

// quiet is the width of the light margin that a QR code needs, in modules.
const quiet = 4

// Each module has its own colour whatever the colours of the terminal are: these two of
// the 256 are black and white in every theme.
const (
	blackOnWhite = "\x1b[38;5;16;48;5;231m"
	plain        = "\x1b[0m"
)

// code draws a QR code with two rows of modules in each line of text, so that 80x24
// characters hold it. The least correction keeps it small; a screen has no stains.
func code(url string) string {
	c, err := qr.Encode(url, qr.L)
	if err != nil {
		return "" // longer than any URL of an address
	}
	var drawn strings.Builder
	for y := -quiet; y < c.Size+quiet; y += 2 {
		drawn.WriteString(blackOnWhite)
		for x := -quiet; x < c.Size+quiet; x++ {
			switch upper, lower := c.Black(x, y), c.Black(x, y+1); {
			case upper && lower:
				drawn.WriteString("█")
			case upper:
				drawn.WriteString("▀")
			case lower:
				drawn.WriteString("▄")
			default:
				drawn.WriteString(" ")
			}
		}
		drawn.WriteString(plain + "\n")
	}
	return drawn.String()
}
