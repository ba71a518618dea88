package browser

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"realtime/internal/visitor"
)

// process is a program that tests have started, with every process that it starts
// itself, and a home directory that is removed with it.
type process struct {
	home  string
	lines chan string // what it prints
	cmd   *exec.Cmd
	stdin io.Closer
}

// The shell ends the program and all that it has started when its own input ends: when
// stop is called, and also when the test has died and can call nothing. What kills the
// process group of the test does not reach it.
const endWithTheTest = `setsid "$@" & cat >/dev/null; kill -KILL -$!; wait; rm -rf "$HOME"`

// startProcess starts a program. Its home directory exists, and is removed with it. The
// variables in env are added to the environment.
func startProcess(home string, env []string, name string, args ...string) (*process, error) {
	p := &process{home: home, lines: make(chan string, 1000)}
	p.cmd = exec.Command("sh", append([]string{"-c", endWithTheTest, "sh", name}, args...)...)
	p.cmd.Env = append(os.Environ(), "HOME="+home, "XDG_RUNTIME_DIR="+home, "TMPDIR="+home, "DBUS_SESSION_BUS_ADDRESS=disabled:")
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = writer, writer
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	err = p.cmd.Start()
	writer.Close()
	if err != nil {
		return nil, err
	}
	go func() {
		defer output.Close()
		defer close(p.lines)
		for scanner := bufio.NewScanner(output); scanner.Scan(); {
			p.lines <- scanner.Text()
		}
	}()
	return p, nil
}

// await returns what the group of a pattern matches, in the first line that matches.
func (p *process) await(pattern string) (match string, err error) {
	var said []string
	line := regexp.MustCompile(pattern)
	timeout := time.After(visitor.Soon)
	for {
		select {
		case text, ok := <-p.lines:
			if found := line.FindStringSubmatch(text); found != nil {
				return found[1], nil
			}
			if !ok {
				return "", fmt.Errorf("%s has ended: %s", p.cmd.Args[4], strings.Join(said, "\n"))
			}
			said = append(said, text)
		case <-timeout:
			return "", fmt.Errorf("%s has not said %q: %s", p.cmd.Args[4], pattern, strings.Join(said, "\n"))
		}
	}
}

// stop ends the process and all that it has started.
func (p *process) stop() {
	p.stdin.Close()
	p.cmd.Wait()
}

// discard reads what the process prints until it ends, so that it need not wait.
func (p *process) discard() {
	for range p.lines {
	}
}
