package listen

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestOn_ReplacesAStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.sock")
	killed, err := On("unix:" + path)
	require.NoError(t, err)
	killed.(*net.UnixListener).SetUnlinkOnClose(false) // as after kill -9
	require.NoError(t, killed.Close())
	require.FileExists(t, path)

	next, err := On("unix:" + path)
	require.NoError(t, err)
	assert.Equal(t, "Listening on unix:"+path, Says("unix:"+path, next))
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	conn.Close()
	require.NoError(t, next.Close())
	assert.NoFileExists(t, path)
}

func TestOn_NeverReplacesASocketInUseOrAnotherFile(t *testing.T) {
	dir := t.TempDir()
	path, file := filepath.Join(dir, "app.sock"), filepath.Join(dir, "notes.txt")
	first, err := On("unix:" + path)
	require.NoError(t, err)
	defer first.Close()
	require.NoError(t, os.WriteFile(file, []byte("keep"), 0o600))
	for asked, want := range map[string]string{
		path:                              "listen unix " + path + ": the socket is in use",
		file:                              "listen unix " + file + ": the file exists and is no socket",
		"":                                "listen unix: want unix: and a path",
		filepath.Join(file, "below", "a"): "not a directory",
	} {
		_, err := On("unix:" + asked)
		assert.ErrorContains(t, err, want)
	}
	conn, err := net.Dial("unix", path)
	require.NoError(t, err, "the first one still listens")
	conn.Close()
	assert.FileExists(t, file)
}

// A browser may use either address, and must not reach another program there.
func TestOn_LocalhostIsBothLoopbackAddresses(t *testing.T) {
	for _, asked := range []string{"localhost:0", "LOCALHOST.:0", "app.localhost:0"} {
		l, err := On(asked)
		require.NoError(t, err)
		defer l.Close()
		_, port, err := net.SplitHostPort(l.Addr().String())
		require.NoError(t, err)
		assert.Equal(t, "127.0.0.1:"+port, l.Addr().String())
		for _, host := range []string{"127.0.0.1", "::1"} {
			other, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
			if err != nil {
				continue // no IPv6 here
			}
			_, taken, _ := net.SplitHostPort(other.Addr().String())
			_, err = On(strings.TrimSuffix(asked, "0") + taken)
			assert.ErrorContains(t, err, "address already in use", "another program has %s", other.Addr())
			other.Close()

			address := net.JoinHostPort(host, port)
			there, err := net.Dial("tcp", address)
			require.NoError(t, err)
			here, err := l.Accept()
			require.NoError(t, err)
			assert.Equal(t, there.LocalAddr().String(), here.RemoteAddr().String())
			there.Close()
			here.Close()
		}
		assert.NoError(t, l.Close())
		assert.NoError(t, l.Close(), "again")
		_, err = l.Accept()
		assert.ErrorIs(t, err, net.ErrClosed)
		for _, host := range []string{"127.0.0.1", "::1"} {
			_, err := net.Dial("tcp", net.JoinHostPort(host, port))
			assert.Error(t, err, "nobody listens on %s after Close", host)
		}
	}
}

// bound is a listener on all interfaces at port 9000.
type bound struct{ net.Listener }

func (bound) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4zero, Port: 9000} }

func TestSays_IsTheURLForABrowser(t *testing.T) {
	for asked, want := range map[string]string{
		":0":             "Open http://localhost:9000",
		"[::]:0":         "Open http://localhost:9000",
		"127.0.0.1:9000": "Open http://127.0.0.1:9000",
		"[::1]:9000":     "Open http://[::1]:9000",
	} {
		assert.Equal(t, want, Says(asked, bound{}), "asked for %s", asked)
	}
}

// 198.51.100.1 stands for an address that this machine lacks, such as ::1 without IPv6.
func TestOnAll_SkipsAddressesThatThisMachineLacks(t *testing.T) {
	for _, hosts := range [][]string{{"198.51.100.1", "127.0.0.1"}, {"127.0.0.1", "198.51.100.1"}} {
		listeners, err := onAll(hosts, "0")
		require.NoError(t, err)
		assert.Len(t, listeners, 1)
		listeners[0].Close()
	}
	_, err := onAll([]string{"198.51.100.1", "203.0.113.1"}, "0")
	assert.ErrorContains(t, err, "cannot assign requested address")
}
