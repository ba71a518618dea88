package main

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	counterPage  = "/realtime/multi-user-sync"
	presencePage = "/realtime/presence"

	// soon is how long a change may take to arrive. It ends waits that would
	// never end; no test measures by it.
	soon = 10 * time.Second
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the framework logs every connect
	os.Exit(m.Run())
}

// newServer serves a new app on a real socket, and returns its address.
func newServer(t testing.TB) string {
	t.Helper()
	return newServerBehind(t, func(app http.Handler) http.Handler { return app })
}

// newServerBehind serves a new app behind a proxy of the test's.
func newServerBehind(t testing.TB, proxy func(app http.Handler) http.Handler) string {
	t.Helper()
	app, err := NewApp(Config{})
	require.NoError(t, err)
	server := httptest.NewServer(proxy(app))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		assert.NoError(t, app.Shutdown(ctx), "shutdown")
		server.Close()
	})
	return server.URL
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

func (v *visitor) send(method, path, contentType, body string) (*http.Response, string) {
	v.t.Helper()
	req, err := http.NewRequest(method, v.base+path, strings.NewReader(body))
	require.NoError(v.t, err)
	req.Header.Set("Accept", "text/html")
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
	v.get(path)
	dialer := websocket.Dialer{Jar: v.client.Jar, HandshakeTimeout: soon}
	ws, _, err := dialer.Dial("ws"+strings.TrimPrefix(v.base, "http")+path, http.Header{"Origin": {v.base}})
	require.NoError(v.t, err)
	tb := &tab{t: v.t, ws: ws, changed: make(chan struct{}), ended: make(chan struct{})}
	go tb.read()
	v.t.Cleanup(tb.close)
	tb.waitFor(func() bool { return tb.frames > 0 }, "a first frame")
	return tb
}

// tab is one open page. It applies the frames it is sent as the browser client does.
type tab struct {
	t     testing.TB
	ws    *websocket.Conn
	ended chan struct{} // closed when the socket has

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every frame
	tree    any
	frames  int
	err     error // why the socket ended
}

func (tb *tab) read() {
	defer close(tb.ended)
	for {
		_, data, err := tb.ws.ReadMessage()
		var frame struct {
			Tree map[string]any `json:"tree"`
		}
		if err == nil {
			err = json.Unmarshal(data, &frame)
		}
		tb.mu.Lock()
		if err == nil {
			tb.tree = merge(tb.tree, frame.Tree)
			tb.frames++
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

// do sends an action, with its fields as the browser client encodes them.
func (tb *tab) do(action string, fields map[string]any) {
	tb.t.Helper()
	assert.NoError(tb.t, tb.ws.WriteJSON(map[string]any{"action": action, "data": fields}))
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
	tb.waitFor(func() bool { return strings.Contains(readable(render(tb.tree)), want) }, fmt.Sprintf("%q", want))
}

// never checks that the tab does not read unwanted now.
func (tb *tab) never(unwanted string) {
	tb.t.Helper()
	assert.NotContains(tb.t, readable(tb.html()), unwanted)
}

// html is what the tab's page holds now.
func (tb *tab) html() string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return render(tb.tree)
}

func (tb *tab) frameCount() int {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.frames
}

// settle waits until the server has answered everything sent so far: a tab's
// actions are answered in order.
func (tb *tab) settle() {
	tb.t.Helper()
	frames := tb.frameCount()
	tb.do("refreshCounter", nil)
	tb.waitFor(func() bool { return tb.frames > frames }, "an answer")
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
// replaces the old one, any other changes only the slots it names.
func merge(old, update any) any {
	into, ok := old.(map[string]any)
	from, isNode := update.(map[string]any)
	if _, whole := from["s"]; !ok || !isNode || whole {
		return update
	}
	for slot, value := range from {
		into[slot] = merge(into[slot], value)
	}
	return into
}

// render is the HTML of a tree: fixed parts and slots in turn.
func render(tree any) string {
	node, ok := tree.(map[string]any)
	if !ok {
		if tree == nil {
			return ""
		}
		return fmt.Sprint(tree)
	}
	var b strings.Builder
	fixed, _ := node["s"].([]any)
	for i, part := range fixed {
		b.WriteString(part.(string))
		b.WriteString(render(node[strconv.Itoa(i)]))
	}
	return b.String()
}

var (
	tags  = regexp.MustCompile(`<[^>]*>`)
	space = regexp.MustCompile(`\s+`)
)

// readable is the text a person sees of some HTML.
func readable(markup string) string {
	return space.ReplaceAllString(html.UnescapeString(tags.ReplaceAllString(markup, "")), " ")
}
