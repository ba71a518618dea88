package e2e

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	cdpnetwork "github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

func TestBrowser_StatusSaysWhatIsSo(t *testing.T) {
	var slow atomic.Bool
	server := visitor.ServeBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if slow.Load() && strings.Contains(r.Header.Get("Accept"), "text/html") {
				<-time.After(1300 * time.Millisecond)
			}
			app.ServeHTTP(w, r)
		})
	})
	network := visitor.NewNetwork(t, server)
	tb, peer := browser.New(t).Load("about:blank"), visitor.New(t, server)
	tb.WatchStatus()
	tb.ExpectErrors("net::ERR_")

	slow.Store(true)
	tb.Navigate(network.URL + visitor.CounterPage)
	tb.WaitUntil(browser.Live, "a live page")
	tb.Reload()
	tb.WaitUntil(browser.Live, "a live page")
	tb.Navigate(network.URL + "/")
	tb.Navigate(network.URL + visitor.CounterPage)
	tb.WaitUntil(browser.Live, "a live page")
	slow.Store(false)
	assert.Empty(t, tb.Heard(), "what is said on slow navigation and reload")

	tb.CountConnects()
	network.Leave()
	<-time.After(300 * time.Millisecond)
	network.ComeBack()
	tb.WaitUntil(`connects === 1`, "a new socket")
	<-time.After(1500 * time.Millisecond)
	assert.Empty(t, tb.Heard(), "what is said after a drop of 300 ms")

	const figure = `document.querySelector(".figure")`
	looks := func() string {
		return tb.Eval(`getComputedStyle(` + figure + `, "::after").content + getComputedStyle(` + figure + `).color`)
	}
	const button = `document.querySelector("[name=increment]")`
	asUsual := looks()
	tb.Eval(`void (window.kept = true)`)
	dropped := time.Now()
	network.Leave()
	tb.Shows("Reconnecting…")
	peer.Click()
	require.Len(t, tb.Heard(), 1)
	after := tb.Heard()[0].At.Sub(dropped)
	t.Logf("said %v after the drop", after)
	assert.Greater(t, after, 500*time.Millisecond)
	assert.Less(t, after, 1500*time.Millisecond)
	assert.Contains(t, looks(), "not current")
	assert.NotEqual(t, asUsual, looks())
	assert.Equal(t, "true", tb.Eval(button+`.disabled`))
	assert.Equal(t, "Reconnecting…", tb.Eval(button+`.title`))
	assert.Equal(t, "status", tb.Eval(`document.getElementById(`+button+`.getAttribute("aria-describedby")).role`))

	network.ComeBack()
	tb.Shows("Back online")
	tb.Shows("Counter: 1")
	tb.WaitUntil(`document.getElementById("connection").textContent === ""`, "silence again")
	require.Len(t, tb.Heard(), 3)
	assert.Equal(t, "Back online", tb.Heard()[1].Text)
	assert.Equal(t, asUsual, looks())
	assert.Equal(t, "false,,", tb.Eval(`[`+button+`.disabled, `+button+`.title, `+button+`.getAttribute("aria-describedby")].join()`))
	tb.Click("increment")
	tb.Shows("Counter: 2")
	assert.Equal(t, "true", tb.Eval(`kept`), "without reload")

	tb.Close()
	assert.Len(t, tb.Heard(), 3, "what is said on closing")
}

func TestBrowser_CurrentWithinASecondOfReturn(t *testing.T) {
	server := visitor.Serve(t)
	keeping := visitor.ServeBehind(t, visitor.KeptWhole)
	offline := func(is bool) func(*browser.Tab) {
		return func(tb *browser.Tab) {
			tb.Run(cdpnetwork.Enable(), cdpnetwork.EmulateNetworkConditions(is, 0, -1, -1))
			if is {
				tb.Shows("Reconnecting…")             // though no socket has been closed
				<-time.After(1500 * time.Millisecond) // the next attempt is more than a second away
			}
		}
	}
	lifecycle := func(state page.SetWebLifecycleStateState) func(*browser.Tab) {
		return func(tb *browser.Tab) { tb.Run(page.SetWebLifecycleState(state)) }
	}
	elsewhere := func(tb *browser.Tab) { tb.Navigate("about:blank") }
	back := func(tb *browser.Tab) { tb.Eval(`void setTimeout(() => history.back())`) }
	for _, row := range []struct {
		name            string
		server          string
		leave, comeBack func(*browser.Tab)
		loadedAgain     bool
	}{
		{"offline", server, offline(true), offline(false), false},
		{"frozen", server, lifecycle(page.SetWebLifecycleStateStateFrozen), lifecycle(page.SetWebLifecycleStateStateActive), false},
		{"back by the Back button", server, elsewhere, back, true},
		{"kept whole for the Back button", keeping, elsewhere, back, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			server, person := row.server, browser.NewWindowed(t)
			tb := person.Open(server + visitor.PresencePage)
			tb.ExpectErrors("net::ERR_INTERNET_DISCONNECTED")
			tb.Join("Alice")
			tb.Eval(`void (window.kept = true, Math.random = () => 0.999)`) // waits are as long as they can be
			row.leave(tb)
			watching := visitor.New(t, server).Open(visitor.PresencePage)
			watching.Join("Bob")
			returned := time.Now()
			row.comeBack(tb)
			tb.Shows("2 user(s) online Logged in as Alice ")
			within := time.Second
			if row.loadedAgain {
				within = 2 * time.Second
			}
			assert.Less(t, time.Since(returned), within)
			assert.Equal(t, row.loadedAgain, tb.Eval(`window.kept`) == "", "a new page")
			watching.Shows("2 user(s) online")
			watching.Leave()
			tb.Shows("1 user(s) online")
		})
	}
}

// A page may be left at any moment: here when its socket is open and has brought
// nothing yet. Not every browser freezes such a page as Chromium does.
func TestBrowser_PageThatIsLeftWhileItOpensIsLiveOnReturn(t *testing.T) {
	t.Parallel()
	sockets := &visitor.SocketCount{}
	tb := browser.New(t).Load("about:blank")
	event := func(name string) string {
		return `dispatchEvent(new PageTransitionEvent("` + name + `", {persisted: true}))`
	}
	tb.InEveryPage(`document.addEventListener("lvt:connected", () => queueMicrotask(() => { window.wasLeft = ` + event("pagehide") + `; }), {capture: true, once: true})`)
	tb.Navigate(visitor.ServeBehind(t, sockets.Count) + visitor.CounterPage)
	tb.WaitUntil(`window.wasLeft`, "the page to be left")
	sockets.WaitFor(t, map[string]int{})
	tb.Eval(event("pageshow"))
	sockets.WaitFor(t, map[string]int{visitor.CounterPage: 1})
	tb.Click("increment")
	tb.Shows("Counter: 1")
	assert.Equal(t, 2, tb.Loads(), "about:blank and the page")
}

func TestBrowser_HiddenTabKeepsItsSocket(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t, "-ping", "50ms", "-ping-timeout", "2s")
	person, peer := browser.NewWindowed(t), visitor.New(t, server).Open(visitor.PresencePage)
	alice := person.Open(server + visitor.PresencePage)
	alice.Join("Alice")
	alice.WatchForm()
	peer.Shows("1 user(s) online")
	peer.StartHistory()
	alice.CountConnects()
	alice.Hide(person)
	<-time.After(3200 * time.Millisecond) // then the client alone would open another
	alice.Show()
	alice.WaitUntil(`!document.hidden`, "the tab to be shown")
	<-time.After(700 * time.Millisecond) // it waits for 500 ms before that
	assert.Equal(t, "0", alice.Eval(`connects`), "new sockets")
	alice.Shows("1 user(s) online Logged in as Alice Leave Alice (you) Try:")
	peer.NoChange(visitor.Grace)
	assert.False(t, alice.SawForm())
	alice.Click("leave")
	peer.Shows("0 user(s) online")
}

func TestBrowser_HiddenTabLooksForTheServerWhenItIsShownOrHearsOfIt(t *testing.T) {
	t.Parallel()
	var probes atomic.Int64
	server := visitor.ServeBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/healthz" {
				probes.Add(1)
			}
			app.ServeHTTP(w, r)
		})
	})
	network := visitor.NewNetwork(t, server)
	person := browser.NewWindowed(t)
	tb := person.Open(network.URL + visitor.CounterPage)
	tb.ExpectErrors("net::ERR_")
	tb.WatchStatus()
	tb.Hide(person)
	network.Cut()
	tb.WaitUntil(`!liveTemplateClient.isReady()`, "a lost socket")
	visitor.New(t, server).Click()
	<-time.After(2 * time.Second)
	assert.Zero(t, probes.Load(), "probes from the background")
	tb.Show()
	tb.Shows("Counter: 1")
	assert.Empty(t, tb.Heard(), "what was said about a drop that nobody saw")

	other := person.Open(network.URL + visitor.CounterPage) // hides the first
	other.ExpectErrors("net::ERR_")
	network.Leave()
	other.Shows("Reconnecting…")
	visitor.New(t, server).Click()
	network.ComeBack()
	other.Shows("Counter: 2")
	tb.Shows("Counter: 2")
	assert.Equal(t, "true", tb.Eval(`document.hidden`))
}

func TestBrowser_TypingSurvivesUpdatesAndAReconnect(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	peer := visitor.New(t, server).Open(visitor.PresencePage)
	const field = `(() => { const f = document.querySelector("[name=username]"); return [f.value, f.selectionStart, f.selectionEnd, document.activeElement.name].join() })()`
	typing, done := browser.New(t).Open(network.URL+visitor.PresencePage), browser.New(t).Open(network.URL+visitor.PresencePage)
	for _, tb := range []*browser.Tab{typing, done} {
		tb.ExpectErrors("net::ERR_")
		tb.TypeInto("username", "half a na")
		tb.Eval(`document.querySelector("[name=username]").setSelectionRange(2, 5)`)
	}
	done.Eval(`document.querySelector("[name=join]").focus()`)
	keeps := func() {
		t.Helper()
		require.Equal(t, "half a na,2,5,username", typing.Eval(field))
		require.Equal(t, "half a na,2,5,join", done.Eval(field))
	}
	for range 50 {
		peer.Join("Bob")
		typing.Shows("1 user(s) online")
		peer.Leave()
		typing.Shows("0 user(s) online")
		keeps()
	}

	peer.Join("Bob")
	typing.Shows("1 user(s) online")
	network.Leave()
	for _, tb := range []*browser.Tab{typing, done} {
		tb.Shows("Reconnecting…")
	}
	peer.Leave()
	network.ComeBack()
	for _, tb := range []*browser.Tab{typing, done} {
		tb.Shows("0 user(s) online")
	}
	keeps()
	peer.Join("Bob")
	typing.Shows("1 user(s) online")
	done.Shows("1 user(s) online")
	keeps()
}

func TestBrowser_WhatIsPressedInAShortDropIsNotLost(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	person := browser.New(t)
	counter, presence := person.OpenWindow(network.URL+visitor.CounterPage), person.OpenWindow(network.URL+visitor.PresencePage)
	for _, tb := range []*browser.Tab{counter, presence} {
		tb.ExpectErrors("net::ERR_")
	}
	presence.TypeInto("username", "Alice")
	counter.Click("increment")
	counter.Shows("Counter: 1") // answered
	network.Leave()
	for _, tb := range []*browser.Tab{counter, presence} {
		tb.WaitUntil(`!liveTemplateClient.isReady()`, "a lost socket")
	}
	counter.Eval(`for (let i = 0; i < 3; i++) document.querySelector("[name=increment]").click()`)
	presence.Eval(`document.querySelector("[name=join]").click()`)
	network.ComeBack()
	counter.Shows("Counter: 4")
	presence.Shows("Logged in as Alice")
	visitor.New(t, server).Open(visitor.CounterPage).Shows("Counter: 4")
	for _, tb := range []*browser.Tab{counter, presence} {
		assert.Equal(t, "", tb.Eval(`document.getElementById("notice").textContent`))
		assert.Equal(t, 1, tb.Loads())
	}

	// A click that was sent, and got no answer.
	counter.Eval(`void document.addEventListener("lvt:done", () => { window.answered = true; }, true)`)
	release := network.Swallow()
	counter.Click("increment")
	network.Cut()
	release()
	counter.Shows("What you did last may not have counted.")
	counter.WaitUntil(browser.Live, "a live page")
	counter.Shows("Counter: 4")
	assert.Equal(t, "", counter.Eval(`window.answered`), "the page is no answer to the click")
}

// In such a network neither a socket nor a request ends.
func TestBrowser_NetworkThatSwallowsEverythingIsNoticedAndSurvived(t *testing.T) {
	t.Parallel()
	sockets := &visitor.SocketCount{}
	var hangs atomic.Value // the next request of this kind has no answer
	hangs.Store("")
	ended := make(chan struct{})
	server := visitor.ServeBehind(t, func(app http.Handler) http.Handler {
		return sockets.Count(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if hangs.CompareAndSwap(r.Method+" "+r.URL.Path, "") {
				<-ended
				return
			}
			app.ServeHTTP(w, r)
		}))
	})
	t.Cleanup(func() { close(ended) })
	network := visitor.NewNetwork(t, server)
	tb := browser.New(t).Open(network.URL + visitor.CounterPage)
	tb.ExpectErrors("net::ERR_")
	tb.CountConnects()
	release := network.Swallow()
	visitor.New(t, server).Click()
	tb.WaitUntilWithin(15*time.Second, `document.body.innerText.includes("Reconnecting…")`, "the page to notice")
	for _, request := range []struct {
		name   string
		within time.Duration
	}{
		{"GET /healthz", 10 * time.Second},
		{"HEAD " + visitor.CounterPage, 16 * time.Second}, // a probe takes 10 s at most, the wait before the next one 5
	} {
		hangs.Store(request.name)
		release()
		assert.Eventually(t, func() bool { return hangs.Load() == "" }, request.within, 10*time.Millisecond, request.name)
	}
	tb.WaitUntilWithin(15*time.Second, `connects === 1`, "a new socket")
	tb.Shows("Counter: 1")
	network.Cut()
	sockets.WaitFor(t, map[string]int{visitor.CounterPage: 1})
	tb.WaitUntil(`connects === 2`, "another socket")
}

func TestBrowser_SocketThatBringsNothingIsGivenUp(t *testing.T) {
	t.Parallel()
	var sockets atomic.Int64
	var upgrader websocket.Upgrader
	network := visitor.NewNetwork(t, visitor.ServeBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !websocket.IsWebSocketUpgrade(r) || sockets.Add(1) != 2 {
				app.ServeHTTP(w, r)
				return
			}
			if ws, err := upgrader.Upgrade(w, r, nil); assert.NoError(t, err) {
				defer ws.Close()
				ws.ReadMessage()
				ws.ReadMessage() // until it ends
			}
		})
	}))
	tb := browser.New(t).Open(network.URL + visitor.CounterPage)
	tb.WatchStatus()
	network.Cut()
	tb.Shows("Reconnecting…")
	tb.WaitUntilWithin(15*time.Second, browser.Live+` && document.documentElement.dataset.connection === "up"`, "a live page, after a ping had no answer")
	assert.EqualValues(t, 3, sockets.Load())
	assert.Len(t, tb.Heard(), 2)
	tb.Click("increment")
	tb.Shows("Counter: 1")
}

func TestBrowser_ServerGoneAfterTheHTMLIsLookedFor(t *testing.T) {
	t.Parallel()
	network := visitor.NewNetwork(t, visitor.ServeBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead { // the client's first request
				<-r.Context().Done()
				return
			}
			app.ServeHTTP(w, r)
		})
	}))
	tb := browser.New(t).Load("about:blank")
	tb.ExpectErrors("net::ERR_")
	tb.ExpectErrors("WebSocket error")
	tb.Navigate(network.URL + visitor.CounterPage)
	network.Leave()
	tb.Shows("Reconnecting…")
}

// A load balancer goes on answering.
func TestBrowser_ServerAwayBehindAProxyIsAway(t *testing.T) {
	t.Parallel()
	var away atomic.Bool
	network := visitor.NewNetwork(t, visitor.ServeBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if away.Load() {
				http.Error(w, "no server", http.StatusBadGateway)
				return
			}
			app.ServeHTTP(w, r)
		})
	}))
	tb := browser.New(t).Open(network.URL + visitor.CounterPage)
	tb.ExpectErrors("502")
	tb.WatchStatus()
	away.Store(true)
	network.Cut()
	tb.Shows("Reconnecting…")
	<-time.After(3 * time.Second)
	away.Store(false)
	tb.Shows("Back online")
	assert.Len(t, tb.Heard(), 2)
	tb.Click("increment")
	tb.Shows("Counter: 1")
}

func TestBrowser_WithoutSocketsPagesWorkAndGoLiveWhenTheyCan(t *testing.T) {
	t.Parallel()
	var blocked, away, noPost, slowHead atomic.Bool
	var refused, heads atomic.Int64
	blocked.Store(true)
	server := visitor.ServeBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case away.Load():
				http.Error(w, "no server", http.StatusBadGateway)
				return
			case blocked.Load() && websocket.IsWebSocketUpgrade(r):
				visitor.RefuseUpgrade(w, r)
				if r.URL.Path == visitor.PresencePage {
					refused.Add(1)
				}
				return
			case r.Method == http.MethodPost && noPost.Load():
				http.Error(w, "no server", http.StatusBadGateway)
				return
			case r.Method == http.MethodHead && r.URL.Path == visitor.CounterPage && slowHead.Load(): // the client asks before it connects
				heads.Add(1)
				<-time.After(time.Second)
			}
			app.ServeHTTP(w, r)
		})
	})
	const off = "Live updates are off"
	// Back from the HTTP cache: a page kept whole in memory would come back whole.
	person := browser.NewProcess(t, chromedp.Flag("disable-features", "BackForwardCache"))
	counter, presence := person.OpenWindow("about:blank"), person.OpenWindow("about:blank")
	for _, tb := range []*browser.Tab{counter, presence} {
		tb.ExpectErrors("WebSocket")
		tb.ExpectErrors("502")
		tb.InEveryPage(`Math.random = () => 0.1`) // attempts come often
	}
	counter.Navigate(server + visitor.CounterPage)
	counter.Shows(off)
	counter.Navigate(server + "/")
	counter.Eval(`void setTimeout(() => history.back())`)
	counter.WaitUntil(`document.querySelector("h1")?.innerText === "Multi-User Refresh"`, "the page itself, not its data")
	counter.Shows(off)
	presence.Navigate(server + visitor.PresencePage)
	presence.Shows(off)
	assert.False(t, presence.Has("button:disabled"))

	counter.Eval(`void (window.kept = true)`)
	for i := range 20 { // attempts to open a socket lose none
		counter.Click("increment")
		counter.Shows("Counter: " + strconv.Itoa(i+1))
	}
	presence.TypeInto("username", `x onfocus="alert(1)`)
	presence.Click("join")
	presence.Shows(visitor.NotLive)
	attempts := refused.Load()
	assert.Eventually(t, func() bool { return refused.Load() > attempts+1 }, visitor.Soon, 10*time.Millisecond)
	presence.Shows(visitor.NotLive)
	assert.Equal(t, `x onfocus="alert(1)`, presence.Eval(`document.querySelector("[name=username]").value`))

	noPost.Store(true)
	counter.Click("increment")
	counter.Shows("What you did last may not have counted.")
	noPost.Store(false)
	away.Store(true)
	counter.Shows("Reconnecting…")
	presence.Shows("Reconnecting…")
	away.Store(false)
	counter.Shows(off)
	counter.Click("increment")
	counter.Shows("Counter: 21")
	presence.Shows(off)

	slowHead.Store(true)
	blocked.Store(false)
	assert.Eventually(t, func() bool { return heads.Load() == 1 }, 2*visitor.Soon, time.Millisecond, "the client is to open a socket")
	counter.Click("increment") // while the client connects
	for _, tb := range []*browser.Tab{counter, presence} {
		tb.WaitUntil(browser.Live+` && document.documentElement.dataset.connection === "up"`, "a live page")
	}
	counter.Shows("Counter: 22")
	assert.Equal(t, "true", counter.Eval(`kept`), "without reload")
	visitor.New(t, server).Click()
	counter.Shows("Counter: 23")
	presence.Join("Alice")
	visitor.New(t, server).Open(visitor.PresencePage).Shows("1 user(s) online")
	presence.Click("leave")
	presence.Shows("0 user(s) online Username")
}

func TestBrowser_FullServerSaysSoAndTakesThePageInWhenThereIsRoom(t *testing.T) {
	t.Parallel()
	var refused, asked atomic.Int64
	server := visitor.NewProxy(t, visitor.Serve(t, "-max-connections", "1"), func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if websocket.IsWebSocketUpgrade(r) {
				refused.Add(1)
			}
			if r.URL.Path == "/healthz" && asked.Add(1) == 1 {
				<-time.After(2 * time.Second) // meanwhile the page does not guess
			}
			app.ServeHTTP(w, r)
		})
	})
	first := visitor.New(t, server).Open(visitor.CounterPage)
	tb := browser.New(t).Load("about:blank")
	tb.ExpectErrors("WebSocket")
	tb.InEveryPage(`Math.random = () => 0.1`) // attempts come often
	tb.WatchStatus()
	tb.Navigate(server + visitor.CounterPage)
	const full = "The server is full: no live updates for now. Buttons work. This page goes on trying."
	tb.Shows(full)
	for _, said := range tb.Heard() {
		assert.Contains(t, []string{"Connecting… Buttons work.", full}, said.Text)
	}
	attempts := refused.Load()
	tb.Click("increment")
	tb.Shows("Counter: 1")
	first.Shows("Counter: 1")
	<-time.After(2 * time.Second)
	assert.Equal(t, attempts, refused.Load(), "it asks, and does not try while there is no room")

	first.Close()
	tb.WaitUntil(browser.Live+` && document.documentElement.dataset.connection === "up"`, "a live page")
	visitor.New(t, server).Click()
	tb.Shows("Counter: 2")
	tb.Click("increment")
	tb.Shows("Counter: 3")
	assert.Equal(t, 2, tb.Loads(), "about:blank and the page")
}

func TestBrowser_OneTabTooManySaysSoUntilAnotherIsClosed(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t, "-max-per-session", "1")
	person := browser.New(t)
	first, second := person.OpenWindow(server+visitor.CounterPage), person.OpenWindow("about:blank")
	second.ExpectErrors("WebSocket")
	second.InEveryPage(`Math.random = () => 0.1`) // attempts come often
	second.Navigate(server + visitor.CounterPage)
	second.Shows("Too many tabs of this browser are live: this one is not. Buttons work. Close another.")
	browser.New(t).Open(server + visitor.CounterPage).Click("increment")
	first.Shows("Counter: 1")
	second.Click("increment")
	second.Shows("Counter: 2")
	first.Close()
	second.Shows("Back online")
	visitor.New(t, server).Click()
	second.Shows("Counter: 3")
}

// The scripts of 1,000 tabs in one page, on a clock that jumps.
func TestBrowser_CrowdComesBackSpreadOut(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile("testdata/crowd.js")
	require.NoError(t, err)
	liveScript, err := os.ReadFile("../static/live.js")
	require.NoError(t, err)
	tb := browser.New(t).Load("about:blank")
	const tabs = 1000
	for _, row := range []struct {
		away, backWithin float64 // seconds
		inOneSecond      int     // tabs that come back in the same second, at most
	}{
		{1, 1, tabs}, // all within a second: nobody has to wait longer
		{30, 5, tabs * 40 / 100},
	} {
		t.Run(fmt.Sprint(row.away, " s away"), func(t *testing.T) {
			var crowd []struct{ First, Live float64 }
			tb.Run(chromedp.Evaluate(fmt.Sprintf("(%s)(%q, %d, %f, 1)", script, liveScript, tabs, row.away*1000), &crowd,
				func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
			require.Len(t, crowd, tabs)
			var back []float64
			for _, tab := range crowd {
				assert.LessOrEqual(t, tab.First, 250.0, "the first attempt")
				assert.GreaterOrEqual(t, tab.Live, 0.0)
				back = append(back, tab.Live/1000)
			}
			slices.Sort(back)
			most := 0
			for first := range back {
				after := first
				for after < tabs && back[after] < back[first]+1 {
					after++
				}
				most = max(most, after-first)
			}
			t.Logf("back after %.1f to %.1f s, %d in the fullest second", back[0], back[tabs-1], most)
			assert.LessOrEqual(t, back[tabs-1], row.backWithin)
			assert.LessOrEqual(t, most, row.inOneSecond)
		})
	}
}
