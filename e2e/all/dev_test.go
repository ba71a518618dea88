//go:build all

package all

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// made is a make target that runs in a copy of the module.
type made struct {
	*exec.Cmd
	said          visitor.Log
	endsWithCtrlC func() // presses it, and checks that no process is left
	t             *testing.T
}

// newMake copies the module, where start runs make.
func newMake(t *testing.T, target string) *made {
	t.Helper()
	m := &made{Cmd: exec.Command("make", target, "ADDR=127.0.0.1:0"), t: t}
	m.Dir, m.Env, m.Stdout, m.Stderr = visitor.Copy(t), append(os.Environ(), "MAKELEVEL=", "MAKEFLAGS="), &m.said, &m.said
	m.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as a shell in a terminal does
	return m
}

// start runs make until the test ends, and returns where it says to open the pages.
func (m *made) start() (url string) {
	m.t.Helper()
	require.NoError(m.t, m.Start())
	m.endsWithCtrlC = sync.OnceFunc(func() {
		require.NoError(m.t, syscall.Kill(-m.Process.Pid, syscall.SIGINT))
		ended := make(chan error, 1)
		go func() { ended <- m.Wait() }() // each process holds the output open
		select {
		case <-ended:
		case <-time.After(visitor.Soon):
			assert.Fail(m.t, "a process is left")
		}
	})
	m.t.Cleanup(func() {
		m.endsWithCtrlC()
		if m.t.Failed() {
			m.t.Log(m.said.String())
		}
	})
	open := regexp.MustCompile(`(?m)^Open (http://\S+)$`)
	require.Eventually(m.t, func() bool { return open.MatchString(m.said.String()) }, visitor.Soon, 10*time.Millisecond, "an address")
	return open.FindStringSubmatch(m.said.String())[1]
}

// change saves a file with one text replaced by another.
func (m *made) change(file, was, is string) {
	m.t.Helper()
	file = filepath.Join(m.Dir, file)
	source, err := os.ReadFile(file)
	require.NoError(m.t, err)
	require.Contains(m.t, string(source), was)
	require.NoError(m.t, os.WriteFile(file, []byte(strings.ReplaceAll(string(source), was, is)), 0o644))
}

// replace puts a script in the place of a command.
func (m *made) replace(command, script string) {
	m.t.Helper()
	bin := m.t.TempDir()
	require.NoError(m.t, os.WriteFile(filepath.Join(bin, command), []byte("#!/bin/sh\n"+script), 0o755))
	m.Env = append(m.Env, "PATH="+bin+":"+os.Getenv("PATH"))
}

// untracked lists the files that git neither has nor ignores.
func (m *made) untracked() string {
	out, _ := exec.Command("git", "-C", m.Dir, "ls-files", "--others", "--exclude-standard").CombinedOutput()
	return string(out)
}

// While make dev runs, open pages follow what is saved: also a page without a live part, a
// name that has joined, and text that is half typed.
func TestMake_DevRenewsOpenPages(t *testing.T) {
	t.Parallel()
	person, m := browser.New(t), newMake(t, "dev")
	before, url := m.untracked(), m.start()
	printed := func(text string) bool { return strings.Contains(m.said.String(), text) }
	require.Eventually(t, func() bool { return printed("Built in") || printed(noAir) }, visitor.Soon, 10*time.Millisecond, "a program")
	if printed(noAir) {
		visitor.Missing(t, "no air: the first `make dev` downloads it")
	}
	home := person.Load(url)
	home.ExpectServerAway()
	home.Shows("Live pages in Go")
	open := func() *browser.Tab {
		tb := person.Open(url + visitor.PresencePage)
		tb.ExpectServerAway()
		return tb
	}
	joined, typing := open(), open()
	joined.Join("Alice")
	typing.TypeInto("username", "half a name")
	tabs := []*browser.Tab{home, joined, typing}
	all := func(condition string) {
		t.Helper()
		for _, tb := range tabs {
			tb.WaitUntil(`document.readyState === "complete" && `+condition, condition)
		}
		joined.Shows("Logged in as Alice")
		assert.Equal(t, "half a name", typing.Eval(`document.querySelector("[name=username]").value`))
	}
	says := func(text string) string { return `document.body.innerText.includes("` + text + `")` }

	const place, saved = `<main class="container">`, `<main class="container"><p>Saved</p>`
	m.change("templates/layout.tmpl", place, saved)
	all(says("Saved"))
	m.change("templates/layout.tmpl", saved, place) // back to a build that the tabs have left
	all("!" + says("Saved"))
	m.change("static/app.css", "/* Only", ":root { --saved: yes; }\n/* Only")
	all(`getComputedStyle(document.documentElement).getPropertyValue("--saved") === "yes"`)

	m.change("state_realtime.go", "package main", "package main\n\nbroken")
	all(says("The build failed: see the terminal."))
	assert.Contains(t, m.said.String(), "state_realtime.go:3:1: syntax error")
	m.change("state_realtime.go", "broken", "")
	all("!" + says("The build failed"))

	m.change("templates/layout.tmpl", place, place+"{{broken}}") // found when the program starts
	for _, tb := range tabs {
		tb.Shows("The server has ended: see the terminal.")
	}
	late := person.Load(url)
	late.ExpectServerAway()
	late.Shows("The server has ended: see the terminal.")
	m.change("templates/layout.tmpl", place+"{{broken}}", saved)
	all(says("Saved"))
	late.Shows("Saved")

	m.endsWithCtrlC()
	assert.Equal(t, before, m.untracked(), "what is left behind")
}

// noAir ends make dev without a network, the first time.
const noAir = "dev: air, which watches the files, has ended. Its first start needs the network.\n"

func TestMake_DevWithoutAir(t *testing.T) {
	t.Parallel()
	m := newMake(t, "dev")
	m.replace("go", `test "$1" != run && PATH="${PATH#*:}" exec go "$@"; exit 1`) // as if there were no network
	assert.Error(t, m.Run())
	assert.Contains(t, m.said.String(), noAir)
}

// Without npm, make run says so in a line, and pages load the browser files from the CDN.
// CI, which needs the files, does not go on.
func TestMake_RunWithoutNpm(t *testing.T) {
	t.Parallel()
	m := newMake(t, "run")
	m.replace("npm", "exit 127") // as if there were none
	for _, fetched := range []string{"bin", "static/node_modules", "static/vendor/.fetched", "static/vendor/pico.min.css"} {
		require.NoError(t, os.RemoveAll(filepath.Join(m.Dir, fetched)))
	}
	url := m.start()
	_, page := visitor.New(t, url).Send(http.MethodGet, "/", "", "")
	assert.Contains(t, page, "https://cdn.jsdelivr.net/npm/@picocss/pico")
	m.endsWithCtrlC()
	assert.Regexp(t, `^The first build takes a minute\.
npm did not fetch the browser files \(make assets says why\): going on as go run \. does
\S+ level=INFO msg="browser files are not built in: .*
Open http://\S+
.*Ctrl-C again ends it at once`, m.said.String())

	check := exec.Command("make", "check")
	check.Dir, check.Env = m.Dir, m.Env
	said, err := check.CombinedOutput()
	assert.Error(t, err)
	assert.Contains(t, string(said), "vendor/.fetched] Error 127")
}
