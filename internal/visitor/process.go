package visitor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"time"
)

// Process is a running third-party program: a proxy or a browser.
type Process struct {
	Log          // its output
	Match string // see StartProcess
	Stop  func() // kills the program and its children, and removes its home directory
}

// The shell prints the process ID of the program. When its input ends, because Stop was
// called or because the test has died, it kills the program and its children. It is not in
// the process group of the test.
const endWithTheTest = `setsid "$@" & echo pid $!; cat >/dev/null; kill -KILL -$!; wait; rm -rf "$HOME"`

// StartTimeout is the timeout for the start of a browser.
const StartTimeout = 4 * Soon

// PID is the ready pattern for programs that print nothing when they are ready.
const PID = `^pid (\d+)$`

// StartProcess starts a program, with additional environment variables, and waits until its
// output matches ready, a regular expression whose submatch becomes Match.
func StartProcess(home string, env []string, ready string, command ...string) (*Process, error) {
	cmd := exec.Command("sh", append([]string{"-c", endWithTheTest, "sh"}, command...)...)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_RUNTIME_DIR="+home, "TMPDIR="+home, "DBUS_SESSION_BUS_ADDRESS=disabled:")
	cmd.Env = append(cmd.Env, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := &Process{}
	cmd.Stdout, cmd.Stderr = &p.Log, &p.Log
	cmd.WaitDelay = time.Second // for a child that has left the process group
	stdin, noInput := cmd.StdinPipe()
	if err := errors.Join(noInput, cmd.Start()); err != nil {
		return nil, err
	}
	p.Stop = func() {
		stdin.Close()
		cmd.Wait()
	}
	pattern := regexp.MustCompile(`(?m)` + ready)
	for end := time.Now().Add(StartTimeout); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if found := pattern.FindStringSubmatch(p.String()); found != nil {
			p.Match = found[1]
			return p, nil
		}
	}
	p.Stop()
	return nil, fmt.Errorf("%s did not print %q within %v, only: %s", command[0], ready, StartTimeout, p)
}
