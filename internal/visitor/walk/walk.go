// Package walk takes two people through the pages of a program, in browsers of one engine.
// It shows that the pages, their scripts and the browser client work together; the rules
// behind them are tested where they are.
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

// Walk is one program and two people. They take steps, in any order: each opens tabs of
// its own.
type Walk struct {
	t       *testing.T
	program *visitor.Program
	proxy   proxy
	network *visitor.Network // to the program, through the proxy

	alice, bob *browser.Browser
	count      int // what the counter shows
}

// grace is longer than a reload takes on a slow machine.
const grace = 10 * time.Second

// Start starts a program, and two browsers.
func Start(t *testing.T, open func(testing.TB) *browser.Browser) *Walk {
	t.Helper()
	w := &Walk{t: t, proxy: proxy{answerSlow: make(chan struct{})}, alice: open(t), bob: open(t)}
	w.program = visitor.Start(t, "-grace", grace.String())
	w.network = visitor.NewNetwork(t, visitor.NewProxy(t, w.program.URL, w.proxy.inFrontOf))
	return w
}

// Steps are those that every engine can take.
var Steps = []func(*Walk){
	CounterTicksInEveryTab, PresenceCountsEverybody, RestartedServerGetsEverybodyBack, ReloadIsNoticedByNobody,
	LinksLeaveOneLiveSocket, PressAndLinkAtOnceCounts, WithoutSocketsPagesWork,
}

// proxy has links of every kind, counts sockets, and can refuse them.
type proxy struct {
	sockets    visitor.SocketCount
	noSockets  atomic.Bool
	asked      atomic.Int64  // for a link
	answerSlow chan struct{} // closed when /slow may be answered
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

// load opens a page in a window. What it says about presses is recorded, and its console
// may report that the server is away.
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

// isLive is true on a page that has loaded, and has its socket if it needs one.
const isLive = `document.readyState === "complete" && (` + browser.Live + `) && document.documentElement.dataset.connection !== "down"`

// visitor returns somebody who has no browser.
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

// countIn waits until tabs show how often somebody has clicked.
func (w *Walk) countIn(tabs ...interface{ Shows(string) }) {
	w.t.Helper()
	for _, tb := range tabs {
		tb.Shows(fmt.Sprintf("Counter: %d ", w.count))
	}
}

// close closes tabs whose pages have not been loaded again.
func (w *Walk) close(tabs ...*browser.Tab) {
	w.t.Helper()
	for _, tb := range tabs {
		assert.Equal(w.t, "true", tb.Eval(`window.kept`), "without reload")
		w.closeReloaded(tb)
	}
}

// closeReloaded closes a tab that may have been reloaded. It has not told the person of
// any press that was lost.
func (w *Walk) closeReloaded(tb *browser.Tab) {
	w.t.Helper()
	assert.Empty(w.t, tb.Said("notice"))
	tb.Close()
}

// CounterTicksInEveryTab shows that a click reaches each tab of each browser.
func CounterTicksInEveryTab(w *Walk) {
	page := w.program.URL + visitor.CounterPage
	first, second, bobs := w.open(w.alice, page), w.open(w.alice, page), w.open(w.bob, page)
	for _, tb := range []*browser.Tab{first, second, bobs} {
		w.click(tb)
		w.countIn(first, second, bobs)
	}
	w.close(first, second, bobs)
}

// PresenceCountsEverybody shows that who is online is the same for all, and who a person
// is their own.
func PresenceCountsEverybody(w *Walk) {
	page := w.program.URL + visitor.PresencePage
	alice, bob := w.open(w.alice, page), w.open(w.bob, page)
	alice.Join("Alice")
	bob.Shows("1 user(s) online Username Join Alice Try:")
	bob.TypeInto("username", "Bob")
	bob.Press("\r")
	alice.Shows("2 user(s) online Logged in as Alice Leave Alice (you) Bob Try:")
	bob.Shows("2 user(s) online Logged in as Bob Leave Bob (you) Alice Try:")
	assert.False(w.t, alice.Has(`[value="Bob"]`) || bob.Has(`[value="Alice"]`), "the name of somebody else in a field")
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

// RestartedServerGetsEverybodyBack shows that after a restart or a crash every tab is live
// again, and everybody who had joined is online.
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
			assert.False(w.t, sawForm(tb), "while it joins again")
			tb.WaitUntil(`document.getElementById("connection").textContent === ""`, "silence again")
		}
	}
	bob.Click("leave")
	alice.Shows("1 user(s) online")
	alice.Click("leave")
	bob.Shows("0 user(s) online")
	w.close(tabs...)
}

// watchForm notes whether the form to join is shown in any frame that the browser draws,
// in this page and in those that the tab loads later.
func watchForm(tb *browser.Tab) {
	tb.InEveryPage(`
		const look = () => {
			if (` + browser.FormIsShown + `) window.sawForm = true;
			requestAnimationFrame(look);
		};
		look();`)
}

func sawForm(tb *browser.Tab) bool { return tb.Eval(`Boolean(window.sawForm)`) == "true" }

// follow runs a script, and at once follows a link that it puts outside the live part.
func follow(tb *browser.Tab, first, to string) {
	tb.Eval(`void setTimeout(() => {
		` + first + `;
		const link = Object.assign(document.createElement("a"), {href: ` + browser.Quote(to) + `, textContent: "a link"});
		document.querySelector("footer").append(link);
		link.click();
	})`)
}

// goBack is the Back button.
const goBack = `void setTimeout(() => history.back())`

// ReloadIsNoticedByNobody shows that a person stays online during a reload, a break, and
// after a link that brings no other page or brings it late.
func ReloadIsNoticedByNobody(w *Walk) {
	tb, peer := w.open(w.alice, w.network.URL+visitor.PresencePage), w.visitor().Open(visitor.PresencePage)
	watchForm(tb)
	tb.WaitUntil(`window.sawForm`, "the form, before the tab joins")
	tb.Join("Alice")
	peer.Join("Bob")
	peer.Shows("2 user(s) online Logged in as Bob ")
	peer.Settle()
	peer.StartHistory()
	joinsAgain := func() {
		w.t.Helper()
		tb.Shows("2 user(s) online Logged in as Alice Leave Alice (you) Bob Try:")
		tb.WaitUntil(isLive, "a live page")
		assert.False(w.t, sawForm(tb), "while it joins again")
	}
	for range 3 {
		tb.Reload()
		joinsAgain()
	}
	tb.CountConnects()
	for cut := range 3 {
		w.network.Cut()
		tb.WaitUntil(fmt.Sprintf(`connects > %d`, cut), "a new socket")
		joinsAgain()
	}
	for _, to := range []string{"/download", "/nothing", "/slow"} {
		joinsAgain()
		asked := w.proxy.asked.Load()
		follow(tb, "", to)
		require.Eventually(w.t, func() bool { return w.proxy.asked.Load() > asked }, visitor.Soon, time.Millisecond, "a request")
	}
	peer.NoChange(grace + time.Second)
	close(w.proxy.answerSlow)
	tb.WaitUntil(`location.pathname === "/slow"`, "the page behind the link")
	tb.Eval(goBack)
	joinsAgain()
	peer.NoChange(0)
	tb.Click("leave")
	peer.Shows("1 user(s) online")
	peer.Leave()
	tb.Shows("0 user(s) online")
	w.closeReloaded(tb)
}

// LinksLeaveOneLiveSocket shows that the page on the screen is live and current however a
// person came to it, and that no other page keeps a socket.
func LinksLeaveOneLiveSocket(w *Walk) {
	tb, peer := w.open(w.alice, w.network.URL+"/"), w.visitor().Open(visitor.PresencePage)
	for i, step := range []struct{ do, wantPage string }{
		{`document.querySelector("main a[href='/realtime/multi-user-sync']").click()`, visitor.CounterPage},
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

// PressAndLinkAtOnceCounts shows that a press counts once when the page is left at once,
// and that the person is told nothing else.
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

// WithoutSocketsPagesWork shows that pages fall back to plain requests where no socket
// opens, say so, and go live when one does.
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
	presence.Shows("Live updates are off")
	assert.False(w.t, presence.Has("button:disabled"))
	presence.TypeInto("username", "Alice")
	presence.Click("join")
	presence.Shows(visitor.NotLive)

	w.proxy.noSockets.Store(false)
	counter.WaitUntil(browser.Up, "a live page")
	presence.WaitUntil(browser.Up, "a live page") // in Firefox later, which itself delays attempts after some have failed
	presence.Join("Alice")
	w.visitor().Open(visitor.PresencePage).Shows("1 user(s) online")
	w.clickElsewhere()
	w.countIn(counter)
	presence.Click("leave")
	presence.Shows("0 user(s) online")
	w.closeReloaded(counter)
	w.close(presence)
}

// HiddenTabIsLiveWhenShown shows that a tab which lost its socket while it was hidden does
// not wait for its next attempt. To hide tabs, an engine needs windows.
func HiddenTabIsLiveWhenShown(w *Walk) {
	tb := w.open(w.alice, w.network.URL+visitor.CounterPage)
	tb.Eval(`void (Math.random = () => 1e5)`) // no attempt comes by itself, for hours
	tb.Hide(w.alice)
	w.network.Cut()
	tb.WaitUntil(`!liveTemplateClient.isReady()`, "a lost socket")
	w.clickElsewhere()
	tb.Show()
	w.countIn(tb)
	w.close(tb)
}

// KilledBrowserLeaves shows that a person whose browser dies has left in every tab.
func KilledBrowserLeaves(w *Walk) {
	peer := w.visitor().Open(visitor.PresencePage)
	for i := range 3 {
		w.open(w.bob, w.program.URL+visitor.PresencePage).Join(fmt.Sprint("tab ", i))
	}
	peer.Shows("3 user(s) online")
	w.bob.Kill()
	peer.Shows("0 user(s) online")
}

// WithoutSiteDataNothingIsLost shows that both pages work, and survive a break, in a browser
// that blocks site data.
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
