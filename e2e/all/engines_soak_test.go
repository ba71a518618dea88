//go:build soak

package all

import (
	"fmt"
	"net/http"
	"strconv"
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
func TestSoak_Engines(t *testing.T) {
	steps := []struct {
		name string
		take func(*testing.T, browser.Engine)
	}{
		{"the counter ticks in every tab", counterTicks},
		{"presence counts everybody, and a reload is noticed by nobody", presenceCounts},
		{"a server that stopped is back", func(t *testing.T, e browser.Engine) { serverIsBack(t, e, syscall.SIGTERM) }},
		{"a server that was killed is back", func(t *testing.T, e browser.Engine) { serverIsBack(t, e, syscall.SIGKILL) }},
		{"the Back button brings a live page", backButton},
		{"a press and a link at once", pressAndLink},
		{"a slow link, a download and no answer are noticed by nobody", linksThatStay},
		{"no sockets, then sockets", func(t *testing.T, e browser.Engine) { withoutSockets(t, e, 0) }},
		{"no sockets for a minute, then sockets", func(t *testing.T, e browser.Engine) { withoutSockets(t, e, time.Minute) }},
		{"a probe that hangs when the browser is online", func(t *testing.T, e browser.Engine) { hangingProbe(t, e, online) }},
		{"a probe that hangs when the tab is shown", func(t *testing.T, e browser.Engine) { hangingProbe(t, e, shown) }},
		{"site data blocked", withoutSiteData},
	}
	for _, e := range browser.Engines() {
		t.Run(e.Name, func(t *testing.T) {
			for _, step := range steps {
				t.Run(step.name, func(t *testing.T) { step.take(t, e) })
			}
		})
	}
}

// openWatched opens a page in a window of b. What the foot of it says is recorded, and
// its console may tell of servers that are away.
func openWatched(b *browser.Browser, url string) *browser.Tab {
	tb := b.LoadWindow("about:blank")
	tb.ExpectServerAway()
	tb.WatchFoot()
	tb.Navigate(url)
	tb.Eval(`void (window.kept = true)`)
	return tb
}

// openLive is openWatched for a page that is live at once.
func openLive(b *browser.Browser, url string) *browser.Tab {
	tb := openWatched(b, url)
	tb.WaitUntil(isLive, "a live page")
	return tb
}

// isLive is true on a page that has loaded, and has its socket.
const isLive = `document.readyState === "complete" && window.liveTemplateClient?.isReady() && !liveTemplateClient.useHTTP && document.documentElement.dataset.connection !== "down"`

// saidOf returns what the foot of the page has said, without the times.
func saidOf(tb *browser.Tab) (said []string) {
	for _, s := range tb.Heard() {
		said = append(said, s.Text)
	}
	return said
}

func counterTicks(t *testing.T, e browser.Engine) {
	page := visitor.Serve(t) + visitor.CounterPage
	alice, bob := e.New(t), e.New(t)
	first, second, other := openLive(alice, page), openLive(alice, page), openLive(bob, page)
	tabs := []*browser.Tab{first, second, other}
	for i, clicked := range tabs {
		clicked.Click("increment")
		for _, tb := range tabs {
			tb.Shows("Counter: " + strconv.Itoa(i+1) + " ")
		}
	}
	late := openWatched(bob, page)
	assert.Contains(t, late.Text(), "Counter: 3", "a late tab, at once")
	late.WaitUntil(isLive, "a live page")
	first.Click("increment")
	for _, tb := range append(tabs, late) {
		tb.Shows("Counter: 4")
		assert.Equal(t, "true", tb.Eval(`kept`), "without reload")
		assert.Empty(t, saidOf(tb))
	}
}

func presenceCounts(t *testing.T, e browser.Engine) {
	server := visitor.Serve(t)
	peer := visitor.New(t, server).Open(visitor.PresencePage)
	person, other := e.New(t), e.New(t)
	alice, bob := openLive(person, server+visitor.PresencePage), openLive(other, server+visitor.PresencePage)
	alice.Join("Alice")
	bob.TypeInto("username", "Bob")
	bob.Press("\r")
	alice.Shows("2 user(s) online Logged in as Alice Leave Alice (you) Bob Try:")
	bob.Shows("2 user(s) online Logged in as Bob ")
	bob.Click("leave")
	bob.Shows("1 user(s) online Username")
	alice.Shows("1 user(s) online Logged in as Alice ")
	bob.Join("Bob")
	alice.Shows("2 user(s) online")

	peer.Shows("2 user(s) online")
	alice.WatchForm()
	browser.ReloadUnnoticed(t, alice, peer, 5)
	bob.Close()
	alice.Shows("1 user(s) online")
	peer.Shows("1 user(s) online")
	assert.Empty(t, saidOf(alice))
}

func serverIsBack(t *testing.T, e browser.Engine, signal syscall.Signal) {
	exe := visitor.Build(t)
	server := visitor.StartExe(t, exe)
	alice, bob := e.New(t), e.New(t)
	counter, presence, other := openLive(alice, server.URL+visitor.CounterPage), openLive(alice, server.URL+visitor.PresencePage), openLive(bob, server.URL+visitor.PresencePage)
	tabs := []*browser.Tab{counter, presence, other}
	presence.Join("Alice")
	other.Join("Bob")

	server.Stop(signal)
	for _, tb := range tabs {
		tb.Shows("Reconnecting…") // after a second
	}
	server = visitor.StartExe(t, exe, "-addr", server.Addr())
	visitor.New(t, server.URL).Click()
	counter.Shows("Counter: 1")
	visitor.New(t, server.URL).Open(visitor.PresencePage).Shows("2 user(s) online")
	presence.Shows("2 user(s) online Logged in as Alice Leave Alice (you) Bob Try:")
	other.Shows("2 user(s) online Logged in as Bob Leave Bob (you) Alice Try:")
	other.Click("leave")
	presence.Shows("1 user(s) online")
	counter.Click("increment")
	counter.Shows("Counter: 2")
	for _, tb := range tabs {
		tb.WaitUntil(`document.getElementById("connection").textContent === ""`, "silence again")
		assert.Equal(t, []string{"Reconnecting… Buttons wait until the page is live.", "Back online", ""}, saidOf(tb))
		assert.Equal(t, "true", tb.Eval(`kept`), "without reload")
	}
}

func backButton(t *testing.T, e browser.Engine) {
	server := visitor.Serve(t)
	person := e.New(t)
	counter, presence := openLive(person, server+visitor.CounterPage), openLive(person, server+visitor.PresencePage)
	peer := visitor.New(t, server).Open(visitor.PresencePage)
	presence.Join("Alice")
	peer.Shows("1 user(s) online")
	for range 2 {
		for _, tb := range []*browser.Tab{counter, presence} {
			tb.Navigate(server + "/")
		}
		peer.Shows("0 user(s) online")
		visitor.New(t, server).Click()
		for _, tb := range []*browser.Tab{counter, presence} {
			tb.Eval(`void setTimeout(() => history.back())`)
		}
		peer.Shows("1 user(s) online")
		presence.Shows("1 user(s) online Logged in as Alice ")
		peer.Join("Bob")
		presence.Shows("2 user(s) online Logged in as Alice ")
		peer.Leave()
		presence.Shows("1 user(s) online Logged in as Alice ")
		counter.WaitUntil(isLive, "a live page")
	}
	counter.Shows("Counter: 2")
	counter.Click("increment")
	visitor.New(t, server).Open(visitor.CounterPage).Shows("Counter: 3")
	assert.NotContains(t, append(saidOf(counter), saidOf(presence)...), "What you did last may not have counted.")
}

// links is a proxy with links of every kind, which put puts on a page, outside its live
// part. Requests for /slow wait until release is called.
type links struct {
	waiting atomic.Int64 // requests for /slow
	release chan struct{}
}

func (l *links) proxy(app http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/download":
			w.Header().Set("Content-Disposition", `attachment; filename="numbers.txt"`)
			fmt.Fprintln(w, "1 2 3")
		case "/nothing":
			w.WriteHeader(http.StatusNoContent)
		case "/slow":
			l.waiting.Add(1)
			<-l.release
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprintln(w, `<!DOCTYPE html><title>slow</title><link rel="icon" href="data:,"><p>It took its time.`)
		default:
			app.ServeHTTP(w, r)
		}
	})
}

// put puts a link on the page, and returns a script that follows it.
func (l *links) put(tb *browser.Tab, to string) (follow string) {
	tb.Eval(`void document.querySelector("footer").append(Object.assign(document.createElement("a"), {href: ` + browser.Quote(to) + `, textContent: "to " + ` + browser.Quote(to) + `}))`)
	return `document.querySelector("footer a:last-child").click()`
}

const goBack = `void setTimeout(() => history.back())`

// A press that has been sent when the page is left counts, once, and the person is told
// nothing else.
func pressAndLink(t *testing.T, e browser.Engine) {
	l := &links{release: make(chan struct{})}
	close(l.release)
	server := visitor.ServeBehind(t, l.proxy)
	tb, peer := openLive(e.New(t), server+visitor.CounterPage), visitor.New(t, server).Open(visitor.CounterPage)
	const press = `document.querySelector("[name=increment]").click()`
	count := 0
	for _, row := range []struct {
		to     string
		leaves bool
	}{{"/", true}, {visitor.PresencePage, true}, {"/slow", true}, {"/download", false}, {"/nothing", false}} {
		for range 3 {
			before := len(tb.Heard())
			tb.Eval(`void setTimeout(() => { ` + press + `; ` + l.put(tb, row.to) + ` })`)
			count++
			peer.Shows(fmt.Sprintf("Counter: %d ", count))
			if row.leaves {
				tb.WaitUntil(`location.pathname === `+browser.Quote(row.to)+` && document.readyState === "complete"`, "the page behind the link")
				tb.Eval(goBack)
				tb.WaitUntil(`location.pathname === `+browser.Quote(visitor.CounterPage), "the page again")
			}
			tb.WaitUntil(isLive, "a live page")
			tb.Shows(fmt.Sprintf("Counter: %d ", count))
			assert.Empty(t, saidOf(tb)[before:], "what is said after a press and a link to %s", row.to)
		}
	}
	peer.Settle()
	peer.Shows(fmt.Sprintf("Counter: %d ", count))
}

// A link that brings no other page, or brings it late, leaves the page as it is, and
// the person in the number of those online.
func linksThatStay(t *testing.T, e browser.Engine) {
	l := &links{release: make(chan struct{})}
	server := visitor.ServeBehind(t, l.proxy)
	tb, peer := openLive(e.New(t), server+visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	tb.Join("Alice")
	peer.Shows("1 user(s) online")
	peer.Settle()
	peer.StartHistory()
	for _, to := range []string{"/download", "/nothing"} {
		for range 3 {
			tb.Eval(`void setTimeout(() => { ` + l.put(tb, to) + ` })`)
			peer.NoChange(visitor.Grace + time.Second)
			tb.WaitUntil(isLive, "a live page")
		}
		assert.Empty(t, saidOf(tb), "after links to %s", to)
	}
	tb.Eval(`void setTimeout(() => { ` + l.put(tb, "/slow") + ` })`)
	assert.Eventually(t, func() bool { return l.waiting.Load() > 0 }, visitor.Soon, 10*time.Millisecond, "a request for the page")
	peer.NoChange(visitor.Grace + time.Second)
	peer.Join("Bob")
	peer.Settle()
	peer.StartHistory()
	close(l.release)
	tb.WaitUntil(`location.pathname === "/slow"`, "the page behind the link")
	tb.Eval(goBack)
	tb.Shows("2 user(s) online Logged in as Alice ")
	peer.NoChange(visitor.Grace)
	assert.Empty(t, saidOf(tb), "after a slow link")
}

// Where no socket opens, pages work by requests and say so. They are live within 15
// seconds after sockets open again, or as soon as the browser tries one.
func withoutSockets(t *testing.T, e browser.Engine, blockedFor time.Duration) {
	var blocked atomic.Bool
	server := visitor.ServeBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if blocked.Load() && websocket.IsWebSocketUpgrade(r) {
				visitor.RefuseUpgrade(w, r)
				return
			}
			app.ServeHTTP(w, r)
		})
	})
	blocked.Store(true)
	person := e.New(t)
	counter, presence := openWatched(person, server+visitor.CounterPage), openWatched(person, server+visitor.PresencePage)
	for _, tb := range []*browser.Tab{counter, presence} {
		tb.Shows("Live updates are off")
	}
	for i := range 3 {
		counter.Click("increment")
		counter.Shows("Counter: " + strconv.Itoa(i+1) + " ")
	}
	presence.TypeInto("username", "Alice")
	presence.Click("join")
	presence.Shows(visitor.NotLive)
	<-time.After(blockedFor)
	late := openWatched(person, server+visitor.CounterPage) // in the middle of it
	loaded := time.Now()
	late.Shows("Live updates are off")
	said := time.Since(loaded)

	blocked.Store(false)
	allowed := time.Now()
	for _, tb := range []*browser.Tab{counter, presence, late} {
		tb.WaitUntilWithin(time.Minute, isLive+` && document.documentElement.dataset.connection === "up"`, "a live page")
		assert.Less(t, time.Since(allowed), 17*time.Second, "15 s, and some for this machine")
		assert.Equal(t, "true", tb.Eval(`kept`), "without reload")
	}
	t.Logf("a late page said so %v after it had loaded; all are live %v after sockets were allowed", said, time.Since(allowed))
	presence.Join("Alice")
	visitor.New(t, server).Click()
	counter.Shows("Counter: 4")
	late.Shows("Counter: 4")
}

// online and shown let a browser know that it may look for the server: they return
// after its tab has heard of that.
func online(tb *browser.Tab, _ *browser.Browser) { tb.Eval(`void dispatchEvent(new Event("online"))`) }

func shown(tb *browser.Tab, person *browser.Browser) {
	tb.Hide(person)
	tb.Show()
	tb.WaitUntil(`!document.hidden`, "a tab that is shown")
}

// A probe that hangs does not keep the tab from looking again at once when it has a
// reason to.
func hangingProbe(t *testing.T, e browser.Engine, hint func(*browser.Tab, *browser.Browser)) {
	var hangs atomic.Bool
	var hanging atomic.Int64
	ended := make(chan struct{})
	server := visitor.ServeBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if hangs.Load() && r.URL.Path == "/healthz" {
				hanging.Add(1)
				<-ended
				return
			}
			app.ServeHTTP(w, r)
		})
	})
	t.Cleanup(func() { close(ended) })
	network := visitor.NewNetwork(t, server)
	person := e.New(t)
	tb := openLive(person, network.URL+visitor.CounterPage)
	tb.Eval(`void (() => {
		Math.random = () => 0.999; // waits are as long as they can be
		addEventListener("online", () => { window.hinted = Date.now(); });
		document.addEventListener("visibilitychange", () => { if (!document.hidden) window.hinted = Date.now(); });
		document.addEventListener("live", (event) => { if (event.detail === "up") window.up = Date.now(); });
	})()`)
	hangs.Store(true)
	network.Cut()
	tb.Shows("Reconnecting…")
	visitor.New(t, server).Click()
	before := hanging.Load()
	require.Eventually(t, func() bool { return hanging.Load() > before }, visitor.Soon, time.Millisecond, "a probe that hangs")
	hangs.Store(false)
	hint(tb, person)
	tb.Shows("Counter: 1")
	after := time.Duration(tb.Number(`up - hinted`)) * time.Millisecond
	t.Logf("live %v after the hint", after)
	assert.Less(t, after, 2500*time.Millisecond, "a probe takes 3 s at most")
}

// withoutSiteDataIn returns a browser that blocks site data, and the address of a server
// for it. Firefox does so by a setting that also blocks cookies; elsewhere reading the
// storages fails as it does there.
func withoutSiteDataIn(t *testing.T, e browser.Engine) (person *browser.Browser, server string) {
	if e.Name == browser.Firefox.Name {
		return browser.NewFirefox(t, browser.Preferences{"network.cookie.cookieBehavior": 2}), visitor.Serve(t)
	}
	return e.New(t), visitor.ServeBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/presence-") && strings.HasSuffix(r.URL.Path, ".js") { // the first script of a page
				r.Header.Del("Accept-Encoding")
				w = &prefixed{ResponseWriter: w, prefix: `for (const name of ["localStorage", "sessionStorage"]) {
					Object.defineProperty(window, name, { get() { throw new DOMException("The operation is insecure.", "SecurityError"); } });
				}`}
			}
			app.ServeHTTP(w, r)
		})
	})
}

// prefixed is an answer that begins with a text.
type prefixed struct {
	http.ResponseWriter
	prefix string
}

func (w *prefixed) WriteHeader(status int) {
	w.Header().Del("Content-Length")
	w.ResponseWriter.WriteHeader(status)
	w.Write([]byte(w.prefix))
}

func withoutSiteData(t *testing.T, e browser.Engine) {
	person, server := withoutSiteDataIn(t, e)
	network := visitor.NewNetwork(t, server)
	counter, presence := openLive(person, network.URL+visitor.CounterPage), openLive(person, network.URL+visitor.PresencePage)
	assert.Equal(t, "SecurityError", presence.Eval(`(() => { try { return typeof sessionStorage } catch (error) { return error.name } })()`))
	peer := visitor.New(t, server).Open(visitor.PresencePage)
	counter.Click("increment")
	counter.Shows("Counter: 1")
	presence.Join("Alice")
	peer.Shows("1 user(s) online")
	presence.WaitUntil(`document.title.startsWith("(1) Presence Tracking")`, "the count in the title")
	peer.Join("Bob")
	presence.Shows("2 user(s) online Logged in as Alice ")
	network.Cut()
	visitor.New(t, server).Click()
	counter.Shows("Counter: 2")
	presence.WaitUntil(isLive, "a live page")
	peer.Leave()
	peer.Shows("1 user(s) online")
	presence.Click("leave")
	peer.Shows("0 user(s) online")
	presence.WaitUntil(`document.querySelector("[name=join]")`, "the form")
	assert.Empty(t, append(saidOf(counter), saidOf(presence)...))
}
