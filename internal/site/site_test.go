package site_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/assets"
	"realtime/internal/edge"
	"realtime/internal/fanout"
	"realtime/internal/logging"
	"realtime/internal/metrics"
	"realtime/internal/site"
	"realtime/internal/visitor"
)

func TestMain(m *testing.M) { os.Exit(visitor.Main(m)) }

// The toy is a page made of nothing but this package and fanout: a template of
// three lines, a controller of ten.
const (
	toyPage     = "/toy"
	toyTemplate = `{{define "content"}}<h1>Toy</h1>{{template "live" .}}{{end}}
{{define "live"}}<p>Lamps: {{.Lamps}} {{.Browser}} Doors: {{.Doors}} </p>
<form method="POST"><button name="light">Light</button></form>{{end}}`
)

type toyState struct {
	Lamps   int64
	Doors   int64
	Browser string // whose the last action was
}

type toy struct {
	peers *fanout.Peers
	lamps atomic.Int64
	doors atomic.Int64
	busy  chan bool // what Busy sends when it begins, and when it may end
}

func (c *toy) Mount(s toyState, ctx *livetemplate.Context) (toyState, error) {
	s.Lamps, s.Browser = c.lamps.Load(), "Browser: "+site.Browser(ctx)
	return s, ctx.Subscribe(ctx.SelfTopic())
}

func (c *toy) Light(s toyState, ctx *livetemplate.Context) (toyState, error) {
	s.Lamps, s.Browser = c.lamps.Add(1), "lights: "+site.Browser(ctx)
	return s, c.peers.Publish(ctx, ctx.SelfTopic(), "Lit")
}

func (c *toy) Lit(s toyState, ctx *livetemplate.Context) (toyState, error) {
	s.Lamps, s.Browser = c.lamps.Load(), "hears: "+site.Browser(ctx)
	return s, nil
}

// Leave publishes two refreshes and a word.
func (c *toy) Leave(s toyState, ctx *livetemplate.Context) (toyState, error) {
	s.Lamps, s.Doors = c.lamps.Add(1), c.doors.Add(1)
	all := ctx.SelfTopic()
	return s, errors.Join(c.peers.Publish(ctx, all, "Lit"), c.peers.Publish(ctx, all, "Opened"),
		ctx.Publish(all, "Called", map[string]any{"word": "bye"}))
}

func (c *toy) Opened(s toyState, _ *livetemplate.Context) (toyState, error) {
	s.Doors = c.doors.Load()
	return s, nil
}

func (c *toy) Called(s toyState, _ *livetemplate.Context) (toyState, error) { return s, nil }

func (c *toy) Busy(s toyState, _ *livetemplate.Context) (toyState, error) {
	c.busy <- true
	c.busy <- true
	return s, nil
}

// together gives all visitors one identity, as the app does.
type together struct {
	*livetemplate.AnonymousAuthenticator
}

func (together) Identify(*http.Request) (string, error) { return "together", nil }

// templates are the pages of the toy site.
func templates() fstest.MapFS {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	return fstest.MapFS{
		"layout.tmpl": file(`<!DOCTYPE html><html class="{{kind}}"><head><link rel="stylesheet" href="{{(asset "toy.css").URL}}">` +
			`<meta property="og:url" content="{{origin}}{{address}}">{{with asset "pico.min.css"}}<link rel="stylesheet" href="{{.URL}}" integrity="{{.Integrity}}">{{end}}</head><body><a {{to "/"}}>Home</a><a {{to "/toy"}}>Toy</a>` +
			strings.Repeat("<p>The layout is long enough to compress.</p>", 30) + `{{template "content" .}}<a href="{{origin}}">End</a></body></html>`),
		"parts.tmpl":     file(""),
		"live.tmpl":      file(`{{template "live" .}}`),
		"index.tmpl":     file(`{{define "content"}}<h1>{{.Title}}</h1>{{end}}`),
		"not-found.tmpl": file(`{{define "content"}}<h1>{{.Title}}</h1>{{end}}`),
		"toy.tmpl":       file(toyTemplate),
		"plain.tmpl":     file(`{{define "content"}}plain{{end}}`),
	}
}

// files are the browser files of the toy site, with npm's or without.
func files(t testing.TB, fetched bool) *assets.Files {
	t.Helper()
	folder := fstest.MapFS{
		"package.json": {Data: []byte(`{"dependencies":{"@picocss/pico":"2.1.1"}}`)},
		"favicon.ico":  {Data: []byte("icon")},
		"toy.css":      {Data: []byte(strings.Repeat("p { color: inherit }\n", 100))},
	}
	if fetched {
		for _, name := range []string{"pico.min.css", "livetemplate-client.browser.js"} {
			folder["vendor/"+name] = &fstest.MapFile{Data: bytes.Repeat([]byte("/* third-party */\n"), 100)}
		}
	}
	return assets.New(folder, slog.New(slog.DiscardHandler))
}

// newSite returns a toy site, and shuts it down when the test ends.
func newSite(t testing.TB, opts site.Options) *site.Site {
	t.Helper()
	if opts.Templates == nil {
		opts.Templates = templates()
	}
	if opts.Authenticator == nil {
		opts.Authenticator = together{&livetemplate.AnonymousAuthenticator{}}
	}
	if opts.Files == nil {
		opts.Files = files(t, true)
	}
	opts.CloseOver = cmp.Or(opts.CloseOver, time.Millisecond)
	opts.Log = cmp.Or(opts.Log, slog.New(slog.DiscardHandler))
	s, c := site.New(opts), &toy{}
	c.peers = fanout.New(fanout.Options{}).Peers(site.Live(s, toyPage, "toy.tmpl", c, &toyState{}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), visitor.Soon)
		defer cancel()
		assert.NoError(t, s.Shutdown(ctx), "shutdown")
	})
	return s
}

// behind puts a site behind a proxy, which it trusts or not.
func behind(trust bool, opts site.Options) site.Options {
	opts.Around = func(next http.Handler, _ func(*http.Request) string) http.Handler {
		return edge.New(next, cmp.Or(opts.Log, slog.Default()), trust)
	}
	return opts
}

// A page that comes back offers its build to the server, which tells by what it takes whether
// it has the same: whether all that the page is made of is the same.
func TestPage_LearnsWhetherTheServerIsOfItsBuild(t *testing.T) {
	build := func(s *site.Site, query string) string {
		return "page." + ask(s, http.MethodGet, toyPage+query, nil, "").Header().Get("Page-Build")
	}
	page := newSite(t, site.Options{})
	changed := func(file, was, is string) site.Options {
		all := templates()
		all[file] = &fstest.MapFile{Data: bytes.Replace(all[file].Data, []byte(was), []byte(is), 1)}
		return site.Options{Templates: all}
	}
	for name, row := range map[string]struct {
		server site.Options
		same   bool
	}{
		"nothing":            {site.Options{}, true},
		"the index":          {changed("index.tmpl", "<h1>", "<h1>New "), true},
		"the layout":         {changed("layout.tmpl", "long", "very long"), false},
		"the live part":      {changed("toy.tmpl", "Lamps:", "Lights:"), false},
		"the files it loads": {site.Options{Files: files(t, false)}, false},
	} {
		_, url := serve(t, row.server)
		for _, query := range []string{"", "?frame"} {
			ws, _ := visitor.Knock(t, url, toyPage+query, http.Header{"Sec-WebSocket-Protocol": {build(page, query) + ", page"}})
			require.NotNil(t, ws)
			want := "page"
			if row.same {
				want = build(page, query)
			}
			assert.Equal(t, want, ws.Subprotocol(), name)
		}
	}
}

// serve serves a toy site until the test ends, and returns its address.
func serve(t testing.TB, opts site.Options) (s *site.Site, url string) {
	t.Helper()
	s = newSite(t, opts)
	return s, serveOn(t, s)
}

// serveOn serves h until the test ends, and returns its address.
func serveOn(t testing.TB, h http.Handler) (url string) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

// ask sends a request to a handler directly. A target that begins with https: is as if
// it came over TLS. The body is a form, unless the header says otherwise.
func ask(h http.Handler, method, target string, header http.Header, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	maps.Copy(r.Header, header)
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, r)
	return answer
}

// asks are the headers of a request by the browser client.
var asks = http.Header{"Accept": {"application/json"}, "Content-Type": {"application/json"}}

// metric returns the value of one metric of a site, written as name{label="value"}.
func metric(t testing.TB, s *site.Site, name string) (value int) {
	t.Helper()
	m := metrics.New(slog.Default(), nil)
	m.WatchSite(s)
	return valueOf(t, m, name)
}

func valueOf(t testing.TB, m *metrics.Metrics, name string) (value int) {
	t.Helper()
	_, after, found := strings.Cut(ask(m.Handler(), http.MethodGet, "/metrics", nil, "").Body.String(), "\n"+name+" ")
	require.True(t, found, "no metric %s", name)
	_, err := fmt.Sscan(after, &value)
	require.NoError(t, err)
	return value
}

// lamps is how many lamps a page of the toy shows.
func lamps(s http.Handler) (n int) {
	_, after, _ := strings.Cut(ask(s, http.MethodGet, toyPage, nil, "").Body.String(), "Lamps: ")
	fmt.Sscan(after, &n)
	return n
}

// tick is how often a condition is looked at that is waited for.
const tick = 10 * time.Millisecond

// session returns the header of a request with a session cookie.
func session(value string) http.Header {
	return http.Header{"Cookie": {visitor.SessionCookie + "=" + value}}
}

// with returns the headers of both.
func with(one, two http.Header) http.Header {
	all := one.Clone()
	maps.Copy(all, two)
	return all
}

// light presses the button of the toy.
func light(tb *visitor.Tab) { tb.Do("light", nil) }

// pipes listens in memory.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if conn, open := <-p; open {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// dial opens the socket of a page.
func (p pipes) dial(t testing.TB, page string) *websocket.Conn {
	t.Helper()
	ws, _, err := (&websocket.Dialer{NetDial: func(string, string) (net.Conn, error) {
		near, far := net.Pipe()
		p <- near
		return far, nil
	}}).Dial("ws://server"+page, nil)
	require.NoError(t, err)
	return ws
}

// A goroutine that is left over fails the test: it cannot leave its bubble.
func TestStop_LeaksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, listener := newSite(t, site.Options{CloseOver: 5 * time.Millisecond}), make(pipes)
		server := http.Server{Handler: s}
		go server.Serve(listener)
		for range 10 {
			ws := listener.dial(t, toyPage)
			require.NoError(t, visitor.Act(ws, "light", nil))
			go func() {
				for err := error(nil); err == nil; {
					_, _, err = ws.ReadMessage()
				}
				ws.Close()
			}()
			ask(s, http.MethodPost, toyPage, nil, "light=")
		}
		deaf := listener.dial(t, toyPage) // never answers
		defer deaf.Close()
		assert.NoError(t, s.Shutdown(t.Context()))
		assert.Zero(t, metric(t, s, `realtime_connections{page="toy"}`))
		assert.NoError(t, server.Close())
	})
}

// The tabs that are open work until they are told to go elsewhere.
func TestShutdown_RefusesNewConnectionsBeforeItClosesTheOpenOnes(t *testing.T) {
	s, server := serve(t, site.Options{CloseOver: time.Hour})
	v := visitor.New(t, server)
	tabs := []*visitor.Tab{v.Open(toyPage), visitor.New(t, server).Open(toyPage)}
	ctx, closeAll := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Shutdown(ctx) }()
	require.Eventually(t, func() bool {
		answer := ask(s, http.MethodGet, "/healthz", nil, "")
		return answer.Code == http.StatusServiceUnavailable && answer.Body.String() == "stopping\n"
	}, visitor.Soon, tick)
	_, resp := visitor.Knock(t, server, toyPage, nil)
	assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	light(tabs[0])
	ask(s, http.MethodPost, toyPage, nil, "light=")
	for _, tb := range tabs {
		tb.Shows("Lamps: 2 ")
	}

	closeAll()
	for _, tb := range tabs {
		<-tb.Ended
		assert.EqualError(t, tb.Err(), "websocket: close 1001 (going away): the server is stopping")
	}
	assert.Equal(t, 2, lamps(s), "pages are served to the end")
	assert.ErrorIs(t, <-ended, context.Canceled)
	assert.Eventually(t, func() bool { return s.Pages()[0].Connections() == 0 }, visitor.Soon, tick)
}

// collected returns the bytes in use once nothing is left to collect.
func collected() int {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC() // the second empties pools
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}

// A tab that is busy has room for one published action. Refreshes come again, and of what
// is lost the log has a warning.
func TestLive_RefreshesOfSeveralActionsReachABusyTab(t *testing.T) {
	log := &visitor.Log{}
	logger, _ := logging.New(log, slog.LevelInfo, false)
	before := slog.Default()
	slog.SetDefault(logger)
	defer slog.SetDefault(before)
	s := newSite(t, site.Options{Log: logger})
	c := &toy{busy: make(chan bool)}
	pages := fanout.New(fanout.Options{OnAction: func(action string) { logging.Refresh(logger, action) }})
	c.peers = pages.Peers(site.Live(s, "/doors", "toy.tmpl", c, &toyState{}))
	server := serveOn(t, s)
	tb, busy := visitor.New(t, server).Open("/doors"), visitor.New(t, server).Open("/doors")
	for round := range 3 {
		busy.Do("busy", nil)
		<-c.busy
		tb.Do("leave", nil)
		tb.Settle()
		<-c.busy
		busy.Shows(fmt.Sprintf("Lamps: %d ", round+1))
		busy.Shows(fmt.Sprintf("Doors: %d ", round+1))
	}
	assert.Contains(t, log.String(), `msg="dispatch channel full, dropping broadcast action" action=Called`)
	assert.NotContains(t, log.String(), "action=Lit")
	assert.NotContains(t, log.String(), "action=Opened")
}

// rooms is a toy whose topic comes from the address.
type rooms struct{ toy }

func (c *rooms) Mount(s toyState, ctx *livetemplate.Context) (toyState, error) {
	s.Lamps = c.lamps.Load()
	return s, ctx.Subscribe("room/" + ctx.GetString("room"))
}

func TestLive_PageHasTopicsOfItsOwnAndNoPatterns(t *testing.T) {
	s, c := newSite(t, site.Options{}), &rooms{}
	c.peers = fanout.New(fanout.Options{}).Peers(site.Live(s, "/rooms", "toy.tmpl", c, &toyState{}))
	server := serveOn(t, s)
	inA, inB := visitor.New(t, server).Open("/rooms?room=a"), visitor.New(t, server).Open("/rooms?room=b")
	assert.Equal(t, http.StatusInternalServerError, ask(s, http.MethodGet, "/rooms?room=*", nil, "").Code)
	inAll, _ := visitor.Knock(t, server, "/rooms?room=*", nil)
	require.NotNil(t, inAll)

	c.lamps.Add(1)
	c.peers.PublishTo("room/a", "Lit")
	inA.Shows("Lamps: 1 ")
	inB.Settle()
	inB.Never("Lamps: 1 ")
	require.NoError(t, visitor.Act(inAll, "settle", nil))
	var all string
	for !strings.Contains(all, "settle") {
		_, frame, err := inAll.ReadMessage()
		require.NoError(t, err)
		all += string(frame)
	}
	assert.Contains(t, all, "topic_forbidden")
	assert.NotContains(t, all, "hears: ", "a refresh")
}

// A broken template is a mistake in the program: it does not start.
func TestNew_PanicsIfATemplateIsBroken(t *testing.T) {
	opts := site.Options{Templates: templates(), Files: files(t, true)}
	s := site.New(opts)
	for file, want := range map[string]string{"plain.tmpl": "no live part", "nowhere.tmpl": "nowhere.tmpl"} {
		assert.ErrorContains(t, panics(func() { site.Live(s, "/broken", file, &toy{}, &toyState{}) }), want)
	}
	opts.Templates = fstest.MapFS{
		"layout.tmpl": {Data: []byte(`{{asset "nothing.js"}}`)}, "parts.tmpl": {}, "index.tmpl": {Data: []byte(`{{define "content"}}{{end}}`)}}
	assert.ErrorContains(t, panics(func() { site.New(opts) }), fmt.Sprintf("%q", "nothing.js"))
}

// panics returns what a function panics with.
func panics(f func()) (err error) {
	defer func() { err = fmt.Errorf("%v", recover()) }()
	f()
	return nil
}
