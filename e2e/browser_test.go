package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/chromedp/kb"
	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
	"realtime/internal/visitor/walk"
)

// What people see in a real browser. The rules behind it (who is online, which names are
// valid, what counts) have unit tests, and e2e/scripts tests how a page reconnects, on a
// virtual clock. These tests show that the pages, their scripts and the browser client
// work together.

// takes runs a step in Chromium. e2e/all runs it in the other engines.
func takes(t *testing.T, step func(*walk.Walk)) {
	t.Helper()
	t.Parallel()
	step(walk.Start(t, browser.New))
}

func TestBrowser_CounterTicksInEveryTab(t *testing.T)   { takes(t, walk.CounterTicksInEveryTab) }
func TestBrowser_PresenceCountsEverybody(t *testing.T)  { takes(t, walk.PresenceCountsEverybody) }
func TestBrowser_ReloadIsNoticedByNobody(t *testing.T)  { takes(t, walk.ReloadIsNoticedByNobody) }
func TestBrowser_LinksLeaveOneLiveSocket(t *testing.T)  { takes(t, walk.LinksLeaveOneLiveSocket) }
func TestBrowser_PressAndLinkAtOnceCounts(t *testing.T) { takes(t, walk.PressAndLinkAtOnceCounts) }

func TestBrowser_RestartedServerGetsEverybodyBack(t *testing.T) {
	takes(t, walk.RestartedServerGetsEverybodyBack)
}

func TestBrowser_WithoutSocketsPagesWorkAndGoLiveWhenTheyCan(t *testing.T) {
	takes(t, walk.WithoutSocketsPagesWork)
}

const typedName = `document.querySelector("[name=username]").value`

// After Leave, or when the remembered name is no longer valid, a tab does not rejoin.
func TestBrowser_NameIsRememberedUntilLeave(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	alice, peer := browser.New(t).Open(server+visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	alice.Join("Alice")
	alice.Eval(`void (window.held = [], liveTemplateClient.send = (message) => held.push(message))`)
	alice.Click("leave")
	alice.WaitUntil(`held.length === 1`, "the message, held back")
	peer.Join("Bob")
	alice.Shows("2 user(s) online Logged in as Alice") // an update comes before the answer
	alice.Eval(`void (delete liveTemplateClient.send, liveTemplateClient.send(held[0]))`)
	alice.Shows("1 user(s) online Username")
	alice.Reload()
	alice.WaitUntil(browser.Live, "a live page")
	alice.Shows("1 user(s) online Username")
	assert.True(t, alice.ShowsForm(), "a tab that left does not rejoin")

	alice.Join("Alice")
	alice.Eval(`sessionStorage.setItem("presence-name", "A".repeat(41))`)
	alice.Reload()
	alice.Shows(visitor.LongName)
	assert.True(t, alice.ShowsForm(), "a refused name is forgotten")
}

// After many changes to the list and lost connections, the browser shows what a new page
// shows: 20 users, and the number of the others.
func TestBrowser_ListIsRightAfterManyChanges(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	alice := browser.New(t).Open(network.URL + visitor.PresencePage)
	list := regexp.MustCompile(`Username Join (.*)Joining needs`)
	random := rand.New(rand.NewPCG(visitor.Seed(t), 0))
	change := func(guest *visitor.Tab, joins bool, name string) {
		if joins {
			guest.Join(name)
		} else {
			guest.Leave()
		}
		guest.Settle()
	}
	agrees := func() {
		t.Helper()
		want := list.FindStringSubmatch(visitor.New(t, server).Get(visitor.PresencePage))
		require.NotNil(t, want)
		alice.Shows("Username Join " + want[1] + "Try:")
	}
	var guests []*visitor.Tab
	for range 4 {
		guest := visitor.New(t, server)
		guests = append(guests, guest.Open(visitor.PresencePage), guest.Open(visitor.PresencePage), guest.Open(visitor.PresencePage))
	}
	for round := range 12 {
		if round%5 == 4 {
			network.Cut()
		}
		for range 5 {
			change(guests[random.IntN(len(guests))], random.IntN(3) > 0, fmt.Sprint("guest ", random.IntN(3)))
		}
		agrees()
	}

	below := func() string { return alice.Eval(`document.getElementById("wire").getBoundingClientRect().top`) }
	for _, guest := range guests {
		change(guest, false, "")
	}
	alice.Shows("0 user(s) online")
	before := below()
	for i := range 4 {
		change(guests[i], true, fmt.Sprint("guest ", i))
	}
	agrees()
	assert.Equal(t, before, below(), "the top of what is below the list")

	for i := range 24 {
		guests = append(guests, visitor.New(t, server).Open(visitor.PresencePage))
		change(guests[12+i], true, fmt.Sprint("crowd ", i))
	}
	agrees()
	assert.Equal(t, "20", alice.Eval(`document.querySelectorAll("article li").length`))
	assert.Regexp(t, `and \d+ more`, alice.Text())
	for _, guest := range guests[:30] {
		change(guest, false, "")
	}
	alice.Shows("6 user(s) online Username Join crowd 18 crowd 19 crowd 20 crowd 21 crowd 22 crowd 23 Try:")
}

// Names that only the browser client or its HTML could corrupt.
func TestBrowser_NameJoinsExactlyAsTyped(t *testing.T) {
	t.Parallel()
	tb := browser.New(t).Open(visitor.Serve(t) + visitor.PresencePage)
	for _, name := range []string{"true", "1e-7", "{{.OnlineCount}}", `" onfocus="alert(2)`, "<img src=x onerror=alert(1)>", "Anna (you)"} {
		tb.Join(name)
		tb.Shows("Logged in as " + name + " Leave " + name + " (you) Try:")
		assert.Equal(t, "700 none, 400 solid", tb.Eval(`[...document.querySelectorAll("article li *")]
			.map((part) => getComputedStyle(part)).map((look) => look.fontWeight + " " + look.borderLeftStyle).join(", ")`), "only a note looks like one")
		assert.False(t, tb.Has("main img"), "a name is text")
		tb.Click("leave")
	}
}

// The error about a name, the text in its field and the focus survive updates and
// reconnects.
func TestBrowser_UpdateNeverMovesFocus(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	tb, peer := browser.New(t).Open(network.URL+visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	tb.ExpectErrors("net::ERR_")
	update := func() {
		t.Helper()
		peer.Join("Bob")
		tb.Shows("1 user(s) online")
		peer.Leave()
		tb.Shows("0 user(s) online")
	}
	for _, row := range []struct {
		goTo       func()
		wantActive string
	}{
		{func() {}, "username"},
		{func() { tb.Press(kb.Tab) }, "join"},
		{func() { tb.Eval(`document.querySelector("nav a").focus()`) }, "A"},
		{func() { tb.Eval(`document.activeElement.blur()`) }, "BODY"}, // as after a click on the background
	} {
		tb.TypeInto("username", "half a na")
		tb.Eval(`document.querySelector("[name=username]").setSelectionRange(2, 5)`)
		row.goTo()
		tb.Eval(`void (window.focused = [], document.addEventListener("focusin", (e) => focused.push(e.target.name || e.target.tagName)))`)
		keeps := func() {
			t.Helper()
			assert.Equal(t, "half a na,2,5,"+row.wantActive, tb.Eval(`(({value, selectionStart, selectionEnd}, active) =>
				[value, selectionStart, selectionEnd, active.name || active.tagName].join()
			)(document.querySelector("[name=username]"), document.activeElement)`))
		}
		update()
		keeps()
		assert.Empty(t, tb.Eval(`focused.join()`), "not for a moment")
		network.Leave()
		tb.Shows("Reconnecting…")
		peer.Join("Bob")
		network.ComeBack()
		tb.Shows("1 user(s) online")
		keeps()
		peer.Leave()
		tb.Shows("0 user(s) online")
		keeps()
	}

	tb.TypeInto("username", "   ")
	tb.Press(kb.Enter)
	tb.Shows(visitor.NoName)
	update()
	update()
	tb.Shows(visitor.NoName)
	assert.Equal(t, "   ", tb.Eval(typedName))

	network.Cut() // the new connection knows of no refused name
	tb.TypeInto("username", "another")
	tb.WaitUntil(`document.querySelector("[name=username]").form.innerText.trim() === "Username\nJoin"`, "no error")
	tb.Press(kb.Tab)
	update()
	assert.Equal(t, "another", tb.Eval(typedName))
}

// The counter works, and presence says why nobody can join.
func TestBrowser_FormsWorkWithoutScripts(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	tb := browser.New(t).OpenWithoutScripts(server + visitor.CounterPage)
	tb.Click("increment")
	tb.Shows("Counter: 1 ")

	tb.Navigate(server + visitor.PresencePage)
	tb.Shows(visitor.NotLive)
	assert.False(t, tb.Has("button:disabled, input:disabled, fieldset:disabled"))
}

// A page that misses a script still works, and says that it may be out of date.
func TestBrowser_MissingScriptIsNoticed(t *testing.T) {
	t.Parallel()
	const stale = "This page may be out of date"
	server := visitor.Serve(t)
	for name, row := range map[string]struct {
		lost   string
		answer http.HandlerFunc
	}{
		"the client is blocked":     {"livetemplate-client", http.NotFound},
		"the client was changed":    {"livetemplate-client", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("changed()")) }},
		"the client hangs":          {"livetemplate-client", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		"live.js is blocked":        {"/live-", http.NotFound},
		"live.js is something else": {"/live-", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<h1>Please log in</h1>")) }},
		"all are blocked":           {".js", http.NotFound},
		"the styles are blocked":    {"/pico-", http.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tb := browser.New(t).Load("about:blank")
			for _, part := range []string{"404", "Refused to ", "SyntaxError", "integrity", "net::ERR_"} {
				tb.ExpectErrors(part)
			}
			tb.Eval(`void location.assign(` + browser.Quote(visitor.NewProxy(t, server, func(app http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if strings.HasPrefix(r.URL.Path, "/static/") && strings.Contains(r.URL.Path, row.lost) {
						row.answer(w, r)
						return
					}
					app.ServeHTTP(w, r)
				})
			})+visitor.CounterPage) + `)`)
			tb.Shows(stale)
			assert.NotContains(t, tb.Text(), "Connecting…")
			if row.lost != "/pico-" { // else it is live
				assert.Contains(t, tb.Eval(`getComputedStyle(document.querySelector(".figure"), "::after").content`), "not live")
			}
			before := tb.Number(`document.querySelector("article strong").innerText`)
			tb.Click("increment")
			tb.WaitUntil(fmt.Sprintf(`document.querySelector("article strong").innerText > %v`, before), "the click to count")
		})
	}
}

// The oldest browsers that the README names lack these features.
func TestBrowser_OldBrowsersKeepUp(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	tb := browser.New(t).Load("about:blank")
	tb.ExpectErrors("net::ERR_")
	tb.InEveryPage(`
		delete AbortSignal.timeout, delete AbortSignal.any, delete window.requestIdleCallback;
		delete PerformanceResourceTiming.prototype.encodedBodySize, delete PerformanceResourceTiming.prototype.decodedBodySize;
		delete HTMLFormElement.prototype.requestSubmit, delete Promise.withResolvers;
		for (const late of ["findLast", "findLastIndex", "toReversed", "toSorted", "toSpliced", "with"]) delete Array.prototype[late];`)
	tb.Navigate(network.URL + visitor.CounterPage)
	tb.WaitUntil(browser.Live, "a live page")
	network.Leave()
	tb.Shows("Reconnecting…")
	tb.Eval(`void document.addEventListener("live", () => document.querySelector("[name=increment]").click(), {once: true})`)
	network.ComeBack()
	tb.Shows("Counter: 1")
	network.Leave()
	tb.Shows("Reconnecting…")
	network.ComeBack()
	tb.Shows("Back online")
	tb.ToggleWire(true)
	visitor.New(t, server).Click()
	tb.Shows("Counter: 2")
	tb.Shows("received RefreshCounter")
}

// A form submitted before the page is live, and a refused one, keep the text and the focus.
func TestBrowser_RefusedFormCanBeSentAgain(t *testing.T) {
	t.Parallel()
	server, blocked := visitor.Serve(t), make(chan struct{})
	tb := browser.New(t).Load("about:blank")
	tb.ExpectErrors("403")
	tb.ExpectErrors("WebSocket")
	network := visitor.NewProxy(t, server, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.Contains(r.URL.Path, "livetemplate-client"):
				select {
				case <-blocked:
				case <-r.Context().Done():
				}
				app.ServeHTTP(w, r)
			case websocket.IsWebSocketUpgrade(r), r.Method == http.MethodPost && r.Header.Get("Accept") == "application/json":
				http.Error(w, "not now", http.StatusForbidden)
			default:
				app.ServeHTTP(w, r)
			}
		})
	})
	tb.Eval(`void location.assign(` + browser.Quote(network+visitor.PresencePage) + `)`)
	tb.TypeInto("username", "Alice")
	tb.Press(kb.Enter)
	tb.Shows(visitor.NotLive)
	close(blocked)
	tb.Shows("Live updates are off")
	assert.Equal(t, "Alice", tb.Eval(typedName), "after the first update")

	tb.Watch()
	tb.TypeInto("username", "Alice Again")
	tb.Press(kb.Enter)
	noticed(tb, "Refused: your last action was not counted.")
	tb.WaitUntil(`document.activeElement.name === "username"`, "the focus in the field")
	tb.Press("!")
	assert.Equal(t, "Alice Again!", tb.Eval(typedName))
}

// A keyboard user can continue after each form.
func TestBrowser_FormKeepsTheFocus(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	tb, peer := browser.New(t).Open(server+visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	hasFocus := func(name string) {
		t.Helper()
		tb.WaitUntil(`document.activeElement.name === "`+name+`"`, "the focus on "+name)
	}
	tb.TypeInto("username", strings.Repeat("A", 41))
	tb.Press(kb.Enter)
	tb.Shows(visitor.LongName)
	hasFocus("username")
	tb.Click("join")
	tb.Shows(visitor.LongName)
	hasFocus("join")
	tb.Eval(`document.querySelector("[name=username]").value = ""`)
	peer.Join("Bob")
	tb.Shows("1 user(s) online")
	peer.Leave()
	tb.Shows("0 user(s) online")
	assert.Empty(t, tb.Eval(typedName), "submitted text is not restored")
	tb.TypeInto("username", strings.Repeat("A", 41))
	tb.Press(kb.Backspace + kb.Enter)
	tb.Shows("Logged in as " + strings.Repeat("A", 40))
	hasFocus("leave")
	tb.Press(kb.Enter)
	tb.Shows("0 user(s) online")
	hasFocus("username")
	tb.Eval(`document.activeElement.blur()`)
	tb.Reload()
	tb.WaitUntil(browser.Live, "a live page")
	tb.Join("Bob")
	tb.Reload()
	tb.Shows("Logged in as Bob")
	assert.Equal(t, "BODY", tb.Eval(`document.activeElement.tagName`), "a page that rejoins takes no focus")
}

func TestBrowser_TooManyClicksAreToldToSlowDown(t *testing.T) {
	t.Parallel()
	p := visitor.Start(t)
	tb := browser.New(t).Open(p.URL + visitor.CounterPage)
	counted := func() float64 { return p.Metric("realtime_clicks_total") }
	agrees := func() bool { return tb.Number(`document.querySelector("article strong").innerText`) == counted() }
	// Through the client: by submitting forms, a slow machine might stay below the limit.
	tb.Eval(`void (() => { for (let i = 0; i < 1000; i++) liveTemplateClient.send({action: "increment", data: {}}); })()`)
	tb.Shows("Too fast: your last action was not counted.")
	tb.WaitUntil(`document.querySelector("#notice").innerText === ""`, "the notice to go away")
	require.Eventually(t, agrees, visitor.Soon, visitor.Interval, "the page to show every counted click")
	before := counted()
	assert.Less(t, before, 1000.0)
	tb.Click("increment")
	assert.Eventually(t, func() bool { return counted() > before && agrees() }, visitor.Soon, visitor.Interval, "a click to count again")
}

func TestBrowser_PolicyBlocksInjectedScriptsAndForms(t *testing.T) {
	t.Parallel()
	tb := browser.New(t).Open(visitor.Serve(t) + visitor.PresencePage)
	tb.ExpectErrors("Content Security Policy")
	tb.Eval(`void (() => {
		document.body.append(Object.assign(document.createElement("script"), {textContent: "window.injected = true"}));
		document.body.insertAdjacentHTML("beforeend", '<img src="data:," onerror="window.injected = true">');
		document.body.insertAdjacentHTML("beforeend", '<form action="https://evil.example" id="elsewhere"></form>');
		window.violations = [];
		document.addEventListener("securitypolicyviolation", (e) => violations.push(e.effectiveDirective));
		document.getElementById("elsewhere").submit();
	})()`)
	tb.WaitUntil(`violations.includes("form-action")`, "the form to be blocked")
	assert.Equal(t, "", tb.Eval(`window.injected`))
}

// noticed waits until a notice has been shown since Watch. Notices go away after
// four seconds.
func noticed(tb *browser.Tab, notice string) {
	tb.WaitUntil(`top.name.includes(`+browser.Quote(notice)+`)`, notice)
}

func TestBrowser_StaleNumberAndButtonAreMarkedWhileReconnecting(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	tb := browser.New(t).Open(network.URL + visitor.CounterPage)
	tb.ExpectErrors("net::ERR_")
	looks := func() string {
		const figure = `document.querySelector(".figure")`
		return tb.Eval(`getComputedStyle(` + figure + `, "::after").content + getComputedStyle(` + figure + `).color`)
	}
	const button = `document.querySelector("[name=increment]")`
	current := looks()

	network.Leave()
	tb.Shows("Reconnecting…")
	visitor.New(t, server).Click()
	assert.Contains(t, looks(), "not live")
	assert.NotEqual(t, current, looks())
	assert.Equal(t, "true", tb.Eval(button+`.disabled`))
	assert.Equal(t, "Reconnecting…", tb.Eval(button+`.title`))
	assert.Equal(t, "status", tb.Eval(`document.getElementById(`+button+`.getAttribute("aria-describedby")).role`))

	network.ComeBack()
	tb.Shows("Counter: 1")
	tb.WaitUntil(browser.Up+` && document.getElementById("connection").textContent === ""`, "an empty status")
	assert.Equal(t, current, looks())
	assert.Equal(t, "false,,", tb.Eval(`[`+button+`.disabled, `+button+`.title, `+button+`.getAttribute("aria-describedby")].join()`))
}

func TestBrowser_PressDuringAShortDropIsNotLost(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	person := browser.New(t)
	joins, leaves := person.OpenWindow(network.URL+visitor.PresencePage), person.OpenWindow(network.URL+visitor.PresencePage)
	leaves.Join("Bob")
	joins.TypeInto("username", "Alice")
	for tb, button := range map[*browser.Tab]string{joins: "join", leaves: "leave"} {
		tb.ExpectErrors("net::ERR_")
		tb.Watch()
		// The button is disabled only after a second.
		tb.Eval(`void document.addEventListener("live", () => document.querySelector("[name=` + button + `]").click(), {once: true})`)
	}
	network.Leave()
	joins.Shows("Reconnecting…")
	leaves.Shows("Reconnecting…")
	network.ComeBack()
	joins.Shows("Logged in as Alice")
	noticed(leaves, "Not sent: the page changed before your last action could go out.")
	leaves.Shows("1 user(s) online Username")
	assert.Empty(t, joins.Said("notice"))
	assert.Equal(t, 1, joins.Loads(), "without reload")
}
