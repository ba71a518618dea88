package site_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/assets"
	"realtime/internal/fanout"
	"realtime/internal/site"
	"realtime/internal/visitor"
)

func TestMain(m *testing.M) { os.Exit(visitor.Main(m)) }

// The toy is a page made of nothing but this package and fanout: a template of
// three lines, a controller of ten.
const (
	toyPage     = "/toy"
	toyTemplate = `{{define "content"}}<h1>Toy</h1>{{template "live" .}}{{end}}
{{define "live"}}<p>Lamps: {{.Lamps}} Typed: {{.Typed}}</p>
<form method="POST"><input name="text"><button name="light">Light</button><small>{{.Problem}}</small></form>{{end}}`
)

type toyState struct {
	Lamps   int
	Typed   string
	Problem string
}

type toy struct {
	peers *fanout.Peers
	mu    sync.Mutex
	lamps int
}

func (c *toy) Mount(s toyState, ctx *livetemplate.Context) (toyState, error) {
	err := ctx.Subscribe(ctx.SelfTopic())
	return c.read(s), err
}

func (c *toy) Light(s toyState, ctx *livetemplate.Context) (toyState, error) {
	if s.Typed = site.Text(ctx, "text"); s.Typed == "dark" {
		s.Problem = "That is not a light."
		return s, site.Refuse(ctx, s, s.Problem)
	}
	c.mu.Lock()
	c.lamps++
	c.mu.Unlock()
	return c.read(s), c.peers.Publish(ctx, ctx.SelfTopic(), "Lit")
}

func (c *toy) Lit(s toyState, _ *livetemplate.Context) (toyState, error) { return c.read(s), nil }

func (c *toy) read(s toyState) toyState {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Lamps = c.lamps
	return s
}

// together gives all visitors one identity, as the app does.
type together struct {
	*livetemplate.AnonymousAuthenticator
}

func (together) Identify(*http.Request) (string, error) { return "together", nil }

// templates are the pages of the toy site.
func templates() fs.FS {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	return fstest.MapFS{
		"layout.tmpl": file(`<!DOCTYPE html><html><head><link rel="stylesheet" href="{{(asset "toy.css").URL}}">` +
			`{{with asset "pico.min.css"}}<link rel="stylesheet" href="{{.URL}}" integrity="{{.Integrity}}">{{end}}</head><body>` + strings.Repeat("<p>The layout is long enough to compress.</p>", 30) + `{{template "content" .}}</body></html>`),
		"parts.tmpl":     file(""),
		"live.tmpl":      file(`{{template "live" .}}`),
		"index.tmpl":     file(`{{define "content"}}<h1>{{.Title}}</h1>{{end}}`),
		"not-found.tmpl": file(`{{define "content"}}<h1>{{.Title}}</h1>{{end}}`),
		"toy.tmpl":       file(toyTemplate),
		"who.tmpl":       file(`{{define "content"}}{{template "live" .}}{{end}}{{define "live"}}<p>Browser: {{.Browser}} </p>{{end}}`),
		"plain.tmpl":     file(`{{define "content"}}plain{{end}}`),
	}
}

// files are the browser files of the toy site, with npm's or without.
func files(t testing.TB, fetched bool) *assets.Files {
	t.Helper()
	folder := fstest.MapFS{
		"package.json": {Data: []byte(`{"dependencies":{"@picocss/pico":"2.1.1"}}`)},
		"toy.css":      {Data: []byte(strings.Repeat("p { color: inherit }\n", 100))},
	}
	if fetched {
		for _, name := range []string{"pico.min.css", "livetemplate-client.browser.js"} {
			folder["vendor/"+name] = &fstest.MapFile{Data: bytes.Repeat([]byte("/* third-party */\n"), 100)}
		}
	}
	f, err := assets.New(folder)
	require.NoError(t, err)
	return f
}

// newSite returns a toy site.
func newSite(t testing.TB, opts site.Options) *site.Site {
	t.Helper()
	opts.Templates = templates()
	if opts.Authenticator == nil {
		opts.Authenticator = together{&livetemplate.AnonymousAuthenticator{}}
	}
	if opts.Files == nil {
		opts.Files = files(t, true)
	}
	opts.Drain = cmp.Or(opts.Drain, time.Millisecond)
	opts.Log = cmp.Or(opts.Log, slog.New(slog.DiscardHandler))
	s, err := site.New(opts)
	require.NoError(t, err)
	c := &toy{}
	page, err := site.Live(s, toyPage, "toy.tmpl", c, &toyState{})
	require.NoError(t, err)
	c.peers = fanout.New(fanout.Options{}).Peers(page)
	return s
}

// serve serves a toy site until the test ends, and returns its address.
func serve(t testing.TB, opts site.Options) (s *site.Site, url string) {
	t.Helper()
	s = newSite(t, opts)
	return s, serveOn(t, s, httptest.NewServer(s)).URL
}

func serveOn(t testing.TB, s *site.Site, server *httptest.Server) *httptest.Server {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), visitor.Soon)
		defer cancel()
		assert.NoError(t, s.Shutdown(ctx), "shutdown")
		server.Close()
	})
	return server
}

// newServer serves a toy site, and returns its address.
func newServer(t testing.TB, opts site.Options) (url string) {
	t.Helper()
	_, url = serve(t, opts)
	return url
}

// metric returns the value of one metric of a site, written as name{label="value"}.
func metric(t testing.TB, s *site.Site, name string) (value int) {
	t.Helper()
	answer := httptest.NewRecorder()
	s.Admin.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	_, after, found := strings.Cut(answer.Body.String(), "\n"+name+" ")
	require.True(t, found, "no metric %s", name)
	_, err := fmt.Sscan(after, &value)
	require.NoError(t, err)
	return value
}

// say opens a connection to a server and sends bytes that need not be a request.
func say(t testing.TB, server, bytes string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(server, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = io.WriteString(conn, bytes)
	require.NoError(t, err)
	return conn
}

// newTLSServer serves a toy site over TLS, and returns a client that trusts it.
func newTLSServer(t testing.TB) (url string, client *http.Client) {
	t.Helper()
	s := newSite(t, site.Options{})
	server := serveOn(t, s, httptest.NewTLSServer(s))
	return server.URL, server.Client()
}

// press presses the button of the toy in a browser without scripts.
func press(v *visitor.Visitor) {
	resp, err := v.Client.PostForm(v.Base+toyPage, map[string][]string{"light": {""}})
	if err == nil {
		resp.Body.Close()
	}
}

// cookieValue matches the session cookies that a site makes.
var cookieValue = regexp.MustCompile(`^[A-Za-z0-9_-]{43}=$`)

// madeUp is a session cookie as a site makes them.
func madeUp() string { return rand.Text() + rand.Text()[:17] + "=" }

// maxForm is the greatest length of a form, in bytes.
const maxForm = 16 << 10

// light presses the button of the toy.
func light(tb *visitor.Tab) { tb.Do("light", map[string]any{"text": "bright"}) }

// The parts of a site serve any controller.
func TestSite_LivePageOfItsOwnPartsIsLiveForTwoVisitors(t *testing.T) {
	_, server := serve(t, site.Options{})
	alice, bob := visitor.New(t, server), visitor.New(t, server)
	one, two, other := alice.Open(toyPage), alice.Open(toyPage), bob.Open(toyPage)
	light(one)
	for _, tb := range []*visitor.Tab{one, two, other} {
		tb.Shows("Lamps: 1 ")
	}
	light(other)
	for _, tb := range []*visitor.Tab{one, two, other} {
		tb.Shows("Lamps: 2 ")
	}
	one.Never("Typed: bright bright")
	assert.Contains(t, visitor.New(t, server).Get(toyPage), "Lamps: 2 ", "the first HTML of a late visitor")
	other.Close()
	light(two)
	one.Shows("Lamps: 3 ")
}

func TestStop_LeaksNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 3 {
		s := newSite(t, site.Options{Drain: 10 * time.Millisecond})
		server := httptest.NewServer(s)
		for range 10 {
			v := visitor.New(t, server.URL)
			v.Client.Transport = &http.Transport{DisableKeepAlives: true}
			light(v.Open(toyPage))
			v.Post(toyPage, map[string][]string{"light": {""}})
		}
		deaf, err := visitor.New(t, server.URL).Dial(toyPage) // never answers
		require.NoError(t, err)
		defer deaf.Close()
		assert.NoError(t, s.Shutdown(t.Context()))
		server.Close()
	}
	nothingRuns(t, before+1) // with the one that counts
}

// nothingRuns waits until at most so many goroutines run.
func nothingRuns(t *testing.T, most int) {
	t.Helper()
	if !assert.Eventually(t, func() bool { return runtime.NumGoroutine() <= most }, visitor.Soon, 20*time.Millisecond, "goroutines are left") {
		stacks := make([]byte, 8<<20)
		t.Logf("%d expected, now:\n%s", most, stacks[:runtime.Stack(stacks, true)])
	}
}

// collected returns the bytes in use once nothing is left to collect.
func collected() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC() // the second empties pools
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

func TestNew_SaysWhatIsBroken(t *testing.T) {
	opts := site.Options{Templates: templates(), Files: files(t, true)}
	opts.AllowOrigins = []string{"example.com"}
	_, err := site.New(opts)
	assert.ErrorContains(t, err, "example.com")

	opts.AllowOrigins = nil
	s, err := site.New(opts)
	require.NoError(t, err)
	for file, want := range map[string]string{"plain.tmpl": "no live part", "nowhere.tmpl": "nowhere.tmpl"} {
		_, err := site.Live(s, "/broken", file, &toy{}, &toyState{})
		assert.ErrorContains(t, err, want)
	}
	opts.Templates = fstest.MapFS{"layout.tmpl": {Data: []byte(`{{asset "nothing.js"}}`)}, "parts.tmpl": {}, "index.tmpl": {Data: []byte(`{{define "content"}}{{end}}`)}}
	_, err = site.New(opts)
	assert.ErrorContains(t, err, fmt.Sprintf("%q", "nothing.js"))
}
