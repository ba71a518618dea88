package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/presence"
)

const (
	counterPage  = "/realtime/multi-user-sync"
	presencePage = "/realtime/presence"

	// soon is how long a change may take to arrive. It ends waits that would
	// never end; no test measures by it.
	soon = 30 * time.Second
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the framework logs every connect
	code := m.Run()
	endSharedChromium()
	os.RemoveAll(built.dir)
	os.Exit(code)
}

// newServer serves a new app on a real socket, and returns its address.
func newServer(t testing.TB) string {
	t.Helper()
	return newServerWith(t, Config{})
}

// newServerWith serves a new app that differs from the program's.
func newServerWith(t testing.TB, cfg Config) string {
	t.Helper()
	return serve(t, cfg, func(app http.Handler) http.Handler { return app })
}

// newServerBehind serves a new app behind a proxy of the test's.
func newServerBehind(t testing.TB, proxy func(app http.Handler) http.Handler) string {
	t.Helper()
	return serve(t, Config{}, proxy)
}

func serve(t testing.TB, cfg Config, proxy func(app http.Handler) http.Handler) string {
	t.Helper()
	return serveOn(t, cfg, func(app http.Handler) *httptest.Server { return httptest.NewServer(proxy(app)) }).URL
}

func serveOn(t testing.TB, cfg Config, listen func(app http.Handler) *httptest.Server) *httptest.Server {
	t.Helper()
	cfg.Drain = cmp.Or(cfg.Drain, time.Millisecond) // most tests end with tabs open
	app, err := NewApp(cfg)
	require.NoError(t, err)
	server := listen(app)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		assert.NoError(t, app.Shutdown(ctx), "shutdown")
		server.Close()
	})
	return server
}

// newApp serves an app that a test can look into.
func newApp(t testing.TB, cfg Config) (app *App, url string) {
	t.Helper()
	url = serve(t, cfg, func(h http.Handler) http.Handler {
		app = h.(*App)
		return h
	})
	return app, url
}

// newTLSServer serves a new app over TLS, and returns a client that trusts it.
func newTLSServer(t testing.TB) (url string, client *http.Client) {
	t.Helper()
	server := serveOn(t, Config{}, httptest.NewTLSServer)
	return server.URL, server.Client()
}

// network is a way to a server that can break.
type network struct {
	t      testing.TB
	url    string
	server string

	mu       sync.Mutex
	listener net.Listener
	conns    []net.Conn
	clear    chan struct{} // closed while bytes get through
}

func newNetwork(t testing.TB, server string) *network {
	t.Helper()
	n := &network{t: t, server: strings.TrimPrefix(server, "http://"), clear: make(chan struct{})}
	close(n.clear)
	n.listen("127.0.0.1:0")
	n.url = "http://" + n.listener.Addr().String()
	t.Cleanup(n.leave)
	return n
}

func (n *network) listen(addr string) {
	n.t.Helper()
	listener, err := net.Listen("tcp", addr)
	require.NoError(n.t, err)
	n.listener = listener
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", n.server)
			if err != nil {
				near.Close()
				continue
			}
			n.mu.Lock()
			n.conns = append(n.conns, near, far)
			n.mu.Unlock()
			go n.relay(far, near)
			go n.relay(near, far)
		}
	}()
}

func (n *network) relay(to, from net.Conn) {
	defer to.Close()
	buf := make([]byte, 4096)
	for {
		size, err := from.Read(buf)
		n.mu.Lock()
		clear := n.clear
		n.mu.Unlock()
		<-clear
		if _, writeErr := to.Write(buf[:size]); err != nil || writeErr != nil {
			return
		}
	}
}

// cut breaks every connection there is. New ones work.
func (n *network) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, conn := range n.conns {
		conn.Close()
	}
	n.conns = nil
}

// leave refuses new connections, as if the server were away, and cuts those there are.
func (n *network) leave() {
	n.listener.Close()
	n.cut()
}

// comeBack undoes leave.
func (n *network) comeBack() {
	n.t.Helper()
	n.listen(n.listener.Addr().String())
}

// swallow lets nothing through, without a word, until release is called.
func (n *network) swallow() (release func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear := make(chan struct{})
	n.clear = clear
	release = sync.OnceFunc(func() { close(clear) })
	n.t.Cleanup(release)
	return release
}

// visitor is one browser without scripts: a cookie jar, and the tabs it opens.
type visitor struct {
	t      testing.TB
	base   string
	client *http.Client
}

func newVisitor(t testing.TB, server string) *visitor {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &visitor{t: t, base: server, client: &http.Client{
		Jar: jar,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // a test sees the redirect itself
		},
	}}
}

// get is the first HTML of a page, before any script, as the person reads it.
func (v *visitor) get(path string) string {
	v.t.Helper()
	resp, body := v.send(http.MethodGet, path, "", "")
	require.Equal(v.t, http.StatusOK, resp.StatusCode)
	return readable(body)
}

// post submits a form as a browser without scripts does.
func (v *visitor) post(path string, form url.Values) (*http.Response, string) {
	v.t.Helper()
	return v.send(http.MethodPost, path, "application/x-www-form-urlencoded", form.Encode())
}

// click counts one, without a socket.
func (v *visitor) click() {
	v.t.Helper()
	resp, _ := v.post(counterPage, url.Values{"increment": {""}})
	require.Equal(v.t, http.StatusSeeOther, resp.StatusCode)
}

func (v *visitor) send(method, path, contentType, body string) (*http.Response, string) {
	v.t.Helper()
	return v.request(method, path, "text/html", contentType, body)
}

func (v *visitor) request(method, path, accept, contentType, body string) (*http.Response, string) {
	v.t.Helper()
	req, err := http.NewRequest(method, v.base+path, strings.NewReader(body))
	require.NoError(v.t, err)
	req.Header.Set("Accept", accept)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := v.client.Do(req)
	require.NoError(v.t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(v.t, err)
	return resp, string(answer)
}

// open opens a page in a new tab: the HTML first, then the socket.
func (v *visitor) open(path string) *tab {
	v.t.Helper()
	_, page := v.send(http.MethodGet, path, "", "")
	fixed := around.FindStringSubmatch(page)
	require.NotNil(v.t, fixed, "the live part of the page:\n%s", page)
	tb := &tab{t: v.t, visitor: v, path: path, before: fixed[1], after: fixed[2]}
	tb.connect()
	v.t.Cleanup(tb.close)
	return tb
}

// connect opens a socket, the first or another, and waits for the page it brings.
func (tb *tab) connect() {
	tb.t.Helper()
	ws, err := tb.visitor.dial(tb.path)
	require.NoError(tb.t, err)
	tb.ws, tb.frames, tb.err = ws, 0, nil
	tb.changed, tb.ended = make(chan struct{}), make(chan struct{})
	go tb.read()
	tb.waitFor(func() bool { return tb.frames > 0 }, "a first frame")
}

// openWithoutSocket opens a page in a new tab where no socket opens: the browser
// client then sends requests.
func (v *visitor) openWithoutSocket(path string) *requestTab {
	v.t.Helper()
	tb := &requestTab{visitor: v, path: path}
	tb.do(http.MethodGet, "")
	return tb
}

// requestTab is an open page that applies answers to its requests as the browser
// client does.
type requestTab struct {
	*visitor
	path string
	tree any
}

func (tb *requestTab) act(action string, fields map[string]any) {
	tb.t.Helper()
	message, err := json.Marshal(map[string]any{"action": action, "data": fields})
	require.NoError(tb.t, err)
	tb.do(http.MethodPost, string(message))
}

func (tb *requestTab) do(method, message string) {
	tb.t.Helper()
	resp, body := tb.request(method, tb.path, "application/json", "application/json", message)
	require.Equal(tb.t, http.StatusOK, resp.StatusCode)
	var answer struct {
		Tree map[string]any `json:"tree"`
	}
	require.NoError(tb.t, json.Unmarshal([]byte(body), &answer))
	tb.tree = merge(tb.tree, answer.Tree)
}

// dial opens the socket of a page. Nothing reads it, or answers a ping.
func (v *visitor) dial(path string) (*websocket.Conn, error) {
	return dialPage(websocket.Dialer{Jar: v.client.Jar, HandshakeTimeout: soon}, v.base, path)
}

// knock asks for the socket of a page as anybody can, with headers of their
// choice. Without one, the answer says why.
func knock(t testing.TB, server, path string, header http.Header) (ws *websocket.Conn, resp *http.Response) {
	t.Helper()
	dialer := websocket.Dialer{HandshakeTimeout: soon}
	ws, resp, err := dialer.Dial("ws"+strings.TrimPrefix(server, "http")+path, header)
	if !assert.NotNil(t, resp, "no answer: %v", err) {
		return nil, &http.Response{}
	}
	if ws != nil {
		t.Cleanup(func() { ws.Close() })
	}
	return ws, resp
}

// dialPage opens the socket of a page as a script of that page does.
func dialPage(dialer websocket.Dialer, server, path string) (*websocket.Conn, error) {
	ws, _, err := dialer.Dial("ws"+strings.TrimPrefix(server, "http")+path, http.Header{"Origin": {server}})
	return ws, err
}

// nothingRuns waits until at most so many goroutines run.
func nothingRuns(t *testing.T, most int) {
	t.Helper()
	http.DefaultClient.CloseIdleConnections()
	if !assert.Eventually(t, func() bool { return runtime.NumGoroutine() <= most }, soon, 20*time.Millisecond, "goroutines are left") {
		stacks := make([]byte, 8<<20)
		t.Logf("%d expected, now:\n%s", most, stacks[:runtime.Stack(stacks, true)])
	}
}

// collected is what is in use once nothing is left to collect.
func collected() (stats runtime.MemStats) {
	runtime.GC()
	runtime.GC() // the second empties pools
	runtime.ReadMemStats(&stats)
	return stats
}

// act sends an action, with its fields as the browser client encodes them.
func act(ws *websocket.Conn, action string, fields map[string]any) error {
	return ws.WriteJSON(map[string]any{"action": action, "data": fields})
}

// comeAndGo opens the presence page n times, in four tabs of one browser at a
// time. Each joins, and goes as tabs go: with a close frame, without one, or
// before it has read the answer.
func comeAndGo(t testing.TB, server string, n int) {
	t.Helper()
	v := newVisitor(t, server)
	v.get(presencePage) // for its cookie
	var tabs sync.WaitGroup
	for range 4 {
		tabs.Go(func() {
			for i := range n / 4 {
				ws, err := v.dial(presencePage)
				if !assert.NoError(t, err) {
					return
				}
				assert.NoError(t, act(ws, "join", map[string]any{"username": "guest"}))
				way := i % 3
				if way != 0 {
					ws.ReadMessage() // the page
					ws.ReadMessage() // the answer, or somebody else's refresh
				}
				if way == 1 {
					ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, ""))
				}
				ws.Close()
			}
		})
	}
	tabs.Wait()
}

// tab is one open page. It applies the frames it is sent as the browser client does.
type tab struct {
	t       testing.TB
	visitor *visitor
	path    string
	ws      *websocket.Conn
	ended   chan struct{} // closed when the socket has

	before, after string // the HTML around the live part of the page

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at every frame
	tree     any
	frames   int
	settled  int
	answered string   // the action that the server answered last
	history  []string // what the tab has read since startHistory, without repeats
	err      error    // why the socket ended
}

func (tb *tab) read() {
	defer close(tb.ended)
	for {
		_, data, err := tb.ws.ReadMessage()
		var frame struct {
			Tree map[string]any `json:"tree"`
			Meta struct {
				Action string `json:"action"`
			} `json:"meta"`
		}
		if err == nil {
			err = json.Unmarshal(data, &frame)
		}
		tb.mu.Lock()
		if err == nil {
			tb.tree = merge(tb.tree, frame.Tree)
			tb.frames++
			if frame.Meta.Action != "" {
				tb.answered = frame.Meta.Action
			}
			tb.remember()
		}
		tb.err = err
		close(tb.changed)
		tb.changed = make(chan struct{})
		tb.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// remember adds what the tab reads to its history, if one was started and it
// is new; it is called with tb.mu held.
func (tb *tab) remember() {
	if tb.history == nil {
		return
	}
	if text := tb.text(); text != tb.history[len(tb.history)-1] {
		tb.history = append(tb.history, text)
	}
}

// startHistory keeps what the tab reads now, and whatever it reads after a frame
// that changes it.
func (tb *tab) startHistory() {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.history = []string{tb.text()}
}

// hasRead is what the tab has read since startHistory.
func (tb *tab) hasRead() []string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return slices.Clone(tb.history)
}

// noChange checks that what the tab reads has not changed since startHistory,
// not for a moment, and will not: a grace period that has begun is over.
func (tb *tab) noChange() {
	tb.t.Helper()
	<-time.After(presence.DefaultGrace)
	tb.settle()
	assert.Len(tb.t, tb.hasRead(), 1, "what the tab has read")
}

// do sends an action.
func (tb *tab) do(action string, fields map[string]any) {
	tb.t.Helper()
	assert.NoError(tb.t, act(tb.ws, action, fields))
}

func (tb *tab) increment()       { tb.t.Helper(); tb.do("increment", nil) }
func (tb *tab) join(name string) { tb.t.Helper(); tb.do("join", map[string]any{"username": name}) }
func (tb *tab) leave()           { tb.t.Helper(); tb.do("leave", nil) }

// close closes the tab as a browser does: without Leave, and without waiting.
func (tb *tab) close() {
	tb.ws.Close()
	<-tb.ended
}

// shows waits until the tab reads want.
func (tb *tab) shows(want string) {
	tb.t.Helper()
	tb.waitFor(func() bool { return strings.Contains(tb.text(), want) }, fmt.Sprintf("%q", want))
}

// showsNoMore waits until the tab does not read unwanted any more.
func (tb *tab) showsNoMore(unwanted string) {
	tb.t.Helper()
	tb.waitFor(func() bool { return !strings.Contains(tb.text(), unwanted) }, fmt.Sprintf("no %q", unwanted))
}

// text is what the person reads; it is called with tb.mu held.
func (tb *tab) text() string { return readable(tb.before + render(tb.tree) + tb.after) }

// never checks that the tab does not read unwanted now.
func (tb *tab) never(unwanted string) {
	tb.t.Helper()
	assert.NotContains(tb.t, readable(tb.html()), unwanted)
}

// html is what the tab's page holds now.
func (tb *tab) html() string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.before + render(tb.tree) + tb.after
}

func (tb *tab) frameCount() int {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.frames
}

// settle waits until the server has answered everything sent so far: a tab's
// actions are answered in order, unknown ones too.
func (tb *tab) settle() {
	tb.t.Helper()
	tb.settled++
	action := fmt.Sprint("settle ", tb.settled)
	tb.do(action, nil)
	tb.waitFor(func() bool { return tb.answered == action }, "an answer")
}

// waitFor waits until what holds; it is called with tb.mu held.
func (tb *tab) waitFor(what func() bool, name string) {
	tb.t.Helper()
	timeout := time.After(soon)
	for {
		tb.mu.Lock()
		ok, changed, err := what(), tb.changed, tb.err
		tb.mu.Unlock()
		if ok {
			return
		}
		require.NoError(tb.t, err, "the socket ended before the tab got %s", name)
		select {
		case <-changed:
		case <-timeout:
			require.FailNow(tb.t, "timeout", "want %s, the tab reads:\n%s", name, readable(tb.html()))
		}
	}
}

// merge applies an update to a tree: a node that brings its fixed parts ("s")
// replaces the old one, any other changes only the slots it names. A list is
// changed by operations.
func merge(old, update any) any {
	into, ok := old.(map[string]any)
	if operations, isList := update.([]any); ok && isList {
		return edit(into, operations)
	}
	from, isNode := update.(map[string]any)
	if _, whole := from["s"]; !ok || !isNode || whole {
		return update
	}
	for slot, value := range from {
		into[slot] = merge(into[slot], value)
	}
	return into
}

// edit applies operations to a list: its items ("d") are known by the slot that
// its description ("m") names. The first items of an empty list bring both it
// and the fixed parts along.
func edit(list map[string]any, operations []any) any {
	items, _ := list["d"].([]any)
	find := func(key any) int {
		slot := list["m"].(map[string]any)["idKey"].(string)
		return slices.IndexFunc(items, func(item any) bool { return item.(map[string]any)[slot] == key })
	}
	for _, operation := range operations {
		op := operation.([]any)
		switch op[0] {
		case "a": // append
			items = append(items, op[1].([]any)...)
			if len(op) == 4 {
				list["s"], list["m"] = op[2], op[3]
			}
		case "p": // prepend
			items = slices.Concat(op[1].([]any), items)
		case "i": // insert after
			items = slices.Insert(items, find(op[1])+1, op[2])
		case "r": // remove
			items = slices.Delete(items, find(op[1]), find(op[1])+1)
		case "u": // update
			items[find(op[1])] = merge(items[find(op[1])], op[2])
		case "o": // order
			var ordered []any
			for _, key := range op[1].([]any) {
				ordered = append(ordered, items[find(key)])
			}
			items = ordered
		default:
			panic(fmt.Sprintf("unknown operation %v", op))
		}
	}
	list["d"] = items
	return list
}

// render is the HTML of a tree: fixed parts and slots in turn, for a list once
// for each item.
func render(tree any) string {
	node, ok := tree.(map[string]any)
	if !ok {
		if tree == nil {
			return ""
		}
		return fmt.Sprint(tree)
	}
	fixed, _ := node["s"].([]any)
	items, isList := node["d"].([]any)
	if !isList {
		items = []any{node}
	}
	var b strings.Builder
	for _, item := range items {
		for i, part := range fixed {
			b.WriteString(part.(string))
			b.WriteString(render(item.(map[string]any)[strconv.Itoa(i)]))
		}
	}
	return b.String()
}

var around = regexp.MustCompile(`(?s)^(.*<div data-lvt-id=[^>]*>).*(</div>.*)$`)

// readable is the text a person sees of some HTML.
func readable(markup string) string {
	var text strings.Builder
	for markup != "" {
		before, tag, _ := strings.Cut(markup, "<")
		text.WriteString(before)
		_, markup, _ = strings.Cut(tag, ">")
	}
	const space = " \t\r\n"
	plain := html.UnescapeString(text.String())
	folded := strings.Join(strings.FieldsFunc(plain, func(r rune) bool { return strings.ContainsRune(space, r) }), " ")
	if strings.TrimLeft(plain, space) != plain {
		folded = " " + folded
	}
	if strings.TrimRight(plain, space) != plain {
		folded += " "
	}
	return folded
}
