package site_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// The tests in this file are canaries: each shows how the framework alone behaves
// today, where the project works around that behaviour. One that fails after an upgrade
// says what may be removed or must follow. docs/framework.md lists them all.

// captureLog returns what the default logger writes until the test ends.
func captureLog(t testing.TB) *visitor.Log {
	t.Helper()
	log, before := &visitor.Log{}, slog.Default()
	slog.SetDefault(log.Logger())
	t.Cleanup(func() { slog.SetDefault(before) })
	return log
}

// mended fails a canary once the framework no longer behaves as it does today.
func mended(t testing.TB, today bool, now, mayGo string) {
	t.Helper()
	assert.True(t, today, "The framework %s now: %s may go.", now, mayGo)
}

// soon waits until a condition holds, and reports whether it does.
func soon(condition func() bool) bool {
	for end := time.Now().Add(visitor.Soon); !condition(); time.Sleep(tick) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// stays reports whether nothing happens for a while. On a machine slower than that, the
// canary passes.
func stays(done <-chan struct{}) bool {
	select {
	case <-done:
		return false
	case <-time.After(300 * time.Millisecond):
		return true
	}
}

// A stock is a page of the stock framework, with the documented pattern.
type stock struct {
	livetemplate.LiveHandler
	*stockController
}

const (
	stockPage     = "/stock"
	stockTemplate = `<!DOCTYPE html><html><head><title>Stock</title></head><body>
<p>Shared: {{.Shared}} Said: {{.Said}} {{.Fixed}}</p>
<form method="POST"><button name="press">Press</button><small>{{.lvt.Error "said"}}</small></form>
</body></html>`
)

type stockState struct {
	Shared int64
	Said   string
	Fixed  rendered
}

// rendered is a text that counts how often it is rendered.
type rendered struct{}

var renderings atomic.Int64

func (rendered) String() string {
	renderings.Add(1)
	return "fixed"
}

type stockController struct {
	shared, mounts, changes atomic.Int64

	wait chan struct{} // what Changed waits for, if anything
}

func (c *stockController) Mount(s stockState, ctx *livetemplate.Context) (stockState, error) {
	c.mounts.Add(1)
	s.Shared = c.shared.Load()
	return s, ctx.Subscribe(ctx.SelfTopic())
}

func (c *stockController) Press(s stockState, ctx *livetemplate.Context) (stockState, error) {
	s.Shared = c.shared.Add(1)
	return s, ctx.Publish(ctx.SelfTopic(), "Changed", nil)
}

// Say changes nothing for others.
func (c *stockController) Say(s stockState, ctx *livetemplate.Context) (stockState, error) {
	s.Said = ctx.GetString("said")
	return s, ctx.Publish(ctx.SelfTopic(), "Changed", nil)
}

func (c *stockController) Refuse(s stockState, _ *livetemplate.Context) (stockState, error) {
	return s, livetemplate.FieldError{Field: "said", Message: "refused"}
}

func (c *stockController) Changed(s stockState, _ *livetemplate.Context) (stockState, error) {
	c.changes.Add(1)
	if c.wait != nil {
		<-c.wait
	}
	s.Shared = c.shared.Load()
	return s, nil
}

// newStock returns a page with default options, except for those given.
func newStock(t testing.TB, opts ...livetemplate.Option) stock {
	t.Helper()
	page := fstest.MapFS{"page.tmpl": {Data: []byte(stockTemplate)}}
	tmpl, err := livetemplate.New("stock", append(opts, livetemplate.WithParseFS(page, "page.tmpl"))...)
	require.NoError(t, err)
	c := &stockController{}
	s := stock{tmpl.Handle(c, livetemplate.AsState(&stockState{})), c}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		s.Shutdown(ctx)
	})
	return s
}

// visit returns a visitor of the page.
func (s stock) visit(t testing.TB) *visitor.Visitor {
	t.Helper()
	return visitor.New(t, serveOn(t, s))
}

func TestFramework_SelfTopicReachesOneBrowserOnly(t *testing.T) {
	server := serveOn(t, newStock(t))
	alice, bob := visitor.New(t, server), visitor.New(t, server)
	one, two, other := alice.Open(stockPage), alice.Open(stockPage), bob.Open(stockPage)
	one.Do("press", nil)
	two.Shows("Shared: 1")
	other.Settle()
	mended(t, strings.Contains(other.Text(), "Shared: 0"), "publishes to the self topic of a stranger in every browser",
		"the type everyone in handlers_realtime.go")
}

func TestFramework_KeepsOneBaselineForAllTabsOfABrowser(t *testing.T) {
	v := newStock(t).visit(t)
	one, two := v.OpenWithoutSocket(stockPage), v.OpenWithoutSocket(stockPage)
	one.Act("press", nil)
	require.Contains(t, one.Text(), "Shared: 1")
	two.Act("say", nil)
	mended(t, strings.Contains(two.Text(), "Shared: 0"), "answers the request of a tab with what that tab lacks",
		"the session group of each POST, and the GET after it, in posts.act, and the type authenticator")
}

func TestFramework_OnRequests(t *testing.T) {
	const friend = "https://friend.example"
	s, log := newStock(t), captureLog(t)
	marked := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "set before")
		s.ServeHTTP(w, r)
	})
	get := func(h http.Handler, target string, header http.Header) http.Header {
		return ask(h, http.MethodGet, target, header, "").Header()
	}
	counts := func(header http.Header, form string) bool {
		before := s.shared.Load()
		ask(s, http.MethodPost, stockPage, header, form)
		return s.shared.Load() == before+1
	}
	broken := func(form string) string { return ask(s, http.MethodPost, stockPage, asks, form).Body.String() }
	get(s, stockPage, http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"broken"}})
	_, handshake := visitor.Knock(t, serveOn(t, marked), stockPage, nil)
	_, foreign := visitor.Knock(t, serveOn(t, newStock(t, livetemplate.WithAllowedOrigins([]string{friend}),
		livetemplate.WithUpgrader(upgrader{livetemplate.NewGorillaUpgrader()}))), stockPage, http.Header{"Origin": {friend}})
	for name, row := range map[string]struct {
		today      bool
		now, mayGo string
	}{
		"AnswersHTMLAndJSONWithoutVary": {get(s, stockPage, nil).Get("Vary") == "",
			"tells caches that its answer depends on Accept", "Vary in Page.ServeHTTP"},
		"LeavesTheTypeOfHTMLToBeGuessed": {get(marked, stockPage, nil).Get("Content-Type") == "set before",
			"sets the content type of HTML", "Content-Type in Page.send"},
		"DropsTheHeadersOfAHandshake": {handshake.StatusCode == http.StatusSwitchingProtocols && handshake.Header.Get("Content-Type") == "",
			"sends the headers that were set before a handshake", "the headers that Upgrader.Upgrade adds in internal/wsconn"},
		"AllowedOriginsAreForItsOwnUpgraderOnly": {foreign.StatusCode == http.StatusForbidden,
			"tells an upgrader of ours which origins are allowed", "fromHere in internal/site/admission.go"},
		"TakesAnyCookie": {get(s, stockPage, session("x")).Get("Set-Cookie") == "",
			"replaces a session cookie that it did not make", "madeHere and withCookie in internal/site/session.go"},
		"SessionCookieIsNotSecure": {!strings.Contains(get(s, "https://example.com"+stockPage, nil).Get("Set-Cookie"), "Secure"),
			"marks its cookie as secure over TLS", "the cookie that withSession sets"},
		"TakesFormsOfOtherSites": {counts(http.Header{"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}}, "press="),
			"refuses forms of other sites", "sameSiteOnly in internal/site/request.go"},
		"TakesFormsOfAnyLength": {counts(nil, "press=&said="+strings.Repeat("x", 1<<20)),
			"limits the length of forms", "maxForm in internal/site"},
		"TextOfErrorsShowsInternals": {broken(`{"action":`) != broken(`{"data":[}`),
			"answers every broken form with the same sentence", "the text that Page.send puts in place of an error"},
		"LogsABrokenHandshakeAsAnError": {strings.Contains(log.String(), "level=ERROR"),
			"logs no error for a broken handshake", "the length of the key in handshakeError of internal/site/admission.go"},
	} {
		t.Run(name, func(t *testing.T) { mended(t, row.today, row.now, row.mayGo) })
	}
}

// upgrader is one that the framework does not know.
type upgrader struct{ livetemplate.WSUpgrader }

func TestFramework_OnALivePage(t *testing.T) {
	s := newStock(t)
	v := s.visit(t)
	tb, peer := v.Open(stockPage), v.Open(stockPage)
	t.Run("UpdateFromAPeerRemovesAnError", func(t *testing.T) {
		tb.Do("refuse", nil)
		tb.Shows("refused")
		before := renderings.Load()
		peer.Do("press", nil)
		tb.Shows("Shared: 1")
		mended(t, !strings.Contains(tb.Text(), "refused"), "keeps an error until its own tab acts",
			"the reason kept in the state (PresenceState.NameError), and site.Refuse,")
		mended(t, renderings.Load() > before, "renders only what has changed",
			"the split of a page into fixed text and a live part (internal/site/layout.go)")
	})
	t.Run("AnybodyCanCallMount", func(t *testing.T) {
		before := s.mounts.Load()
		tb.Do("mount", nil)
		tb.Settle()
		mended(t, s.mounts.Load() == before+1, "refuses Mount as an action",
			"the check for a new connection in PresenceController.Mount")
	})
	t.Run("TakesBinaryFrames", func(t *testing.T) {
		require.NoError(t, tb.WS.WriteMessage(websocket.BinaryMessage, []byte(`{"action":"press","data":{}}`)))
		tb.Settle()
		mended(t, strings.Contains(tb.Text(), "Shared: 2"), "refuses binary frames", "the refusal in conn.ReadMessage of internal/wsconn")
	})
	t.Run("TakesMessagesOfAnyLength", func(t *testing.T) {
		tb.Do("say", map[string]any{"said": strings.Repeat("x", 1<<20)})
		tb.Settle()
		mended(t, strings.Contains(tb.HTML(), "xxx"), "limits the length of messages", "MaxMessage in internal/wsconn")
	})
	t.Run("CountsNoConnections", func(t *testing.T) {
		metrics := ask(s.MetricsHandler(), http.MethodGet, "/metrics", nil, "").Body.String()
		mended(t, strings.Contains(metrics, "\nlivetemplate_connections_active 0\n"), "counts its connections (or has renamed the gauge: then this canary must follow)",
			"realtime_connections in Site.pageMetrics, and the choice of metrics in framework.Collect,")
	})
	t.Run("HasNoDeadlinesForSockets", func(t *testing.T) {
		mended(t, reflect.TypeFor[livetemplate.WSConn]().NumMethod() == 3,
			"asks more of a connection than to read, write and close", "conn in internal/wsconn must follow; its heartbeat, perhaps,")
	})
	t.Run("PlainRequestHasAStateOfItsOwn", func(t *testing.T) {
		v.Post(stockPage, url.Values{"say": {""}, "said": {"hello"}})
		mended(t, !strings.Contains(v.Get(stockPage), "hello"), "keeps the state of a browser without a socket",
			"the sentence that joining needs a live connection (needsSocket in state_realtime.go)")
	})
}

// slow is a response that waits before each write.
type slow struct {
	http.ResponseWriter
	wait func()
}

func (w slow) Write(text []byte) (int, error) {
	w.wait()
	return len(text), nil
}

func TestFramework_SlowReaderHoldsUpTheOtherTabsOfABrowser(t *testing.T) {
	s, writing, release, done := newStock(t), make(chan struct{}, 100), make(chan struct{}), make(chan struct{})
	wait := func() {
		writing <- struct{}{}
		<-release
	}
	press := func(h http.Handler) {
		ask(h, http.MethodPost, stockPage, with(session("one-browser"), asks), `{"action":"press"}`)
	}
	go press(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.ServeHTTP(slow{w, wait}, r) }))
	<-writing
	go func() {
		press(s)
		close(done)
	}()
	held := stays(done)
	close(release)
	<-done
	mended(t, held, "writes answers without holding a lock", "recorder in internal/site")
}

// openSocket opens the socket of the page, and reads the page.
func openSocket(t testing.TB, v *visitor.Visitor) *websocket.Conn {
	t.Helper()
	ws, err := v.Dial(stockPage)
	require.NoError(t, err)
	t.Cleanup(func() { ws.Close() })
	require.NoError(t, ws.SetReadDeadline(time.Now().Add(visitor.Soon)))
	next(ws)
	return ws
}

// next returns the next frame, or nothing once the socket has ended.
func next(ws *websocket.Conn) string {
	_, frame, _ := ws.ReadMessage()
	return string(frame)
}

func TestFramework_QueuesRefreshesThatOneWouldCover(t *testing.T) {
	s := newStock(t)
	s.wait = make(chan struct{})
	v := s.visit(t)
	tb := v.Open(stockPage)
	v.Open(stockPage) // is busy
	for range 12 {
		tb.Do("press", nil)
	}
	tb.Shows("Shared: 12")
	close(s.wait)
	mended(t, soon(func() bool { return s.changes.Load() > 2 }), // one under way, and one that would cover the rest
		"merges refreshes that wait", "WithDispatchBufferSize in Site.liveOptions")
}

func TestFramework_DropsAnActionBecauseAnotherWaits(t *testing.T) {
	s := newStock(t, livetemplate.WithDispatchBufferSize(1), livetemplate.WithAuthenticator(together{&livetemplate.AnonymousAuthenticator{}}))
	s.wait = make(chan struct{})
	s.visit(t).Open(stockPage)
	for i, action := range []string{"Changed", "Changed", "Say"} { // one runs, one waits
		require.NoError(t, s.Publish(livetemplate.UserTopic("together"), action, nil))
		require.True(t, i > 0 || soon(func() bool { return s.changes.Load() == 1 }))
	}
	metrics := ask(s.MetricsHandler(), http.MethodGet, "/metrics", nil, "").Body.String()
	close(s.wait)
	mended(t, strings.Contains(metrics, "\nlivetemplate_websocket_dispatch_dropped_total 1\n"),
		"has room for each action (or has renamed the metric: then Page.Dropped must follow)", "Peers.goAgain in internal/fanout, with Options.OnAction and Page.Dropped,")
}

func TestFramework_ConnectionsShareWhatAnEarlierRenderingHasParsed(t *testing.T) {
	const connections = 20
	long := strings.Replace(stockTemplate, "</form>", "</form>"+strings.Repeat("<p>{{.Said}}</p>", 200), 1) // much to parse
	held := func(first bool) int {
		tmpl, err := livetemplate.New("stock", livetemplate.WithParseFS(fstest.MapFS{"page.tmpl": {Data: []byte(long)}}, "page.tmpl"))
		require.NoError(t, err)
		if first {
			require.NoError(t, tmpl.Execute(io.Discard, &stockState{}))
		}
		handler := tmpl.Handle(&stockController{}, livetemplate.AsState(&stockState{}))
		server, before := serveOn(t, handler), collected()
		defer handler.Shutdown(t.Context())
		for range connections {
			defer openSocket(t, visitor.New(t, server)).Close()
		}
		return collected() - before
	}
	differs := false
	for try := 0; try < 5 && !differs; try++ { // what other tests leave may be freed meanwhile
		differs = held(false) > held(true)+connections*20_000
	}
	mended(t, differs, "shares what it parses between all connections", "the rendering in site.Live")
}

func TestFramework_LogsWhatIsOrdinary(t *testing.T) {
	log := captureLog(t)
	s := newStock(t)
	s.wait = make(chan struct{})
	v := s.visit(t)
	polite, tb, busy := openSocket(t, v), v.Open(stockPage), v.Open(stockPage)
	require.NoError(t, polite.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")))
	for next(polite) != "" {
	}
	polite.Close()
	for range 19 {
		tb.Do("press", nil)
	}
	tb.Shows("Shared: 19")
	close(s.wait)
	busy.Shows("Shared: 19")
	require.NoError(t, tb.WS.WriteMessage(websocket.TextMessage, []byte(`{"action":`)))
	require.NoError(t, busy.WS.WriteMessage(websocket.TextMessage,
		[]byte(`{"action":"upload_complete","upload_name":"what they sent","entry_ids":["x"]}`)))
	soon(func() bool {
		return strings.Contains(log.String(), "Upload") && strings.Contains(log.String(), "parse")
	})
	tb.Close()
	busy.Close()
	assert.NoError(t, s.Shutdown(t.Context()))
	for said, part := range map[string]string{
		`level=INFO msg="Client connected"`:           "its line in handler.Handle of internal/logging",
		`level=INFO msg="Client disconnected"`:        "its line in handler.Handle",
		`level=INFO msg="Starting graceful shutdown"`: "the lines about stopping in handler.Handle",
		`group_id=`: "its case in tidy of internal/logging",
		`level=WARN msg="dispatch channel full, dropping broadcast action"`: "its line in handler.Handle",
		`level=WARN msg="WebSocket error"`:                                  "conn.goingAway in internal/wsconn",
		`level=WARN msg="WebSocket close error"`:                            "the answer of conn.Close in internal/wsconn, which is never an error,",
		`level=WARN msg="Failed to parse message"`:                          "isAction in internal/wsconn",
		`msg="Upload action error"`:                                         "its line in handler.Handle",
	} {
		assert.Contains(t, log.String(), said, "The framework does not log this now: %s must follow if it uses other words, or may go.", part)
	}
}

// Other tests leave clean-ups that end at any time: those of this test are told by their
// goroutines, which a count would not do.
func TestFramework_ShutdownLeavesTheSessionStoreRunning(t *testing.T) {
	cleanups := func() map[string]bool {
		stacks, found := make([]byte, 8<<20), map[string]bool{}
		for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			if strings.Contains(stack, "MemorySessionStore).cleanupLoop(") {
				goroutine, _, _ := strings.Cut(stack, " [")
				found[goroutine] = true
			}
		}
		return found
	}
	before := cleanups()
	newer := func() bool {
		for goroutine := range cleanups() {
			if !before[goroutine] {
				return true
			}
		}
		return false
	}
	s := newStock(t)
	assert.True(t, soon(newer), "The framework has renamed the clean-up of its sessions: this canary must follow.")
	assert.NoError(t, s.Shutdown(t.Context()))
	time.Sleep(5 * tick)
	mended(t, newer(), "ends the clean-up of its sessions when it is shut down", "Page.close and Page.sessions")
}

// One peer that floods and does not read is enough. A connection in memory buffers nothing.
func TestFramework_PeerThatDoesNotReadHoldsUpEverybody(t *testing.T) {
	handler, listener := newStock(t, livetemplate.WithMessageRateLimit(1e6, 1e6)), make(pipes)
	server := http.Server{Handler: handler}
	go server.Serve(listener)
	deaf, healthy := listener.dial(t, stockPage), listener.dial(t, stockPage)
	next(healthy)
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		for visitor.Act(deaf, "press", nil) == nil {
		}
	}()
	held := soon(func() bool {
		answered := make(chan struct{})
		go func() {
			visitor.Act(healthy, "press", nil)
			for frame := "-"; frame != "" && !strings.Contains(frame, `"press"`); {
				frame = next(healthy)
			}
			close(answered)
		}()
		return stays(answered)
	})
	mended(t, held, "goes on while a peer does not read", "the queue of frames in internal/wsconn")

	stopped := make(chan struct{})
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), tick)
		defer cancel()
		handler.Shutdown(ctx)
		close(stopped)
	}()
	mended(t, stays(stopped), "ends Shutdown with its context", "the wait for ctx beside the wait for Shutdown, in Site.Shutdown,")
	deaf.Close()
	<-flooded
	<-stopped
	server.Close()
}
