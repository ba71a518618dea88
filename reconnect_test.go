package main

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	cdpnetwork "github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/wsconn"
)

func TestBrowser_EverybodyIsBackAfterASecondAway(t *testing.T) {
	serverAway(t, time.Second, 1500*time.Millisecond)
}

func TestBrowser_EverybodyIsBackAfterHalfAMinuteAway(t *testing.T) {
	t.Parallel()
	serverAway(t, 30*time.Second, 6*time.Second)
}

// serverAway stops a server with 20 tabs, starts it again, and expects every tab
// to be live and current soon. They are those of four people: Chromium makes the
// sockets of one process wait, for up to seconds, when many of them open at once.
func serverAway(t *testing.T, away, backWithin time.Duration) {
	exe := build(t)
	server := start(t, exe)
	idle := newBrowser(t).openWindow(newServer(t) + counterPage) // its server stays
	idle.countConnects()
	var browser *browser
	var tabs []*browserTab
	for i := range 20 {
		if i%5 == 0 {
			browser = newBrowser(t)
		}
		open := browser.openWindow
		if i%5%2 == 1 {
			open = browser.open // in the same window, before the last tab
		}
		tb := open(server.url + counterPage)
		tb.expectErrors("net::ERR_") // what the browser says about a server that is away
		tb.eval(`void document.addEventListener("live", (event) => { window[event.detail] = Date.now(); })`)
		tabs = append(tabs, tb)
	}
	newVisitor(t, server.url).click()
	newVisitor(t, server.url).click()
	for _, tb := range tabs {
		tb.shows("Counter: 2")
	}

	server.stop(t, syscall.SIGTERM)
	<-time.After(away)
	server = start(t, exe, "-addr", strings.TrimPrefix(server.url, "http://"))
	back := time.Now()
	newVisitor(t, server.url).click()
	var last time.Duration
	for _, tb := range tabs {
		tb.shows("Counter: 1")
		assert.Greater(t, tb.number(`up`), tb.number(`down`))
		last = max(last, time.UnixMilli(int64(tb.number(`up`))).Sub(back))
		assert.Equal(t, 1, tb.loads(), "without reload")
	}
	t.Logf("the last of %d tabs was live %v after the server was back", len(tabs), last)
	assert.Less(t, last, backWithin)
	assert.Equal(t, "0", idle.eval(`connects`), "new sockets of a tab that lost none")
}

func TestBrowser_StatusSaysWhatIsSo(t *testing.T) {
	var slow atomic.Bool
	server := newServerBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if slow.Load() && strings.Contains(r.Header.Get("Accept"), "text/html") {
				<-time.After(1300 * time.Millisecond)
			}
			app.ServeHTTP(w, r)
		})
	})
	network := newNetwork(t, server)
	tb, peer := newBrowser(t).load("about:blank"), newVisitor(t, server)
	tb.watchStatus()
	tb.expectErrors("net::ERR_")

	slow.Store(true)
	tb.navigate(network.url + counterPage)
	tb.waitUntil(live, "a live page")
	tb.reload()
	tb.waitUntil(live, "a live page")
	tb.navigate(network.url + "/")
	tb.navigate(network.url + counterPage)
	tb.waitUntil(live, "a live page")
	slow.Store(false)
	assert.Empty(t, tb.heard(), "what is said on slow navigation and reload")

	tb.countConnects()
	network.leave()
	<-time.After(300 * time.Millisecond)
	network.comeBack()
	tb.waitUntil(`connects === 1`, "a new socket")
	<-time.After(1500 * time.Millisecond)
	assert.Empty(t, tb.heard(), "what is said after a drop of 300 ms")

	const figure = `document.querySelector(".figure")`
	looks := func() string {
		return tb.eval(`getComputedStyle(` + figure + `, "::after").content + getComputedStyle(` + figure + `).color`)
	}
	const button = `document.querySelector("[name=increment]")`
	asUsual := looks()
	tb.eval(`void (window.kept = true)`)
	dropped := time.Now()
	network.leave()
	tb.shows("Reconnecting…")
	peer.click()
	require.Len(t, tb.heard(), 1)
	after := tb.heard()[0].at.Sub(dropped)
	t.Logf("said %v after the drop", after)
	assert.Greater(t, after, 500*time.Millisecond)
	assert.Less(t, after, 1500*time.Millisecond)
	assert.Contains(t, looks(), "not current")
	assert.NotEqual(t, asUsual, looks())
	assert.Equal(t, "true", tb.eval(button+`.disabled`))
	assert.Equal(t, "Reconnecting…", tb.eval(button+`.title`))
	assert.Equal(t, "status", tb.eval(`document.getElementById(`+button+`.getAttribute("aria-describedby")).role`))

	network.comeBack()
	tb.shows("Back online")
	tb.shows("Counter: 1")
	tb.waitUntil(`document.getElementById("connection").textContent === ""`, "silence again")
	require.Len(t, tb.heard(), 3)
	assert.Equal(t, "Back online", tb.heard()[1].text)
	assert.Equal(t, asUsual, looks())
	assert.Equal(t, "false,,", tb.eval(`[`+button+`.disabled, `+button+`.title, `+button+`.getAttribute("aria-describedby")].join()`))
	tb.click("increment")
	tb.shows("Counter: 2")
	assert.Equal(t, "true", tb.eval(`kept`), "without reload")

	tb.close()
	assert.Len(t, tb.heard(), 3, "what is said on closing")
}

func TestBrowser_CurrentWithinASecondOfReturn(t *testing.T) {
	server := newServer(t)
	keeping := newServerBehind(t, keptWhole)
	offline := func(is bool) func(*browserTab) {
		return func(tb *browserTab) {
			tb.run(cdpnetwork.Enable(), cdpnetwork.EmulateNetworkConditions(is, 0, -1, -1))
			if is {
				tb.shows("Reconnecting…")             // though no socket says that it is dead
				<-time.After(1500 * time.Millisecond) // the next attempt is more than a second away
			}
		}
	}
	lifecycle := func(state page.SetWebLifecycleStateState) func(*browserTab) {
		return func(tb *browserTab) { tb.run(page.SetWebLifecycleState(state)) }
	}
	elsewhere := func(tb *browserTab) { tb.navigate("about:blank") }
	back := func(tb *browserTab) { tb.eval(`void setTimeout(() => history.back())`) }
	for _, row := range []struct {
		name            string
		server          string
		leave, comeBack func(*browserTab)
		loadedAgain     bool
	}{
		{"offline", server, offline(true), offline(false), false},
		{"frozen", server, lifecycle(page.SetWebLifecycleStateStateFrozen), lifecycle(page.SetWebLifecycleStateStateActive), false},
		{"back by the Back button", server, elsewhere, back, true},
		{"kept whole for the Back button", keeping, elsewhere, back, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			server, browser := row.server, newBrowser(t)
			tb := browser.open(server + presencePage)
			tb.expectErrors("net::ERR_INTERNET_DISCONNECTED")
			tb.join("Alice")
			tb.eval(`void (window.kept = true, Math.random = () => 0.999)`) // waits are as long as they can be
			row.leave(tb)
			watching := newVisitor(t, server).open(presencePage)
			watching.join("Bob")
			returned := time.Now()
			row.comeBack(tb)
			tb.shows("2 user(s) online Logged in as Alice ")
			within := time.Second
			if row.loadedAgain {
				within = 2 * time.Second
			}
			assert.Less(t, time.Since(returned), within)
			assert.Equal(t, row.loadedAgain, tb.eval(`window.kept`) == "", "a new page")
			watching.shows("2 user(s) online")
			watching.leave()
			tb.shows("1 user(s) online")
		})
	}
}

// keptWhole is a proxy behind which Chromium keeps a page whole that was left, as
// other browsers do although the page says that it is not to be stored.
func keptWhole(app http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !livetemplate.WSIsUpgrade(r) {
			w = storable{w}
		}
		app.ServeHTTP(w, r)
	})
}

type storable struct{ http.ResponseWriter }

func (w storable) WriteHeader(status int) {
	w.Header().Del("Cache-Control")
	w.ResponseWriter.WriteHeader(status)
}

func (w storable) Write(b []byte) (int, error) {
	w.Header().Del("Cache-Control")
	return w.ResponseWriter.Write(b)
}

// It may be left at any moment: here when its socket is open, and has brought
// nothing yet. Not every browser freezes it as Chromium does.
func TestBrowser_PageThatIsLeftWhileItOpensIsLiveOnReturn(t *testing.T) {
	t.Parallel()
	sockets := &socketCount{open: map[string]int{}}
	tb := newBrowser(t).load("about:blank")
	event := func(name string) string {
		return `dispatchEvent(new PageTransitionEvent("` + name + `", {persisted: true}))`
	}
	tb.inEveryPage(`document.addEventListener("lvt:connected", () => queueMicrotask(() => { window.wasLeft = ` + event("pagehide") + `; }), {capture: true, once: true})`)
	tb.navigate(newServerBehind(t, sockets.count) + counterPage)
	tb.waitUntil(`window.wasLeft`, "the page to be left")
	sockets.waitFor(t, map[string]int{})
	tb.eval(event("pageshow"))
	sockets.waitFor(t, map[string]int{counterPage: 1})
	tb.click("increment")
	tb.shows("Counter: 1")
	assert.Equal(t, 2, tb.loads(), "about:blank and the page")
}

func TestBrowser_HiddenTabKeepsItsSocket(t *testing.T) {
	t.Parallel()
	server := newServerWith(t, Config{Heartbeat: wsconn.Heartbeat{Ping: 50 * time.Millisecond, Timeout: 2 * time.Second}})
	browser, peer := newBrowser(t), newVisitor(t, server).open(presencePage)
	alice := browser.open(server + presencePage)
	alice.join("Alice")
	alice.watchForm()
	peer.shows("1 user(s) online")
	peer.startHistory()
	alice.countConnects()
	alice.hide(browser)
	<-time.After(3200 * time.Millisecond) // then the client would take another
	alice.show()
	alice.waitUntil(`!document.hidden`, "the tab to be shown")
	<-time.After(700 * time.Millisecond) // it would wait for 500 ms
	assert.Equal(t, "0", alice.eval(`connects`), "new sockets")
	alice.shows("1 user(s) online Logged in as Alice Leave Alice (you) Try:")
	peer.noChange()
	assert.False(t, alice.sawForm())
	alice.click("leave")
	peer.shows("0 user(s) online")
}

func TestBrowser_HiddenTabLooksForTheServerWhenItIsShownOrHearsOfIt(t *testing.T) {
	t.Parallel()
	var probes atomic.Int64
	server := newServerBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/healthz" {
				probes.Add(1)
			}
			app.ServeHTTP(w, r)
		})
	})
	network := newNetwork(t, server)
	browser := newBrowser(t)
	tb := browser.open(network.url + counterPage)
	tb.expectErrors("net::ERR_")
	tb.watchStatus()
	tb.hide(browser)
	network.cut()
	tb.waitUntil(`!liveTemplateClient.isReady()`, "a lost socket")
	newVisitor(t, server).click()
	<-time.After(2 * time.Second)
	assert.Zero(t, probes.Load(), "probes from the background")
	tb.show()
	tb.shows("Counter: 1")
	assert.Empty(t, tb.heard(), "what was said about a drop that nobody saw")

	other := browser.open(network.url + counterPage) // hides the first
	other.expectErrors("net::ERR_")
	network.leave()
	other.shows("Reconnecting…")
	newVisitor(t, server).click()
	network.comeBack()
	other.shows("Counter: 2")
	tb.shows("Counter: 2")
	assert.Equal(t, "true", tb.eval(`document.hidden`))
}

func TestBrowser_TypingSurvivesUpdatesAndAReconnect(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	network := newNetwork(t, server)
	peer := newVisitor(t, server).open(presencePage)
	const field = `(() => { const f = document.querySelector("[name=username]"); return [f.value, f.selectionStart, f.selectionEnd, document.activeElement.name].join() })()`
	typing, done := newBrowser(t).open(network.url+presencePage), newBrowser(t).open(network.url+presencePage)
	for _, tb := range []*browserTab{typing, done} {
		tb.expectErrors("net::ERR_")
		tb.typeInto("username", "half a na")
		tb.eval(`document.querySelector("[name=username]").setSelectionRange(2, 5)`)
	}
	done.eval(`document.querySelector("[name=join]").focus()`)
	keeps := func() {
		t.Helper()
		require.Equal(t, "half a na,2,5,username", typing.eval(field))
		require.Equal(t, "half a na,2,5,join", done.eval(field))
	}
	for range 50 {
		peer.join("Bob")
		typing.shows("1 user(s) online")
		peer.leave()
		typing.shows("0 user(s) online")
		keeps()
	}

	peer.join("Bob")
	typing.shows("1 user(s) online")
	network.leave()
	for _, tb := range []*browserTab{typing, done} {
		tb.shows("Reconnecting…")
	}
	peer.leave()
	network.comeBack()
	for _, tb := range []*browserTab{typing, done} {
		tb.shows("0 user(s) online")
	}
	keeps()
	peer.join("Bob")
	typing.shows("1 user(s) online")
	done.shows("1 user(s) online")
	keeps()
}

func TestBrowser_WhatIsPressedInAShortDropIsNotLost(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	network := newNetwork(t, server)
	browser := newBrowser(t)
	counter, presence := browser.openWindow(network.url+counterPage), browser.openWindow(network.url+presencePage)
	for _, tb := range []*browserTab{counter, presence} {
		tb.expectErrors("net::ERR_")
	}
	presence.typeInto("username", "Alice")
	counter.click("increment")
	counter.shows("Counter: 1") // answered
	network.leave()
	for _, tb := range []*browserTab{counter, presence} {
		tb.waitUntil(`!liveTemplateClient.isReady()`, "a lost socket")
	}
	counter.eval(`for (let i = 0; i < 3; i++) document.querySelector("[name=increment]").click()`)
	presence.eval(`document.querySelector("[name=join]").click()`)
	network.comeBack()
	counter.shows("Counter: 4")
	presence.shows("Logged in as Alice")
	newVisitor(t, server).open(counterPage).shows("Counter: 4")
	for _, tb := range []*browserTab{counter, presence} {
		assert.Equal(t, "", tb.eval(`document.getElementById("notice").textContent`))
		assert.Equal(t, 1, tb.loads())
	}

	// A click that was sent, and got no answer.
	counter.eval(`void document.addEventListener("lvt:done", () => { window.answered = true; }, true)`)
	release := network.swallow()
	counter.click("increment")
	network.cut()
	release()
	counter.shows("What you did last may not have counted.")
	counter.waitUntil(live, "a live page")
	counter.shows("Counter: 4")
	assert.Equal(t, "", counter.eval(`window.answered`), "the page is no answer to the click")
}

// In such a network no socket ends, and no request.
func TestBrowser_NetworkThatSwallowsEverythingIsNoticedAndSurvived(t *testing.T) {
	t.Parallel()
	sockets := &socketCount{open: map[string]int{}}
	var hangs atomic.Value // the next request of this kind has no answer
	hangs.Store("")
	ended := make(chan struct{})
	server := newServerBehind(t, func(app http.Handler) http.Handler {
		return sockets.count(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if hangs.CompareAndSwap(r.Method+" "+r.URL.Path, "") {
				<-ended
				return
			}
			app.ServeHTTP(w, r)
		}))
	})
	t.Cleanup(func() { close(ended) })
	network := newNetwork(t, server)
	tb := newBrowser(t).open(network.url + counterPage)
	tb.expectErrors("net::ERR_")
	tb.countConnects()
	release := network.swallow()
	newVisitor(t, server).click()
	tb.waitUntilWithin(15*time.Second, `document.body.innerText.includes("Reconnecting…")`, "the page to notice")
	for _, request := range []struct {
		name   string
		within time.Duration
	}{
		{"GET /healthz", 10 * time.Second},
		{"HEAD " + counterPage, 9 * time.Second}, // a probe takes 3 s at most, the wait before the next one 5
	} {
		hangs.Store(request.name)
		release()
		assert.Eventually(t, func() bool { return hangs.Load() == "" }, request.within, 10*time.Millisecond, request.name)
	}
	tb.waitUntilWithin(15*time.Second, `connects === 1`, "a new socket")
	tb.shows("Counter: 1")
	network.cut()
	sockets.waitFor(t, map[string]int{counterPage: 1})
	tb.waitUntil(`connects === 2`, "another socket")
}

func TestBrowser_SocketThatBringsNothingIsGivenUp(t *testing.T) {
	t.Parallel()
	var sockets atomic.Int64
	var upgrader websocket.Upgrader
	network := newNetwork(t, newServerBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !livetemplate.WSIsUpgrade(r) || sockets.Add(1) != 2 {
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
	tb := newBrowser(t).open(network.url + counterPage)
	tb.watchStatus()
	network.cut()
	tb.shows("Reconnecting…")
	tb.waitUntilWithin(15*time.Second, live+` && document.documentElement.dataset.connection === "up"`, "a live page, after a ping had no answer")
	assert.EqualValues(t, 3, sockets.Load())
	assert.Len(t, tb.heard(), 2)
	tb.click("increment")
	tb.shows("Counter: 1")
}

func TestBrowser_ServerGoneAfterTheHTMLIsLookedFor(t *testing.T) {
	t.Parallel()
	network := newNetwork(t, newServerBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead { // the client's first request
				<-r.Context().Done()
				return
			}
			app.ServeHTTP(w, r)
		})
	}))
	tb := newBrowser(t).load("about:blank")
	tb.expectErrors("net::ERR_")
	tb.expectErrors("WebSocket error")
	tb.navigate(network.url + counterPage)
	network.leave()
	tb.shows("Reconnecting…")
}

// A load balancer goes on answering.
func TestBrowser_ServerAwayBehindAProxyIsAway(t *testing.T) {
	t.Parallel()
	var away atomic.Bool
	network := newNetwork(t, newServerBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if away.Load() {
				http.Error(w, "no server", http.StatusBadGateway)
				return
			}
			app.ServeHTTP(w, r)
		})
	}))
	tb := newBrowser(t).open(network.url + counterPage)
	tb.expectErrors("502")
	tb.watchStatus()
	away.Store(true)
	network.cut()
	tb.shows("Reconnecting…")
	<-time.After(3 * time.Second)
	away.Store(false)
	tb.shows("Back online")
	assert.Len(t, tb.heard(), 2)
	tb.click("increment")
	tb.shows("Counter: 1")
}

func TestBrowser_WithoutSocketsPagesWorkAndGoLiveWhenTheyCan(t *testing.T) {
	t.Parallel()
	var blocked, away, noPost, slowHead atomic.Bool
	var refused, heads atomic.Int64
	blocked.Store(true)
	server := newServerBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case away.Load():
				http.Error(w, "no server", http.StatusBadGateway)
				return
			case blocked.Load() && livetemplate.WSIsUpgrade(r):
				refuseUpgrade(w, r)
				if r.URL.Path == presencePage {
					refused.Add(1)
				}
				return
			case r.Method == http.MethodPost && noPost.Load():
				http.Error(w, "no server", http.StatusBadGateway)
				return
			case r.Method == http.MethodHead && r.URL.Path == counterPage && slowHead.Load(): // the client asks before it connects
				heads.Add(1)
				<-time.After(time.Second)
			}
			app.ServeHTTP(w, r)
		})
	})
	const off = "Live updates are off"
	// Back from the HTTP cache: a page kept whole in memory would come back whole.
	browser := newProcess(t, chromedp.Flag("disable-features", "BackForwardCache"))
	counter, presence := browser.openWindow("about:blank"), browser.openWindow("about:blank")
	for _, tb := range []*browserTab{counter, presence} {
		tb.expectErrors("WebSocket")
		tb.expectErrors("502")
		tb.inEveryPage(`Math.random = () => 0.1`) // attempts come often
	}
	counter.navigate(server + counterPage)
	counter.shows(off)
	counter.navigate(server + "/")
	counter.eval(`void setTimeout(() => history.back())`)
	counter.waitUntil(`document.querySelector("h1")?.innerText === "Multi-User Refresh"`, "the page itself, not its data")
	counter.shows(off)
	presence.navigate(server + presencePage)
	presence.shows(off)
	assert.False(t, presence.has("button:disabled"))

	counter.eval(`void (window.kept = true)`)
	for i := range 20 { // attempts to open a socket lose none
		counter.click("increment")
		counter.shows("Counter: " + strconv.Itoa(i+1))
	}
	presence.typeInto("username", `x onfocus="alert(1)`)
	presence.click("join")
	presence.shows(notLive)
	attempts := refused.Load()
	assert.Eventually(t, func() bool { return refused.Load() > attempts+1 }, soon, 10*time.Millisecond)
	presence.shows(notLive)
	assert.Equal(t, `x onfocus="alert(1)`, presence.eval(`document.querySelector("[name=username]").value`))

	noPost.Store(true)
	counter.click("increment")
	counter.shows("What you did last may not have counted.")
	noPost.Store(false)
	away.Store(true)
	counter.shows("Reconnecting…")
	presence.shows("Reconnecting…")
	away.Store(false)
	counter.shows(off)
	counter.click("increment")
	counter.shows("Counter: 21")
	presence.shows(off)

	slowHead.Store(true)
	blocked.Store(false)
	assert.Eventually(t, func() bool { return heads.Load() == 1 }, 2*soon, time.Millisecond, "the client is to open a socket")
	counter.click("increment") // while the client connects
	for _, tb := range []*browserTab{counter, presence} {
		tb.waitUntil(live+` && document.documentElement.dataset.connection === "up"`, "a live page")
	}
	counter.shows("Counter: 22")
	assert.Equal(t, "true", counter.eval(`kept`), "without reload")
	newVisitor(t, server).click()
	counter.shows("Counter: 23")
	presence.join("Alice")
	newVisitor(t, server).open(presencePage).shows("1 user(s) online")
	presence.click("leave")
	presence.shows("0 user(s) online Username")
}

func TestBrowser_FullServerSaysSoAndTakesThePageInWhenThereIsRoom(t *testing.T) {
	t.Parallel()
	var refused atomic.Int64
	server := serve(t, Config{MaxConnections: 1}, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if livetemplate.WSIsUpgrade(r) {
				refused.Add(1)
			}
			app.ServeHTTP(w, r)
		})
	})
	first := newVisitor(t, server).open(counterPage)
	tb := newBrowser(t).load("about:blank")
	tb.expectErrors("WebSocket")
	tb.inEveryPage(`Math.random = () => 0.1`) // attempts come often
	tb.watchStatus()
	tb.navigate(server + counterPage)
	tb.shows("The server is full: no live updates for now. Buttons work. This page goes on trying.")
	require.Len(t, tb.heard(), 1)
	attempts := refused.Load()
	tb.click("increment")
	tb.shows("Counter: 1")
	first.shows("Counter: 1")
	<-time.After(2 * time.Second)
	assert.Equal(t, attempts, refused.Load(), "it asks, and does not try while there is no room")

	first.close()
	tb.waitUntil(live+` && document.documentElement.dataset.connection === "up"`, "a live page")
	newVisitor(t, server).click()
	tb.shows("Counter: 2")
	tb.click("increment")
	tb.shows("Counter: 3")
	assert.Equal(t, 2, tb.loads(), "about:blank and the page")
}

func TestBrowser_OneTabTooManySaysSoUntilAnotherIsClosed(t *testing.T) {
	t.Parallel()
	server := newServerWith(t, Config{MaxPerSession: 1})
	browser := newBrowser(t)
	first, second := browser.openWindow(server+counterPage), browser.openWindow("about:blank")
	second.expectErrors("WebSocket")
	second.inEveryPage(`Math.random = () => 0.1`) // attempts come often
	second.navigate(server + counterPage)
	second.shows("Too many tabs of this browser are live: this one is not. Buttons work. Close another.")
	newBrowser(t).open(server + counterPage).click("increment")
	first.shows("Counter: 1")
	second.click("increment")
	second.shows("Counter: 2")
	first.close()
	second.shows("Back online")
	newVisitor(t, server).click()
	second.shows("Counter: 3")
}

// The scripts of 1,000 tabs in one page, on a clock that jumps.
func TestBrowser_CrowdComesBackSpreadOut(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile("testdata/crowd.js")
	require.NoError(t, err)
	liveScript, err := os.ReadFile("static/live.js")
	require.NoError(t, err)
	tb := newBrowser(t).load("about:blank")
	const tabs = 1000
	for _, row := range []struct {
		away, backWithin float64 // seconds
		inOneSecond      int     // tabs that come back in the same second, at most
	}{
		{1, 1, tabs}, // all within a second, because nobody is to wait for longer
		{30, 5, tabs * 40 / 100},
	} {
		t.Run(fmt.Sprint(row.away, " s away"), func(t *testing.T) {
			var crowd []struct{ First, Live float64 }
			tb.run(chromedp.Evaluate(fmt.Sprintf("(%s)(%q, %d, %f, 1)", script, liveScript, tabs, row.away*1000), &crowd,
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
