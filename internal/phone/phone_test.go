package phone

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/term"
	"rsc.io/qr"
)

// bound is a listener at an address.
type bound struct {
	net.Listener
	at net.Addr
}

func (b bound) Addr() net.Addr { return b.at }

func TestURL_IsForOtherMachines(t *testing.T) {
	for at, want := range map[string]string{
		"127.0.0.1:8080":              "",
		"127.8.8.8:8080":              "",
		"[::1]:8080":                  "",
		"169.254.7.7:8080":            "",
		"[fe80::1%lo]:8080":           "",
		"192.168.1.20:8080":           "http://192.168.1.20:8080",
		"[::ffff:192.168.1.20]:8080":  "http://192.168.1.20:8080",
		"203.0.113.5:80":              "http://203.0.113.5:80",
		"[2001:db8::5]:65535":         "http://[2001:db8::5]:65535",
		"[fd12:3456:789a:1::2]:8080":  "http://[fd12:3456:789a:1::2]:8080",
		"100.101.102.103:8080":        "http://100.101.102.103:8080", // a VPN that somebody asks for is their network
		"[fe80::abcd:1234:1:2%3]:123": "",
	} {
		assert.Equal(t, want, URL(bound{at: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(at))}), "listening at %s", at)
	}
	assert.Empty(t, URL(bound{at: &net.UnixAddr{Name: "/run/app.sock", Net: "unix"}}))
}

// On the network of whatever machine the test runs on.
func TestURL_OnAllInterfacesIsOneThatAnswers(t *testing.T) {
	for _, all := range []string{":0", "0.0.0.0:0", "[::]:0"} {
		l, err := net.Listen("tcp", all)
		require.NoError(t, err)
		defer l.Close()
		url := URL(l)
		if url == "" {
			assert.Equal(t, netip.Addr{}, best(own()), "this machine has an address")
			continue
		}
		at, err := netip.ParseAddrPort(strings.TrimPrefix(url, "http://"))
		require.NoError(t, err)
		assert.False(t, at.Addr().IsLoopback())
		assert.Contains(t, own(), at.Addr())
		conn, err := net.Dial("tcp", at.String())
		if assert.NoError(t, err, "%s does not answer", url) {
			conn.Close()
		}
	}
}

func TestBest_IsTheAddressThatAPhoneMostLikelyReaches(t *testing.T) {
	for name, row := range map[string]struct {
		own, leaving, want string
	}{
		"no network":                             {"", "", ""},
		"no route, one network":                  {"192.168.1.20", "", "192.168.1.20"},
		"link-local only":                        {"169.254.7.7 fe80::1", "", ""},
		"a network beside link-local":            {"fe80::1 169.254.7.7 10.0.0.7", "", "10.0.0.7"},
		"wireless has the route":                 {"172.17.0.1 192.168.1.20", "192.168.1.20", "192.168.1.20"},
		"the route is through a VPN":             {"192.168.1.20 172.17.0.1", "10.8.0.2", "192.168.1.20"},
		"a public address has the route":         {"172.17.0.1 203.0.113.5", "203.0.113.5", "203.0.113.5"},
		"public and private without a route":     {"203.0.113.5 192.168.1.20", "", "192.168.1.20"},
		"IPv4 before IPv6":                       {"2001:db8::5 192.168.1.20", "2001:db8::5 192.168.1.20", "192.168.1.20"},
		"IPv4 before IPv6 that alone has routes": {"2001:db8::5 192.168.1.20", "2001:db8::5", "192.168.1.20"},
		"IPv6 only":                              {"fe80::1 fd00::2 2001:db8::5", "2001:db8::5", "2001:db8::5"},
		"IPv6 only without a route":              {"2001:db8::5 fd00::2", "", "fd00::2"},
		"the first of equals":                    {"192.168.1.20 192.168.2.20", "", "192.168.1.20"},
	} {
		t.Run(name, func(t *testing.T) {
			want, _ := netip.ParseAddr(row.want) // the zero Addr for none
			assert.Equal(t, want, best(parse(row.own), parse(row.leaving)...))
		})
	}
}

func parse(list string) (addresses []netip.Addr) {
	for text := range strings.FieldsSeq(list) {
		addresses = append(addresses, netip.MustParseAddr(text))
	}
	return addresses
}

func TestShared_LeavesOutNetworksWithoutPhones(t *testing.T) {
	const connected = net.FlagUp | net.FlagRunning
	for name, row := range map[string]struct {
		flags net.Flags
		want  bool
	}{
		"wireless or a cable":                    {connected | net.FlagBroadcast | net.FlagMulticast, true},
		"no cable, or a bridge without machines": {net.FlagUp | net.FlagBroadcast | net.FlagMulticast, false},
		"switched off":                           {net.FlagRunning | net.FlagBroadcast, false},
		"loopback":                               {connected | net.FlagLoopback, false},
		"a VPN":                                  {connected | net.FlagPointToPoint | net.FlagMulticast, false},
	} {
		assert.Equal(t, row.want, shared(row.flags), name)
	}
}

func TestCode_DrawsEveryModuleAndFitsATerminal(t *testing.T) {
	for _, row := range []struct {
		url            string
		columns, lines int // 80x24, less three lines of text
	}{
		{"http://10.0.0.7:80", 33, 17},
		{"http://192.168.100.200:65535", 33, 17},
		{"http://[fd12:3456:789a:1::2]:8080", 37, 19},
		{"http://[2001:1db8:1234:5678:9abc:def0:1234:5678]:65535", 41, 21},
	} {
		c, err := qr.Encode(row.url, qr.L)
		require.NoError(t, err)
		modules := read(t, code(row.url))
		assert.Len(t, modules, 2*row.lines, row.url)
		assert.Len(t, modules[0], row.columns, row.url)
		assert.Equal(t, row.columns, c.Size+8, "four light modules on each side")
		for y := range modules {
			for x, dark := range modules[y] {
				if dark != c.Black(x-4, y-4) { // light outside of the code
					require.Fail(t, "not the code", "%s: module %d, %d has the wrong colour", row.url, x, y)
				}
			}
		}
	}
}

// read returns the modules that a terminal shows: true is black. The test fails if a
// line leaves a colour to the terminal, or leaves the terminal with another colour.
func read(t *testing.T, drawn string) (modules [][]bool) {
	t.Helper()
	for line := range strings.Lines(drawn) {
		line, hasColours := strings.CutPrefix(line, "\x1b[38;5;16;48;5;231m")
		line, hasEnd := strings.CutSuffix(line, "\x1b[0m\n")
		require.True(t, hasColours && hasEnd, "the colours of %q", line)
		var upper, lower []bool
		for _, r := range line {
			require.Contains(t, "█▀▄ ", string(r))
			upper = append(upper, r == '█' || r == '▀')
			lower = append(lower, r == '█' || r == '▄')
		}
		modules = append(modules, upper, lower)
	}
	return modules
}

func TestSays_DrawsTheCodeInATerminalOnly(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil || !term.IsTerminal(int(terminal.Fd())) {
		t.Skip("no /dev/ptmx, which makes terminals on Linux")
	}
	defer terminal.Close()
	l := bound{at: &net.TCPAddr{IP: net.IPv4(192, 168, 1, 20), Port: 8080}}
	const line = "On a phone in the same network: http://192.168.1.20:8080\n"
	assert.Equal(t, line+code("http://192.168.1.20:8080"), Says(l, terminal))
	assert.Equal(t, line, Says(l, &strings.Builder{}))
	assert.Empty(t, Says(bound{at: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}}, terminal))
}
