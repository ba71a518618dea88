package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/listen"
	"realtime/internal/logging"
	"realtime/internal/visitor"
	"realtime/internal/wsconn"
)

// One run of the program with its defaults, from start to graceful shutdown.
func TestProgram(t *testing.T) {
	t.Parallel()
	p := visitor.Start(t)
	watching := visitor.New(t, p.URL).Open(visitor.PresencePage)

	// Crowds join and disconnect in every way, and leave nothing behind.
	p.ForgetsVisits(100, 400)
	watching.Shows(" 0 user(s) online")
	assert.Empty(t, p.Said(), "visits are not logged")

	// A repeated message is logged a few times, and then counted.
	var hostile []*visitor.Tab
	for range logging.RepeatsLogged + 3 {
		hostile = append(hostile, visitor.New(t, p.URL).Open(visitor.CounterPage))
	}
	for _, tb := range hostile {
		assert.NoError(t, tb.WS.WriteMessage(websocket.TextMessage, []byte("no action")))
	}
	for _, tb := range hostile {
		tb.Settle()
	}
	assert.Equal(t, logging.RepeatsLogged, strings.Count(p.Log(), "not an action"))

	// The shutdown waits for nobody: not a silent socket, not a connection without a request.
	p.OpenSilent()
	stopped := time.Now()
	p.Signal(syscall.SIGINT)
	for _, tb := range []*visitor.Tab{hostile[0], watching} {
		<-tb.Ended
		assert.EqualError(t, tb.Err(), "websocket: close 1001 (going away): the server is stopping")
		assert.Greater(t, time.Since(stopped), visitor.Drain/2, "the first half of the drain is for balancers")
	}
	assert.Greater(t, time.Since(stopped), visitor.Drain*3/4, "connections close one after the other")
	<-p.Exited
	assert.Zero(t, p.ExitCode())
	assert.Contains(t, p.Log(), `msg="message refused: not an action" left_out=3`)
	assert.NotContains(t, p.Log(), "level=ERROR")
}

// After a pause longer than the ping timeout, the program closes no connection.
func TestProgram_PausedClosesNobody(t *testing.T) {
	t.Parallel()
	p := visitor.Start(t)
	var tabs []*visitor.Tab
	for range 20 {
		tabs = append(tabs, visitor.New(t, p.URL).Open(visitor.CounterPage))
	}
	p.Signal(syscall.SIGSTOP)
	time.Sleep(wsconn.DefaultTimeout + time.Second)
	p.Signal(syscall.SIGCONT)
	tabs[0].Increment()
	for _, tb := range tabs {
		tb.Shows("Counter: 1 ")
		tb.Settle()
	}
	assert.Equal(t, len(tabs), p.Connections(visitor.CounterPage))
	assert.Empty(t, p.Said())
}

// In the first half of the drain only /readyz changes, so that a balancer can switch to
// other servers. A second signal ends the program at once, except HUP, which systemd may
// send right after TERM.
func TestStop_GivesABalancerTimeUntilASecondSignal(t *testing.T) {
	t.Parallel()
	for first, second := range map[syscall.Signal]syscall.Signal{
		syscall.SIGTERM: syscall.SIGINT, syscall.SIGINT: syscall.SIGTERM, syscall.SIGHUP: syscall.SIGTERM,
	} {
		t.Run(first.String(), func(t *testing.T) {
			t.Parallel()
			if signal.Ignored(first) {
				t.Skip("ignored here, as under nohup")
			}
			p := visitor.Start(t, "-drain", "1h", "-log-level", "error")
			v := visitor.New(t, p.URL)
			before := v.Open(visitor.CounterPage)
			p.Signal(first)
			require.Eventually(t, func() bool {
				resp, body := v.Send(http.MethodGet, "/readyz", "", "")
				return resp.StatusCode == http.StatusServiceUnavailable && body == "stopping\n"
			}, visitor.Soon, time.Millisecond)
			p.Signal(syscall.SIGHUP)
			assert.Equal(t, "ok ", v.Get("/healthz"))
			visitor.New(t, p.URL).Open(visitor.CounterPage).Increment()
			v.Click()
			before.Shows("Counter: 2")
			assert.NotZero(t, p.Stop(second))
			assert.Empty(t, p.Log(), "nothing is at the level error")
		})
	}
}

// startAfter runs the program from a shell, after a command.
func startAfter(t *testing.T, after string, args ...string) *visitor.Program {
	t.Helper()
	script := filepath.Join(t.TempDir(), "start")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\n"+after+"\nexec "+visitor.Build(t)+` "$@"`), 0o700))
	return visitor.StartExe(t, script, args...)
}

func TestStop_HangupIsIgnoredUnderNohup(t *testing.T) {
	t.Parallel()
	p := startAfter(t, "trap '' HUP", "-drain", "1s")
	p.Signal(syscall.SIGHUP)
	visitor.New(t, p.URL).Get("/")
	assert.Zero(t, p.Stop(syscall.SIGTERM), "this is the first signal")
}

func TestProgram_WarnsIfTheOpenFileLimitIsTooLow(t *testing.T) {
	t.Parallel()
	const most = 200
	for connections, want := range map[string]int{"100": 0, "200": 1} {
		p := startAfter(t, fmt.Sprint("ulimit -n ", most), "-max-connections", connections)
		assert.Equal(t, want, strings.Count(p.Said(), `level=WARN msg="fewer files may be open than -max-connections needs: `), connections)
	}
}

// A log that nobody reads blocks no request and no shutdown. Once it is read again, it
// says how many lines were dropped.
func TestLog_UnreadDoesNotBlockTheProgram(t *testing.T) {
	t.Parallel()
	const requests = 200
	long := "/" + strings.Repeat("x", 8<<10) // more in all than is buffered
	for _, reader := range []string{"gone", "stuck", "late"} {
		t.Run(reader, func(t *testing.T) {
			t.Parallel()
			read, write, err := os.Pipe()
			require.NoError(t, err)
			defer read.Close()
			cmd := exec.Command(visitor.Build(t), "-addr", "127.0.0.1:0", "-log-level", "debug", "-drain", "10ms")
			out, log := &visitor.Log{}, &visitor.Log{}
			cmd.Stdout, cmd.Stderr = out, write
			require.NoError(t, cmd.Start())
			defer cmd.Process.Kill()
			write.Close()
			require.Eventually(t, func() bool { return strings.HasSuffix(out.String(), "\n") }, visitor.Soon, time.Millisecond)
			if reader == "gone" {
				read.Close()
			}
			v := visitor.New(t, strings.TrimSpace(strings.TrimPrefix(out.String(), "Open ")))
			v.Client.Timeout = visitor.Soon
			for range requests {
				v.Send(http.MethodGet, long, "", "")
			}
			if reader == "late" {
				go io.Copy(log, read)
				dropped := regexp.MustCompile(`level=WARN msg="log lines were dropped: nobody has read them in time" dropped=(\d+)\n`)
				require.Eventually(t, func() bool { return dropped.MatchString(log.String()) }, visitor.Soon, time.Millisecond)
				missing, _ := strconv.Atoi(dropped.FindStringSubmatch(log.String())[1])
				assert.Equal(t, requests, missing+strings.Count(log.String(), "msg=request "))
			}
			cmd.Process.Signal(syscall.SIGTERM)
			assert.NoError(t, cmd.Wait())
		})
	}
}

func TestProgram_FlagsReachTheApp(t *testing.T) {
	t.Parallel()
	p := visitor.Start(t, "-allow-origin", "https://Friend.example:443/", "-allow-origin", "http://other.example:8080",
		"-trust-proxy", "-max-connections", "3", "-max-per-session", "2")
	alice, bob := visitor.New(t, p.URL), visitor.New(t, p.URL)
	alice.Get(visitor.CounterPage)
	bob.Get(visitor.CounterPage)
	own := "https://" + p.Addr() // TLS ends at the proxy
	for i, row := range []struct {
		who    *visitor.Visitor
		origin string
		want   int
	}{
		{alice, p.URL, http.StatusForbidden},
		{alice, "https://friend.example", http.StatusSwitchingProtocols},
		{alice, "http://other.example:8080", http.StatusSwitchingProtocols},
		{alice, own, http.StatusServiceUnavailable}, // the browser's third
		{bob, own, http.StatusSwitchingProtocols},
		{visitor.New(t, p.URL), own, http.StatusServiceUnavailable}, // the server's fourth
	} {
		_, resp := visitor.Knock(t, p.URL, visitor.CounterPage, http.Header{
			"Origin": {row.origin}, "X-Forwarded-Proto": {"https"}, "Cookie": {visitor.SessionCookie + "=" + row.who.Session()},
		})
		assert.Equal(t, row.want, resp.StatusCode, "row %d", i)
	}
	assert.Contains(t, p.Admin("/debug/pprof/goroutine?debug=1"), "goroutine profile")
}

// The program prints its address. It prints the one for phones unless visitors must come
// through a proxy.
func TestProgram_PrintsItsAddress(t *testing.T) {
	t.Parallel()
	everywhere, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	defer everywhere.Close()
	onPhone := `On a phone in the same network: http://\S+\n`
	if !strings.Contains(listen.Banner(":0", everywhere, false, nil), "phone") { // this machine is in no network
		onPhone = ""
	}
	socket := filepath.Join(t.TempDir(), "app.sock")
	for name, row := range map[string]struct {
		port     string
		args     []string
		out, log string
	}{
		"at PORT on all interfaces": {"0", nil, `^Open http://localhost:\d+\n` + onPhone + `$`, `msg="listening on all interfaces" port=\d+\n`},
		"at PORT behind a proxy":    {"0", []string{"-trust-proxy"}, `^Open http://localhost:\d+\n$`, `msg="listening on all interfaces"`},
		"where a flag says":         {"1", []string{"-addr", "127.0.0.1:0"}, `^Open http://127.0.0.1:\d+\n$`, `level=INFO msg="stopping: .*; Ctrl-C again ends it at once" within=\S+\n$`},
		"on a Unix socket":          {"1", []string{"-addr", "unix:" + socket}, `^Listening on unix:` + socket + `\n$`, `msg="stopping`},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(visitor.Build(t), append(row.args, "-drain", "10ms")...)
			cmd.Env = append(os.Environ(), "PORT="+row.port)
			out, log := &visitor.Log{}, &visitor.Log{}
			cmd.Stdout, cmd.Stderr = out, log
			require.NoError(t, cmd.Start())
			defer cmd.Process.Kill()
			said := regexp.MustCompile(row.out)
			assert.Eventually(t, func() bool { return said.MatchString(out.String()) }, visitor.Soon, time.Millisecond)
			require.Regexp(t, said, out.String())
			for i, url := range regexp.MustCompile(`(http:/|unix:)/\S+`).FindAllString(out.String(), -1) {
				tb := visitor.New(t, url).Open(visitor.CounterPage)
				tb.Increment()
				tb.Shows(fmt.Sprintf("Counter: %d ", i+1))
			}
			cmd.Process.Signal(syscall.SIGTERM)
			assert.NoError(t, cmd.Wait())
			assert.Regexp(t, said, out.String(), "nothing else is printed")
			assert.Regexp(t, row.log, log.String())
		})
	}
	assert.NoFileExists(t, socket)
}

func TestProgram_HelpAndVersion(t *testing.T) {
	t.Parallel()
	help, _, code := run(t, "REDIS_URL=redis://:secret@localhost:6379/0", "-h")
	assert.Zero(t, code)
	assert.NotContains(t, help, "secret")
	for _, want := range []string{"localhost:8080", "REDIS_URL", "text or json", "Limits:", "default 2s"} {
		assert.Contains(t, help, want)
	}
	const withoutDefault = 6 // -admin-addr, -allow-origin, -redis, -data and two switches
	assert.Len(t, firsts(`(\(default [^)]+\)\n)`, help), len(flagsOfProgram(t))-withoutDefault, "flags have their default")

	version, _, code := run(t, "", "-version")
	assert.Zero(t, code)
	assert.Regexp(t, `^realtime \S+, revision ([0-9a-f]{40}(\+dirty)?|unknown), built with go1\.\S+\n$`, version)
}

// run runs the program until it exits.
func run(t *testing.T, env string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), visitor.Soon)
	defer cancel()
	cmd := exec.CommandContext(ctx, visitor.Build(t), args...)
	cmd.Env = append(os.Environ(), env)
	var out, log strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &log
	cmd.Run()
	return out.String(), log.String(), cmd.ProcessState.ExitCode()
}

// If the program cannot start, it explains that in one line.
func TestProgram_ExplainsWhyItCannotStart(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	busy := listener.Addr().String()
	_, stderr, code := run(t, "PORT=", "-addr", ":")
	assert.Equal(t, 1, code)
	assert.Equal(t, "realtime: listen tcp: address :: missing port in address; want host:port, as in localhost:8080\n", stderr)
	for name, row := range map[string]struct {
		args     []string
		wantCode int
		want     string
	}{
		"unknown flag":             {[]string{"-colour", "red"}, 2, "-colour"},
		"unknown level":            {[]string{"-log-level", "loud"}, 2, "loud"},
		"stray argument":           {[]string{"8080"}, 2, `"8080"`},
		"an origin without scheme": {[]string{"-allow-origin", "example.com"}, 2, "-allow-origin"},
		"no connections":           {[]string{"-max-connections", "0"}, 2, "want a whole number above 0"},
		"a time without a unit":    {[]string{"-grace", "2"}, 2, "want a duration above 0, such as 2s"},
		"a budget above all":       {[]string{"-refresh-budget", "1.5"}, 2, "want a number above 0 and up to 1"},
		"pings that come too late": {[]string{"-addr", "127.0.0.1:0", "-ping", "7s"}, 2, "-ping-timeout 7s must be longer than -ping 7s: "},
		"a pattern of origins":     {[]string{"-allow-origin", "https://*.example.com"}, 2, "want an origin such as https://example.com"},
		"a PORT of words":          {nil, 2, "invalid value \"eighty\" for PORT: want a number up to 65535; run with -h for the flags"},
		"busy port":                {[]string{"-addr", busy}, 1, "address already in use; choose another with -addr (make run ADDR=localhost:8081)"},
		"busy admin port":          {[]string{"-addr", "127.0.0.1:0", "-log-level", "warn", "-admin-addr", busy}, 1, "address already in use; choose another with -admin-addr"},
		"address, no port":         {[]string{"-addr", "localhost"}, 1, "missing port"},
		"data in a directory":      {[]string{"-addr", "127.0.0.1:0", "-log-level", "warn", "-data", t.TempDir()}, 1, "is a directory"},
		"redis is not there":       {[]string{"-addr", "127.0.0.1:0", "-log-level", "warn", "-redis", "redis://127.0.0.1:1/0"}, 1, "redis at 127.0.0.1:1: dial tcp 127.0.0.1:1: connect"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, code := run(t, "PORT=eighty", row.args...)
			assert.Equal(t, row.wantCode, code)
			assert.Regexp(t, `^realtime: .*`+regexp.QuoteMeta(row.want)+`.*\n$`, stderr, "one line")
			assert.Empty(t, stdout)
		})
	}
}

// After a restart the counter continues, even with a Redis that is new to it.
func TestProgram_KeepsTheCounterInItsFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "counts")
	p := visitor.Start(t, "-drain", "10ms", "-data", file)
	visitor.New(t, p.URL).Click()
	assert.Zero(t, p.Stop(syscall.SIGTERM))

	p = visitor.Start(t, "-drain", "10ms", "-data", file)
	visitor.New(t, p.URL).Click()
	assert.Contains(t, visitor.New(t, p.URL).Get(visitor.CounterPage), "Counter: 2 ")
	assert.Zero(t, p.Stop(syscall.SIGTERM))

	redis := visitor.NewRedis(t)
	for _, args := range [][]string{{"-data", file}, nil} {
		server := visitor.Serve(t, append(args, "-redis", redis.URL)...)
		assert.Contains(t, visitor.New(t, server).Get(visitor.CounterPage), "Counter: 2 ")
	}
}
