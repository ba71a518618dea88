package browser

import (
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// find returns the path of the first command that is installed. If there is none, or npm's
// browser files are missing, the test is skipped.
func find(t testing.TB, target string, commands ...string) (path string) {
	t.Helper()
	NeedFiles(t)
	for _, name := range commands {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	visitor.Missing(t, fmt.Sprintf("no %s: `%s` installs it as root on Debian, or put one on the PATH", commands[0], target))
	return ""
}

// shared is a process that tests share. The first test that needs it starts it, and Main
// stops it.
type shared[T any] struct {
	once  sync.Once
	value T
	err   error
}

func (s *shared[T]) get(t testing.TB, start func() (value T, stop func(), err error)) T {
	t.Helper()
	s.once.Do(func() {
		var stop func()
		if s.value, stop, s.err = start(); s.err == nil {
			atEnd.Lock()
			defer atEnd.Unlock()
			atEnd.stop = append(atEnd.stop, stop)
		}
	})
	require.NoError(t, s.err, "start a shared process")
	return s.value
}

// atEnd holds the stop functions of shared processes.
var atEnd struct {
	sync.Mutex
	stop []func()
}

// Main is for TestMain. It runs visitor.Main, and stops shared browsers.
func Main(m *testing.M) {
	code := visitor.Main(m)
	for _, stop := range atEnd.stop {
		stop()
	}
	os.Exit(code)
}
