// Package visitor provides test helpers. A Visitor is a browser without scripts, with its
// own cookies; a Tab is a page that it has open; a Crowd is many visitors at once. A
// Network is a connection to a server that can be slow or break; NewProxy stands between
// visitors and a server; a Front is a real proxy with TLS. A Program is a running copy of
// the built program, and Redis a real Redis server.
//
// Everything uses real sockets. Package visitor/browser drives Chromium, Firefox and WebKit.
package visitor

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The addresses of the two live pages, and the cookie of a session.
const (
	CounterPage   = "/realtime/multi-user-sync"
	PresencePage  = "/realtime/presence"
	SessionCookie = "livetemplate-id"
)

// Soon is the timeout of every wait. It is far longer than any wait takes, so that no test
// depends on the speed of the machine.
const Soon = 2 * time.Minute

// Visitor is a browser without scripts: a cookie jar, and the tabs it opens.
type Visitor struct {
	Base   string       // address of the server
	Client *http.Client // holds the cookies; does not follow redirects

	t    testing.TB
	dial func(ctx context.Context, network, addr string) (net.Conn, error) // nil: the default
}

// New returns a visitor of a server, without cookies. The address may be unix: and the path
// of a Unix socket.
func New(t testing.TB, server string) *Visitor {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	v := &Visitor{t: t, Base: server, Client: &http.Client{
		Jar: jar,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // a test sees the redirect itself
		},
	}}
	if strings.HasPrefix(server, "https:") {
		v.Client.Transport = overTLS()
	}
	if path, isUnix := strings.CutPrefix(server, "unix:"); isUnix {
		v.Base = "http://localhost"
		v.dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		transport := &http.Transport{DialContext: v.dial}
		t.Cleanup(transport.CloseIdleConnections)
		v.Client.Transport = transport
	}
	return v
}

// Get returns the text of a page's first HTML, before any script has run.
func (v *Visitor) Get(path string) string {
	v.t.Helper()
	resp, body := v.Send(http.MethodGet, path, "", "")
	require.Equal(v.t, http.StatusOK, resp.StatusCode)
	return Readable(body)
}

// Post submits a form as a browser without scripts does.
func (v *Visitor) Post(path string, form url.Values) (*http.Response, string) {
	v.t.Helper()
	return v.Send(http.MethodPost, path, "application/x-www-form-urlencoded", form.Encode())
}

// Click clicks the counter by a plain form.
func (v *Visitor) Click() {
	v.t.Helper()
	resp, _ := v.Post(CounterPage, url.Values{"increment": {""}})
	require.Equal(v.t, http.StatusSeeOther, resp.StatusCode)
}

// TryClick is Click on a server that may end meanwhile. If the click has counted, the
// status is http.StatusSeeOther.
func (v *Visitor) TryClick() (status int, err error) {
	resp, err := v.Client.PostForm(v.Base+CounterPage, url.Values{"increment": {""}})
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// Send sends a request as a browser without scripts does.
func (v *Visitor) Send(method, path, contentType, body string) (*http.Response, string) {
	v.t.Helper()
	return v.Request(method, path, "text/html", contentType, body)
}

// Request is Send for another kind of answer, such as application/json.
func (v *Visitor) Request(method, path, accept, contentType, body string) (*http.Response, string) {
	v.t.Helper()
	req, err := http.NewRequest(method, v.Base+path, strings.NewReader(body))
	require.NoError(v.t, err)
	req.Header.Set("Accept", accept)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := v.Client.Do(req)
	require.NoError(v.t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(v.t, err)
	return resp, string(answer)
}

// Open opens a page in a new tab: the HTML first, then the socket.
func (v *Visitor) Open(path string) *Tab {
	v.t.Helper()
	_, page := v.Send(http.MethodGet, path, "", "")
	tb := &Tab{t: v.t, Visitor: v, Path: path}
	tb.before, tb.after = Around(v.t, page)
	tb.Connect()
	v.t.Cleanup(tb.Close)
	return tb
}

// Connect opens a socket, and waits for the first update.
func (tb *Tab) Connect() {
	tb.t.Helper()
	ws, err := tb.Visitor.Dial(tb.Path)
	require.NoError(tb.t, err)
	tb.WS, tb.frames, tb.err = ws, 0, nil
	tb.changed, tb.Ended = make(chan struct{}), make(chan struct{})
	go tb.read()
	tb.WaitFor(func() bool { return tb.frames > 0 }, "a first frame")
}

// OpenWithoutSocket opens a page in a new tab where no socket opens, so that the browser
// client falls back to plain requests.
func (v *Visitor) OpenWithoutSocket(path string) *RequestTab {
	v.t.Helper()
	tb := &RequestTab{Visitor: v, path: path}
	tb.do(http.MethodGet, "")
	return tb
}

// RequestTab is an open page without a socket. It applies the answers to its requests as
// the browser client does.
type RequestTab struct {
	*Visitor
	path string
	tree any
}

// Act posts an action, and applies the answer.
func (tb *RequestTab) Act(action string, fields map[string]any) {
	tb.t.Helper()
	message, err := json.Marshal(map[string]any{"action": action, "data": fields})
	require.NoError(tb.t, err)
	tb.do(http.MethodPost, string(message))
}

// HTML returns the live part of the page.
func (tb *RequestTab) HTML() string { return render(tb.tree) }

// Text returns the text of the live part of the page.
func (tb *RequestTab) Text() string { return Readable(tb.HTML()) }

func (tb *RequestTab) do(method, message string) {
	tb.t.Helper()
	resp, body := tb.Request(method, tb.path, "application/json", "application/json", message)
	require.Equal(tb.t, http.StatusOK, resp.StatusCode)
	var answer struct {
		Tree map[string]any `json:"tree"`
	}
	require.NoError(tb.t, json.Unmarshal([]byte(body), &answer))
	tb.tree = merge(tb.tree, answer.Tree)
}

// Dial opens the socket of a page. Nothing reads it, or answers a ping.
func (v *Visitor) Dial(path string) (*websocket.Conn, error) {
	dialer := websocket.Dialer{Jar: v.Client.Jar, NetDialContext: v.dial}
	ws, _, err := handshake(dialer, v.Base, path, http.Header{"Origin": {v.Base}})
	return ws, err
}

// Knock asks for the socket of a page with any headers. If the server refuses, ws is nil.
func Knock(t testing.TB, server, path string, header http.Header) (ws *websocket.Conn, resp *http.Response) {
	t.Helper()
	ws, resp, err := handshake(websocket.Dialer{}, server, path, header)
	if !assert.NotNil(t, resp, "no answer: %v", err) {
		return nil, &http.Response{}
	}
	if ws != nil {
		t.Cleanup(func() { ws.Close() })
	}
	return ws, resp
}

func handshake(dialer websocket.Dialer, server, path string, header http.Header) (*websocket.Conn, *http.Response, error) {
	dialer.HandshakeTimeout = cmp.Or(dialer.HandshakeTimeout, Soon)
	if dialer.NetDialContext == nil {
		dialer.NetDialContext, dialer.TLSClientConfig = dial, tlsConfig()
	}
	ws, resp, err := dialer.Dial("ws"+strings.TrimPrefix(server, "http")+path, header)
	if err == nil {
		ws.SetPingHandler(func(data string) error { // the library's own times out after a second
			ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(Soon))
			return nil
		})
	}
	return ws, resp, err
}

// Act sends an action, encoded as the browser client encodes it.
func Act(ws *websocket.Conn, action string, fields map[string]any) error {
	return ws.WriteJSON(map[string]any{"action": action, "data": fields})
}

// StopReading opens a counter, reads nothing, and sends messages until the server stops
// reading or closes the connection.
func StopReading(t testing.TB, server string) *websocket.Conn {
	t.Helper()
	ws, err := New(t, server).Dial(CounterPage)
	require.NoError(t, err)
	ws.NetConn().(*net.TCPConn).SetReadBuffer(4096)
	// Answers repeat the action. It is long enough for them to fill the kernel's buffers, and
	// short enough for the server's queue.
	message := fmt.Appendf(nil, `{"action":%q}`, strings.Repeat("x", 2000))
	for err == nil {
		ws.SetWriteDeadline(time.Now().Add(time.Second))
		err = ws.WriteMessage(websocket.TextMessage, message)
	}
	return ws
}

// ComeAndGo opens the presence page n times, in four tabs of one browser at a time. Each
// joins and disconnects: with a close frame, without one, or before it has read the answer.
func ComeAndGo(t testing.TB, server string, n int) {
	t.Helper()
	v := New(t, server)
	v.Get(PresencePage) // for its cookie
	var tabs sync.WaitGroup
	for range 4 {
		tabs.Go(func() {
			for i := range n / 4 {
				ws, err := v.Dial(PresencePage)
				if !assert.NoError(t, err) {
					return
				}
				assert.NoError(t, Act(ws, "join", map[string]any{"username": "guest"}))
				if i%3 != 0 {
					ws.ReadMessage() // the page
					ws.ReadMessage() // the answer, or somebody else's refresh
				}
				if i%3 == 1 {
					ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, ""))
				}
				ws.Close()
			}
		})
	}
	tabs.Wait()
}

// Session returns the session cookie that the visitor was given.
func (v *Visitor) Session() string {
	v.t.Helper()
	base, err := url.Parse(v.Base)
	require.NoError(v.t, err)
	for _, cookie := range v.Client.Jar.Cookies(base) {
		if cookie.Name == SessionCookie {
			return cookie.Value
		}
	}
	return ""
}

// At returns the same visitor at another server.
func (v *Visitor) At(server string) *Visitor {
	moved := *v
	moved.Base = server
	return &moved
}

// TagOf returns the first tag in markup that begins with start.
func TagOf(t testing.TB, markup, start string) string {
	t.Helper()
	_, rest, found := strings.Cut(markup, start)
	require.True(t, found, "no %s in the page", start)
	tag, _, _ := strings.Cut(rest, ">")
	return start + tag + ">"
}

// WithoutHTTP2 returns the same visitor, limited to HTTP/1.1.
func (v *Visitor) WithoutHTTP2() *Visitor {
	http1 := *v.Client
	http1.Transport = &http.Transport{DialContext: dial, TLSClientConfig: tlsConfig()} // a custom dialer disables HTTP/2
	return &Visitor{t: v.t, Base: v.Base, Client: &http1}
}
