package listen_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/listen"
)

func TestListen_ReplacesAStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.sock")
	killed, err := listen.Listen("unix:" + path)
	require.NoError(t, err)
	killed.(*net.UnixListener).SetUnlinkOnClose(false) // as if the program had been killed
	require.NoError(t, killed.Close())
	require.FileExists(t, path)

	next, err := listen.Listen("unix:" + path)
	require.NoError(t, err)
	assert.Equal(t, "Listening on unix:"+path+"\n", listen.Banner("unix:"+path, next, false, nil))
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	conn.Close()
	require.NoError(t, next.Close())
	assert.NoFileExists(t, path)
}

func TestListen_KeepsWhatIsInUse(t *testing.T) {
	dir := t.TempDir()
	path, file := filepath.Join(dir, "app.sock"), filepath.Join(dir, "notes.txt")
	first, err := listen.Listen("unix:" + path)
	require.NoError(t, err)
	defer first.Close()
	require.NoError(t, os.WriteFile(file, []byte("keep"), 0o600))
	for asked, want := range map[string]string{
		path:                              "listen unix " + path + ": the socket is in use",
		file:                              "listen unix " + file + ": the file exists and is not a socket",
		"":                                "listen unix: want unix: and a path",
		filepath.Join(file, "below", "a"): "not a directory",
	} {
		_, err := listen.Listen("unix:" + asked)
		assert.ErrorContains(t, err, want)
	}
	conn, err := net.Dial("unix", path)
	require.NoError(t, err, "the first one still listens")
	conn.Close()
	assert.FileExists(t, file)
}

// A browser may use either address, and must not reach another program there.
func TestListen_LocalhostIsBothAddressesOfThisMachine(t *testing.T) {
	for _, asked := range []string{"localhost:0", "LOCALHOST.:0", "app.localhost:0"} {
		l, err := listen.Listen(asked)
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
			_, err = listen.Listen(strings.TrimSuffix(asked, "0") + taken)
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
			assert.Error(t, err, "nobody listens on %s any more", host)
		}
	}
}
