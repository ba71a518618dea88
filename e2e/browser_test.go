package e2e

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"testing"

	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
	"realtime/internal/visitor/walk"
)

// What people see in a real browser. The rules behind it (who is online, which names are
// valid, what counts) are tested where they are: these tests show that the pages, their
// scripts and the browser client are joined to them.

// takes has Chromium take a step that the other engines take as well.
func takes(t *testing.T, step func(*walk.Walk)) {
	t.Helper()
	t.Parallel()
	step(walk.Start(t, browser.New))
}

func TestBrowser_CounterTicksInEveryTab(t *testing.T)  { takes(t, walk.CounterTicksInEveryTab) }
func TestBrowser_PresenceCountsEverybody(t *testing.T) { takes(t, walk.PresenceCountsEverybody) }
func TestBrowser_ReloadIsNoticedByNobody(t *testing.T) { takes(t, walk.ReloadIsNoticedByNobody) }
func TestBrowser_RestartedServerGetsEverybodyBack(t *testing.T) {
	takes(t, walk.RestartedServerGetsEverybodyBack)
}
func TestBrowser_LinksLeaveOneLiveSocket(t *testing.T)  { takes(t, walk.LinksLeaveOneLiveSocket) }
func TestBrowser_PressAndLinkAtOnceCounts(t *testing.T) { takes(t, walk.PressAndLinkAtOnceCounts) }
func TestBrowser_WithoutSocketsPagesWorkAndGoLiveWhenTheyCan(t *testing.T) {
	takes(t, walk.WithoutSocketsPagesWork)
}

const typedName = `document.querySelector("[name=username]").value`

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

// What is said about a name, the text in its field and the focus outlive updates and breaks.
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
		{func() { tb.Eval(`document.activeElement.blur()`) }, "BODY"}, // as after a click beside everything
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
}

// The counter counts, and presence says why nobody can join.
func TestBrowser_FormsWorkWithoutScripts(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	tb := browser.New(t).OpenWithoutScripts(server + visitor.CounterPage)
	tb.Click("increment")
	tb.Shows("Counter: 1 ")

	tb.Navigate(server + visitor.PresencePage)
	tb.Shows(visitor.NotLive)
	assert.False(t, tb.Has("button:disabled, input:disabled, fieldset:disabled"))
	tb.TypeInto("username", "Alice")
	tb.Click("join")
	tb.WaitUntil(`document.querySelector("article [role=alert]").innerText === `+browser.Quote(visitor.NotLive), "the reason beside the field")
	assert.Equal(t, "Alice", tb.Eval(typedName))
	tb.Shows("0 user(s) online")
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
