package e2e

import (
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

func TestLivePages_TabsOfOneBrowserWithoutSocketsAreIndependent(t *testing.T) {
	t.Parallel()
	v := visitor.New(t, visitor.Serve(t))
	v.Get(visitor.PresencePage) // for its cookie
	var tabs sync.WaitGroup
	for tab := range 2 {
		tabs.Go(func() {
			counter, presence := v.OpenWithoutSocket(visitor.CounterPage), v.OpenWithoutSocket(visitor.PresencePage)
			for i := range 20 {
				name := fmt.Sprintf(`" onfocus="alert(1) %d.%d`, tab, i)
				presence.Act("join", map[string]any{"username": name})
				assert.Contains(t, presence.HTML(), `id="username" name="username" value="`+template.HTMLEscapeString(name)+`" placeholder=`)
				assert.Contains(t, presence.Text(), visitor.NotLive)
				presence.Act("presenceChanged", nil)
				assert.NotContains(t, presence.Text(), visitor.NotLive, "an error of another tab")
				counter.Act("increment", nil)
			}
		})
	}
	tabs.Wait()
	last := v.OpenWithoutSocket(visitor.CounterPage)
	last.Act("increment", nil)
	assert.Contains(t, last.Text(), "Counter: 41 ")
}

// While one click waits for Redis, clicks of other browsers are not blocked: they share the
// next command. Redis is slow here.
func TestRequests_PostsOfManyBrowsersDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	const posters = 100
	redis := visitor.NewRedis(t)
	far := visitor.NewNetwork(t, redis.Addr)
	server := visitor.Serve(t, "-redis", "redis://"+far.Addr()+"/0")
	browsers := make([]*visitor.Visitor, posters)
	for i := range browsers {
		browsers[i] = visitor.New(t, server)
		browsers[i].Get(visitor.CounterPage) // for its cookie
	}
	far.Delay(100 * time.Millisecond)
	spent := redis.Spent(func() {
		var posting sync.WaitGroup
		for _, v := range browsers {
			posting.Go(v.Click)
		}
		posting.Wait()
	})
	far.Delay(0)
	assert.Contains(t, browsers[0].Get(visitor.CounterPage), "Counter: 100 ")
	assert.Less(t, spent.Commands, posters, "otherwise each click would take several commands")
}

// The server ends slow and huge requests, and a connection whose peer is silent.
func TestRequests_HaveLimits(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	watching := visitor.New(t, server).Open(visitor.PresencePage)
	silent, err := visitor.New(t, server).Dial(visitor.PresencePage)
	require.NoError(t, err)
	defer silent.Close()
	require.NoError(t, visitor.Act(silent, "join", map[string]any{"username": "silent"}))
	watching.Shows(" 1 user(s) online") // from here on the silent peer reads and writes nothing

	const begin = " HTTP/1.1\r\nHost: x\r\n"
	get, post := "GET / "+begin[1:], "POST "+visitor.CounterPage+begin+"Content-Type: application/x-www-form-urlencoded\r\n"
	cookies := func(bytes int) string {
		return "Cookie: " + strings.Repeat("x", bytes) + "\r\nConnection: close\r\n\r\n"
	}
	var requests sync.WaitGroup
	for name, row := range map[string]struct{ sent, want string }{
		"no request":    {"", ""},
		"a slow header": {get, ""},
		"a slow body":   {post + "Content-Length: 100\r\n\r\nincr", "408 Request Timeout"},
		"a long header": {get + cookies(15_000), "200 OK"}, // with cookies of other applications on the host
		"a huge header": {get + cookies(32<<10), "431 Request Header Fields Too Large"},
	} {
		requests.Go(func() {
			conn, err := net.Dial("tcp", strings.TrimPrefix(server, "http://"))
			if !assert.NoError(t, err) {
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(4 * visitor.Soon)) // the server's own timeouts are up to 10 seconds
			go io.WriteString(conn, row.sent)
			answer, err := io.ReadAll(conn)
			assert.NotErrorIs(t, err, os.ErrDeadlineExceeded, name)
			assert.Contains(t, string(answer), row.want, name)
		})
	}
	requests.Wait()
	watching.Shows(" 0 user(s) online")
}

// Every page is served, and every browser file is loaded by some page, from a URL that
// caches may keep.
func TestPages_AreServedWithTheirFiles(t *testing.T) {
	t.Parallel()
	browser.NeedFiles(t)
	const notFound = "<h1>Page not found</h1>"
	linked := map[string]bool{}
	v := visitor.New(t, visitor.Serve(t))
	for address, wants := range map[string][]string{
		"/": {"<title>Live pages in Go · ", `href="` + visitor.CounterPage + `"`, `href="` + visitor.PresencePage + `"`, "Multi-User Refresh", "Presence Tracking"},
		visitor.CounterPage: {
			"<title>Multi-User Refresh · Real-Time &amp; Multi-User</title>", "<h1>Multi-User Refresh</h1>",
			"Counter: <strong>0</strong>", `<form method="POST">`, `<button name="increment">`,
			"ctx.Subscribe", "ctx.SelfTopic", "ctx.Publish", "Try:"},
		visitor.PresencePage: {
			"<title>Presence Tracking · Real-Time &amp; Multi-User</title>", "<h1>Presence Tracking</h1>",
			`<mark>0 user(s) online<`, `<label for="username">Username</label>`,
			`name="username"`, `placeholder="Pick a name…"`, `<button name="join">`, "Closed tabs", "Same names"},
		"/healthz":        {"ok"},
		"/readyz":         {"ready"},
		"/metrics":        {notFound, `href="/"`}, // only on the admin address
		"/debug/pprof/":   {notFound},
		"/static/nothing": {notFound},
	} {
		resp, body := v.Send(http.MethodGet, address, "", "")
		assert.Equal(t, wants[0] == notFound, resp.StatusCode == http.StatusNotFound, address)
		assert.Equal(t, "no-store", resp.Header.Get("Cache-Control"), address)
		for _, want := range wants {
			assert.Contains(t, body, want, address)
		}
		for _, found := range addressOf.FindAllStringSubmatch(body, -1) {
			linked[found[2]+found[3]] = true
			resp, _ := v.Send(http.MethodGet, found[1], "", "")
			assert.Equal(t, "public, max-age=31536000", resp.Header.Get("Cache-Control"), found[1])
		}
	}
	for _, icon := range []string{"/favicon.ico", "/apple-touch-icon.png"} { // whatever a page says
		resp, _ := v.Send(http.MethodGet, icon, "", "")
		assert.Equal(t, http.StatusOK, resp.StatusCode, icon)
		assert.Contains(t, resp.Header.Get("Content-Type"), "image/", icon)
	}
	for _, pattern := range []string{"../static/*.css", "../static/*.js", "../static/*.svg", "../static/*.png", "../static/vendor/*.css", "../static/vendor/*.js"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			assert.True(t, linked[filepath.Base(file)], "no page loads %s", file)
		}
	}
}

// addressOf matches the URL of a browser file. Its submatches are the URL, and the name
// before and after the hash.
var addressOf = regexp.MustCompile(`(?:src|href|og:image" content)="(?:http://[^/]*)?(/static/(?:vendor/)?([^"]*?)-[0-9a-f]{64}(\.[^"]*))"`)
