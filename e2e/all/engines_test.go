//go:build all || soak

package all

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
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

// Every engine takes the same steps.
func TestEngines_EachTakesEveryStep(t *testing.T) {
	t.Parallel()
	for _, e := range browser.Engines() {
		t.Run(e.Name, func(t *testing.T) {
			t.Parallel()
			startWalk(t, e).takeEveryStep()
		})
	}
}

// walk takes two people through both pages of one program.
type walk struct {
	undisturbed bool          // nothing else runs: no break is long enough to be shown
	blockedFor  time.Duration // how long no socket opens

	t       *testing.T
	engine  browser.Engine
	program *visitor.Program
	trouble trouble
	proxy   string // the address of the program behind trouble

	alice, bob              *browser.Browser
	counter, presence, bobs *browser.Tab // the tabs of the first steps
	count                   int          // what the counter shows
	restarts                int
}

// grace is longer than a reload takes on a slow machine.
const grace = 10 * time.Second

func startWalk(t *testing.T, e browser.Engine) *walk {
	w := &walk{t: t, engine: e, trouble: trouble{release: make(chan struct{})}}
	w.program = visitor.Start(t, "-grace", grace.String())
	w.proxy = visitor.NewProxy(t, w.program.URL, w.trouble.proxy)
	w.alice, w.bob = e.New(t), e.New(t)
	return w
}

func (w *walk) takeEveryStep() {
	w.counterTicksInEveryTab()
	w.presenceCountsEverybody()
	w.serverIsBack(syscall.SIGTERM)
	w.serverIsBack(syscall.SIGKILL)
	w.backButtonBringsALivePage()
	w.nobodyNoticesReloadsAndLinksThatStay()
	w.pressAndLinkAtOnce()
	w.noSocketsThenSockets()
	w.hintEndsAProbeThatHangs()
	w.siteDataIsBlocked()
}

// trouble is a proxy that makes trouble when it is told to. It has links of every kind.
type trouble struct {
	noSockets, probesHang, noSiteData atomic.Bool

	asked   atomic.Int64  // for a link, or by a probe that hangs
	release chan struct{} // lets requests for /slow be answered
}

func (tr *trouble) proxy(app http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; {
		case path == "/download":
			tr.asked.Add(1)
			w.Header().Set("Content-Disposition", `attachment; filename="numbers.txt"`)
			fmt.Fprintln(w, "1 2 3")
		case path == "/nothing":
			tr.asked.Add(1)
			w.WriteHeader(http.StatusNoContent)
		case path == "/slow":
			tr.asked.Add(1)
			select {
			case <-tr.release:
			case <-r.Context().Done():
			}
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprintln(w, `<!DOCTYPE html><title>slow</title><link rel="icon" href="data:,"><p>It took its time.`)
		case path == "/healthz" && tr.probesHang.Load():
			tr.asked.Add(1)
			<-r.Context().Done()
		case websocket.IsWebSocketUpgrade(r) && tr.noSockets.Load():
			visitor.RefuseUpgrade(w, r)
		case tr.noSiteData.Load() && strings.Contains(path, "/presence-") && strings.HasSuffix(path, ".js"): // the first script of a page
			r.Header.Del("Accept-Encoding")
			app.ServeHTTP(withoutStorages{w}, r)
		default:
			app.ServeHTTP(w, r)
		}
	})
}

// withoutStorages is an answer that begins with what makes reading the storages fail.
type withoutStorages struct{ http.ResponseWriter }

func (w withoutStorages) WriteHeader(status int) {
	w.Header().Del("Content-Length")
	w.ResponseWriter.WriteHeader(status)
	fmt.Fprint(w, `for (const name of ["localStorage", "sessionStorage"]) {
		Object.defineProperty(window, name, { get() { throw new DOMException("The operation is insecure.", "SecurityError"); } });
	}`)
}

// isAsked waits until there have been more than so many requests.
func (tr *trouble) isAsked(t *testing.T, before int64) {
	t.Helper()
	require.Eventually(t, func() bool { return tr.asked.Load() > before }, visitor.Soon, time.Millisecond, "a request")
}

// load opens a page in a window. What the foot of it says is recorded, and its console
// may tell of servers that are away.
func (w *walk) load(b *browser.Browser, url string) *browser.Tab {
	w.t.Helper()
	tb := b.LoadWindow("about:blank")
	tb.ExpectServerAway()
	tb.WatchStatus()
	tb.WatchNotices()
	tb.Navigate(url)
	tb.Eval(`void (window.kept = true)`)
	return tb
}

// open is load for a page that is live at once.
func (w *walk) open(b *browser.Browser, url string) *browser.Tab {
	w.t.Helper()
	tb := w.load(b, url)
	tb.WaitUntil(isLive, "a live page")
	return tb
}

// isLive is true on a page that has loaded, and has its socket.
const isLive = `document.readyState === "complete" && window.liveTemplateClient?.isReady() && !liveTemplateClient.useHTTP && document.documentElement.dataset.connection !== "down"`

// visitor returns somebody who has no browser.
func (w *walk) visitor() *visitor.Visitor { return visitor.New(w.t, w.program.URL) }

// clickElsewhere is a click in no tab of the walk, and click one in a tab.
func (w *walk) clickElsewhere() {
	w.t.Helper()
	w.visitor().Click()
	w.count++
}

func (w *walk) click(tb *browser.Tab) {
	w.t.Helper()
	tb.Click("increment")
	w.count++
}

// countIn waits until tabs show how often somebody has clicked.
func (w *walk) countIn(tabs ...interface{ Shows(string) }) {
	w.t.Helper()
	for _, tb := range tabs {
		tb.Shows(fmt.Sprintf("Counter: %d ", w.count))
	}
}

// kept checks that tabs have not been loaded again.
func (w *walk) kept(tabs ...*browser.Tab) {
	w.t.Helper()
	for _, tb := range tabs {
		assert.Equal(w.t, "true", tb.Eval(`kept`), "without reload")
	}
}

// saidNothing checks what the person was told in tabs, and closes them. Where other
// things run beside, a break may be long enough to be shown.
func (w *walk) saidNothing(tabs ...*browser.Tab) {
	w.t.Helper()
	for _, tb := range tabs {
		assert.Empty(w.t, tb.Notices())
		if w.undisturbed {
			assert.Empty(w.t, tb.Heard())
		}
		tb.Close()
	}
}

func (w *walk) counterTicksInEveryTab() {
	page := w.program.URL + visitor.CounterPage
	w.counter = w.open(w.alice, page)
	second, bobs := w.open(w.alice, page), w.open(w.bob, page)
	for _, tb := range []*browser.Tab{w.counter, second, bobs} {
		w.click(tb)
		w.countIn(w.counter, second, bobs)
	}
	late := w.load(w.bob, page)
	assert.Contains(w.t, late.Text(), "Counter: 3", "a late tab, at once")
	late.WaitUntil(isLive, "a live page")
	w.click(w.counter)
	w.countIn(w.counter, second, bobs, late)
	w.kept(w.counter, second, bobs, late)
	w.saidNothing(second, bobs, late)
}

func (w *walk) presenceCountsEverybody() {
	page := w.program.URL + visitor.PresencePage
	w.presence, w.bobs = w.open(w.alice, page), w.open(w.bob, page)
	w.presence.Join("Alice")
	w.bobs.TypeInto("username", "Bob")
	w.bobs.Press("\r")
	w.presence.Shows("2 user(s) online Logged in as Alice Leave Alice (you) Bob Try:")
	w.bobs.Shows("2 user(s) online Logged in as Bob ")
	w.bobs.Click("leave")
	w.bobs.Shows("1 user(s) online Username")
	w.presence.Shows("1 user(s) online Logged in as Alice ")
	w.bobs.Join("Bob")
	w.presence.Shows("2 user(s) online")
	w.kept(w.presence, w.bobs)
}

func (w *walk) serverIsBack(signal syscall.Signal) {
	tabs := []*browser.Tab{w.counter, w.presence, w.bobs}
	w.program.Stop(signal)
	for _, tb := range tabs {
		tb.Shows("Reconnecting…") // after a second
	}
	w.program = visitor.Start(w.t, "-grace", grace.String(), "-addr", w.program.Addr())
	w.count = 0
	w.restarts++
	w.clickElsewhere()
	w.countIn(w.counter)
	w.visitor().Open(visitor.PresencePage).Shows("2 user(s) online")
	w.presence.Shows("2 user(s) online Logged in as Alice Leave Alice (you) Bob Try:")
	w.bobs.Shows("2 user(s) online Logged in as Bob Leave Bob (you) Alice Try:")
	w.bobs.Click("leave")
	w.presence.Shows("1 user(s) online")
	w.bobs.Join("Bob")
	w.click(w.counter)
	w.countIn(w.counter)
	w.kept(tabs...)
	for _, tb := range tabs {
		tb.WaitUntil(`document.getElementById("connection").textContent === ""`, "silence again")
		var said []string
		for _, s := range tb.Heard() {
			if s.Text != "" && s.Text != "Connecting… Buttons work." {
				said = append(said, s.Text)
			}
		}
		assert.Equal(w.t, slices.Repeat([]string{"Reconnecting… Buttons wait until the page is live.", "Back online"}, w.restarts), said)
	}
}

const goBack = `void setTimeout(() => history.back())`

func (w *walk) backButtonBringsALivePage() {
	peer := w.visitor().Open(visitor.PresencePage)
	peer.Shows("2 user(s) online")
	w.bobs.Close()
	for _, meanwhile := range []string{"0 user(s) online", "1 user(s) online"} { // later than the grace period, and within
		peer.Shows("1 user(s) online")
		w.counter.Navigate(w.program.URL + "/")
		w.presence.Navigate(w.program.URL + "/")
		peer.Shows(meanwhile)
		w.clickElsewhere()
		w.counter.Eval(goBack)
		w.presence.Eval(goBack)
		peer.Shows("1 user(s) online")
		w.presence.Shows("1 user(s) online Logged in as Alice ")
		peer.Join("Bob")
		w.presence.Shows("2 user(s) online Logged in as Alice ")
		peer.Leave()
		w.presence.Shows("1 user(s) online Logged in as Alice ")
		w.counter.WaitUntil(isLive, "a live page")
		w.countIn(w.counter)
	}
	w.click(w.counter)
	w.countIn(w.counter, w.visitor().Open(visitor.CounterPage))
	w.presence.Click("leave")
	peer.Shows("0 user(s) online")
	for _, tb := range []*browser.Tab{w.counter, w.presence} {
		assert.Empty(w.t, tb.Notices())
		tb.Close()
	}
}

// follow puts a link on a page, outside its live part, and follows it, after it has done
// something else.
func follow(tb *browser.Tab, first, to string) {
	tb.Eval(`void document.querySelector("footer").append(Object.assign(document.createElement("a"), {href: ` + browser.Quote(to) + `, textContent: "a link"}))`)
	tb.Eval(`void setTimeout(() => { ` + first + `; document.querySelector("footer a:last-child").click(); })`)
}

// A reload, and a link that brings no other page, or brings it late, leaves the person in
// the number of those online.
func (w *walk) nobodyNoticesReloadsAndLinksThatStay() {
	tb, peer := w.open(w.alice, w.proxy+visitor.PresencePage), w.visitor().Open(visitor.PresencePage)
	tb.Join("Alice")
	peer.Join("Bob")
	peer.Shows("2 user(s) online Logged in as Bob ")
	peer.Settle()
	peer.StartHistory()
	tb.WatchForm()
	for range 3 {
		tb.Reload()
		tb.Shows("2 user(s) online Logged in as Alice Leave Alice (you) Bob Try:")
		assert.False(w.t, tb.SawForm(), "while it joins again")
	}
	for _, to := range []string{"/download", "/download", "/nothing", "/nothing", "/slow"} {
		tb.WaitUntil(isLive, "a live page")
		asked := w.trouble.asked.Load()
		follow(tb, "", to)
		w.trouble.isAsked(w.t, asked)
	}
	peer.NoChange(grace + time.Second)
	close(w.trouble.release)
	tb.WaitUntil(`location.pathname === "/slow"`, "the page behind the link")
	tb.Eval(goBack)
	tb.Shows("2 user(s) online Logged in as Alice ")
	tb.WaitUntil(isLive, "a live page")
	peer.NoChange(grace)
	tb.Click("leave")
	peer.Shows("1 user(s) online")
	peer.Leave()
	tb.Shows("0 user(s) online")
	w.saidNothing(tb)
}

// A press that has been sent when the page is left counts, once, and the person is told
// nothing else.
func (w *walk) pressAndLinkAtOnce() {
	tb, peer := w.open(w.alice, w.proxy+visitor.CounterPage), w.visitor().Open(visitor.CounterPage)
	for _, row := range []struct {
		to     string
		leaves bool
	}{{"/", true}, {visitor.PresencePage, true}, {"/slow", true}, {"/download", false}, {"/nothing", false}} {
		for range 3 {
			follow(tb, `document.querySelector("[name=increment]").click()`, row.to)
			w.count++
			w.countIn(peer)
			if row.leaves {
				tb.WaitUntil(`location.pathname === `+browser.Quote(row.to)+` && document.readyState === "complete"`, "the page behind the link")
				tb.Eval(goBack)
				tb.WaitUntil(`location.pathname === `+browser.Quote(visitor.CounterPage), "the page again")
			}
			tb.WaitUntil(isLive, "a live page")
			w.countIn(tb)
			assert.Empty(w.t, tb.Notices(), "after a press and a link to %s", row.to)
		}
	}
	peer.Settle()
	w.countIn(peer)
	w.saidNothing(tb)
}

// Where no socket opens, pages work by requests and say so. They are live again within 15
// seconds after sockets open, or as soon as the browser tries one.
func (w *walk) noSocketsThenSockets() {
	w.trouble.noSockets.Store(true)
	counter, presence := w.load(w.alice, w.proxy+visitor.CounterPage), w.load(w.alice, w.proxy+visitor.PresencePage)
	counter.Shows("Live updates are off")
	for range 3 {
		w.click(counter)
		w.countIn(counter)
	}
	presence.Shows("Live updates are off")
	presence.TypeInto("username", "Alice")
	presence.Click("join")
	presence.Shows(visitor.NotLive)
	<-time.After(w.blockedFor)
	late := w.load(w.alice, w.proxy+visitor.CounterPage) // in the middle of it
	late.Shows("Live updates are off")

	w.trouble.noSockets.Store(false)
	allowed := time.Now()
	for _, tb := range []*browser.Tab{counter, presence, late} {
		tb.WaitUntilWithin(3*time.Minute, isLive+` && document.documentElement.dataset.connection === "up"`, "a live page")
	}
	if w.undisturbed {
		assert.Less(w.t, time.Since(allowed), 17*time.Second, "15 s, and some for this machine")
	}
	w.kept(counter, presence, late)
	presence.Join("Alice")
	w.clickElsewhere()
	w.countIn(counter, late)
	presence.Click("leave")
	presence.Shows("0 user(s) online")
}

// A probe that hangs does not keep the tab from looking again when it has a reason to.
// Here no probe ends by itself.
func (w *walk) hintEndsAProbeThatHangs() {
	network := visitor.NewNetwork(w.t, w.proxy)
	tb := w.open(w.alice, network.URL+visitor.CounterPage)
	tb.Eval(`void (() => {
		const abort = AbortController.prototype.abort;
		AbortController.prototype.abort = function (reason) { if (reason !== "late") abort.call(this, reason); };
	})()`)
	for _, hint := range []func(){
		func() { tb.Eval(browser.ComesOnline) },
		func() { tb.Hide(w.alice); tb.Show() },
	} {
		w.trouble.probesHang.Store(true)
		asked := w.trouble.asked.Load()
		network.Cut()
		w.trouble.isAsked(w.t, asked)
		w.trouble.probesHang.Store(false)
		w.clickElsewhere()
		hint()
		w.countIn(tb)
	}
	w.kept(tb)
}

// Firefox blocks site data by a setting that also blocks cookies; elsewhere reading the
// storages fails as it does there.
func (w *walk) siteDataIsBlocked() {
	person := w.bob
	if w.engine.Name == browser.Firefox.Name {
		person = browser.NewFirefox(w.t, browser.Preferences{"network.cookie.cookieBehavior": 2})
	} else {
		w.trouble.noSiteData.Store(true)
	}
	network := visitor.NewNetwork(w.t, w.proxy)
	counter, presence := w.open(person, network.URL+visitor.CounterPage), w.open(person, network.URL+visitor.PresencePage)
	assert.Equal(w.t, "SecurityError", presence.Eval(`(() => { try { return typeof sessionStorage } catch (error) { return error.name } })()`))
	peer := w.visitor().Open(visitor.PresencePage)
	w.click(counter)
	w.countIn(counter)
	presence.Join("Alice")
	peer.Shows("1 user(s) online")
	presence.WaitUntil(`document.title.startsWith("(1) Presence Tracking")`, "the count in the title")
	peer.Join("Bob")
	presence.Shows("2 user(s) online Logged in as Alice ")
	network.Cut()
	w.clickElsewhere()
	w.countIn(counter)
	presence.WaitUntil(isLive, "a live page")
	peer.Leave()
	peer.Shows("1 user(s) online")
	presence.Click("leave")
	peer.Shows("0 user(s) online")
	presence.WaitUntil(`document.querySelector("[name=join]")`, "the form")
	w.saidNothing(counter, presence)
}
