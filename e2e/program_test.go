package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/phone"
	"realtime/internal/site"
	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// The built program, as an operator starts and stops it.
func TestProgram(t *testing.T) {
	t.Parallel()
	exe := visitor.Build(t)
	quickStop := []string{"-drain", "10ms"}

	t.Run("runs from any directory and logs nothing about a visit", func(t *testing.T) {
		p := visitor.StartExe(t, exe, quickStop...)
		assert.Empty(t, usePages(t, p))
		assert.Equal(t, 0, p.Stop(syscall.SIGTERM))
		assert.NotContains(t, p.Log(), "level=WARN")
		assert.NotContains(t, p.Log(), "level=ERROR")
	})

	t.Run("logs nothing about a crowd that comes and goes", func(t *testing.T) {
		p := visitor.StartExe(t, exe)
		visitor.ComeAndGo(t, p.URL, 400)
		visitor.New(t, p.URL).Open(visitor.PresencePage).Shows(" 0 user(s) online")
		assert.Empty(t, p.Said())
	})

	t.Run("counts what it leaves out of the log, until it stops", func(t *testing.T) {
		p := visitor.StartExe(t, exe, quickStop...)
		for range site.RepeatsLogged + 3 {
			tb := visitor.New(t, p.URL).Open(visitor.CounterPage)
			require.NoError(t, tb.WS.WriteMessage(websocket.TextMessage, []byte("no action")))
			tb.Settle()
		}
		assert.Equal(t, site.RepeatsLogged, strings.Count(p.Log(), "not an action"))
		assert.Equal(t, 0, p.Stop(syscall.SIGTERM))
		assert.Contains(t, p.Log(), `msg="message refused: not an action" left_out=3`)
	})

	t.Run("logs visits at debug level, without the session cookie", func(t *testing.T) {
		p := visitor.StartExe(t, exe, "-log-level", "debug")
		log := usePages(t, p)
		assert.Contains(t, log, `level=DEBUG msg="Client connected"`)
		assert.Contains(t, log, `level=DEBUG msg="Client disconnected"`)
		assert.NotContains(t, log, "level=INFO")
		assert.NotContains(t, p.Log(), "group_id")
	})

	t.Run("logs JSON, from the level that is asked for", func(t *testing.T) {
		p := visitor.StartExe(t, exe, append(quickStop, "-log-format", "json", "-log-level", "debug")...)
		usePages(t, p)
		assert.Equal(t, 0, p.Stop(syscall.SIGTERM))
		lines := strings.Split(strings.TrimSpace(p.Log()), "\n")
		for _, line := range lines {
			assert.True(t, json.Valid([]byte(line)), "not JSON: %s", line)
		}
		assert.Regexp(t, `"level":"DEBUG","msg":"request","method":"GET","path":"/","status":200,"took":"[0-9.]+µ?m?s"`, p.Log())

		p = visitor.StartExe(t, exe, append(quickStop, "-log-level", "error")...)
		assert.Equal(t, 0, p.Stop(syscall.SIGTERM))
		assert.Empty(t, p.Log())
	})

	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run("closes live sockets properly and exits with 0 on "+signal.String(), func(t *testing.T) {
			p := visitor.StartExe(t, exe)
			tabs := []*visitor.Tab{visitor.New(t, p.URL).Open(visitor.CounterPage), visitor.New(t, p.URL).Open(visitor.PresencePage)}
			tabs[1].Join("Alice")
			tabs[1].Shows("Logged in as Alice")

			assert.Equal(t, 0, p.Stop(signal))
			for _, tb := range tabs {
				<-tb.Ended
				assert.True(t, websocket.IsCloseError(tb.Err(), websocket.CloseGoingAway), "closed with: %v", tb.Err())
			}
		})
	}

	t.Run("a change just before the stop reaches every tab", func(t *testing.T) {
		p := visitor.StartExe(t, exe)
		tabs := make([]*visitor.Tab, 50)
		for i := range tabs {
			tabs[i] = visitor.New(t, p.URL).Open(visitor.CounterPage)
		}
		for range 5 { // all but the first have to wait for the end of an interval
			tabs[0].Increment()
		}
		tabs[0].Shows("Counter: 5")
		assert.Equal(t, 0, p.Stop(syscall.SIGTERM))
		for _, tb := range tabs {
			<-tb.Ended
			assert.Contains(t, visitor.Readable(tb.HTML()), "Counter: 5")
		}
	})

	t.Run("stops although a peer never answers", func(t *testing.T) {
		p := visitor.StartExe(t, exe)
		deaf, err := visitor.New(t, p.URL).Dial(visitor.CounterPage)
		require.NoError(t, err)
		defer deaf.Close()
		idle, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
		require.NoError(t, err)
		defer idle.Close()
		assert.Equal(t, 0, p.Stop(syscall.SIGTERM))
	})

	t.Run("its flags reach the app", func(t *testing.T) {
		p := visitor.StartExe(t, exe, "-allow-origin", "https://friend.example", "-allow-origin", "http://other.example:8080",
			"-trust-proxy", "-max-connections", "3", "-max-per-session", "2", "-admin-addr", "127.0.0.1:0")
		connect := func(v *visitor.Visitor, origin string) int {
			_, resp := visitor.Knock(t, p.URL, visitor.CounterPage, http.Header{"Origin": {origin}, "Cookie": {visitor.SessionCookie + "=" + v.Session()}})
			return resp.StatusCode
		}
		alice, bob := visitor.New(t, p.URL), visitor.New(t, p.URL)
		alice.Get(visitor.CounterPage)
		bob.Get(visitor.CounterPage)
		assert.Equal(t, http.StatusForbidden, connect(alice, "https://evil.example"))
		assert.Equal(t, http.StatusSwitchingProtocols, connect(alice, "https://friend.example"))
		assert.Equal(t, http.StatusSwitchingProtocols, connect(alice, "http://other.example:8080"))
		assert.Equal(t, http.StatusServiceUnavailable, connect(alice, p.URL), "the third of one browser")
		assert.Equal(t, http.StatusSwitchingProtocols, connect(bob, p.URL))
		assert.Equal(t, http.StatusServiceUnavailable, connect(visitor.New(t, p.URL), p.URL), "the fourth of all")
		req, err := http.NewRequest(http.MethodGet, p.URL+visitor.CounterPage, nil)
		require.NoError(t, err)
		req.Header.Set("X-Forwarded-Proto", "https")
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		assert.NotEmpty(t, resp.Header.Get("Strict-Transport-Security"))
		assert.EqualValues(t, 3, p.Metrics()["realtime_connections"])
		assert.Contains(t, p.Admin("/debug/pprof/goroutine?debug=1"), "goroutine profile")
		assert.Contains(t, p.Log(), `remote_addr=127.0.0.1:`)
	})

	t.Run("-h explains each flag", func(t *testing.T) {
		cmd := exec.Command(exe, "-h")
		cmd.Env = append(os.Environ(), "REDIS_URL=redis://:secret@localhost:6379/0")
		out, err := cmd.Output()
		require.NoError(t, err)
		assert.NotContains(t, string(out), "secret")
		for _, want := range []string{"-addr", "localhost:8080", "-redis", "REDIS_URL", "-log-level", "-log-format", "text or json", "Limits:", "-grace", "-ping", "-drain", "default 2s"} {
			assert.Contains(t, string(out), want)
		}
		flags := regexp.MustCompile(`(?m)^  -[a-z-]+`).FindAllString(string(out), -1)
		assert.Greater(t, len(flags), 15)
		assert.Len(t, regexp.MustCompile(`\(default [^)]+\)\n`).FindAllString(string(out), -1), len(flags), "every flag has its default")
	})

	t.Run("-version says what was built", func(t *testing.T) {
		out, err := exec.Command(exe, "-version").Output()
		require.NoError(t, err)
		assert.Regexp(t, `^realtime \S+, revision ([0-9a-f]{40}(\+dirty)?|unknown), built with go1\.\S+\n$`, string(out))
	})

	t.Run("listens on all interfaces at PORT, unless a flag says where", func(t *testing.T) {
		start := func(port string, args ...string) (address, log string, code int) {
			cmd := exec.CommandContext(t.Context(), exe, append(quickStop, args...)...)
			cmd.Env = append(os.Environ(), "PORT="+port)
			said := &visitor.Log{}
			cmd.Stderr = said
			stdout, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			address, _ = bufio.NewReader(stdout).ReadString('\n')
			if address != "" {
				resp, err := http.Get(strings.TrimSpace(strings.TrimPrefix(address, "Open ")) + "/healthz")
				if assert.NoError(t, err) {
					resp.Body.Close()
				}
				cmd.Process.Signal(syscall.SIGTERM)
			}
			cmd.Wait()
			return address, said.String(), cmd.ProcessState.ExitCode()
		}
		address, log, code := start("0")
		assert.Regexp(t, `^Open http://localhost:\d+\n$`, address)
		assert.Regexp(t, `msg="listening on all interfaces" port=\d+`, log)
		assert.Zero(t, code)

		address, log, code = start("1", "-addr", "127.0.0.1:0")
		assert.Regexp(t, `^Open http://127.0.0.1:\d+\n$`, address)
		assert.NotContains(t, log, "all interfaces")
		assert.Zero(t, code)

		_, log, code = start("eighty")
		assert.Equal(t, "realtime: invalid value \"eighty\" for PORT: want a number up to 65535; run with -h for the flags\n", log)
		assert.Equal(t, 2, code)
	})

	t.Run("listens on a Unix socket", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "app.sock")
		p := visitor.StartExe(t, exe, append(quickStop, "-addr", "unix:"+path)...)
		assert.Equal(t, "unix:"+path, p.URL)
		alice, bob := visitor.New(t, p.URL), visitor.New(t, p.URL)
		one, other := alice.Open(visitor.CounterPage), bob.Open(visitor.CounterPage)
		one.Increment()
		other.Shows("Counter: 1 ")
		bob.Click()
		one.Shows("Counter: 2 ")
		alice.Open(visitor.PresencePage).Join("Alice")
		bob.Open(visitor.PresencePage).Shows("1 user(s) online")
		_, err := alice.DialFrom("https://evil.example", visitor.CounterPage)
		assert.ErrorIs(t, err, websocket.ErrBadHandshake)
		assert.Contains(t, p.Log(), "remote_addr=@")

		out, err := exec.Command(exe, "-addr", "unix:"+path).CombinedOutput()
		assert.Error(t, err)
		assert.Equal(t, "realtime: listen unix "+path+": the socket is in use\n", string(out))
		bob.Click()
		one.Shows("Counter: 3 ")
		assert.Equal(t, 0, p.Stop(syscall.SIGTERM))
		assert.NoFileExists(t, path)

		visitor.StartExe(t, exe, "-addr", "unix:"+path).Kill()
		assert.FileExists(t, path)
		again := visitor.StartExe(t, exe, "-addr", "unix:"+path)
		assert.Contains(t, visitor.New(t, again.URL).Get(visitor.CounterPage), "Counter: 0 ")
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
		"no connections":           {[]string{"-max-connections", "0"}, 2, "want a whole number above 0"},
		"no number":                {[]string{"-max-per-session", "many"}, 2, "want a whole number above 0"},
		"a time without a unit":    {[]string{"-grace", "2"}, 2, "want a duration above 0, such as 2s"},
		"a budget above all":       {[]string{"-refresh-budget", "1.5"}, 2, "want a number above 0 and up to 1"},
		"busy admin port":          {[]string{"-addr", "127.0.0.1:0", "-log-level", "warn", "-admin-addr", busy.Addr().String()}, 1, "address already in use"},
		"busy port":                {[]string{"-addr", busy.Addr().String()}, 1, "address already in use"},
		"redis at no address":      {[]string{"-redis", "localhost:6379"}, 1, "want redis://HOST:PORT/0"},
		"address, no port":         {[]string{"-addr", "localhost"}, 1, "missing port"},
	} {
		t.Run(name+" is one clear line", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), visitor.Soon)
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

// Somebody with a phone types the address that the program says, or scans it.
func TestProgram_TellsPhonesItsAddress(t *testing.T) {
	t.Parallel()
	exe := visitor.Build(t)
	everywhere, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	defer everywhere.Close()
	if phone.URL(everywhere) == "" {
		visitor.Missing(t, "this machine is in no network")
	}
	if _, err := exec.LookPath("script"); err != nil {
		visitor.Missing(t, "no script, which makes a terminal: install bsdutils")
	}
	const (
		open    = `^Open (http://localhost:\d+)\n`
		onPhone = `On a phone in the same network: (http://\S+)\n`
		code    = `(?:\x1b\[38;5;16;48;5;231m[█▀▄ ]{33,41}\x1b\[0m\n){17,21}`
	)
	for name, row := range map[string]struct {
		args     string
		terminal bool
		want     string
	}{
		"on all interfaces":                  {"-addr :0", false, open + onPhone},
		"on all interfaces, in a terminal":   {"-addr 0.0.0.0:0", true, open + onPhone + code},
		"on localhost":                       {"-addr localhost:0", false, open},
		"on localhost, in a terminal":        {"-addr localhost:0", true, open},
		"for a trusted proxy":                {"-addr :0 -trust-proxy", false, open},
		"for a trusted proxy, in a terminal": {"-addr :0 -trust-proxy", true, open},
	} {
		t.Run(name, func(t *testing.T) {
			command := "exec " + exe + " -log-level error -drain 10ms " + row.args
			cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
			if row.terminal {
				cmd = exec.CommandContext(t.Context(), "script", "-qec", command, os.DevNull)
			}
			said := &visitor.Log{}
			cmd.Stdout = said
			keyboard, err := cmd.StdinPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			lines := func() string { return strings.ReplaceAll(said.String(), "\r\n", "\n") }
			var urls []string
			assert.Eventually(t, func() bool {
				urls = regexp.MustCompile(row.want + "$").FindStringSubmatch(lines())
				return urls != nil
			}, visitor.Soon, time.Millisecond)
			require.Regexp(t, row.want+"$", lines())
			if len(urls) > 2 {
				desk, mobile := visitor.New(t, urls[1]).Open(visitor.CounterPage), browser.New(t).Open(urls[2]+visitor.CounterPage)
				mobile.ExpectErrors("net::ERR_") // of a server that has stopped
				mobile.ExpectErrors("503")       // and of one that stops
				desk.Increment()
				mobile.Shows("Counter: 1")
				mobile.Click("increment")
				desk.Shows("Counter: 2")
			}
			if row.terminal {
				io.WriteString(keyboard, "\x03") // Ctrl-C
			} else {
				cmd.Process.Signal(syscall.SIGTERM)
			}
			assert.NoError(t, cmd.Wait())
			assert.Regexp(t, row.want+`(?:\^C)?$`, lines(), "nothing more, except for the key")
		})
	}
}

// usePages uses the pages, closes one tab as a browser does and one without a close
// frame, and returns the log when the program has noticed both.
func usePages(t *testing.T, p *visitor.Program) string {
	t.Helper()
	v := visitor.New(t, p.URL)
	counter, presence, watching := v.Open(visitor.CounterPage), v.Open(visitor.PresencePage), v.Open(visitor.PresencePage)
	counter.Increment()
	counter.Shows("Counter: 1")
	presence.Join("Alice")
	watching.Shows("1 user(s) online")
	assert.Contains(t, v.Get("/"), "Presence Tracking")
	resp, _ := v.Send("GET", "/static/app.css", "", "")
	assert.Equal(t, 200, resp.StatusCode)

	goingAway := websocket.FormatCloseMessage(websocket.CloseGoingAway, "")
	assert.NoError(t, presence.WS.WriteMessage(websocket.CloseMessage, goingAway))
	counter.Close()
	watching.Shows("0 user(s) online")
	assert.NotContains(t, p.Log(), resp.Request.Cookies()[0].Value, "the session cookie is nobody else's business")
	return p.Said()
}

// In the first half of the drain time only /readyz changes.
func TestStop_GivesABalancerTime(t *testing.T) {
	t.Parallel()
	p := visitor.Start(t, "-drain", "5s")
	v := visitor.New(t, p.URL)
	before, peer := v.Open(visitor.CounterPage), visitor.New(t, p.URL).Open(visitor.CounterPage)
	p.Signal(syscall.SIGTERM)
	began := time.Now()
	p.IsStopping("/readyz")

	assert.Equal(t, "ok ", v.Get("/healthz"))
	late := visitor.New(t, p.URL).Open(visitor.CounterPage)
	late.Increment()
	v.Click()
	for _, tb := range []*visitor.Tab{before, peer, late} {
		tb.Shows("Counter: 2")
	}
	assert.Equal(t, "ok ", v.Get("/healthz"))
	require.Less(t, time.Since(began), 2500*time.Millisecond, "the machine is too slow for this test")

	p.IsStopping("/healthz")
	assert.GreaterOrEqual(t, time.Since(began), 2400*time.Millisecond)
	for _, tb := range []*visitor.Tab{before, peer, late} {
		<-tb.Ended
		assert.True(t, websocket.IsCloseError(tb.Err(), websocket.CloseGoingAway), "closed with: %v", tb.Err())
	}
	assert.Greater(t, time.Since(began), 4500*time.Millisecond, "the last one")
	exits(t, p, began.Add(8*time.Second))
}

// In the second half the connections end.
func TestStop_TellsEverybodyOneAfterTheOther(t *testing.T) {
	const tabs = 20
	exe := visitor.Build(t)
	p := visitor.StartExe(t, exe)
	v := visitor.New(t, p.URL)
	var open []*visitor.Tab
	for range tabs {
		open = append(open, visitor.New(t, p.URL).Open(visitor.CounterPage))
	}
	p.Signal(syscall.SIGTERM)
	began := time.Now()
	closed := make(chan time.Duration, tabs)
	for _, tb := range open {
		go func() {
			<-tb.Ended
			closed <- time.Since(began)
		}()
	}
	p.IsStopping("/healthz")
	resp, _ := v.Send(http.MethodGet, "/readyz", "", "")
	assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	_, resp = visitor.Knock(t, p.URL, visitor.CounterPage, nil)
	assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)

	var at []time.Duration
	for range tabs {
		at = append(at, <-closed)
	}
	slices.Sort(at)
	t.Logf("closed after %v to %v", at[0], at[tabs-1])
	assert.Greater(t, at[0], visitor.Drain/2)
	assert.Greater(t, at[tabs-1]-at[0], visitor.Drain/4)
	for _, tb := range open {
		assert.True(t, websocket.IsCloseError(tb.Err(), websocket.CloseGoingAway), "closed with: %v", tb.Err())
	}
	exits(t, p, began.Add(5*time.Second))
	assert.Equal(t, 1, strings.Count(p.Said(), "level=INFO"), p.Log())
}

// exits waits until a program has exited with 0.
func exits(t *testing.T, p *visitor.Program, before time.Time) {
	t.Helper()
	select {
	case <-p.Exited:
		assert.Equal(t, 0, p.ExitCode())
	case <-time.After(time.Until(before)):
		require.Fail(t, "still running")
	}
}

// The first signal lets the program stop in its own time. The second one ends it.
func TestStop_SecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			p := visitor.Start(t, "-drain", "1h")
			deaf, err := visitor.New(t, p.URL).Dial(visitor.CounterPage)
			require.NoError(t, err)
			defer deaf.Close()
			p.Signal(syscall.SIGTERM)
			p.IsStopping("/readyz")
			p.Signal(signal)
			select {
			case <-p.Exited:
				assert.NotZero(t, p.ExitCode())
			case <-time.After(visitor.Soon):
				require.Fail(t, "still running")
			}
		})
	}
}

// The limits of a request hold for what the program serves.
func TestProgram_CutsSlowRequests(t *testing.T) {
	t.Parallel()
	p := visitor.Start(t)
	for name, row := range map[string]struct {
		sent   string
		within time.Duration
		want   string
	}{
		"a slow header":     {"GET / HTTP/1.1\r\nHost: x\r\n", 7 * time.Second, ""},
		"a slow body":       {"POST " + visitor.CounterPage + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nincr", 13 * time.Second, "408 Request Timeout"},
		"a huge header":     {"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + strings.Repeat("x", 32<<10) + "\r\n\r\n", 2 * time.Second, "431 Request Header Fields Too Large"},
		"a huge body":       {"POST " + visitor.CounterPage + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n" + strings.Repeat("x", 64<<10), 4 * time.Second, "413 Request Entity Too Large"},
		"without a request": {"", 7 * time.Second, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
			require.NoError(t, err)
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(row.within))
			go io.WriteString(conn, row.sent)
			answer, err := io.ReadAll(conn)
			assert.False(t, errors.Is(err, os.ErrDeadlineExceeded), "still open after %v", row.within)
			assert.Contains(t, string(answer), row.want)
		})
	}
}
