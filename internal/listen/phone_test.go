package listen

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"rsc.io/qr"
)

// bound is a listener at an address.
type bound struct {
	net.Listener
	at string
}

func (b bound) Addr() net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(b.at)) }

func TestPhoneURL_IsForOtherMachines(t *testing.T) {
	for at, want := range map[string]string{
		"127.0.0.1:8080":             "",
		"[fe80::1%lo]:8080":          "",
		"[::ffff:192.168.1.20]:8080": "http://192.168.1.20:8080",
		"[fd12:3456::2]:80":          "http://[fd12:3456::2]:80",
	} {
		assert.Equal(t, want, phoneURL(bound{at: at}), "listening at %s", at)
	}
}

func TestBest_IsTheAddressThatAPhoneMostLikelyReaches(t *testing.T) {
	for _, row := range []struct{ own, leaving, want string }{
		{"169.254.7.7 fe80::1", "", ""}, // link-local only
		{"fd00::2 203.0.113.5", "fd00::2", "203.0.113.5"},
		{"172.17.0.1 203.0.113.5", "203.0.113.5", "203.0.113.5"},
		{"203.0.113.5 192.168.1.20", "10.8.0.2", "192.168.1.20"}, // traffic leaves through a VPN
		{"192.168.1.20 192.168.2.20", "", "192.168.1.20"},
	} {
		var own []netip.Addr
		for address := range strings.FieldsSeq(row.own) {
			own = append(own, netip.MustParseAddr(address))
		}
		leaving, _ := netip.ParseAddr(row.leaving) // the zero Addr for none
		want, _ := netip.ParseAddr(row.want)
		assert.Equal(t, want, best(own, leaving), "%+v", row)
	}
}

func TestShared_LeavesOutNetworksWithoutPhones(t *testing.T) {
	const connected = net.FlagUp | net.FlagRunning
	assert.True(t, shared(connected|net.FlagBroadcast))
	assert.False(t, shared(net.FlagUp), "no cable, or a bridge without machines")
	assert.False(t, shared(net.FlagRunning), "switched off")
	assert.False(t, shared(connected|net.FlagLoopback))
	assert.False(t, shared(connected|net.FlagPointToPoint), "a VPN")
}

func TestBanner_IsTheURLForABrowser(t *testing.T) {
	for asked, want := range map[string]string{
		":0":             "Open http://localhost:9000\n",
		"[::]:0":         "Open http://localhost:9000\n",
		"127.0.0.1:9000": "Open http://127.0.0.1:9000\n",
		"[::1]:9000":     "Open http://[::1]:9000\n",
	} {
		assert.Equal(t, want, Banner(asked, bound{at: "127.0.0.1:9000"}, false, nil), "asked for %s", asked)
	}
}

func TestBanner_HasALineForPhonesAndInATerminalAQRCode(t *testing.T) {
	const longest = "[2001:1db8:1234:5678:9abc:def0:1234:5678]:65535"
	const first, second = "Open http://" + longest + "\n", "On a phone in the same network: http://" + longest + "\n"
	banner := func(proxied bool, out *os.File) string { return Banner(longest, bound{at: longest}, proxied, out) }
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	defer file.Close()
	assert.Equal(t, first+second, banner(false, file))
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no /dev/ptmx, which makes terminals on Linux")
	}
	defer terminal.Close()
	assert.Equal(t, first, banner(true, terminal))

	drawn, ok := strings.CutPrefix(banner(false, terminal), first+second)
	require.True(t, ok)
	code, err := qr.Encode("http://"+longest, qr.L)
	require.NoError(t, err)
	rows := strings.Split(strings.TrimSuffix(drawn, "\n"), "\n")
	assert.Len(t, rows, 21, "beside three lines of text in a terminal of 24")
	for y, row := range rows {
		row, hasColours := strings.CutPrefix(row, "\x1b[38;5;16;48;5;231m")
		row, hasEnd := strings.CutSuffix(row, "\x1b[0m")
		assert.True(t, hasColours && hasEnd, "the colours of %q", row)
		assert.Len(t, []rune(row), code.Size+2*4, "four light modules on each side")
		for x, module := range []rune(row) {
			require.Equal(t, code.Black(x-4, 2*y-4), module == '█' || module == '▀', "row %d, column %d", y, x)
			require.Equal(t, code.Black(x-4, 2*y-3), module == '█' || module == '▄', "row %d, column %d", y, x)
		}
	}
}
