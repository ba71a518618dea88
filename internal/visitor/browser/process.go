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

// The shell kills the program and its children when its input ends, because stop was called
// or because the test has died. It is not in the process group of the test.
const endWithTheTest = `setsid "$@" & cat >/dev/null; kill -KILL -$!; wait; rm -rf "$HOME"`

// atStart is the timeout for the start of a browser.
const atStart = 4 * visitor.Soon

// startProcess starts a program, with additional environment variables. If ready is not nil,
// it waits for a matching line, and returns the submatch. stop kills the program and its
// children, and removes its home directory.
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
	go io.Copy(io.Discard, output) // so that the program is not blocked
	return match, stop, nil
}

// await reads lines until one matches, or kills the program after a timeout.
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
	return "", fmt.Errorf("it has exited, or did not print %q within %v, only: %s", ready, atStart, strings.Join(said, "\n"))
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
