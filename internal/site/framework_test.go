package site_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"runtime"
	"strings"
	"sync"
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
// today, where the project answers that behaviour. One that fails after an upgrade
// says what may be removed. docs/framework.md lists them all.

// mended fails a canary once the framework does better.
func mended(t testing.TB, today bool, now, mayGo string) {
	t.Helper()
	assert.True(t, today, "The framework %s now: %s may go.", now, mayGo)
}

// stockPage is a page that the framework serves by itself.
const stockPage = "/stock"

const stockTemplate = `<!DOCTYPE html><html><head><title>Stock</title></head><body>
<p>Shared: {{.Shared}} Said: {{.Said}} {{.Fixed}}</p>
<form method="POST"><button name="press">Press</button><small>{{.lvt.Error "said"}}</small></form>
</body></html>`

type stockState struct {
	Shared int
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

// stockController is the documented pattern.
type stockController struct {
	mu     sync.Mutex
	shared int

	mounts  atomic.Int64
	changes atomic.Int64
	wait    chan struct{} // what Changed waits for, if anything
}

func (c *stockController) Mount(s stockState, ctx *livetemplate.Context) (stockState, error) {
	c.mounts.Add(1)
	err := ctx.Subscribe(ctx.SelfTopic())
	return c.read(s), err
}

func (c *stockController) Press(s stockState, ctx *livetemplate.Context) (stockState, error) {
	c.mu.Lock()
	c.shared++
	c.mu.Unlock()
	return c.read(s), ctx.Publish(ctx.SelfTopic(), "Changed", nil)
}

// Touch publishes without a change.
func (c *stockController) Touch(s stockState, ctx *livetemplate.Context) (stockState, error) {
	return s, ctx.Publish(ctx.SelfTopic(), "Changed", nil)
}

func (c *stockController) Say(s stockState, ctx *livetemplate.Context) (stockState, error) {
	s.Said = ctx.GetString("said")
	return s, nil
}

func (c *stockController) Refuse(s stockState, _ *livetemplate.Context) (stockState, error) {
	return s, livetemplate.FieldError{Field: "said", Message: "refused"}
}

func (c *stockController) Changed(s stockState, _ *livetemplate.Context) (stockState, error) {
	c.changes.Add(1)
	if c.wait != nil {
		<-c.wait
	}
	return c.read(s), nil
}

func (c *stockController) read(s stockState) stockState {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Shared = c.shared
	return s
}

// stock serves the page with every option left alone but those given.
func stock(t testing.TB, c *stockController, opts ...livetemplate.Option) livetemplate.LiveHandler {
	t.Helper()
	page := fstest.MapFS{"page.tmpl": {Data: []byte(stockTemplate)}}
	tmpl, err := livetemplate.New("stock", append(opts, livetemplate.WithParseFS(page, "page.tmpl"))...)
	require.NoError(t, err)
	handler := tmpl.Handle(c, livetemplate.AsState(&stockState{}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		handler.Shutdown(ctx)
	})
	return handler
}

// serveStock serves a handler at stockPage.
func serveStock(t testing.TB, h http.Handler) (server string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(stockPage, h)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

func newStock(t testing.TB) (server string) { return serveStock(t, stock(t, &stockController{})) }

func TestFramework_SelfTopicReachesOneBrowserOnly(t *testing.T) {
	server := newStock(t)
	alice, bob := visitor.New(t, server), visitor.New(t, server)
	one, two, other := alice.Open(stockPage), alice.Open(stockPage), bob.Open(stockPage)
	one.Do("press", nil)
	two.Shows("Shared: 1")
	other.Settle()
	mended(t, strings.Contains(other.Text(), "Shared: 0"), "publishes to the self topic of a stranger in every browser",
		"the type everyone in handlers_realtime.go")
}

func TestFramework_UpdateFromAPeerRemovesAnError(t *testing.T) {
	v := visitor.New(t, newStock(t))
	tb, peer := v.Open(stockPage), v.Open(stockPage)
	tb.Do("refuse", nil)
	tb.Shows("refused")
	peer.Do("press", nil)
	tb.Shows("Shared: 1")
	mended(t, !strings.Contains(tb.Text(), "refused"), "keeps an error until its own tab acts",
		"the reasons kept in the state (MultiUserSyncState.Problem, PresenceState.NameError), and site.Refuse,")
}

func TestFramework_KeepsOneBaselineForAllTabsOfABrowser(t *testing.T) {
	v := visitor.New(t, newStock(t))
	one, two := v.OpenWithoutSocket(stockPage), v.OpenWithoutSocket(stockPage)
	one.Act("press", nil)
	require.Contains(t, one.Text(), "Shared: 1")
	two.Act("say", nil)
	mended(t, strings.Contains(two.Text(), "Shared: 0"), "answers the request of a tab with what that tab lacks",
		"the session group of each POST, and the GET after it, in Page.act, and the type authenticator")
}

func TestFramework_PlainRequestHasAStateOfItsOwn(t *testing.T) {
	v := visitor.New(t, newStock(t))
	v.Post(stockPage, url.Values{"say": {""}, "said": {"hello"}})
	mended(t, !strings.Contains(v.Get(stockPage), "hello"), "keeps the state of a browser without a socket",
		"the sentence that joining needs a live connection (needsSocket in state_realtime.go)")
}

func TestFramework_TextOfErrorsShowsInternals(t *testing.T) {
	v := visitor.New(t, newStock(t))
	resp, body := v.Request(http.MethodPost, stockPage, "application/json", "application/json", `{"action":`)
	require.GreaterOrEqual(t, resp.StatusCode, 400)
	mended(t, strings.Contains(body, "ReadString"), "keeps internals out of its answers",
		"the text that Page.send puts in place of an error")
}

func TestFramework_LeavesTheTypeOfHTMLToBeGuessed(t *testing.T) {
	handler, set := stock(t, &stockController{}), ""
	server := serveStock(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r)
		set = w.Header().Get("Content-Type")
	}))
	visitor.New(t, server).Get(stockPage)
	mended(t, set == "", "sets the content type of HTML", "Content-Type in Page.send")
}

func TestFramework_AnswersHTMLAndJSONWithoutVary(t *testing.T) {
	resp, _ := visitor.New(t, newStock(t)).Send(http.MethodGet, stockPage, "", "")
	mended(t, resp.Header.Get("Vary") == "", "tells caches that its answer depends on Accept", "Vary in Page.ServeHTTP")
}

// stuck is an answer that nobody reads.
type stuck struct {
	http.ResponseWriter
	writing, release chan struct{}
}

func (w stuck) Write([]byte) (int, error) {
	select {
	case w.writing <- struct{}{}:
		<-w.release
	case <-w.release: // the framework answers that it could not answer
	}
	return 0, errors.New("gone")
}

func TestFramework_SlowReaderHoldsUpTheOtherTabsOfABrowser(t *testing.T) {
	handler := stock(t, &stockController{})
	post := func() *http.Request {
		r := httptest.NewRequest(http.MethodPost, stockPage, strings.NewReader(`{"action":"press"}`))
		r.Header.Set("Accept", "application/json")
		r.Header.Set("Content-Type", "application/json")
		r.AddCookie(&http.Cookie{Name: visitor.SessionCookie, Value: "one-browser"})
		return r
	}
	w := stuck{httptest.NewRecorder(), make(chan struct{}), make(chan struct{})}
	go handler.ServeHTTP(w, post())
	<-w.writing
	done := make(chan struct{})
	go func() {
		handler.ServeHTTP(httptest.NewRecorder(), post())
		close(done)
	}()
	held := false
	select {
	case <-done:
	case <-time.After(300 * time.Millisecond):
		held = true
	}
	close(w.release)
	<-done
	mended(t, held, "writes answers without holding a lock", "the recorder in internal/site/recorder.go")
}

func TestFramework_TakesAnyCookie(t *testing.T) {
	req := httptest.NewRequest(http.MethodGet, stockPage, nil)
	req.AddCookie(&http.Cookie{Name: visitor.SessionCookie, Value: "x"})
	answer := httptest.NewRecorder()
	stock(t, &stockController{}).ServeHTTP(answer, req)
	mended(t, len(answer.Result().Cookies()) == 0, "replaces a session cookie that it did not make",
		"madeHere and withCookie in internal/site/session.go")
}

func TestFramework_SessionCookieIsNotSecure(t *testing.T) {
	server := httptest.NewTLSServer(stock(t, &stockController{}))
	defer server.Close()
	resp, err := server.Client().Get(server.URL)
	require.NoError(t, err)
	resp.Body.Close()
	require.Len(t, resp.Cookies(), 1)
	mended(t, !resp.Cookies()[0].Secure, "marks its cookie as secure over TLS", "the cookie that withSession sets")
}

func TestFramework_TakesFormsOfOtherSites(t *testing.T) {
	c := &stockController{}
	req, err := http.NewRequest(http.MethodPost, serveStock(t, stock(t, c))+stockPage, strings.NewReader("press="))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", "https://evil.example")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	resp, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	resp.Body.Close()
	mended(t, c.read(stockState{}).Shared == 1, "refuses forms of other sites", "sameSiteOnly in internal/site/request.go")
}

func TestFramework_TakesFormsOfAnyLength(t *testing.T) {
	c := &stockController{}
	v := visitor.New(t, serveStock(t, stock(t, c)))
	v.Post(stockPage, url.Values{"press": {""}, "said": {strings.Repeat("x", 1<<20)}})
	mended(t, c.read(stockState{}).Shared == 1, "limits the length of forms", "maxForm in internal/site/page.go")
}

// upgrader is one that the framework does not know.
type upgrader struct{ livetemplate.WSUpgrader }

func TestFramework_AllowedOriginsAreForItsOwnUpgraderOnly(t *testing.T) {
	const friend = "https://friend.example"
	server := serveStock(t, stock(t, &stockController{}, livetemplate.WithAllowedOrigins([]string{friend}),
		livetemplate.WithUpgrader(upgrader{livetemplate.NewGorillaUpgrader()})))
	_, resp := visitor.Knock(t, server, stockPage, http.Header{"Origin": {friend}})
	mended(t, resp.StatusCode == http.StatusForbidden, "tells an upgrader of ours which origins are allowed",
		"admission.mayConnect in internal/site/admission.go")
}

func TestFramework_DropsTheHeadersOfAHandshake(t *testing.T) {
	handler := stock(t, &stockController{})
	server := serveStock(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", "set before")
		handler.ServeHTTP(w, r)
	}))
	ws, resp := visitor.Knock(t, server, stockPage, nil)
	require.NotNil(t, ws)
	mended(t, resp.Header.Get("X-Request-Id") == "", "sends the headers that were set before a handshake",
		"the headers that Upgrader.Upgrade adds in internal/wsconn")
}

func TestFramework_LogsABrokenHandshakeAsAnError(t *testing.T) {
	log := &visitor.Log{}
	before := slog.Default()
	slog.SetDefault(log.Logger())
	defer slog.SetDefault(before)
	req, err := http.NewRequest(http.MethodGet, newStock(t)+stockPage, nil)
	require.NoError(t, err)
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"broken"}}
	resp, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	resp.Body.Close()
	mended(t, strings.Contains(log.String(), "level=ERROR"), "logs no error for a broken handshake",
		"the length of the key in handshakeError of internal/site/admission.go")
}

func TestFramework_AnybodyCanCallMount(t *testing.T) {
	c := &stockController{}
	tb := visitor.New(t, serveStock(t, stock(t, c))).Open(stockPage)
	before := c.mounts.Load()
	tb.Do("mount", nil)
	tb.Settle()
	mended(t, c.mounts.Load() == before+1, "refuses Mount as an action",
		"the question whether this is a new connection, in PresenceController.Mount,")
}

func TestFramework_TakesBinaryFrames(t *testing.T) {
	tb := visitor.New(t, newStock(t)).Open(stockPage)
	require.NoError(t, tb.WS.WriteMessage(websocket.BinaryMessage, []byte(`{"action":"press","data":{}}`)))
	tb.Settle()
	mended(t, strings.Contains(tb.Text(), "Shared: 1"), "refuses binary frames", "the refusal in conn.ReadMessage of internal/wsconn")
}

func TestFramework_TakesMessagesOfAnyLength(t *testing.T) {
	tb := visitor.New(t, newStock(t)).Open(stockPage)
	tb.Do("say", map[string]any{"said": strings.Repeat("x", 1<<20)})
	tb.Settle()
	mended(t, strings.Contains(tb.Text(), "xxx"), "limits the length of messages", "MaxMessage in internal/wsconn")
}

func TestFramework_HasNoDeadlinesForSockets(t *testing.T) {
	mended(t, reflect.TypeFor[livetemplate.WSConn]().NumMethod() == 3,
		"asks more of a connection than to read, write and close", "a part of internal/wsconn, perhaps: the heartbeat,")
}

// frames opens a socket, sends messages, and returns the frame that answers the last.
func frames(t *testing.T, server string, messages ...string) (last string) {
	ws, err := visitor.New(t, server).Dial(stockPage)
	require.NoError(t, err)
	defer ws.Close()
	_, _, err = ws.ReadMessage() // the page
	require.NoError(t, err)
	for _, m := range messages {
		require.NoError(t, ws.WriteMessage(websocket.TextMessage, []byte(m)))
	}
	for range messages {
		_, frame, err := ws.ReadMessage()
		require.NoError(t, err)
		last = string(frame)
	}
	return last
}

// The frames that internal/wsconn rewrites, as it knows them.
func TestFramework_AnswerAboveTheRateHasNoTree(t *testing.T) {
	got := frames(t, newStock(t), times(30, `{"action":"say"}`)...)
	mended(t, got == `{"tree":null,"meta":{"success":false,"errors":{"_rate_limit":"Too many requests. Please slow down."}}}`,
		"answers "+got+" above the rate", "tooFast in internal/wsconn must follow, or")
}

func times(n int, message string) (all []string) {
	for range n {
		all = append(all, message)
	}
	return all
}

func TestFramework_AnswerToAPingIsNotAnUpdate(t *testing.T) {
	got := frames(t, newStock(t), `{"action":"__ping__"}`)
	mended(t, got == `{"pong":true}`, "answers a ping with "+got, "pong in internal/wsconn must follow, or")
}

func TestFramework_SendsRefreshesThatChangeNothing(t *testing.T) {
	v := visitor.New(t, newStock(t))
	tb := v.Open(stockPage)
	ws, err := v.Dial(stockPage)
	require.NoError(t, err)
	defer ws.Close()
	_, _, err = ws.ReadMessage() // the page
	require.NoError(t, err)
	tb.Do("touch", nil)
	require.NoError(t, ws.SetReadDeadline(time.Now().Add(time.Second)))
	_, frame, _ := ws.ReadMessage()
	mended(t, string(frame) == `{"tree":{},"meta":{"success":true,"errors":null}}`, "sends no refresh that changes nothing",
		"nothingChanged in internal/wsconn")
}

func TestFramework_QueuesRefreshesThatOneWouldCover(t *testing.T) {
	c := &stockController{wait: make(chan struct{})}
	v := visitor.New(t, serveStock(t, stock(t, c)))
	tb, busy := v.Open(stockPage), v.Open(stockPage)
	for range 12 {
		tb.Do("press", nil)
	}
	tb.Shows("Shared: 12")
	close(c.wait)
	busy.Shows("Shared: 12")
	queued := func() bool { return c.changes.Load() > 2 } // one under way, and one that would cover the rest
	for end := time.Now().Add(5 * time.Second); !queued() && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	mended(t, queued(), "merges refreshes that wait", "WithDispatchBufferSize in Site.liveOptions")
}

func TestFramework_RendersTheWholePageAtEveryRefresh(t *testing.T) {
	tb := visitor.New(t, newStock(t)).Open(stockPage)
	before := renderings.Load()
	tb.Do("press", nil)
	tb.Shows("Shared: 1")
	mended(t, renderings.Load() > before, "renders only what has changed", "the split of a page into fixed text and a live part (internal/site/layout.go)")
}

func TestFramework_CountsNoConnections(t *testing.T) {
	handler := stock(t, &stockController{})
	visitor.New(t, serveStock(t, handler)).Open(stockPage)
	answer := httptest.NewRecorder()
	handler.MetricsHandler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	mended(t, strings.Contains(answer.Body.String(), "\nlivetemplate_connections_active 0\n"), "counts its connections",
		"realtime_connections in internal/site/metrics.go, and the choice of metrics there,")
}

func TestFramework_ConnectionsShareWhatAnEarlierRenderingHasParsed(t *testing.T) {
	long := strings.Replace(stockTemplate, "</form>", "</form>"+strings.Repeat("<p>{{.Said}}</p>", 200), 1) // much to parse
	held := func(first bool) uint64 {
		tmpl, err := livetemplate.New("stock", livetemplate.WithParseFS(fstest.MapFS{"page.tmpl": {Data: []byte(long)}}, "page.tmpl"))
		require.NoError(t, err)
		if first {
			require.NoError(t, tmpl.Execute(io.Discard, &stockState{}))
		}
		handler := tmpl.Handle(&stockController{}, livetemplate.AsState(&stockState{}))
		server := serveStock(t, handler)
		before := collected()
		var sockets []*websocket.Conn
		for range 50 {
			ws, err := visitor.New(t, server).Dial(stockPage)
			require.NoError(t, err)
			_, _, err = ws.ReadMessage()
			require.NoError(t, err)
			sockets = append(sockets, ws)
		}
		after := collected()
		for _, ws := range sockets {
			ws.Close()
		}
		assert.NoError(t, handler.Shutdown(t.Context()))
		return after - before
	}
	own, shared := held(false), held(true)
	t.Logf("%d bytes for each connection, %d after a rendering", own/50, shared/50)
	mended(t, own > shared+50*20_000, "shares what it parses between all connections", "the rendering in site.Live")
}

func TestFramework_LogsWhatIsOrdinary(t *testing.T) {
	log := &visitor.Log{}
	before := slog.Default()
	slog.SetDefault(log.Logger())
	defer slog.SetDefault(before)
	c := &stockController{wait: make(chan struct{})}
	handler := stock(t, c)
	server := serveStock(t, handler)
	v := visitor.New(t, server)

	polite, err := v.Dial(stockPage)
	require.NoError(t, err)
	require.NoError(t, polite.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")))
	for err == nil {
		_, _, err = polite.ReadMessage()
	}
	polite.Close()
	tb, busy := v.Open(stockPage), v.Open(stockPage)
	for range 19 {
		tb.Do("press", nil)
	}
	tb.Shows("Shared: 19")
	close(c.wait)
	busy.Shows("Shared: 19")
	require.NoError(t, tb.WS.WriteMessage(websocket.TextMessage, []byte(`{"action":`)))
	require.NoError(t, busy.WS.WriteMessage(websocket.TextMessage, []byte(`{"action":"upload_complete","upload_name":"what they sent","entry_ids":["x"]}`)))
	time.Sleep(100 * time.Millisecond)
	tb.Close()
	busy.Close()
	assert.NoError(t, handler.Shutdown(t.Context()))

	for said, mayGo := range map[string]string{
		`level=INFO msg="Client connected"`:           "its line in calm.Handle of internal/site/log.go",
		`level=INFO msg="Client disconnected"`:        "its line in calm.Handle",
		`level=INFO msg="Starting graceful shutdown"`: "the lines about stopping in calm.Handle",
		`group_id=`: "dropSessionCookie in internal/site/log.go",
		`level=WARN msg="dispatch channel full, dropping broadcast action"`: "its line in calm.Handle",
		`level=WARN msg="WebSocket error"`:                                  "conn.goingAway in internal/wsconn",
		`level=WARN msg="WebSocket close error"`:                            "the answer of conn.Close in internal/wsconn, which is never an error,",
		`level=WARN msg="Failed to parse message"`:                          "isAction in internal/wsconn",
		`msg="Upload action error"`:                                         "its line in calm.Handle",
	} {
		mended(t, strings.Contains(log.String(), said), "does not log "+said, mayGo)
	}
}

func TestFramework_ShutdownLeavesTheSessionStoreRunning(t *testing.T) {
	running := func() int {
		stacks := make([]byte, 8<<20)
		return bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("MemorySessionStore).cleanupLoop"))
	}
	before := running()
	handler := stock(t, &stockController{})
	assert.NoError(t, handler.Shutdown(t.Context()))
	time.Sleep(50 * time.Millisecond)
	mended(t, running() == before+1, "ends the clean-up of its sessions when it is shut down", "Page.close and Page.sessions")
}

// One peer that floods and does not read is enough.
func TestFramework_PeerThatDoesNotReadHoldsUpEverybody(t *testing.T) {
	handler := stock(t, &stockController{}, livetemplate.WithMessageRateLimit(1e6, 1e6))
	server := serveStock(t, handler)
	healthy := visitor.New(t, server).Open(stockPage)

	deaf, err := visitor.New(t, server).Dial(stockPage)
	require.NoError(t, err)
	require.NoError(t, deaf.NetConn().(*net.TCPConn).SetReadBuffer(4096))
	defer deaf.Close()
	message := fmt.Appendf(nil, `{"action":%q}`, strings.Repeat("x", 4096)) // its answer repeats it
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		// Not so fast that frames queue up before the first writes wait.
		for ; deaf.WriteMessage(websocket.TextMessage, message) == nil; time.Sleep(100 * time.Microsecond) {
		}
	}()

	var held bool
	for begin := time.Now(); !held && time.Since(begin) < 10*time.Second; {
		before := healthy.FrameCount()
		healthy.Do("press", nil)
		for asked := time.Now(); healthy.FrameCount() == before && !held; held = time.Since(asked) > time.Second {
			time.Sleep(time.Millisecond)
		}
	}
	mended(t, held, "goes on while a peer does not read", "the queue of frames in internal/wsconn")

	stopped := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		stopped <- handler.Shutdown(ctx)
	}()
	blocked := false
	select {
	case <-stopped:
	case <-time.After(300 * time.Millisecond):
		blocked = true
	}
	mended(t, blocked, "ends Shutdown with its context", "the wait for ctx beside the wait for Shutdown, in Site.Shutdown,")
	deaf.Close()
	<-flooded
}
