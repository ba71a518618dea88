package e2e

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// What a page does in each state, and how long it waits, is shown in e2e/scripts, on a
// clock that jumps. Here each kind of break happens once in a browser.

// isLive is a script that is true on a page that is live and says nothing else.
const isLive = browser.Live + ` && document.documentElement.dataset.connection === "up"`

// attemptsComeOften is for InEveryPage.
const attemptsComeOften = `Math.random = () => 0.1`

// toldNote waits until a page, of which WatchNotices knows, has told a person something.
// It shows that for four seconds only.
func toldNote(tb *browser.Tab, note string) {
	tb.WaitUntil(`top.name.includes(`+browser.Quote(note)+`)`, note)
}

func TestBrowser_StatusSaysWhatIsSo(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	tb := browser.New(t).Open(network.URL + visitor.CounterPage)
	tb.ExpectErrors("net::ERR_")
	tb.WatchStatus()
	looks := func() string {
		const figure = `document.querySelector(".figure")`
		return tb.Eval(`getComputedStyle(` + figure + `, "::after").content + getComputedStyle(` + figure + `).color`)
	}
	const button = `document.querySelector("[name=increment]")`
	asUsual := looks()

	network.Leave()
	tb.Shows("Reconnecting…")
	visitor.New(t, server).Click()
	assert.Contains(t, looks(), "not current")
	assert.NotEqual(t, asUsual, looks())
	assert.Equal(t, "true", tb.Eval(button+`.disabled`))
	assert.Equal(t, "Reconnecting…", tb.Eval(button+`.title`))
	assert.Equal(t, "status", tb.Eval(`document.getElementById(`+button+`.getAttribute("aria-describedby")).role`))

	network.ComeBack()
	tb.Shows("Counter: 1")
	tb.WaitUntil(`document.documentElement.dataset.connection === "up" && document.getElementById("connection").textContent === ""`, "silence again")
	require.Len(t, tb.Heard(), 3)
	assert.Equal(t, "Back online", tb.Heard()[1].Text)
	assert.Equal(t, asUsual, looks())
	assert.Equal(t, "false,,", tb.Eval(`[`+button+`.disabled, `+button+`.title, `+button+`.getAttribute("aria-describedby")].join()`))
	tb.Click("increment")
	tb.Shows("Counter: 2")
	assert.Equal(t, 1, tb.Loads(), "without reload")

	tb.Close()
	assert.Len(t, tb.Heard(), 3, "what is said on closing")
}

func TestBrowser_TypingSurvivesUpdatesAndAReconnect(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	peer := visitor.New(t, server).Open(visitor.PresencePage)
	const field = `(() => { const f = document.querySelector("[name=username]"); return [f.value, f.selectionStart, f.selectionEnd, document.activeElement.name].join() })()`
	typing, done := browser.New(t).Open(network.URL+visitor.PresencePage), browser.New(t).Open(network.URL+visitor.PresencePage)
	both := func(shows string) {
		t.Helper()
		typing.Shows(shows)
		done.Shows(shows)
	}
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
	for range 5 {
		peer.Join("Bob")
		both("1 user(s) online")
		peer.Leave()
		both("0 user(s) online")
		keeps()
	}

	network.Leave()
	both("Reconnecting…")
	peer.Join("Bob")
	network.ComeBack()
	both("1 user(s) online")
	keeps()
	peer.Leave()
	both("0 user(s) online")
	keeps()
}

func TestBrowser_WhatIsPressedInAShortDropIsNotLost(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	person := browser.New(t)
	counter, joins := person.OpenWindow(network.URL+visitor.CounterPage), person.OpenWindow(network.URL+visitor.PresencePage)
	leaves := browser.New(t).Open(network.URL + visitor.PresencePage)
	leaves.Join("Bob")
	joins.TypeInto("username", "Alice")
	for tb, button := range map[*browser.Tab]string{counter: "increment", joins: "join", leaves: "leave"} {
		tb.ExpectErrors("net::ERR_")
		tb.WatchNotices()
		// Before a second is over, which is when the button is disabled.
		tb.Eval(`void document.addEventListener("live", () => document.querySelector("[name=` + button + `]").click(), {once: true})`)
	}
	network.Leave()
	for _, tb := range []*browser.Tab{counter, joins, leaves} {
		tb.Shows("Reconnecting…")
	}
	network.ComeBack()
	counter.Shows("Counter: 1")
	joins.Shows("Logged in as Alice")
	toldNote(leaves, "What you did last was not sent, because the page has changed meanwhile.")
	leaves.Shows("1 user(s) online Username")
	for _, tb := range []*browser.Tab{counter, joins} {
		assert.Empty(t, tb.Notices())
		assert.Equal(t, 1, tb.Loads())
	}

	// A click that was sent, and got no answer.
	counter.Eval(`void document.addEventListener("lvt:done", () => { window.answered = true; }, true)`)
	release := network.Swallow()
	counter.Click("increment")
	network.Cut()
	release()
	toldNote(counter, "What you did last may not have counted.")
	counter.WaitUntil(browser.Live, "a live page")
	counter.Shows("Counter: 1")
	assert.Equal(t, "", counter.Eval(`window.answered`), "the page is no answer to the click")
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
	away.Store(false)
	tb.WaitUntil(isLive, "a live page")
	tb.Click("increment")
	tb.Shows("Counter: 1")
	for _, said := range tb.Heard() {
		assert.NotContains(t, said.Text, "Live updates are off")
	}
}

func TestBrowser_WithoutSocketsPagesWorkAndGoLiveWhenTheyCan(t *testing.T) {
	t.Parallel()
	var blocked, noPost atomic.Bool
	var refused atomic.Int64
	blocked.Store(true)
	server := visitor.ServeBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case blocked.Load() && websocket.IsWebSocketUpgrade(r):
				visitor.RefuseUpgrade(w, r)
				refused.Add(1)
			case noPost.Load() && r.Method == http.MethodPost:
				http.Error(w, "no server", http.StatusBadGateway)
			default:
				app.ServeHTTP(w, r)
			}
		})
	})
	tb := browser.New(t).Load("about:blank")
	tb.ExpectErrors("WebSocket")
	tb.ExpectErrors("502")
	tb.InEveryPage(attemptsComeOften)
	tb.WatchNotices()
	const off = "Live updates are off"
	tb.Navigate(server + visitor.CounterPage)
	tb.Shows(off)
	tb.Click("increment")
	tb.Shows("Counter: 1")
	noPost.Store(true)
	tb.Click("increment")
	toldNote(tb, "What you did last may not have counted.")
	noPost.Store(false)
	tb.Navigate(server + "/")
	tb.Eval(`void setTimeout(() => history.back())`)
	tb.WaitUntil(`document.querySelector("h1")?.innerText === "Multi-User Refresh"`, "the page itself, not its data")

	tb.Navigate(server + visitor.PresencePage)
	tb.Shows(off)
	assert.False(t, tb.Has("button:disabled"))
	const name = `x onfocus="alert(1)`
	tb.TypeInto("username", name)
	tb.Click("join")
	tb.Shows(visitor.NotLive)
	attempts := refused.Load()
	assert.Eventually(t, func() bool { return refused.Load() > attempts+1 }, visitor.Soon, visitor.Interval)
	tb.Shows(visitor.NotLive) // attempts keep what was said, and what was typed
	assert.Equal(t, name, tb.Eval(`document.querySelector("[name=username]").value`))

	blocked.Store(false)
	tb.WaitUntil(isLive, "a live page")
	tb.Join("Alice")
	visitor.New(t, server).Open(visitor.PresencePage).Shows("1 user(s) online")
	tb.Click("leave")
	tb.Shows("0 user(s) online Username")
}

func TestBrowser_PageForWhichThereIsNoRoomSaysSoAndIsLiveWhenThereIs(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ flag, says string }{
		{"-max-connections", "The server is full: no live updates for now. Buttons work. This page goes on trying."},
		{"-max-per-session", "Too many tabs of this browser are live: this one is not. Buttons work. Close another."},
	} {
		t.Run(row.flag, func(t *testing.T) {
			server := visitor.Serve(t, row.flag, "1")
			person := browser.New(t)
			first, second := person.OpenWindow(server+visitor.CounterPage), person.OpenWindow("about:blank")
			second.ExpectErrors("WebSocket")
			second.InEveryPage(attemptsComeOften)
			second.Navigate(server + visitor.CounterPage)
			second.Shows(row.says)
			second.Click("increment")
			second.Shows("Counter: 1")
			first.Shows("Counter: 1")

			first.Close()
			second.WaitUntil(isLive, "a live page")
			visitor.New(t, server).Click()
			second.Shows("Counter: 2")
			assert.Equal(t, 2, second.Loads(), "about:blank and the page")
		})
	}
}
