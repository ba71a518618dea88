// Package walk tests the pages in the browsers of two people, in any engine. It shows that
// the pages, their scripts and the browser client work together; the rules behind them have
// unit tests.
package walk

import (
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// Walk is one program and two people. Its steps can run in any order: each opens its own
// tabs.
type Walk struct {
	t       *testing.T
	program *visitor.Program
	proxy   proxy
	network *visitor.Network // to the program, through the proxy

	alice, bob *browser.Browser
	count      int // what the counter shows
}

// grace is longer than a reload on a slow machine.
const grace = 10 * time.Second

// Start starts a program, and two browsers.
func Start(t *testing.T, open func(testing.TB) *browser.Browser) *Walk {
	t.Helper()
	w := &Walk{t: t, proxy: proxy{answerSlow: make(chan struct{})}, alice: open(t), bob: open(t)}
	w.program = visitor.Start(t, "-grace", grace.String())
	w.network = visitor.NewNetwork(t, visitor.NewProxy(t, w.program.URL, w.proxy.inFrontOf))
	return w
}

// Steps are the steps that work in every engine.
var Steps = []func(*Walk){
	CounterTicksInEveryTab, PresenceCountsEverybody, RestartedServerGetsEverybodyBack, ReloadIsNoticedByNobody,
	LinksLeaveOneLiveSocket, PressAndLinkAtOnceCounts, WithoutSocketsPagesWork,
}

// proxy serves links of every kind, counts sockets, and can refuse them.
type proxy struct {
	sockets    visitor.SocketCount
	noSockets  atomic.Bool
	asked      atomic.Int64  // requests for links
	answerSlow chan struct{} // closed to let /slow be answered
}

func (p *proxy) inFrontOf(app http.Handler) http.Handler {
	counted := p.sockets.Count(app)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/download":
			p.asked.Add(1)
			w.Header().Set("Content-Disposition", `attachment; filename="numbers.txt"`)
			fmt.Fprintln(w, "1 2 3")
		case r.URL.Path == "/nothing":
			p.asked.Add(1)
			w.WriteHeader(http.StatusNoContent)
		case r.URL.Path == "/slow":
			p.asked.Add(1)
			select {
			case <-p.answerSlow:
			case <-r.Context().Done():
			}
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprintln(w, `<!DOCTYPE html><title>slow</title><link rel="icon" href="data:,"><p>It took its time.`)
		case websocket.IsWebSocketUpgrade(r) && p.noSockets.Load():
			visitor.RefuseUpgrade(w, r)
		default:
			counted.ServeHTTP(w, r)
		}
	})
}

// load opens a page in a window, and records its notices. Its console may report that the
// server is away.
func (w *Walk) load(b *browser.Browser, url string) *browser.Tab {
	w.t.Helper()
	tb := b.OpenWindow("about:blank")
	tb.ExpectServerAway()
	tb.Watch()
	tb.Navigate(url)
	tb.Eval(`void (window.kept = true)`)
	return tb
}

// open is load for a page that is live at once.
func (w *Walk) open(b *browser.Browser, url string) *browser.Tab {
	w.t.Helper()
	tb := w.load(b, url)
	tb.WaitUntil(isLive, "a live page")
	return tb
}

// isLive is true on a page that is loaded and has its socket, if it needs one.
const isLive = `document.readyState === "complete" && (` + browser.Live + `) && document.documentElement.dataset.connection !== "down"`

// visitor returns a visitor without a browser.
func (w *Walk) visitor() *visitor.Visitor { return visitor.New(w.t, w.program.URL) }

// clickElsewhere clicks without a browser, and click clicks in a tab.
func (w *Walk) clickElsewhere() {
	w.t.Helper()
	w.visitor().Click()
	w.count++
}

func (w *Walk) click(tb *browser.Tab) {
	w.t.Helper()
	tb.Click("increment")
	w.count++
}

// countIn waits until tabs show the number of clicks.
func (w *Walk) countIn(tabs ...interface{ Shows(string) }) {
	w.t.Helper()
	for _, tb := range tabs {
		tb.Shows(fmt.Sprintf("Counter: %d ", w.count))
	}
}

// close closes tabs, which must not have been reloaded.
func (w *Walk) close(tabs ...*browser.Tab) {
	w.t.Helper()
	for _, tb := range tabs {
		assert.Equal(w.t, "true", tb.Eval(`window.kept`), "without reload")
		w.closeReloaded(tb)
	}
}

// closeReloaded closes a tab that may have been reloaded, but must not have shown a notice of
// a lost press.
func (w *Walk) closeReloaded(tb *browser.Tab) {
	w.t.Helper()
	assert.Empty(w.t, tb.Said("notice"))
	tb.Close()
}

// CounterTicksInEveryTab shows that a click reaches every tab of every browser, and that the
// code on the page is indented as in an editor.
func CounterTicksInEveryTab(w *Walk) {
	page := w.program.URL + visitor.CounterPage
	first, second, bobs := w.open(w.alice, page), w.open(w.alice, page), w.open(w.bob, page)
	for _, tb := range []*browser.Tab{first, second, bobs} {
		w.click(tb)
		w.countIn(first, second, bobs)
	}
	assert.Equal(w.t, "4 8 12", first.Eval(indents), "columns of code behind one, two and three tabs")
	w.close(first, second, bobs)
}

// indents are the left edges of code behind tabs, in characters from the left edge of a line
// without any.
const indents = `(() => {
	const line = document.querySelector("[data-line]");
	const edges = (text) => {
		line.textContent = text;
		const range = document.createRange();
		range.setStart(line.firstChild, text.lastIndexOf("\t") + 1);
		range.setEnd(line.firstChild, text.length);
		return range.getBoundingClientRect();
	};
	const {left, width} = edges("0".repeat(100));
	return [1, 2, 3].map((tabs) => ((edges("\t".repeat(tabs) + "0").left - left) / width * 100).toFixed()).join(" ");
})()`

// PresenceCountsEverybody shows that all tabs agree who is online, and that each knows its
// own name.
func PresenceCountsEverybody(w *Walk) {
	page := w.program.URL + visitor.PresencePage
	alice, bob := w.open(w.alice, page), w.open(w.bob, page)
	alice.Join("Alice")
	bob.Shows("1 user(s) online Username Join Alice Try:")
	bob.TypeInto("username", "Bob")
	bob.Press("\r")
	alice.Shows("2 user(s) online Logged in as Alice Leave Alice (you) Bob Try:")
	bob.Shows("2 user(s) online Logged in as Bob Leave Bob (you) Alice Try:")
	assert.False(w.t, alice.Has(`[value="Bob"]`) || bob.Has(`[value="Alice"]`), "another person's name in the field")
	second := w.open(w.alice, page)
	second.Shows("2 user(s) online Username")
	assert.True(w.t, second.ShowsForm(), "a new tab has not joined")
	bob.Click("leave")
	bob.Shows("1 user(s) online Username")
	alice.Shows("1 user(s) online Logged in as Alice ")
	alice.WaitUntil(`document.title.startsWith("(1) Presence Tracking")`, "the count in the title")
	alice.Click("leave")
	bob.Shows("0 user(s) online")
	w.close(alice, bob, second)
}

// RestartedServerGetsEverybodyBack shows that after a restart or a crash every tab
// reconnects, and everybody who had joined is online again.
func RestartedServerGetsEverybodyBack(w *Walk) {
	counter := w.open(w.alice, w.program.URL+visitor.CounterPage)
	alice, bob := w.open(w.alice, w.program.URL+visitor.PresencePage), w.open(w.bob, w.program.URL+visitor.PresencePage)
	tabs := []*browser.Tab{counter, alice, bob}
	alice.Join("Alice")
	bob.Join("Bob")
	for _, tb := range tabs {
		watchForm(tb)
	}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		w.program.Stop(signal)
		for _, tb := range tabs {
			tb.Shows("Reconnecting…") // after a second
		}
		w.program = visitor.Start(w.t, "-grace", grace.String(), "-addr", w.program.Addr())
		w.count = 0
		w.clickElsewhere()
		w.countIn(counter)
		w.click(counter)
		w.countIn(counter)
		w.visitor().Open(visitor.PresencePage).Shows("2 user(s) online")
		alice.Shows("2 user(s) online Logged in as Alice Leave Alice (you) Bob Try:")
		bob.Shows("2 user(s) online Logged in as Bob Leave Bob (you) Alice Try:")
		for _, tb := range tabs {
			assert.False(w.t, sawForm(tb), "while it rejoins")
			tb.WaitUntil(`document.getElementById("connection").textContent === ""`, "an empty status")
		}
	}
	bob.Click("leave")
	alice.Shows("1 user(s) online")
	alice.Click("leave")
	bob.Shows("0 user(s) online")
	w.close(tabs...)
}

// watchForm records whether the browser paints the form to join, in this page and in those
// that the tab loads later.
func watchForm(tb *browser.Tab) {
	tb.InEveryPage(`
		const look = () => {
			if (` + browser.FormIsShown + `) window.sawForm = true;
			requestAnimationFrame(look);
		};
		look();`)
}

func sawForm(tb *browser.Tab) bool { return tb.Eval(`Boolean(window.sawForm)`) == "true" }

// follow runs a script and immediately follows a new link outside the live part.
func follow(tb *browser.Tab, first, to string) {
	tb.Eval(`void setTimeout(() => {
		` + first + `;
		const link = Object.assign(document.createElement("a"), {href: ` + browser.Quote(to) + `, textContent: "a link"});
		document.querySelector("footer").append(link);
		link.click();
	})`)
}

// goBack is a script that presses the Back button.
const goBack = `void setTimeout(() => history.back())`

// ReloadIsNoticedByNobody shows that a person stays online during a reload, a lost
// connection, and after a link to a download or to a slow page.
func ReloadIsNoticedByNobody(w *Walk) {
	tb, peer := w.open(w.alice, w.network.URL+visitor.PresencePage), w.visitor().Open(visitor.PresencePage)
	watchForm(tb)
	tb.WaitUntil(`window.sawForm`, "the form, before the tab joins")
	tb.Join("Alice")
	peer.Join("Bob")
	peer.Shows("2 user(s) online Logged in as Bob ")
	peer.Settle()
	peer.StartHistory()
	rejoins := func() {
		w.t.Helper()
		tb.Shows("2 user(s) online Logged in as Alice Leave Alice (you) Bob Try:")
		tb.WaitUntil(isLive, "a live page")
		assert.False(w.t, sawForm(tb), "while it rejoins")
	}
	for range 3 {
		tb.Reload()
		rejoins()
	}
	tb.CountConnects()
	for cut := range 3 {
		w.network.Cut()
		tb.WaitUntil(fmt.Sprintf(`connects > %d`, cut), "a new socket")
		rejoins()
	}
	for _, to := range []string{"/download", "/nothing", "/slow"} {
		rejoins()
		asked := w.proxy.asked.Load()
		follow(tb, "", to)
		require.Eventually(w.t, func() bool { return w.proxy.asked.Load() > asked }, visitor.Soon, time.Millisecond, "a request")
	}
	peer.NoChange(grace + time.Second)
	close(w.proxy.answerSlow)
	tb.WaitUntil(`location.pathname === "/slow"`, "the page behind the link")
	tb.Eval(goBack)
	rejoins()
	peer.NoChange(0)
	tb.Click("leave")
	peer.Shows("1 user(s) online")
	peer.Leave()
	tb.Shows("0 user(s) online")
	w.closeReloaded(tb)
}

// LinksLeaveOneLiveSocket shows that the visible page is live and current however a person
// navigates to it, and that no other page keeps a socket.
func LinksLeaveOneLiveSocket(w *Walk) {
	tb, peer := w.open(w.alice, w.network.URL+"/"), w.visitor().Open(visitor.PresencePage)
	for i, step := range []struct{ do, wantPage string }{
		{`document.querySelector("main p a[href='/realtime/multi-user-sync']").click()`, visitor.CounterPage},
		{`document.querySelector("nav a[href='/realtime/presence']").click()`, visitor.PresencePage},
		{`history.back()`, visitor.CounterPage},
		{`history.forward()`, visitor.PresencePage},
		{`document.querySelector("nav a[href='/']").click()`, "/"}, // for longer than the grace period
		{`history.back()`, visitor.PresencePage},
	} {
		if step.wantPage == visitor.CounterPage {
			w.clickElsewhere()
		}
		tb.Eval(`void setTimeout(() => {` + step.do + `})`)
		tb.WaitUntil(`location.pathname === `+browser.Quote(step.wantPage)+` && `+isLive, "a live page")
		switch step.wantPage {
		case visitor.CounterPage:
			w.countIn(tb)
			w.click(tb)
			w.countIn(tb)
			tb.WaitUntil(`document.title.startsWith("Multi-User Refresh")`, "no count of another page in the title")
		case visitor.PresencePage:
			if i == 1 {
				tb.Join("Alice")
			}
			peer.Shows("1 user(s) online")
			peer.Join("Bob")
			tb.Shows("2 user(s) online Logged in as Alice ")
			peer.Leave()
			tb.Shows("1 user(s) online Logged in as Alice ")
		default:
			peer.Shows("0 user(s) online")
			continue // its frames are live
		}
		w.proxy.sockets.WaitFor(w.t, map[string]int{step.wantPage: 1})
	}
	tb.Click("leave")
	peer.Shows("0 user(s) online")
	w.closeReloaded(tb)
}

// PressAndLinkAtOnceCounts shows that a press counts once if the page is left immediately,
// and that no notice says otherwise.
func PressAndLinkAtOnceCounts(w *Walk) {
	tb, peer := w.open(w.alice, w.network.URL+visitor.CounterPage), w.visitor().Open(visitor.CounterPage)
	for _, to := range slices.Repeat([]string{"/", visitor.PresencePage, "/download", "/nothing"}, 3) {
		follow(tb, `document.querySelector("[name=increment]").click()`, to)
		w.count++
		w.countIn(peer)
		if to == "/" || to == visitor.PresencePage {
			tb.WaitUntil(`location.pathname === `+browser.Quote(to)+` && document.readyState === "complete"`, "the page behind the link")
			tb.Eval(goBack)
			tb.WaitUntil(`location.pathname === `+browser.Quote(visitor.CounterPage), "the page again")
		}
		tb.WaitUntil(isLive, "a live page")
		w.countIn(tb)
		assert.Empty(w.t, tb.Said("notice"), "after a press and a link to %s", to)
	}
	peer.Settle()
	w.countIn(peer)
	w.closeReloaded(tb)
}

// WithoutSocketsPagesWork shows that pages without a socket fall back to plain requests, say
// so, and go live when a socket opens.
func WithoutSocketsPagesWork(w *Walk) {
	w.proxy.noSockets.Store(true)
	counter, presence := w.load(w.alice, w.network.URL+visitor.CounterPage), w.load(w.alice, w.network.URL+visitor.PresencePage)
	counter.Shows("Live updates are off")
	w.click(counter)
	w.countIn(counter)
	counter.Navigate(w.network.URL + "/")
	counter.Eval(goBack)
	counter.WaitUntil(`document.querySelector("h1")?.innerText === "Multi-User Refresh"`, "the page itself, not its data")
	counter.Shows("Live updates are off")
	presence.Shows("Live updates are off: something blocks WebSockets. Joining needs a live connection.")
	assert.False(w.t, presence.Has("button:disabled"))
	presence.TypeInto("username", "Alice")
	presence.Click("join")
	presence.Shows(visitor.NotLive)

	w.proxy.noSockets.Store(false)
	counter.WaitUntil(browser.Up, "a live page")
	presence.WaitUntil(browser.Up, "a live page") // later in Firefox, which delays attempts after failures
	presence.Join("Alice")
	w.visitor().Open(visitor.PresencePage).Shows("1 user(s) online")
	w.clickElsewhere()
	w.countIn(counter)
	presence.Click("leave")
	presence.Shows("0 user(s) online")
	w.closeReloaded(counter)
	w.close(presence)
}

// HiddenTabIsLiveWhenShown shows that a tab that lost its socket while it was hidden
// reconnects at once when it is shown. The engine needs windows to hide tabs.
func HiddenTabIsLiveWhenShown(w *Walk) {
	tb := w.open(w.alice, w.network.URL+visitor.CounterPage)
	tb.Eval(`void (Math.random = () => 1e5)`) // the next attempt is hours away
	tb.Hide(w.alice)
	w.network.Cut()
	tb.WaitUntil(`!liveTemplateClient.isReady()`, "a lost socket")
	w.clickElsewhere()
	tb.Show()
	w.countIn(tb)
	w.close(tb)
}

// KilledBrowserLeaves shows that a person whose browser is killed goes offline.
func KilledBrowserLeaves(w *Walk) {
	peer := w.visitor().Open(visitor.PresencePage)
	for i := range 3 {
		w.open(w.bob, w.program.URL+visitor.PresencePage).Join(fmt.Sprint("tab ", i))
	}
	peer.Shows("3 user(s) online")
	w.bob.Kill()
	peer.Shows("0 user(s) online")
}

// WithoutSiteDataNothingIsLost shows that both pages work, and survive a lost connection, in
// a browser that blocks site data.
func WithoutSiteDataNothingIsLost(w *Walk, person *browser.Browser) {
	counter, presence := w.open(person, w.network.URL+visitor.CounterPage), w.open(person, w.network.URL+visitor.PresencePage)
	assert.Equal(w.t, "SecurityError", presence.Eval(`(() => { try { return typeof sessionStorage } catch (error) { return error.name } })()`))
	w.click(counter)
	w.countIn(counter)
	presence.Join("Alice")
	presence.WaitUntil(`document.title.startsWith("(1) Presence Tracking")`, "the count in the title")
	w.network.Cut()
	w.clickElsewhere()
	w.countIn(counter)
	presence.WaitUntil(isLive, "a live page")
	w.visitor().Open(visitor.PresencePage).Shows("1 user(s) online")
	presence.Click("leave")
	presence.WaitUntil(`document.querySelector("[name=join]")`, "the form")
	w.close(counter, presence)
}
