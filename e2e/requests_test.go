package e2e

import (
	"bufio"
	"context"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

func TestLivePages_TabsOfOneBrowserWithoutSocketsStayApart(t *testing.T) {
	v := visitor.New(t, visitor.Serve(t))
	v.Get(visitor.PresencePage) // for its cookie
	hostile := []string{`Alice`, `onfocus=alert(1)`, `" onfocus="alert(1)`, `x`, `true`}
	join := func(tb *visitor.RequestTab, i int) {
		name := hostile[i%len(hostile)]
		tb.Act("join", map[string]any{"username": name})
		assert.Contains(t, tb.HTML(), `id="username" name="username" value="`+template.HTMLEscapeString(name)+`" placeholder=`)
		assert.Contains(t, tb.Text(), visitor.NotLive)
	}

	first, second := v.OpenWithoutSocket(visitor.PresencePage), v.OpenWithoutSocket(visitor.PresencePage)
	for i := range 20 { // in turn
		join(first, i)
		second.Act("presenceChanged", nil)
		assert.NotContains(t, second.Text(), visitor.NotLive)
		join(second, i+1)
		first.Act("leave", nil)
		assert.NotContains(t, first.Text(), visitor.NotLive)
		resp, _ := v.Post(visitor.PresencePage, url.Values{"username": {"Carol"}, "join": {""}}) // and one without scripts
		assert.Equal(t, http.StatusOK, resp.StatusCode)
	}
	var tabs sync.WaitGroup
	for i, tb := range []*visitor.RequestTab{first, second} { // at once
		tabs.Go(func() {
			for j := range 30 {
				join(tb, i+j)
			}
		})
	}
	tabs.Wait()

	one, two := v.OpenWithoutSocket(visitor.CounterPage), v.OpenWithoutSocket(visitor.CounterPage)
	for i := range 10 {
		one.Act("increment", nil)
		assert.Contains(t, one.Text(), fmt.Sprintf("Counter: %d ", 2*i+1))
		two.Act("increment", nil)
		assert.Contains(t, two.Text(), fmt.Sprintf("Counter: %d ", 2*i+2))
	}
}

// Two visitors with the same made-up session do not share it.
func TestSession_ThatIsMadeUpIsNotShared(t *testing.T) {
	for cookie, users := range map[string]int{"admin": 2, visitor.MadeUpSession(): 1} {
		server := visitor.Serve(t)
		for range 2 {
			ws, _ := visitor.Knock(t, server, visitor.PresencePage, http.Header{"Cookie": {visitor.SessionCookie + "=" + cookie}})
			require.NotNil(t, ws)
			require.NoError(t, visitor.Act(ws, "join", map[string]any{"username": "Alice"}))
			for range 2 {
				_, _, err := ws.ReadMessage() // the page, and that it has joined
				require.NoError(t, err)
			}
		}
		assert.Contains(t, visitor.New(t, server).Get(visitor.PresencePage), fmt.Sprintf("%d user(s) online", users), cookie)
	}
}

// An action that changes nothing for others publishes nothing.
func TestPublish_OnlyWhatHasChanged(t *testing.T) {
	t.Parallel()
	p := visitor.Start(t)
	tb, plain := visitor.New(t, p.URL).Open(visitor.PresencePage), visitor.New(t, p.URL)
	plain.Post(visitor.PresencePage, url.Values{"username": {"Alice"}, "join": {""}})
	plain.Post(visitor.PresencePage, url.Values{"leave": {""}})
	tb.Leave() // has not joined
	tb.Join(" ")
	tb.Settle()
	const joins, clicks = `realtime_refreshes_asked_total{action="PresenceChanged"}`, `realtime_refreshes_asked_total{action="RefreshCounter"}`
	assert.Zero(t, p.Metric(joins))
	tb.Join("Alice")
	tb.Settle()
	assert.EqualValues(t, 1, p.Metric(joins))
	tb.Leave()
	tb.Leave()
	tb.Settle()
	assert.EqualValues(t, 2, p.Metric(joins))
	plain.Click()
	assert.EqualValues(t, 1, p.Metric(clicks))
}

// Visitors who have gone leave nothing behind: no goroutine, no memory.
func TestPresence_VisitsLeaveNothingBehind(t *testing.T) {
	p := visitor.StartExe(t, visitor.BuildPlain(t), "-grace", "50ms",
		"-ping", "50ms", "-ping-timeout", "30s") // the next ping holds a closed connection
	server := p.URL
	inUse := func() (goroutines, heap int) {
		http.DefaultClient.CloseIdleConnections()
		return p.Goroutines(), p.Heap()
	}
	visitor.ComeAndGo(t, server, 1000)
	var goroutines int
	var heap int
	require.Eventually(t, func() bool {
		before := heap
		goroutines, heap = inUse()
		return before > 0 && before <= heap // nothing is left to collect
	}, visitor.Soon, 200*time.Millisecond)

	visitor.ComeAndGo(t, server, 10_000)
	last := visitor.New(t, server).Open(visitor.PresencePage)
	last.Shows(" 0 user(s) online")
	last.Close()
	assert.Eventually(t, func() bool {
		g, h := inUse()
		t.Logf("goroutines: %d, then %d; heap: %d kB, then %d kB", goroutines, g, heap>>10, h>>10)
		return g <= goroutines && h <= heap+1<<20 // 100 bytes a visit
	}, visitor.Soon, 200*time.Millisecond)
}

func TestPresence_CrowdThatClosesAtOnceLeavesExactly(t *testing.T) {
	const crowd = 200
	server := visitor.Serve(t)
	stays := visitor.New(t, server).Open(visitor.PresencePage)
	stays.Join("stays")
	tabs := make([]*visitor.Tab, crowd)
	for i := range tabs {
		tabs[i] = visitor.New(t, server).Open(visitor.PresencePage)
	}
	for _, tb := range tabs {
		tb.Join("guest")
	}
	stays.Shows("201 user(s) online")
	stays.Shows("and 181 more")

	var closing sync.WaitGroup
	for _, tb := range tabs {
		closing.Go(tb.Close)
	}
	stays.Shows("1 user(s) online Logged in as stays Leave stays (you) Joining needs")
	closing.Wait()
}

// With the defaults: somebody who loses the network without a word, and the grace
// period.
func TestPresence_SilentPeerIsGoneWithin10SecondsByDefault(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	stays := visitor.New(t, server).Open(visitor.PresencePage)
	silent, err := visitor.New(t, server).Dial(visitor.PresencePage)
	require.NoError(t, err)
	defer silent.Close()
	require.NoError(t, visitor.Act(silent, "join", map[string]any{"username": "silent"}))
	began := time.Now()
	stays.Shows(" 1 user(s) online") // from here on the silent end reads and writes nothing
	stays.Shows(" 0 user(s) online")
	assert.Less(t, time.Since(began), 10*time.Second)
}

// While one POST waits for Redis, others do not wait for it. Redis is 20 ms away.
func TestRequests_PostsOfManyBrowsersDoNotWaitForEachOther(t *testing.T) {
	const posters, times, window = 200, 40, time.Second
	redis := visitor.NewRedis(t)
	redis.OnlyInMemory()
	link := newLongLink(t, redis.Addr, 10*time.Millisecond)
	p := visitor.StartExe(t, visitor.BuildPlain(t), "-redis", "redis://"+link+"/0") // what is measured is time
	roundTrip := pingThrough(t, link)

	ctx, stop := context.WithTimeout(t.Context(), 2*visitor.Soon) // other tests need the CPU, too
	defer stop()
	var counted atomic.Int64
	var posting sync.WaitGroup
	for range posters {
		poster, session := newPoster(t, p.Addr()), visitor.MadeUpSession()
		posting.Go(func() {
			for ctx.Err() == nil && poster.click(session) {
				counted.Add(1)
			}
		})
	}
	best := 0.0
	for ctx.Err() == nil && best < times {
		before, began := counted.Load(), time.Now()
		<-time.After(window)
		perSecond := float64(counted.Load()-before) / time.Since(began).Seconds()
		best = max(best, perSecond*roundTrip.Seconds())
		t.Logf("round trip to redis %v: %.0f posts a second, %.0f in a round trip", roundTrip, perSecond, perSecond*roundTrip.Seconds())
	}
	stop()
	posting.Wait()
	assert.GreaterOrEqual(t, best, float64(times), "posts in the time of a round trip")
	assert.Contains(t, visitor.New(t, p.URL).Get(visitor.CounterPage), fmt.Sprintf("Counter: %d ", counted.Load()))
}

// Posts of sessions that are seen once leave nothing behind: no baseline, no limit.
func TestRequests_LeaveNothingBehind(t *testing.T) {
	const posters = 4
	p := visitor.StartExe(t, visitor.BuildPlain(t)) // what is measured is memory
	posts := func(n int) {
		var posting sync.WaitGroup
		for range posters {
			posting.Go(func() {
				poster := newPoster(t, p.Addr())
				for i := range n / posters {
					poster.click([]string{"", visitor.MadeUpSession()}[i%2])
				}
			})
		}
		posting.Wait()
	}
	posts(500)
	before := p.Heap()
	posts(20_000)
	after := p.Heap()
	t.Logf("%d kB, then %d kB", before>>10, after>>10)
	assert.Less(t, after, before+1<<20, "50 bytes a post")
}

// poster sends the plain form of the counter on a connection of its own. It costs the
// test little, even with the race detector.
type poster struct {
	t       testing.TB
	conn    net.Conn
	answers *textproto.Reader
	form    string
}

func newPoster(t testing.TB, server string) *poster {
	conn, err := net.Dial("tcp", server)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	form := "POST " + visitor.CounterPage + " HTTP/1.1\r\nHost: " + server + "\r\nContent-Type: application/x-www-form-urlencoded\r\n" +
		"Content-Length: 10\r\nCookie: " + visitor.SessionCookie + "=%s\r\n\r\nincrement="
	return &poster{t, conn, textproto.NewReader(bufio.NewReader(conn)), form}
}

// click posts the form, and reports whether it counted.
func (p *poster) click(session string) (counted bool) {
	fmt.Fprintf(p.conn, p.form, session)
	status, err := p.answers.ReadLine()
	for line := status; line != "" && err == nil; { // the headers; there is no body
		line, err = p.answers.ReadLine()
	}
	return assert.NoError(p.t, err) && assert.Equal(p.t, "HTTP/1.1 303 See Other", status)
}

// pingThrough returns the time that a command to Redis takes through a link.
func pingThrough(t *testing.T, addr string) time.Duration {
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	times := make([]time.Duration, 21)
	for i := range times {
		began := time.Now()
		io.WriteString(conn, "PING\r\n")
		_, err := conn.Read(make([]byte, 64))
		require.NoError(t, err)
		times[i] = time.Since(began)
	}
	return visitor.Percentile(times, 50)
}

// newLongLink returns an address from which bytes take a time to a server, and as
// long back.
func newLongLink(t *testing.T, server string, oneWay time.Duration) (addr string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", server)
			if err != nil {
				near.Close()
				continue
			}
			go delay(far, near, oneWay)
			go delay(near, far, oneWay)
		}
	}()
	return listener.Addr().String()
}

// delay passes on what it reads, later.
func delay(to io.WriteCloser, from io.Reader, by time.Duration) {
	type chunk struct {
		bytes []byte
		due   time.Time
	}
	under := make(chan chunk, 1000)
	go func() {
		defer to.Close()
		for c := range under {
			<-time.After(time.Until(c.due))
			to.Write(c.bytes)
		}
	}()
	defer close(under)
	for {
		bytes := make([]byte, 4096)
		n, err := from.Read(bytes)
		if err != nil {
			return
		}
		under <- chunk{bytes[:n], time.Now().Add(by)}
	}
}

// A socket that is opened without a cookie is given one, and comes back with it.
func TestSession_OfASocketWithoutACookieIsKept(t *testing.T) {
	server := visitor.Serve(t, "-grace", "1h")
	v := visitor.New(t, server)
	watching := visitor.New(t, server).Open(visitor.PresencePage)
	for range 3 {
		ws, err := v.Dial(visitor.PresencePage)
		require.NoError(t, err)
		assert.Regexp(t, `^[A-Za-z0-9_-]{43}=$`, v.Session())
		require.NoError(t, visitor.Act(ws, "join", map[string]any{"username": "Alice"}))
		for answer := ""; !strings.Contains(answer, `"action":"join"`); {
			_, data, err := ws.ReadMessage()
			require.NoError(t, err)
			answer = string(data)
		}
		ws.Close()
	}
	watching.Shows("1 user(s) online")
	assert.Contains(t, visitor.New(t, server).Get(visitor.PresencePage), " 1 user(s) online")
}

// A browser sends the cookies of all applications that share a host name.
func TestRequests_CookiesOfOtherApplications(t *testing.T) {
	server := visitor.Serve(t)
	cookies := func(length int) http.Header {
		return http.Header{"Cookie": {visitor.SessionCookie + "=" + visitor.MadeUpSession() + "; other=" + strings.Repeat("x", length)}}
	}
	get := func(header http.Header) (status int, body string) {
		req, err := http.NewRequest(http.MethodGet, server+visitor.CounterPage, nil)
		require.NoError(t, err)
		req.Header = header
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(text)
	}
	status, page := get(cookies(15_000))
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, page, "Counter: ")
	ws, _ := visitor.Knock(t, server, visitor.CounterPage, cookies(15_000))
	assert.NotNil(t, ws)

	status, text := get(cookies(32_000))
	assert.Equal(t, http.StatusRequestHeaderFieldsTooLarge, status)
	assert.Equal(t, "431 Request Header Fields Too Large", text)
}

// What nginx sends by default is no handshake any more.
func TestHandshake_ThroughABareNginxSaysWhatToSet(t *testing.T) {
	p := visitor.Start(t, "-trust-proxy")
	proxy := startBareNginx(t, p.Addr())
	v := visitor.New(t, proxy)
	assert.Contains(t, v.Get(visitor.CounterPage), "Counter: 0 ")
	for range 3 {
		_, resp := visitor.Knock(t, proxy, visitor.CounterPage, http.Header{"Origin": {proxy}})
		assert.Equal(t, http.StatusUpgradeRequired, resp.StatusCode)
	}
	assert.EqualValues(t, 3, p.Metric(`realtime_connections_refused_total{reason="no_upgrade"}`))
	assert.Equal(t, 1, strings.Count(p.Said(), "\n"), p.Said())
	assert.Contains(t, p.Said(), "proxy_set_header Upgrade $http_upgrade")
}

// startBareNginx runs an nginx with nothing but proxy_pass, and returns its address.
func startBareNginx(t *testing.T, server string) (address string) {
	if _, err := exec.LookPath("nginx"); err != nil {
		visitor.Missing(t, "no nginx: `make test` installs it as root on Debian, or put one on the PATH")
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	free.Close()
	dir, config := t.TempDir(), "pid nginx.pid; events {} http { access_log off;"
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		config += kind + "_temp_path " + kind + ";"
	}
	config += " server { listen " + free.Addr().String() + "; location / { proxy_pass http://" + server + "; } } }"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(config), 0o600))
	cmd := exec.Command("nginx", "-p", dir, "-e", "stderr", "-c", "nginx.conf", "-g", "daemon off;")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	address = "http://" + free.Addr().String()
	require.Eventually(t, func() bool {
		resp, err := http.Get(address + "/healthz")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	}, visitor.Soon, 10*time.Millisecond, "nginx answers")
	return address
}
