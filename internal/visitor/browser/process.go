package browser

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// find returns the path of the first of some commands that is installed. Without one, or
// without the files that pages load, the test is skipped, and fails in CI.
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

// The shell ends the program and all that it has started when its own input ends: when
// stop is called, and also when the test has died and can call nothing. What kills the
// process group of the test does not reach it.
const endWithTheTest = `setsid "$@" & cat >/dev/null; kill -KILL -$!; wait; rm -rf "$HOME"`

// atStart is how long a browser may take to start, with cold caches beside much else.
const atStart = 4 * visitor.Soon

// startProcess starts a program, with variables added to its environment. If ready is not
// nil, it waits for a line that matches, and returns what the group of ready matches. stop
// ends the program with all that it has started, and removes its home directory.
func startProcess(home string, env []string, ready *regexp.Regexp, command ...string) (match string, stop func(), err error) {
	cmd := exec.Command("sh", append([]string{"-c", endWithTheTest, "sh"}, command...)...)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_RUNTIME_DIR="+home, "TMPDIR="+home, "DBUS_SESSION_BUS_ADDRESS=disabled:")
	cmd.Env = append(cmd.Env, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, noInput := cmd.StdinPipe()
	output, noOutput := cmd.StdoutPipe()
	cmd.Stderr = cmd.Stdout
	if err := errors.Join(noInput, noOutput, cmd.Start()); err != nil {
		return "", nil, err
	}
	stop = func() {
		stdin.Close()
		cmd.Wait()
	}
	if ready != nil {
		if match, err = await(output, ready, stdin.Close); err != nil {
			stop()
			return "", nil, fmt.Errorf("%s: %w", command[0], err)
		}
	}
	go io.Copy(io.Discard, output) // so that the program need not wait
	return match, stop, nil
}

// await reads lines until one matches, and ends the program if none does for long.
func await(output io.Reader, ready *regexp.Regexp, end func() error) (match string, err error) {
	timeout := time.AfterFunc(atStart, func() { end() })
	defer timeout.Stop()
	var said []string
	for lines := bufio.NewScanner(output); lines.Scan(); {
		if found := ready.FindStringSubmatch(lines.Text()); found != nil {
			return found[1], nil
		}
		said = append(said, lines.Text())
	}
	return "", fmt.Errorf("it has ended, or said for %v only this, but not %q: %s", atStart, ready, strings.Join(said, "\n"))
}

// shared is something that tests share. The first test that needs it starts it, and Main
// ends it.
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
	require.NoError(t, s.err, "start what the tests share")
	return s.value
}

// atEnd holds what ends the things that tests have shared.
var atEnd struct {
	sync.Mutex
	stop []func()
}

// Main is for TestMain: visitor.Main, and the end of the browsers that tests have shared.
func Main(m *testing.M) {
	code := visitor.Main(m)
	for _, stop := range atEnd.stop {
		stop()
	}
	os.Exit(code)
}
