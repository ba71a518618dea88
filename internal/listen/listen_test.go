package listen_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/listen"
)

func TestOn_ReplacesASocketThatNobodyListensOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.sock")
	killed, err := listen.On("unix:" + path)
	require.NoError(t, err)
	killed.(*net.UnixListener).SetUnlinkOnClose(false) // as if the program had been killed
	require.NoError(t, killed.Close())
	require.FileExists(t, path)

	next, err := listen.On("unix:" + path)
	require.NoError(t, err)
	conn, err := net.Dial("unix", path)
	require.NoError(t, err)
	conn.Close()
	require.NoError(t, next.Close())
	assert.NoFileExists(t, path)
}

func TestOn_LeavesWhatIsInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.sock")
	first, err := listen.On("unix:" + path)
	require.NoError(t, err)
	defer first.Close()
	_, err = listen.On("unix:" + path)
	assert.EqualError(t, err, "listen unix "+path+": the socket is in use")
	conn, err := net.Dial("unix", path)
	require.NoError(t, err, "the first one still listens")
	conn.Close()

	file := filepath.Join(t.TempDir(), "notes.txt")
	require.NoError(t, os.WriteFile(file, []byte("keep"), 0o600))
	_, err = listen.On("unix:" + file)
	assert.EqualError(t, err, "listen unix "+file+": the file exists and is no socket")
	assert.FileExists(t, file)
	_, err = listen.On("unix:")
	assert.EqualError(t, err, "listen unix: want unix: and a path")
	_, err = listen.On("unix:" + filepath.Join(path, "below", "a", "socket"))
	assert.ErrorContains(t, err, "not a directory")
}

// bound is a listener on all interfaces at port 9000.
type bound struct{ net.Listener }

func (bound) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4zero, Port: 9000} }

func TestWhere_IsTheURLForABrowser(t *testing.T) {
	for asked, want := range map[string]string{
		"localhost:8080":  "http://localhost:9000",
		":0":              "http://localhost:9000",
		"0.0.0.0:0":       "http://localhost:9000",
		"[::]:0":          "http://localhost:9000",
		"127.0.0.1:9000":  "http://127.0.0.1:9000",
		"[::1]:9000":      "http://[::1]:9000",
		"example.test:80": "http://example.test:9000",
	} {
		assert.Equal(t, want, listen.Where(asked, bound{}), "asked for %s", asked)
	}
}
