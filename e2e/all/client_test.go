//go:build all

package all

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// The tests in this file are canaries: each shows a behaviour of the framework's browser
// client, without the scripts of this project, that the project works around. A canary that
// fails after an upgrade says what may be removed. docs/framework.md lists them all.
//
// Some wait to see that nothing happens. On a very slow machine these pass too easily.

// mended fails a canary when the client has improved.
func mended(t testing.TB, today bool, now, mayGo string) {
	t.Helper()
	assert.True(t, today, "The browser client %s now: %s may go.", now, mayGo)
}

const stockTemplate = `<!DOCTYPE html><html><head><title>Stock</title><link rel="icon" href="data:,">
<script src="/client.js" defer></script></head><body data-lvt-heartbeat-ms="1000">
<p>Shared: {{.Shared}} Said: <b>{{.Said}}</b></p>
<form method="POST"><fieldset><input type="text" name="said"><button name="press">Press</button></fieldset></form>
<p><button id="elsewhere">Elsewhere</button><input id="other" title="{{.Shared}}"></p>
</body></html>`

// listTemplate is a page that is one list and nothing else.
const listTemplate = `<!DOCTYPE html><html><head><title>List</title><link rel="icon" href="data:,">
<script src="/client.js" defer></script></head><body>{{range .Names}}
<form method="POST" data-key="{{.}}"><p>{{.}}: {{$.Shared}}</p><button name="press">Press</button></form>
{{end}}</body></html>`

type stockState struct {
	Shared int64
	Said   string
	Names  []string
}

// stockController is the documented pattern.
type stockController struct {
	shared atomic.Int64
	said   atomic.Value
}

func (c *stockController) Mount(s stockState, ctx *livetemplate.Context) (stockState, error) {
	err := ctx.Subscribe(ctx.SelfTopic())
	s, _ = c.Changed(s, ctx)
	return s, err
}

func (c *stockController) Press(s stockState, ctx *livetemplate.Context) (stockState, error) {
	c.shared.Add(1)
	c.said.Store(ctx.GetString("said"))
	s, _ = c.Changed(s, ctx)
	return s, ctx.Publish(ctx.SelfTopic(), "Changed", nil)
}

func (c *stockController) Changed(s stockState, _ *livetemplate.Context) (stockState, error) {
	s.Shared = c.shared.Load()
	s.Said, _ = c.said.Load().(string)
	return s, nil
}

// newStock serves a page with the framework alone and the unmodified client.
func newStock(t testing.TB, template string) (page string) {
	t.Helper()
	browser.NeedFiles(t)
	files := fstest.MapFS{"page.tmpl": {Data: []byte(template)}}
	tmpl, err := livetemplate.New("stock", livetemplate.WithParseFS(files, "page.tmpl"))
	require.NoError(t, err)
	live := tmpl.Handle(&stockController{}, livetemplate.AsState(&stockState{Names: []string{"Tea", "Coffee"}}))
	mux := http.NewServeMux()
	mux.Handle("/", live)
	mux.HandleFunc("/client.js", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, "../../static/vendor/livetemplate-client.browser.js")
	})
	s := httptest.NewServer(mux)
	t.Cleanup(func() {
		s.CloseClientConnections()
		live.Shutdown(t.Context())
		s.Close()
	})
	return s.URL
}

// newStockBehind is newStock for a page behind a proxy.
func newStockBehind(t testing.TB, proxy func(http.Handler) http.Handler) (page string) {
	t.Helper()
	return visitor.NewProxy(t, newStock(t, stockTemplate), proxy)
}

const listenForEvents = `(() => {
	window.events = [];
	const dispatch = EventTarget.prototype.dispatchEvent;
	EventTarget.prototype.dispatchEvent = function (event) {
		if (event.type.startsWith("lvt:")) events.push(event.type);
		return dispatch.call(this, event);
	};
})()`

// The canaries of a live page. The page is reloaded for each.
func TestClient_OnALivePage(t *testing.T) {
	t.Parallel()
	page, person := newStock(t, stockTemplate), browser.New(t)
	tb, peer := person.OpenWindow(page), person.OpenWindow(page)
	presses := 0
	press := func(who *browser.Tab) {
		t.Helper()
		presses++
		who.Click("press")
		tb.Shows(fmt.Sprintf("Shared: %d ", presses))
	}
	const waits = "form[aria-busy=true], button[aria-busy=true], fieldset:disabled"
	for _, canary := range []struct {
		name       string
		today      func() bool
		now, mayGo string
	}{
		{"MovesTheFocusBackAtEveryUpdate", func() bool {
			tb.Eval(`document.querySelector("[name=said]").focus(), document.querySelector("#elsewhere").focus()`)
			press(peer)
			return tb.Eval(`document.activeElement.name`) == "said"
		}, "leaves the focus where the person moved it", "static/focus.js"},

		{"DisablesTheFieldsetOfAFormThatIsSubmitted", func() bool {
			disabled := tb.Eval(`document.querySelector("form").requestSubmit(document.querySelector("[name=press]")), document.querySelector("fieldset").disabled`)
			presses++
			tb.Shows(fmt.Sprintf("Shared: %d ", presses))
			return disabled == "true"
		}, "leaves the focus in a form that is submitted", "the submit handling in static/focus.js"},

		{"ResetsAFieldWhoseAttributesChange", func() bool {
			tb.Eval(`document.querySelector("#other").value = "typed"`)
			press(peer)
			return tb.Eval(`document.querySelector("#other").value`) == ""
		}, "leaves what was typed", "the map of typed texts in static/focus.js"},

		{"EventsDoNotBubble", func() bool {
			tb.Eval(`void (window.bubbled = 0, document.addEventListener("lvt:updated", () => bubbled++))`)
			press(peer)
			return tb.Eval(`bubbled`) == "0"
		}, "lets its events bubble", "the third argument of addEventListener in our scripts"},

		{"AnyUpdateEndsAPendingForm", func() bool {
			tb.Eval(`void (WebSocket.prototype.send = () => {})`) // nothing that it sends is answered
			tb.Click("press")
			tb.WaitUntil(`document.querySelector("`+waits+`")`, "a pending form")
			press(peer)
			return !tb.Has(waits)
		}, "waits for the answer to what was sent", "client().disconnect() before connect() in static/live.js"},

		{"ResetsAFormAfterEveryAnswer", func() bool {
			tb.TypeInto("said", "hello")
			press(tb)
			return tb.Eval(`document.querySelector("[name=said]").value`) == ""
		}, "leaves the text in a form", "lvt-form:preserve in templates/realtime/presence.tmpl"},

		{"SendsTextThatLooksLikeANumberAsOne", func() bool {
			tb.Eval(`void (() => {
				const send = WebSocket.prototype.send;
				window.sent = [];
				WebSocket.prototype.send = function (message) { sent.push(message); send.call(this, message); };
			})()`)
			tb.TypeInto("said", "1e-7")
			press(tb)
			return strings.Contains(tb.Eval(`sent.join()`), `"said":1e-7`)
		}, "sends text as it was typed", "the types other than string in site.Text"},

		{"LeavesOutTextThatIsAllInBraces", func() bool {
			peer.TypeInto("said", "{{name}}")
			press(peer)
			return tb.Eval(`document.querySelector("b").textContent`) == ""
		}, "shows text that is all in double braces", "the space after a name in templates/realtime/presence.tmpl"},

		{"AddsStylesOfItsOwn", func() bool {
			return tb.Has("style#lvt-loading-styles") && tb.Has("style#lvt-animate-styles")
		}, "adds no styles that a content security policy refuses", "the meta elements in templates/layout.tmpl"},

		{"TellsAPageNothingOfAPong", func() bool {
			tb.Eval(`void ` + listenForEvents)
			tb.Eval(`void liveTemplateClient.send({action: "__ping__"})`)
			return !tb.Becomes(500*time.Millisecond, `events.length > 0`)
		}, "tells the page of the answer to a ping", "audiblePong in internal/wsconn"},

		{"DropsWhatIsPressedWhileNoSocketIsOpen", func() bool {
			tb.ExpectErrors("")
			tb.Eval(`void liveTemplateClient.disconnect()`)
			tb.Click("press")
			tb.Eval(`void liveTemplateClient.connect()`)
			tb.WaitUntil(browser.Live, "a live page")
			tb.TypeInto("said", "later")
			presses++
			tb.Click("press") // would be answered after what was kept
			peer.Shows("Said: later")
			return strings.Contains(peer.Text(), fmt.Sprintf("Shared: %d ", presses))
		}, "keeps what is pressed until its socket is open", "the forms held in static/live.js"},

		{"ThrowsAtAnAnswerWithoutATree", func() bool { // last, because some of its presses count
			tb.Eval(`void (() => {
				window.complaints = 0;
				console.error = () => complaints++;
				const flood = () => { // repeatedly: a slow machine may stay below the limit
					if (complaints > 0) return;
					for (let i = 0; i < 200; i++) liveTemplateClient.send({action: "press", data: {}});
					setTimeout(flood, 1000);
				};
				flood();
			})()`)
			return tb.Becomes(visitor.Soon, `complaints > 0`)
		}, "understands an answer without a tree", "tooFast in internal/wsconn"},
	} {
		t.Log(canary.name)
		tb.Reload()
		tb.WaitUntil(browser.Live, "a live page")
		mended(t, canary.today(), canary.now, canary.mayGo)
	}
}

func TestClient_GivesUpAfterOneAttemptThatFails(t *testing.T) {
	t.Parallel()
	network := visitor.NewNetwork(t, newStock(t, stockTemplate))
	tb := browser.New(t).Open(network.URL)
	tb.ExpectErrors("")
	network.Leave()
	tb.WaitUntil(`liveTemplateClient.useHTTP`, "an attempt that failed")
	network.ComeBack()
	tb.WaitUntil(`fetch("/client.js").then(() => window.answers = true) && window.answers`, "the server")
	// Two heartbeats of the client, which would retry.
	mended(t, !tb.Becomes(2500*time.Millisecond, browser.Live), "retries after a failed attempt", "the reconnecting in static/live.js")
}

func TestClient_ReplacesTheSocketOfATabThatWasHidden(t *testing.T) {
	t.Parallel()
	person := browser.NewWindowed(t)
	tb := person.Open(newStock(t, stockTemplate))
	tb.CountConnects()
	tb.Hide(person)
	time.Sleep(3200 * time.Millisecond) // hidden for more than the client's 3 seconds
	tb.Show()
	mended(t, tb.Becomes(visitor.Soon, `connects > 0`), "keeps a working socket of a tab that was hidden", "hiddenAt in static/live.js")
}

// A page in the back/forward cache keeps its socket open. Browsers do that, and the client
// does not close it.
func TestClient_KeepsTheSocketOfAPageThatIsLeft(t *testing.T) {
	t.Parallel()
	sockets := &visitor.SocketCount{}
	tb := browser.NewWindowed(t).Open(newStockBehind(t, sockets.Count))
	tb.Navigate("about:blank")
	time.Sleep(500 * time.Millisecond) // the socket would close
	mended(t, len(sockets.Open()) == 1, "closes the socket of a page that is left", "leave() in static/live.js")
}

func TestClient_RequestsHaveNoBound(t *testing.T) {
	t.Parallel()
	tb := browser.New(t).Load(newStockBehind(t, visitor.AnswerUpgrades(visitor.RefuseUpgrade)))
	tb.ExpectErrors("")
	tb.WaitUntil(`window.liveTemplateClient?.useHTTP`, "a page without a socket")
	tb.Eval(`void (window.fetch = (url, options) => { window.bounded = Boolean(options?.signal); })`)
	tb.Click("press")
	tb.WaitUntil(`"bounded" in window`, "a request")
	mended(t, tb.Eval(`bounded`) == "false", "has a timeout for its requests", "window.fetch in static/live.js")
}

func TestClient_LosesAListThatStandsAlone(t *testing.T) {
	t.Parallel()
	page, person := newStock(t, listTemplate), browser.New(t)
	tb, peer := person.OpenWindow(page), person.OpenWindow(page)
	peer.Click("press")
	mended(t, !tb.Becomes(3*time.Second, `document.body.innerText.includes("Tea: 1")`), "keeps a list that is all of a page",
		"the element around the list in docs/adapt.md")
}

func TestClient_TellsAPageNothingOfAFirstAttemptThatFails(t *testing.T) {
	t.Parallel()
	tb := browser.New(t).Load("about:blank")
	tb.ExpectErrors("")
	tb.InEveryPage(listenForEvents)
	tb.Navigate(newStockBehind(t, visitor.AnswerUpgrades(visitor.RefuseUpgrade)))
	told := tb.Becomes(1500*time.Millisecond, `events.some((name) => /disconnected|error/.test(name))`)
	mended(t, !told, "tells the page ("+tb.Eval(`String(events)`)+") that its first attempt has failed",
		"the interval that looks for it in static/live.js")
}

func TestClient_DisablesFormsWhileItLoads(t *testing.T) {
	t.Parallel()
	tb := browser.New(t).Load(newStockBehind(t, visitor.AnswerUpgrades(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
	})))
	tb.ExpectErrors("")
	disabled := tb.Becomes(visitor.Soon, `document.querySelector("[name=press]").matches(":disabled")`)
	mended(t, disabled, "leaves forms alone while it loads", "WithLoadingDisabled in Site.liveOptions")
}
