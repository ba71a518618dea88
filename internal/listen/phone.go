package listen

import (
	"net"
	"net/netip"
	"slices"

	"rsc.io/qr"
)

// phoneURL returns the URL of a listener for other machines in the same network. It is empty
// for a Unix socket, for a listener on localhost, and if this machine is in no network.
// Whether a firewall lets a phone in is not known here.
func phoneURL(l net.Listener) string {
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
	interfaces, _ := net.Interfaces() // on error there are none
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

// shared reports whether a phone can be in the network of an interface. VPNs are
// point-to-point, and a bridge without running containers is up but not running.
func shared(flags net.Flags) bool {
	return flags&net.FlagUp != 0 && flags&net.FlagRunning != 0 && flags&(net.FlagLoopback|net.FlagPointToPoint) == 0
}

// leaving returns the address that traffic to a target leaves from, or the zero Addr if
// there is no route. Connecting a UDP socket sends nothing. The targets are reserved for
// documentation and stand for any address on the internet.
func leaving(network, target string) netip.Addr {
	conn, err := net.Dial(network, target)
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// best returns the address that a phone most likely reaches, or the zero Addr.
func best(own []netip.Addr, leaving ...netip.Addr) netip.Addr {
	score := func(ip netip.Addr) (n int) {
		if ip.Is4() { // every home network has IPv4
			n += 4
		}
		if slices.Contains(leaving, ip) {
			n += 2
		}
		if ip.IsPrivate() {
			n++
		}
		return n
	}
	own = slices.DeleteFunc(own, func(ip netip.Addr) bool { return !ip.IsGlobalUnicast() })
	if len(own) == 0 {
		return netip.Addr{}
	}
	return slices.MaxFunc(own, func(a, b netip.Addr) int { return score(a) - score(b) })
}

// halves draw two modules of a QR code in one character, the upper one first.
var halves = map[[2]bool]string{{true, true}: "█", {true, false}: "▀", {false, true}: "▄", {false, false}: " "}

// qrCode draws a URL with a light margin of four modules, black on white in every theme of a
// terminal. The lowest level of error correction makes it fit into 80x24 characters.
func qrCode(url string) (drawn string) {
	code, _ := qr.Encode(url, qr.L) // fails only for longer texts than the URL of an address
	for y := -4; y < code.Size+4; y += 2 {
		drawn += "\x1b[38;5;16;48;5;231m"
		for x := -4; x < code.Size+4; x++ {
			drawn += halves[[2]bool{code.Black(x, y), code.Black(x, y+1)}]
		}
		drawn += "\x1b[0m\n"
	}
	return drawn
}
