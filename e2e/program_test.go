package e2e

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
)

// One run of the program with its defaults, from any directory, from its start to its
// stop.
func TestProgram(t *testing.T) {
	t.Parallel()
	p := visitor.Start(t)
	watching := visitor.New(t, p.URL).Open(visitor.PresencePage)

	// People use the pages. One tab closes as a browser closes it, and one without a word.
	v := visitor.New(t, p.URL)
	counter, presence := v.Open(visitor.CounterPage), v.Open(visitor.PresencePage)
	counter.Increment()
	counter.Shows("Counter: 1")
	presence.Join("Alice")
	watching.Shows("1 user(s) online")
	assert.Contains(t, v.Get("/"), "Presence Tracking")
	assert.NoError(t, presence.WS.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, "")))
	counter.Close()
	watching.Shows("0 user(s) online")

	// Crowds come and go. Nothing is left of them.
	p.ForgetsVisits(100, 400)
	watching.Shows(" 0 user(s) online")
	assert.Empty(t, p.Said(), "the log says nothing of visits")

	// What repeats is logged a few times, and then counted.
	var hostile *visitor.Tab
	for range site.RepeatsLogged + 3 {
		hostile = visitor.New(t, p.URL).Open(visitor.CounterPage)
		assert.NoError(t, hostile.WS.WriteMessage(websocket.TextMessage, []byte("no action")))
		hostile.Settle()
	}
	assert.Equal(t, site.RepeatsLogged, strings.Count(p.Log(), "not an action"))

	// The stop waits for nobody: a socket that never answers, a connection without a
	// request.
	deaf, err := visitor.New(t, p.URL).Dial(visitor.CounterPage)
	require.NoError(t, err)
	defer deaf.Close()
	idle, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	defer idle.Close()
	watching.Join("Bob")
	watching.Shows("Logged in as Bob")
	stopped := time.Now()
	p.Signal(syscall.SIGINT)
	for _, tb := range []*visitor.Tab{hostile, watching} {
		<-tb.Ended
		assert.EqualError(t, tb.Err(), "websocket: close 1001 (going away): the server is stopping")
		assert.Greater(t, time.Since(stopped), visitor.Drain/2, "the first half of the time is for balancers")
	}
	assert.Greater(t, time.Since(stopped), visitor.Drain*3/4, "connections end one after the other")
	<-p.Exited
	assert.Zero(t, p.ExitCode())
	assert.Contains(t, p.Log(), `msg="message refused: not an action" left_out=3`)
	assert.Equal(t, 1, strings.Count(p.Log(), "msg=stopping"), p.Log())
	assert.NotContains(t, p.Log(), "level=ERROR")
}

// In the first half of the drain time only /readyz changes, so that a balancer can turn
// to other servers. A second signal ends the program at once.
func TestStop_GivesABalancerTimeUntilASecondSignal(t *testing.T) {
	t.Parallel()
	for first, second := range map[syscall.Signal]syscall.Signal{syscall.SIGTERM: syscall.SIGINT, syscall.SIGINT: syscall.SIGTERM} {
		t.Run(first.String(), func(t *testing.T) {
			t.Parallel()
			p := visitor.Start(t, "-drain", "1h", "-log-level", "error")
			v := visitor.New(t, p.URL)
			before := v.Open(visitor.CounterPage)
			p.Signal(first)
			require.Eventually(t, func() bool {
				resp, body := v.Send(http.MethodGet, "/readyz", "", "")
				return resp.StatusCode == http.StatusServiceUnavailable && body == "stopping\n"
			}, visitor.Soon, time.Millisecond)

			assert.Equal(t, "ok ", v.Get("/healthz"))
			late := visitor.New(t, p.URL).Open(visitor.CounterPage)
			late.Increment()
			v.Click()
			before.Shows("Counter: 2")
			late.Shows("Counter: 2")

			assert.NotZero(t, p.Stop(second))
			assert.Empty(t, p.Log(), "below the level that was asked for")
		})
	}
}

func TestProgram_FlagsReachTheApp(t *testing.T) {
	t.Parallel()
	p := visitor.Start(t, "-allow-origin", "https://friend.example", "-allow-origin", "http://other.example:8080",
		"-trust-proxy", "-max-connections", "3", "-max-per-session", "2")
	alice, bob := visitor.New(t, p.URL), visitor.New(t, p.URL)
	alice.Get(visitor.CounterPage)
	bob.Get(visitor.CounterPage)
	for i, row := range []struct {
		who    *visitor.Visitor
		origin string
		want   int
	}{
		{alice, "https://evil.example", http.StatusForbidden},
		{alice, "https://friend.example", http.StatusSwitchingProtocols},
		{alice, "http://other.example:8080", http.StatusSwitchingProtocols},
		{alice, p.URL, http.StatusServiceUnavailable}, // the third of one browser
		{bob, p.URL, http.StatusSwitchingProtocols},
		{visitor.New(t, p.URL), p.URL, http.StatusServiceUnavailable}, // the fourth of all
	} {
		cookie := visitor.SessionCookie + "=" + row.who.Session()
		_, resp := visitor.Knock(t, p.URL, visitor.CounterPage, http.Header{"Origin": {row.origin}, "Cookie": {cookie}})
		assert.Equal(t, row.want, resp.StatusCode, "row %d", i)
	}
	req, err := http.NewRequest(http.MethodGet, p.URL+visitor.CounterPage, nil)
	require.NoError(t, err)
	req.Header.Set("X-Forwarded-Proto", "https")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	assert.NotEmpty(t, resp.Header.Get("Strict-Transport-Security"))
	assert.Equal(t, 3, p.Connections(visitor.CounterPage))
	assert.Contains(t, p.Admin("/debug/pprof/goroutine?debug=1"), "goroutine profile")
}

// Where the program listens, and what it says about that. The address for phones is for
// whoever may come without the proxy.
func TestProgram_SaysWhereItListens(t *testing.T) {
	t.Parallel()
	exe := visitor.Build(t)
	everywhere, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	defer everywhere.Close()
	onPhone := `On a phone in the same network: http://\S+\n`
	if phone.URL(everywhere) == "" { // this machine is in no network
		onPhone = ""
	}
	for name, row := range map[string]struct {
		port     string
		args     []string
		out, log string
	}{
		"at PORT on all interfaces": {"0", nil, `^Open http://localhost:\d+\n` + onPhone + `$`, `msg="listening on all interfaces" port=\d+\n`},
		"at PORT behind a proxy":    {"0", []string{"-trust-proxy"}, `^Open http://localhost:\d+\n$`, `msg="listening on all interfaces"`},
		"where a flag says":         {"1", []string{"-addr", "127.0.0.1:0"}, `^Open http://127.0.0.1:\d+\n$`, `^\S+ level=INFO msg=stopping \S+\n$`},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(exe, append(row.args, "-drain", "10ms")...)
			cmd.Env = append(os.Environ(), "PORT="+row.port)
			out, log := &visitor.Log{}, &visitor.Log{}
			cmd.Stdout, cmd.Stderr = out, log
			require.NoError(t, cmd.Start())
			defer cmd.Process.Kill()
			said := regexp.MustCompile(row.out)
			assert.Eventually(t, func() bool { return said.MatchString(out.String()) }, visitor.Soon, time.Millisecond)
			require.Regexp(t, said, out.String())
			for _, url := range regexp.MustCompile(`http://\S+`).FindAllString(out.String(), -1) {
				assert.Contains(t, visitor.New(t, url).Get(visitor.CounterPage), "Counter: 0 ")
			}
			cmd.Process.Signal(syscall.SIGTERM)
			assert.NoError(t, cmd.Wait())
			assert.Regexp(t, said, out.String(), "nothing more")
			assert.Regexp(t, row.log, log.String())
		})
	}
}

func TestProgram_ListensOnAUnixSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "app.sock")
	p := visitor.Start(t, "-drain", "10ms", "-addr", "unix:"+path)
	assert.Equal(t, "unix:"+path, p.URL)
	alice, bob := visitor.New(t, p.URL), visitor.New(t, p.URL)
	one, other := alice.Open(visitor.CounterPage), bob.Open(visitor.CounterPage)
	one.Increment()
	other.Shows("Counter: 1 ")
	bob.Click()
	one.Shows("Counter: 2 ")
	_, err := alice.DialFrom("https://evil.example", visitor.CounterPage)
	assert.ErrorIs(t, err, websocket.ErrBadHandshake)
	assert.Contains(t, p.Log(), "remote_addr=@")

	assert.Equal(t, 0, p.Stop(syscall.SIGTERM))
	assert.NoFileExists(t, path)
}

func TestProgram_ExplainsItself(t *testing.T) {
	t.Parallel()
	exe := visitor.Build(t)
	help := exec.Command(exe, "-h")
	help.Env = append(os.Environ(), "REDIS_URL=redis://:secret@localhost:6379/0")
	out, err := help.Output()
	require.NoError(t, err)
	assert.NotContains(t, string(out), "secret")
	for _, want := range []string{"localhost:8080", "REDIS_URL", "text or json", "Limits:", "default 2s"} {
		assert.Contains(t, string(out), want)
	}
	flags := regexp.MustCompile(`(?m)^  -[a-z-]+`).FindAllString(string(out), -1)
	assert.Greater(t, len(flags), 15)
	assert.Len(t, regexp.MustCompile(`\(default [^)]+\)\n`).FindAllString(string(out), -1), len(flags), "every flag has its default")

	out, err = exec.Command(exe, "-version").Output()
	require.NoError(t, err)
	assert.Regexp(t, `^realtime \S+, revision ([0-9a-f]{40}(\+dirty)?|unknown), built with go1\.\S+\n$`, string(out))
}

// What the program cannot do it says in one clear line.
func TestProgram_SaysWhyItCannotStart(t *testing.T) {
	t.Parallel()
	exe := visitor.Build(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	busy := listener.Addr().String()
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
		"a PORT of words":          {nil, 2, "invalid value \"eighty\" for PORT: want a number up to 65535; run with -h for the flags"},
		"busy admin port":          {[]string{"-addr", "127.0.0.1:0", "-log-level", "warn", "-admin-addr", busy}, 1, "address already in use"},
		"address, no port":         {[]string{"-addr", "localhost"}, 1, "missing port"},
		"redis is not there":       {[]string{"-addr", "127.0.0.1:0", "-redis", "redis://127.0.0.1:1/0"}, 1, "redis at 127.0.0.1:1: dial tcp 127.0.0.1:1: connect"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), visitor.Soon)
			defer cancel()
			cmd := exec.CommandContext(ctx, exe, row.args...)
			cmd.Env = append(os.Environ(), "PORT=eighty")
			var stdout, stderr strings.Builder
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			cmd.Run()
			assert.Equal(t, row.wantCode, cmd.ProcessState.ExitCode())
			assert.Regexp(t, `^realtime: .*`+regexp.QuoteMeta(row.want)+`.*\n$`, stderr.String(), "one line")
			assert.Empty(t, stdout.String())
		})
	}
}
