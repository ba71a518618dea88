package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// What people see in a real browser. The rules behind it (who is online, which names are
// valid, what counts) are tested where they are: these tests show that the pages, their
// scripts and the browser client are joined to them.

const typedName = `document.querySelector("[name=username]").value`

func TestBrowser_CounterTicksInEveryTabOfEveryBrowser(t *testing.T) {
	t.Parallel()
	page := visitor.Serve(t) + visitor.CounterPage
	alice, bob := browser.New(t), browser.New(t)
	first, second, other := alice.Open(page), alice.Open(page), bob.Open(page)
	plain := bob.OpenWithoutScripts(page)
	for i, clicked := range []*browser.Tab{first, other, plain, second} {
		clicked.Click("increment")
		for _, tb := range []*browser.Tab{clicked, first, second, other} {
			tb.Shows(fmt.Sprintf("Counter: %d ", i+1))
		}
	}
	for _, tb := range []*browser.Tab{first, second, other} {
		assert.Equal(t, 1, tb.Loads(), "pages loaded: all of this came without reload")
	}
}

func TestBrowser_PresenceCountsEverywhereAndNamesStayApart(t *testing.T) {
	t.Parallel()
	page := visitor.Serve(t) + visitor.PresencePage
	person := browser.New(t)
	alice, bob := person.Open(page), browser.New(t).Open(page)
	alice.Join("Alice")
	bob.Shows("1 user(s) online Username Join Alice Try:")
	bob.TypeInto("username", "Bob")
	bob.Press(kb.Enter)
	bob.Shows("2 user(s) online Logged in as Bob Leave Bob (you) Alice Try:")
	alice.Shows("2 user(s) online Logged in as Alice Leave Alice (you) Bob Try:")
	assert.False(t, alice.Has(`[value="Bob"]`) || bob.Has(`[value="Alice"]`), "the name of somebody else in a field")

	second := person.Open(page)
	second.Shows("2 user(s) online Username")
	assert.True(t, second.ShowsForm(), "a new tab has not joined")
	second.Join("Alice")
	second.Shows("2 user(s) online Logged in as Alice Leave Alice (you) in 2 tabs Bob Try:")
	bob.Shows("Alice in 2 tabs")
	bob.Click("leave")
	bob.Shows("1 user(s) online Username")
	alice.Shows("1 user(s) online")
	alice.WaitUntil(`document.title.startsWith("(1) Presence Tracking")`, "the count in the title")
	bob.Join("Bob")
	alice.Shows("2 user(s) online")
	bob.Close()
	alice.Shows("1 user(s) online")
	second.Close()
	alice.Shows("1 user(s) online Logged in as Alice Leave Alice (you) Try:")
}

// A tab that has left, or whose name is no longer valid, does not join again.
func TestBrowser_NameIsRememberedUntilLeave(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	alice, peer := browser.New(t).Open(server+visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	alice.Join("Alice")
	alice.Eval(`void (window.held = [], liveTemplateClient.send = (message) => held.push(message))`)
	alice.Click("leave")
	alice.WaitUntil(`held.length === 1`, "a message that is on its way")
	peer.Join("Bob")
	alice.Shows("2 user(s) online Logged in as Alice") // an update comes before the answer
	alice.Eval(`void (delete liveTemplateClient.send, liveTemplateClient.send(held[0]))`)
	alice.Shows("1 user(s) online Username")
	alice.Reload()
	alice.WaitUntil(browser.Live, "a live page")
	alice.Shows("1 user(s) online Username")
	assert.True(t, alice.ShowsForm(), "who left does not join again")

	alice.Join("Alice")
	alice.Eval(`sessionStorage.setItem("presence-name", "A".repeat(41))`)
	alice.Reload()
	alice.Shows(visitor.LongName)
	assert.True(t, alice.ShowsForm(), "a name that is refused is forgotten")
	alice.Join("Alicia")
	alice.Reload()
	alice.Shows("2 user(s) online Logged in as Alicia")
}

// Nor is a break in the network.
func TestBrowser_ReloadIsNoticedByNobody(t *testing.T) {
	t.Parallel()
	const grace = 10 * time.Second // a slow machine takes its time to reload
	server := visitor.Serve(t, "-grace", grace.String())
	network := visitor.NewNetwork(t, server)
	alice, peer := browser.New(t).Open(network.URL+visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	alice.WatchForm()
	alice.Reload()
	alice.WaitUntil(browser.Live, "a live page")
	assert.True(t, alice.SawForm(), "before the tab joins")
	alice.Join("Alice")
	peer.Join("Bob")
	alice.Shows("2 user(s) online")
	browser.ReloadUnnoticed(t, alice, peer, 10)

	loads := alice.Loads()
	alice.CountConnects()
	for cut := range 3 {
		network.Cut()
		alice.WaitUntil(fmt.Sprintf(`connects > %d`, cut), "a new socket")
		alice.Shows("2 user(s) online Logged in as Alice Leave Alice (you) Bob Try:")
	}
	peer.NoChange(grace)
	assert.False(t, alice.SawForm(), "while it joined again")
	assert.Equal(t, loads, alice.Loads(), "without reload")
}

func TestBrowser_RestartedServerGetsEverybodyBack(t *testing.T) {
	t.Parallel()
	server := visitor.Start(t)
	names := []string{"Alice", "Alice too", "Bob"}
	first, second := browser.New(t), browser.New(t)
	page := server.URL + visitor.PresencePage
	tabs := []*browser.Tab{first.Open(page), first.Open(page), second.Open(page)}
	for i, tb := range tabs {
		tb.Join(names[i])
		tb.ExpectServerAway()
		tb.WatchForm()
	}
	for range 2 {
		assert.Equal(t, 0, server.Stop(syscall.SIGTERM))
		tabs[0].WaitUntil(`!window.liveTemplateClient.isReady()`, "the tab to lose its socket")
		server = visitor.Start(t, "-addr", server.Addr())
		visitor.New(t, server.URL).Open(visitor.PresencePage).Shows("3 user(s) online")
		for i, tb := range tabs {
			tb.Shows("3 user(s) online Logged in as " + names[i] + " Leave " + names[i] + " (you) ")
			assert.False(t, tb.SawForm(), "while it joins again")
			assert.Equal(t, 1, tb.Loads(), "without reload")
		}
	}
}

// Many changes to the list, of every kind, and breaks leave the browser with what a new
// page shows. It lists 20 users, and counts the others.
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

// Names that only a browser's client or its HTML could spoil.
func TestBrowser_NameJoinsExactlyAsTyped(t *testing.T) {
	t.Parallel()
	tb := browser.New(t).Open(visitor.Serve(t) + visitor.PresencePage)
	for _, name := range []string{"true", "1e-7", "{{.OnlineCount}}", `" onfocus="alert(2)`, "<img src=x onerror=alert(1)>"} {
		tb.Join(name)
		tb.Shows("Logged in as " + name + " Leave " + name + " (you) Try:")
		assert.False(t, tb.Has("main img"), "a name is text")
		tb.Click("leave")
	}
}

// What is said about a name, the text in its field and the focus outlive updates.
func TestBrowser_UpdateNeverMovesFocus(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	tb, peer := browser.New(t).Open(server+visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	tb.Eval(`void (window.focused = [], document.addEventListener("focusin", e => focused.push(e.target.name || e.target.tagName)))`)
	update := func() {
		t.Helper()
		peer.Join("Bob")
		tb.Shows("1 user(s) online")
		peer.Leave()
		tb.Shows("0 user(s) online")
	}
	for _, submit := range []func(){func() { tb.Click("join") }, func() { tb.Press(kb.Enter) }} {
		tb.TypeInto("username", "   ")
		submit()
		tb.Shows(visitor.NoName)
		update()
		update()
		tb.Shows(visitor.NoName)
		assert.Equal(t, "   ", tb.Eval(typedName))
		tb.TypeInto("username", "Al")
		submit()
		tb.Shows("Logged in as Al")
		tb.Click("leave")
		tb.Shows("0 user(s) online")
	}

	tb.Eval(`void (focused = [])`)
	tb.TypeInto("username", "Al")
	tb.Press(kb.Tab)
	update()
	assert.Equal(t, "username,join", tb.Eval(`focused.join()`), "Tab went on to the button")
	assert.Equal(t, "join", tb.Eval(`document.activeElement.name`), "and the focus stays there")
	tb.Press(kb.Enter)
	tb.Shows("Logged in as Al")
	tb.Click("leave")
	tb.Shows("0 user(s) online")

	tb.TypeInto("username", "Bo")
	tb.Eval(`document.querySelector("nav a").focus()`)
	update()
	assert.Equal(t, "A", tb.Eval(`document.activeElement.tagName`), "a link keeps the focus")
	tb.Eval(`document.querySelector("[name=username]").focus()`)
	tb.Eval(`document.activeElement.blur()`)
	update()
	assert.Equal(t, "BODY", tb.Eval(`document.activeElement.tagName`), "nothing has the focus after a click beside everything")
}

// Without scripts, and before the socket is open, the counter counts by requests, and
// presence says why nobody can join.
func TestBrowser_FormsWorkWithoutASocket(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	server := visitor.ServeBehind(t, visitor.AnswerUpgrades(func(http.ResponseWriter, *http.Request) {
		<-ended // no answer as long as the test runs
	}))
	t.Cleanup(func() { close(ended) }) // before the server is closed
	person := browser.New(t)
	opening := person.Load(server + visitor.CounterPage)
	opening.Shows("Connecting… Buttons work.")
	plain := person.OpenWithoutScripts(server + visitor.CounterPage)
	for i, tb := range []*browser.Tab{opening, plain} {
		assert.False(t, tb.Has("button:disabled, fieldset:disabled"))
		for n := range 2 {
			tb.Click("increment")
			tb.Shows(fmt.Sprintf("Counter: %d ", 2*i+n+1))
		}
	}

	plain.Navigate(server + visitor.PresencePage)
	plain.Shows(visitor.NotLive) // in the page for browsers without scripts
	opening.Navigate(server + visitor.PresencePage)
	for _, tb := range []*browser.Tab{opening, plain} {
		assert.False(t, tb.Has("button:disabled, input:disabled, fieldset:disabled"))
		tb.TypeInto("username", "Alice")
		tb.Click("join")
		tb.WaitUntil(`document.querySelector("article [role=alert]").innerText === `+browser.Quote(visitor.NotLive), "the reason beside the field")
		assert.Equal(t, "Alice", tb.Eval(typedName))
		tb.Shows("0 user(s) online")
	}
}

func TestBrowser_LinksLeaveOneLiveSocketToThePageShown(t *testing.T) {
	t.Parallel()
	sockets := &visitor.SocketCount{}
	server := visitor.ServeBehind(t, sockets.Count)
	tb := browser.New(t).Open(server + "/")
	const toCounter, toPresence = "Multi-User Refresh", "Presence Tracking"
	for _, step := range []struct{ do, wantHeading, wantSocket string }{
		{`document.querySelector("main a[href='/realtime/multi-user-sync']").click()`, toCounter, visitor.CounterPage},
		{`document.querySelector("nav a[href='/realtime/presence']").click()`, toPresence, visitor.PresencePage},
		{`history.back()`, toCounter, visitor.CounterPage},
		{`history.forward()`, toPresence, visitor.PresencePage},
		{`document.querySelector("nav a[href='/realtime/multi-user-sync']").click()`, toCounter, visitor.CounterPage},
	} {
		tb.Eval(`void setTimeout(() => {` + step.do + `})`)
		tb.WaitUntil(`document.querySelector("h1").innerText === `+browser.Quote(step.wantHeading), step.wantHeading)
		sockets.WaitFor(t, map[string]int{step.wantSocket: 1})
	}
	tb.WaitUntil(browser.Live, "a live page")
	tb.WaitUntil(`document.title.startsWith("Multi-User Refresh")`, "no count of another page in the title")
	tb.Click("increment")
	tb.Shows("Counter: 1")

	tb.Eval(`void setTimeout(() => document.querySelector("nav a[href='/']").click())`)
	tb.Shows("Live pages")
	sockets.WaitFor(t, map[string]int{})
}

func TestBrowser_TooManyClicksAreToldToSlowDown(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	tb, peer := browser.New(t).Open(server+visitor.CounterPage), visitor.New(t, server).Open(visitor.CounterPage)
	tb.Eval(`void (window.refused = 0, document.addEventListener("lvt:updated", (e) => e.detail.success || refused++, true))`)
	// Sent by the client at once: forms take longer, and a slow machine might not be too fast.
	tb.Eval(`void (() => { for (let i = 0; i < 1000; i++) liveTemplateClient.send({action: "increment", data: {}}); })()`)
	tb.Shows("Slow down: that was too fast, and did not count.")
	tb.WaitUntil(`document.querySelector("article strong").innerText == 1000 - refused`, "every click to count, or not to")
	tb.WaitUntil(`document.querySelector("#notice").innerText === ""`, "the note to go away")
	peer.Shows("Counter: " + tb.Eval(`document.querySelector("article strong").innerText`) + " Increment")
	tb.Click("increment")
	tb.WaitUntil(`document.querySelector("article strong").innerText == 1001 - refused`, "a click to count again")
}

func TestBrowser_PolicyStopsScriptsAndFramesThatAreNotOurs(t *testing.T) {
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
	tb.WaitUntil(`violations.includes("form-action")`, "the form to be refused")
	assert.Equal(t, "", tb.Eval(`window.injected`))
}
