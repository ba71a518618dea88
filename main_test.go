package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
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

	"github.com/gorilla/websocket"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The built program, as an operator starts and stops it.
func TestProgram(t *testing.T) {
	t.Parallel()
	exe := build(t)

	t.Run("runs from any directory and logs nothing about a visit", func(t *testing.T) {
		p := start(t, exe)
		assert.Empty(t, usePages(t, p))
		assert.Equal(t, 0, p.stop(t, syscall.SIGTERM))
		assert.NotContains(t, p.log(t), "level=WARN")
		assert.NotContains(t, p.log(t), "level=ERROR")
	})

	t.Run("logs nothing about a crowd that comes and goes", func(t *testing.T) {
		p := start(t, exe)
		comeAndGo(t, p.url, 400)
		newVisitor(t, p.url).open(presencePage).shows(" 0 user(s) online")
		assert.Empty(t, p.log(t))
	})

	t.Run("counts what it leaves out of the log, until it stops", func(t *testing.T) {
		p := start(t, exe)
		for range repeatsLogged + 3 {
			tb := newVisitor(t, p.url).open(counterPage)
			require.NoError(t, tb.ws.WriteMessage(websocket.TextMessage, []byte("no action")))
			tb.settle()
		}
		assert.Equal(t, repeatsLogged, strings.Count(p.log(t), "no action refused"))
		assert.Equal(t, 0, p.stop(t, syscall.SIGTERM))
		assert.Contains(t, p.log(t), `msg="message that is no action refused" left_out=3`)
	})

	t.Run("logs visits at debug level, without the session cookie", func(t *testing.T) {
		p := start(t, exe, "-log-level", "debug")
		log := usePages(t, p)
		assert.Contains(t, log, `level=DEBUG msg="Client connected"`)
		assert.Contains(t, log, `level=DEBUG msg="Client disconnected"`)
		assert.NotContains(t, log, "level=INFO")
		assert.NotContains(t, log, "group_id")
	})

	t.Run("logs JSON, from the level that is asked for", func(t *testing.T) {
		p := start(t, exe, "-log-format", "json", "-log-level", "debug")
		usePages(t, p)
		assert.Equal(t, 0, p.stop(t, syscall.SIGTERM))
		lines := strings.Split(strings.TrimSpace(p.log(t)), "\n")
		for _, line := range lines {
			assert.True(t, json.Valid([]byte(line)), "not JSON: %s", line)
		}
		assert.Contains(t, p.log(t), `"level":"DEBUG"`)

		p = start(t, exe, "-log-level", "error")
		assert.Equal(t, 0, p.stop(t, syscall.SIGTERM))
		assert.Empty(t, p.log(t))
	})

	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run("closes live sockets properly and exits with 0 on "+signal.String(), func(t *testing.T) {
			p := start(t, exe)
			tabs := []*tab{newVisitor(t, p.url).open(counterPage), newVisitor(t, p.url).open(presencePage)}
			tabs[1].join("Alice")
			tabs[1].shows("Logged in as Alice")

			assert.Equal(t, 0, p.stop(t, signal))
			for _, tb := range tabs {
				<-tb.ended
				assert.True(t, websocket.IsCloseError(tb.err, websocket.CloseGoingAway), "closed with: %v", tb.err)
			}
		})
	}

	t.Run("a change just before the stop reaches every tab", func(t *testing.T) {
		p := start(t, exe)
		tabs := make([]*tab, 50)
		for i := range tabs {
			tabs[i] = newVisitor(t, p.url).open(counterPage)
		}
		for range 5 { // all but the first have to wait for the end of an interval
			tabs[0].increment()
		}
		tabs[0].shows("Counter: 5")
		assert.Equal(t, 0, p.stop(t, syscall.SIGTERM))
		for _, tb := range tabs {
			<-tb.ended
			assert.Contains(t, readable(tb.html()), "Counter: 5")
		}
	})

	t.Run("stops although a peer never answers", func(t *testing.T) {
		p := start(t, exe)
		deaf, err := newVisitor(t, p.url).dial(counterPage)
		require.NoError(t, err)
		defer deaf.Close()
		idle, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		require.NoError(t, err)
		defer idle.Close()
		assert.Equal(t, 0, p.stop(t, syscall.SIGTERM))
	})

	t.Run("its flags reach the app", func(t *testing.T) {
		p := start(t, exe, "-allow-origin", "https://friend.example", "-allow-origin", "http://other.example:8080",
			"-trust-proxy", "-max-connections", "3", "-max-per-session", "2", "-admin-addr", "127.0.0.1:0")
		connect := func(v *visitor, origin string) int {
			_, resp := knock(t, p.url, counterPage, http.Header{"Origin": {origin}, "Cookie": {sessionCookie + "=" + v.session()}})
			return resp.StatusCode
		}
		alice, bob := newVisitor(t, p.url), newVisitor(t, p.url)
		alice.get(counterPage)
		bob.get(counterPage)
		assert.Equal(t, http.StatusForbidden, connect(alice, "https://evil.example"))
		assert.Equal(t, http.StatusSwitchingProtocols, connect(alice, "https://friend.example"))
		assert.Equal(t, http.StatusSwitchingProtocols, connect(alice, "http://other.example:8080"))
		assert.Equal(t, http.StatusServiceUnavailable, connect(alice, p.url), "the third of one browser")
		assert.Equal(t, http.StatusSwitchingProtocols, connect(bob, p.url))
		assert.Equal(t, http.StatusServiceUnavailable, connect(newVisitor(t, p.url), p.url), "the fourth of all")
		req, err := http.NewRequest(http.MethodGet, p.url+counterPage, nil)
		require.NoError(t, err)
		req.Header.Set("X-Forwarded-Proto", "https")
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		assert.NotEmpty(t, resp.Header.Get("Strict-Transport-Security"))
		assert.EqualValues(t, 3, p.metrics(t)["realtime_connections"])
		assert.Contains(t, p.admin(t, "/debug/pprof/goroutine?debug=1"), "goroutine profile")
		assert.Contains(t, p.log(t), `remote_addr=127.0.0.1:`)
	})

	t.Run("-h explains each flag", func(t *testing.T) {
		cmd := exec.Command(exe, "-h")
		cmd.Env = append(os.Environ(), "REDIS_URL=redis://:secret@localhost:6379/0")
		out, err := cmd.Output()
		require.NoError(t, err)
		assert.NotContains(t, string(out), "secret")
		for _, want := range []string{"-addr", "localhost:8080", "-redis", "REDIS_URL", "-log-level", "-log-format", "text or json"} {
			assert.Contains(t, string(out), want)
		}
	})

	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer busy.Close()
	for name, row := range map[string]struct {
		args     []string
		wantCode int
		want     string
	}{
		"unknown flag":             {[]string{"-colour", "red"}, 2, "-colour"},
		"unknown level":            {[]string{"-log-level", "loud"}, 2, "loud"},
		"unknown format":           {[]string{"-log-format", "xml"}, 2, "text or json"},
		"flag, no value":           {[]string{"-addr"}, 2, "-addr"},
		"stray argument":           {[]string{"8080"}, 2, `"8080"`},
		"an origin without scheme": {[]string{"-allow-origin", "example.com"}, 2, "-allow-origin"},
		"an origin with a path":    {[]string{"-allow-origin", "https://example.com/x"}, 2, "-allow-origin"},
		"no connections":           {[]string{"-max-connections", "0"}, 2, "above 0"},
		"no number":                {[]string{"-max-per-session", "many"}, 2, "above 0"},
		"busy admin port":          {[]string{"-addr", "127.0.0.1:0", "-admin-addr", busy.Addr().String()}, 1, "address already in use"},
		"busy port":                {[]string{"-addr", busy.Addr().String()}, 1, "address already in use"},
		"redis at no address":      {[]string{"-redis", "localhost:6379"}, 1, "want redis://HOST:PORT/0"},
		"redis that is not there":  {[]string{"-addr", "127.0.0.1:0", "-redis", "redis://127.0.0.1:1/0"}, 1, "redis at 127.0.0.1:1: "},
		"address, no port":         {[]string{"-addr", "localhost"}, 1, "missing port"},
	} {
		t.Run(name+" is one clear line", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), soon)
			defer cancel()
			cmd := exec.CommandContext(ctx, exe, row.args...)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			cmd.Run()
			assert.Equal(t, row.wantCode, cmd.ProcessState.ExitCode())
			assert.Equal(t, 1, strings.Count(stderr.String(), "\n"), "want one line, got:\n%s", stderr.String())
			assert.Contains(t, stderr.String(), row.want)
			assert.Empty(t, stdout.String())
		})
	}
}

// usePages uses the pages, closes one tab as a browser does and one without a
// word, and returns the log when the program has noticed both.
func usePages(t *testing.T, p *program) string {
	t.Helper()
	v := newVisitor(t, p.url)
	counter, presence, watching := v.open(counterPage), v.open(presencePage), v.open(presencePage)
	counter.increment()
	counter.shows("Counter: 1")
	presence.join("Alice")
	watching.shows("1 user(s) online")
	assert.Contains(t, v.get("/"), "Presence Tracking")
	resp, _ := v.send("GET", "/static/app.css", "", "")
	assert.Equal(t, 200, resp.StatusCode)

	goingAway := websocket.FormatCloseMessage(websocket.CloseGoingAway, "")
	assert.NoError(t, presence.ws.WriteMessage(websocket.CloseMessage, goingAway))
	counter.close()
	watching.shows("0 user(s) online")
	assert.NotContains(t, p.log(t), resp.Request.Cookies()[0].Value, "the session cookie is nobody else's business")
	return p.log(t)
}

// built is the program, which the first test that needs it builds, and TestMain removes.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// build builds the program.
func build(t testing.TB) (exe string) {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "realtime"); built.err != nil {
			return
		}
		if out, err := exec.Command("go", "build", "-o", built.dir, ".").CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	require.NoError(t, built.err)
	return filepath.Join(built.dir, "realtime")
}

// program is a running copy of the built program.
type program struct {
	cmd     *exec.Cmd
	url     string
	logFile string
	exited  chan struct{}
}

// start runs the program on a free port, unless args name one, from a directory of its own.
func start(t testing.TB, exe string, args ...string) *program {
	t.Helper()
	return startWith(t, "", exe, args...)
}

// startWith starts the program with a REDIS_URL.
func startWith(t testing.TB, redisURL, exe string, args ...string) *program {
	t.Helper()
	dir := t.TempDir()
	p := &program{logFile: filepath.Join(dir, "log"), exited: make(chan struct{})}
	p.cmd = exec.Command(exe, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), "REDIS_URL="+redisURL)
	log, err := os.Create(p.logFile)
	require.NoError(t, err)
	defer log.Close()
	p.cmd.Stderr = log
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	go func() {
		p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.exited
	})
	require.NoError(t, err, "no address; the log:\n%s", p.log(t))
	url, found := strings.CutPrefix(strings.TrimSpace(line), "Open ")
	require.True(t, found, "the first line is %q", line)
	p.url = url
	return p
}

func (p *program) log(t testing.TB) string {
	t.Helper()
	content, err := os.ReadFile(p.logFile)
	require.NoError(t, err)
	return string(content)
}

var adminAddress = regexp.MustCompile(`msg="metrics and profiles" at=(http://\S+)`)

// admin is what the admin address of the program answers.
func (p *program) admin(t testing.TB, path string) string {
	t.Helper()
	address := adminAddress.FindStringSubmatch(p.log(t))
	require.NotNil(t, address, "start it with -admin-addr")
	resp, err := http.Get(address[1] + path)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(body)
}

// metrics is what the program says of itself. Where a metric has labels, it is
// the sum of all.
func (p *program) metrics(t testing.TB) map[string]float64 {
	t.Helper()
	sums := map[string]float64{}
	for name, family := range parseMetrics(t, p.admin(t, "/metrics")) {
		for _, m := range family.Metric {
			sums[name] += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return sums
}

// parseMetrics reads metrics as Prometheus does.
func parseMetrics(t testing.TB, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	require.NoError(t, err)
	return families
}

// stop signals the program and returns its exit status.
func (p *program) stop(t *testing.T, signal os.Signal) int {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(signal))
	select {
	case <-p.exited:
	case <-time.After(5 * time.Second): // the promise itself
		require.Fail(t, "still running 5 s after "+signal.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

func TestBrowserURL(t *testing.T) {
	got := &net.TCPAddr{IP: net.IPv4zero, Port: 9000}
	for asked, want := range map[string]string{
		"localhost:8080":  "http://localhost:9000",
		":0":              "http://localhost:9000",
		"0.0.0.0:0":       "http://localhost:9000",
		"[::]:0":          "http://localhost:9000",
		"127.0.0.1:9000":  "http://127.0.0.1:9000",
		"[::1]:9000":      "http://[::1]:9000",
		"example.test:80": "http://example.test:9000",
	} {
		assert.Equal(t, want, browserURL(asked, got), "asked for %s", asked)
	}
}
