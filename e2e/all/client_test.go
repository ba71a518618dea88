//go:build all

package all

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// The tests in this file are canaries: each shows how the framework's browser client
// alone behaves today, without the scripts of this project, where the project answers
// that behaviour. One that fails after an upgrade says what may be removed.
// docs/framework.md lists them all.

// mended fails a canary once the client does better.
func mended(t testing.TB, today bool, now, mayGo string) {
	t.Helper()
	assert.True(t, today, "The browser client %s now: %s may go.", now, mayGo)
}

const stockTemplate = `<!DOCTYPE html><html><head><title>Stock</title><link rel="icon" href="data:,">
<script src="/client.js" defer></script></head><body data-lvt-heartbeat-ms="1000">
<p>Shared: {{.Shared}} Said: <b>{{.Said}}</b></p>
<form method="POST"><input type="text" name="said"><button name="say">Say</button><button name="press">Press</button></form>
<p><button id="elsewhere">Elsewhere</button></p>
</body></html>`

// listTemplate is a page that is one list and nothing else.
const listTemplate = `<!DOCTYPE html><html><head><title>List</title><link rel="icon" href="data:,">
<script src="/client.js" defer></script></head><body>{{range .Names}}
<form method="POST" data-key="{{.}}"><p>{{.}}: {{$.Shared}}</p><button name="press">Press</button></form>
{{end}}</body></html>`

type stockState struct {
	Shared int
	Said   string
	Names  []string
}

// stockController is the documented pattern.
type stockController struct {
	mu     sync.Mutex
	shared int
	said   string
}

func (c *stockController) Mount(s stockState, ctx *livetemplate.Context) (stockState, error) {
	err := ctx.Subscribe(ctx.SelfTopic())
	return c.read(s), err
}

func (c *stockController) Press(s stockState, ctx *livetemplate.Context) (stockState, error) {
	c.mu.Lock()
	c.shared++
	c.mu.Unlock()
	return c.read(s), ctx.Publish(ctx.SelfTopic(), "Changed", nil)
}

func (c *stockController) Say(s stockState, ctx *livetemplate.Context) (stockState, error) {
	c.mu.Lock()
	c.said = ctx.GetString("said")
	c.mu.Unlock()
	return c.read(s), ctx.Publish(ctx.SelfTopic(), "Changed", nil)
}

func (c *stockController) Changed(s stockState, _ *livetemplate.Context) (stockState, error) {
	return c.read(s), nil
}

func (c *stockController) read(s stockState) stockState {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Shared, s.Said = c.shared, c.said
	return s
}

// newStock serves a page by the framework alone, to which every visitor is the same,
// and the client as it comes. wrap may answer requests in its place.
func newStock(t testing.TB, wrap func(http.Handler) http.Handler, opts ...livetemplate.Option) (server string) {
	t.Helper()
	return serveStock(t, stockTemplate, wrap, opts...)
}

func serveStock(t testing.TB, text string, wrap func(http.Handler) http.Handler, opts ...livetemplate.Option) (server string) {
	t.Helper()
	browser.NeedFiles(t)
	page := fstest.MapFS{"page.tmpl": {Data: []byte(text)}}
	tmpl, err := livetemplate.New("stock", append(opts, livetemplate.WithParseFS(page, "page.tmpl"))...)
	require.NoError(t, err)
	handler := tmpl.Handle(&stockController{}, livetemplate.AsState(&stockState{Names: []string{"Tea", "Coffee"}}))
	mux := http.NewServeMux()
	mux.Handle("/stock", wrap(handler))
	mux.HandleFunc("/client.js", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, "../../static/vendor/livetemplate-client.browser.js")
	})
	s := httptest.NewServer(mux)
	t.Cleanup(func() {
		s.CloseClientConnections()
		handler.Shutdown(t.Context())
		s.Close()
	})
	return s.URL
}

func unchanged(h http.Handler) http.Handler { return h }

// openStock opens the page in two tabs of one browser.
func openStock(t testing.TB) (tb, peer *browser.Tab) {
	t.Helper()
	server := newStock(t, unchanged)
	person := browser.New(t)
	peer = person.OpenWindow(server + "/stock")
	return person.OpenWindow(server + "/stock"), peer
}

const listenForEvents = `(() => {
	window.events = [];
	const dispatch = EventTarget.prototype.dispatchEvent;
	EventTarget.prototype.dispatchEvent = function (event) {
		if (event.type.startsWith("lvt:")) events.push(event.type);
		return dispatch.call(this, event);
	};
})()`

func TestClient_GivesUpAfterOneAttemptThatFails(t *testing.T) {
	t.Parallel()
	network := visitor.NewNetwork(t, newStock(t, unchanged))
	tb := browser.New(t).Open(network.URL + "/stock")
	tb.ExpectErrors("")
	network.Leave()
	tb.WaitUntil(`liveTemplateClient.useHTTP`, "an attempt that failed")
	network.ComeBack()
	tb.WaitUntil(`fetch("/client.js").then(() => window.answers = true) && window.answers`, "the server")
	// Two heartbeats of the client, in which it would try again.
	mended(t, !tb.Becomes(2500*time.Millisecond, browser.Live), "goes on trying after an attempt has failed", "the reconnecting in static/live.js")
}

func TestClient_ReplacesTheSocketOfATabThatWasHidden(t *testing.T) {
	t.Parallel()
	person := browser.NewWindowed(t)
	tb := person.Open(newStock(t, unchanged) + "/stock")
	tb.CountConnects()
	tb.Hide(person)
	time.Sleep(3200 * time.Millisecond) // hidden for more than the client's 3 seconds
	tb.Show()
	tb.WaitUntil(`!document.hidden`, "a tab in front")
	mended(t, tb.Becomes(3*time.Second, `connects > 0`), "keeps a sound socket of a tab that was hidden", "hiddenAt in static/live.js")
}

func TestClient_MovesTheFocusBackAtEveryUpdate(t *testing.T) {
	t.Parallel()
	tb, peer := openStock(t)
	tb.Eval(`document.querySelector("[name=said]").focus(), document.querySelector("#elsewhere").focus()`)
	peer.Click("press")
	tb.Shows("Shared: 1")
	mended(t, tb.Eval(`document.activeElement.name`) == "said", "leaves the focus where the person has moved it", "static/focus.js")
}

func TestClient_RequestsHaveNoBound(t *testing.T) {
	t.Parallel()
	server := newStock(t, visitor.AnswerUpgrades(visitor.RefuseUpgrade))
	tb := browser.New(t).Load(server + "/stock")
	tb.ExpectErrors("")
	tb.WaitUntil(`window.liveTemplateClient?.useHTTP`, "a page without a socket")
	tb.Eval(`void (() => {
		const request = fetch;
		window.bounded = [];
		window.fetch = (url, options = {}) => { bounded.push(Boolean(options.signal)); return request(url, options); };
	})()`)
	tb.Click("press")
	tb.Shows("Shared: 1")
	mended(t, tb.Eval(`bounded.length > 0 && !bounded.every(Boolean)`) == "true", "bounds the time of its requests",
		"window.fetch in static/live.js")
}

func TestClient_EventsDoNotBubble(t *testing.T) {
	t.Parallel()
	tb, peer := openStock(t)
	tb.Eval(`void (window.bubbled = 0, document.addEventListener("lvt:updated", () => bubbled++))`)
	peer.Click("press")
	tb.Shows("Shared: 1")
	mended(t, tb.Eval(`bubbled`) == "0", "lets its events bubble", "the third argument of addEventListener in our scripts")
}

func TestClient_AnyUpdateEndsAPendingForm(t *testing.T) {
	t.Parallel()
	tb, peer := openStock(t)
	tb.Eval(`void (WebSocket.prototype.send = () => {})`) // whatever it sends is still under way
	tb.Click("say")
	tb.WaitUntil(`document.querySelector("form[aria-busy=true], button[aria-busy=true], fieldset:disabled")`, "a form that waits")
	peer.Click("press")
	tb.Shows("Shared: 1")
	mended(t, !tb.Has("form[aria-busy=true], button[aria-busy=true], fieldset:disabled"), "waits for the answer to what was sent",
		"client().disconnect() before connect() in static/live.js")
}

func TestClient_ResetsAFormAfterEveryAnswer(t *testing.T) {
	t.Parallel()
	tb, _ := openStock(t)
	tb.TypeInto("said", "hello")
	tb.Click("press")
	tb.Shows("Shared: 1")
	mended(t, tb.Eval(`document.querySelector("[name=said]").value`) == "", "leaves the text in a form", "lvt-form:preserve in templates/realtime/presence.tmpl")
}

func TestClient_SendsTextThatLooksLikeANumberAsOne(t *testing.T) {
	t.Parallel()
	tb, _ := openStock(t)
	tb.Eval(`void (() => {
		const send = WebSocket.prototype.send;
		window.sent = [];
		WebSocket.prototype.send = function (message) { sent.push(message); send.call(this, message); };
	})()`)
	tb.TypeInto("said", "1e-7")
	tb.Click("say")
	tb.WaitUntil(`sent.length > 0 && sent.some((message) => message.includes('"said"'))`, "a message")
	mended(t, strings.Contains(tb.Eval(`sent.join()`), `"said":1e-7`), "sends text as it was typed", "the types other than string in site.Text")
}

func TestClient_LeavesOutTextThatIsAllInBraces(t *testing.T) {
	t.Parallel()
	tb, peer := openStock(t)
	peer.TypeInto("said", "{{name}}")
	peer.Click("say")
	peer.Click("press")
	tb.Shows("Shared: 1")
	mended(t, tb.Eval(`document.querySelector("b").textContent`) == "", "shows text that is all in double braces",
		"the space after a name in templates/realtime/presence.tmpl")
}

func TestClient_LosesAListThatStandsAlone(t *testing.T) {
	t.Parallel()
	server := serveStock(t, listTemplate, unchanged)
	person := browser.New(t)
	tb, peer := person.OpenWindow(server+"/stock"), person.OpenWindow(server+"/stock")
	peer.Click("press")
	mended(t, !tb.Becomes(3*time.Second, `document.body.innerText.includes("Tea: 1")`), "keeps a list that is all of a page",
		"the element around the list in docs/adapt.md")
}

func TestClient_AddsStylesOfItsOwn(t *testing.T) {
	t.Parallel()
	tb, _ := openStock(t)
	mended(t, tb.Has("style#lvt-loading-styles") && tb.Has("style#lvt-animate-styles"), "adds no styles that a content security policy refuses",
		"the meta elements in templates/layout.tmpl")
}

func TestClient_ThrowsAtAnAnswerWithoutATree(t *testing.T) {
	t.Parallel()
	tb, _ := openStock(t)
	tb.ExpectErrors("")
	tb.Eval(`void (() => {
		window.complaints = 0;
		console.error = () => complaints++;
		for (let i = 0; i < 40; i++) document.querySelector("[name=press]").click();
	})()`)
	tb.WaitUntil(`(document.body.innerText.match(/Shared: (\d+)/)?.[1] ?? 0) >= 20`, "the clicks that counted")
	mended(t, tb.Becomes(3*time.Second, `complaints > 0`), "understands an answer without a tree", "tooFast in internal/wsconn")
}

func TestClient_TellsAPageNothingOfAPong(t *testing.T) {
	t.Parallel()
	tb, _ := openStock(t)
	tb.Eval(`void ` + listenForEvents)
	tb.Eval(`void liveTemplateClient.send({action: "__ping__"})`)
	mended(t, !tb.Becomes(500*time.Millisecond, `events.length > 0`), "tells the page of the answer to a ping", "audiblePong in internal/wsconn")
}

func TestClient_TellsAPageNothingOfAFirstAttemptThatFails(t *testing.T) {
	t.Parallel()
	var seen atomic.Bool // the page itself
	server := newStock(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if seen.Swap(true) {
				http.Error(w, "away", http.StatusServiceUnavailable)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	tb := browser.New(t).Load("about:blank")
	tb.ExpectErrors("")
	tb.InEveryPage(listenForEvents)
	tb.Navigate(server + "/stock")
	told := tb.Becomes(1500*time.Millisecond, `events.some((name) => /disconnected|error/.test(name))`)
	mended(t, !told, "tells the page ("+tb.Eval(`JSON.stringify(events)`)+") that its first attempt has failed",
		"the interval that looks for it in static/live.js")
}

func TestClient_DisablesFormsWhileItLoads(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := newStock(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if websocket.IsWebSocketUpgrade(r) || r.Method == http.MethodHead {
				<-release
			}
			h.ServeHTTP(w, r)
		})
	})
	tb := browser.New(t).Load(server + "/stock")
	tb.ExpectErrors("")
	tb.WaitUntil(`window.liveTemplateClient`, "the client")
	disabled := tb.Becomes(3*time.Second, `document.querySelector("[name=press]").matches(":disabled")`)
	close(release)
	mended(t, disabled, "leaves forms alone while it loads", "WithLoadingDisabled in Site.liveOptions")
}

func TestClient_DropsWhatIsPressedWhileNoSocketIsOpen(t *testing.T) {
	t.Parallel()
	tb, peer := openStock(t)
	tb.ExpectErrors("")
	tb.Eval(`void liveTemplateClient.disconnect()`)
	tb.Click("press")
	tb.Eval(`void liveTemplateClient.connect()`)
	tb.WaitUntil(browser.Live, "a live page")
	tb.TypeInto("said", "later")
	tb.Click("say") // answered after what was kept
	peer.Shows("Said: later")
	mended(t, strings.Contains(peer.Text(), "Shared: 0"), "keeps what is pressed until its socket is open", "the forms held in static/live.js")
}

// A page that is left and kept for the Back button keeps its socket open to the
// server. That is how browsers are, and the client does not close it either.
func TestClient_KeepsTheSocketOfAPageThatIsLeft(t *testing.T) {
	t.Parallel()
	sockets := &visitor.SocketCount{}
	server := newStock(t, sockets.Count)
	tb := browser.NewWindowed(t).Open(server + "/stock")
	tb.Run(chromedp.Navigate("about:blank"))
	time.Sleep(500 * time.Millisecond) // nothing tells that a socket stays
	mended(t, sockets.Open() == 1, "closes the socket of a page that is left", "leave() in static/live.js")
}
