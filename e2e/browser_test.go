package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

func TestBrowser_CounterTicksInEveryTabOfEveryBrowser(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	alice, bob := browser.New(t), browser.New(t)
	tab1, tab2, other := alice.Open(server+visitor.CounterPage), alice.Open(server+visitor.CounterPage), bob.Open(server+visitor.CounterPage)
	tabs := []*browser.Tab{tab1, tab2, other}

	tab1.Click("increment")
	for _, tb := range tabs {
		tb.Shows("Counter: 1")
	}
	other.Click("increment")
	for _, tb := range tabs {
		tb.Shows("Counter: 2")
	}
	for _, tb := range tabs {
		assert.Equal(t, 1, tb.Loads(), "the page was loaded once: all of this came without reload")
	}
	alice.OpenWithoutScripts(server + visitor.CounterPage).Shows("Counter: 2")
}

func TestBrowser_PresenceCountsEverywhereAndNamesStayApart(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	alice, bob := browser.New(t).Open(server+visitor.PresencePage), browser.New(t).Open(server+visitor.PresencePage)

	alice.TypeInto("username", "Alice")
	alice.Click("join")
	alice.Shows("Logged in as Alice")
	bob.Shows("1 user(s) online")
	bob.TypeInto("username", "Bob")
	bob.Press(kb.Enter)
	bob.Shows("Logged in as Bob")
	for _, tb := range []*browser.Tab{alice, bob} {
		tb.Shows("2 user(s) online")
	}
	assert.False(t, strings.Contains(alice.Text(), "Logged in as Bob") || alice.Has(`[value="Bob"]`))
	assert.False(t, strings.Contains(bob.Text(), "Logged in as Alice") || bob.Has(`[value="Alice"]`))
	browser.New(t).OpenWithoutScripts(server + visitor.PresencePage).Shows("2 user(s) online")

	bob.Click("leave")
	alice.Shows("1 user(s) online")
	bob.Shows("1 user(s) online")
	assert.False(t, bob.Has(`button[name="leave"]`))
	assert.True(t, bob.Has(`button[name="join"]`))
	bob.TypeInto("username", "Bob")
	bob.Click("join")
	alice.Shows("2 user(s) online")
	bob.Close()
	alice.Shows("1 user(s) online")
}

func TestBrowser_TabsOfOneBrowserShareAUserNotTheirNames(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	person := browser.New(t)
	peer := visitor.New(t, server).Open(visitor.PresencePage)
	first := person.Open(server + visitor.PresencePage)
	first.Join("Alice")
	second := person.Open(server + visitor.PresencePage)
	second.Shows("1 user(s) online")
	assert.True(t, second.ShowsForm(), "a new tab has not joined")

	second.Join("Alice")
	for _, tb := range []*browser.Tab{first, second} {
		tb.Shows("1 user(s) online")
		tb.Shows("Alice (you) in 2 tabs")
	}
	peer.Shows("Alice in 2 tabs")

	first.Click("leave")
	first.Shows("Username")
	second.Shows("1 user(s) online Logged in as Alice Leave Alice (you) Try:")
	first.Reload()
	first.WaitUntil(browser.Live, "a live page")
	assert.True(t, first.ShowsForm(), "who left does not join again")

	browser.New(t).Open(server + visitor.PresencePage).Join("Alice")
	peer.Shows("2 user(s) online")
	second.Close()
	peer.Shows("1 user(s) online")
}

func TestBrowser_LeaveForgetsTheNameThoughAnUpdateComesFirst(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	alice, peer := browser.New(t).Open(server+visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	alice.Join("Alice")
	alice.Eval(`void (window.held = [], liveTemplateClient.send = (message) => held.push(message))`)
	alice.Click("leave") // on its way
	alice.WaitUntil(`held.length === 1`, "the message")
	peer.Join("Bob")
	alice.Shows("2 user(s) online Logged in as Alice")
	alice.Eval(`void (delete liveTemplateClient.send, liveTemplateClient.send(held[0]))`)
	alice.Shows("1 user(s) online Username")
	assert.True(t, alice.ShowsForm())

	alice.Reload()
	alice.WaitUntil(browser.Live, "a live page")
	alice.Shows("1 user(s) online")
	assert.True(t, alice.ShowsForm())

	alice.Join("Alice")
	alice.Click("leave")
	alice.Shows("1 user(s) online Username")
	alice.Join("Alicia")
	alice.Reload()
	alice.Shows("2 user(s) online Logged in as Alicia")
}

func TestBrowser_RememberedNameThatIsRefusedIsForgotten(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	alice := browser.New(t).Open(server + visitor.PresencePage)
	alice.Join("Alice")
	alice.Eval(`sessionStorage.setItem("presence-name", "A".repeat(41))`)
	alice.Reload()
	alice.Shows(visitor.LongName)
	assert.True(t, alice.ShowsForm())
	alice.Join("Alice")
	alice.Reload()
	alice.Shows("1 user(s) online Logged in as Alice")
}

func TestBrowser_ReloadIsNoticedByNobody(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	alice, peer := browser.New(t).Open(server+visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	alice.WatchForm()
	alice.Reload()
	alice.WaitUntil(browser.Live, "a live page")
	assert.True(t, alice.SawForm(), "before the tab joins")

	alice.Join("Alice")
	peer.Join("Bob")
	alice.Shows("2 user(s) online")
	browser.ReloadUnnoticed(t, alice, peer, 10)

	alice.Close()
	peer.Shows("1 user(s) online")
}

func TestBrowser_BrokenSocketComesBackJoined(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	alice, peer := browser.New(t).Open(network.URL+visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	alice.Join("Alice")
	alice.WatchForm()
	peer.Shows("1 user(s) online")
	peer.StartHistory()
	alice.CountConnects()
	for cut := range 3 {
		network.Cut()
		alice.WaitUntil(fmt.Sprintf(`connects > %d`, cut), "a new socket")
		alice.Shows("1 user(s) online Logged in as Alice Leave Alice (you) Try:")
		peer.Settle()
	}
	peer.NoChange(visitor.Grace)
	assert.False(t, alice.SawForm(), "while it joined again")
	assert.Equal(t, 1, alice.Loads())
	peer.Join("Bob")
	alice.Shows("2 user(s) online")
	alice.Click("leave")
	alice.Shows("1 user(s) online Username Join Bob")
}

func TestBrowser_RestartedServerGetsEverybodyBack(t *testing.T) {
	t.Parallel()
	exe := visitor.Build(t)
	server := visitor.StartExe(t, exe)
	names := []string{"Alice", "Alice too", "Bob"}
	first, second := browser.New(t), browser.New(t)
	tabs := []*browser.Tab{first.Open(server.URL + visitor.PresencePage), first.Open(server.URL + visitor.PresencePage), second.Open(server.URL + visitor.PresencePage)}
	for i, tb := range tabs {
		tb.Join(names[i])
		tb.ExpectErrors("net::ERR_") // what the browser says about a server that is away
		tb.ExpectErrors("503")       // and about one that is stopping
		tb.WatchForm()
	}
	for range 2 {
		assert.Equal(t, 0, server.Stop(syscall.SIGTERM))
		tabs[0].WaitUntil(`!window.liveTemplateClient.isReady()`, "the tab to lose its socket")
		server = visitor.StartExe(t, exe, "-addr", strings.TrimPrefix(server.URL, "http://"))
		visitor.New(t, server.URL).Open(visitor.PresencePage).Shows("3 user(s) online")
		for i, tb := range tabs {
			tb.Shows("3 user(s) online Logged in as " + names[i] + " Leave " + names[i] + " (you) ")
			assert.False(t, tb.SawForm(), "while it joins again")
			assert.Equal(t, 1, tb.Loads(), "without reload")
		}
	}
}

func TestBrowser_KilledBrowserLeavesWithAllItsTabs(t *testing.T) {
	server := visitor.Serve(t)
	person, peer := browser.NewProcess(t), visitor.New(t, server).Open(visitor.PresencePage)
	for i := range 5 {
		person.Open(server + visitor.PresencePage).Join(fmt.Sprint("tab ", i))
	}
	peer.Shows("5 user(s) online")

	killed := time.Now()
	require.NoError(t, chromedp.FromContext(person.Ctx).Browser.Process().Kill())
	peer.Shows("0 user(s) online")
	assert.Less(t, time.Since(killed), 3*time.Second)
}

func TestBrowser_ListNamesEveryoneUpToALimit(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	person := browser.New(t)
	alice := person.Open(server + visitor.PresencePage)
	var guests []*visitor.Tab
	for i := range 24 {
		guest := visitor.New(t, server).Open(visitor.PresencePage)
		guest.Join(fmt.Sprintf("guest %d", i))
		guest.Shows("Logged in as")
		guests = append(guests, guest)
	}
	alice.Shows("24 user(s) online Username Join guest 0 guest 1 ")
	alice.Shows("guest 19 and 4 more Try:")
	alice.Join("Alice")
	alice.Shows("25 user(s) online Logged in as Alice Leave Alice (you) guest 0 ")
	alice.Shows("guest 18 and 5 more")
	assert.Equal(t, "20", alice.Eval(`document.querySelectorAll("article li").length`))
	person.Open(server + visitor.PresencePage).Join("Alice")
	alice.Shows("Alice (you) in 2 tabs")
	alice.WaitUntil(`document.title.startsWith("(25) Presence Tracking")`, "the count in the title")

	for _, guest := range guests[3:] {
		guest.Leave()
	}
	alice.Shows("4 user(s) online Logged in as Alice Leave Alice (you) in 2 tabs guest 0 guest 1 guest 2 Try:")
	alice.WaitUntil(`document.title.startsWith("(4) Presence Tracking")`, "the count in the title")
	alice.Eval(`void setTimeout(() => document.querySelector("nav a[href='/realtime/multi-user-sync']").click())`)
	alice.WaitUntil(`document.title.startsWith("Multi-User Refresh")`, "the title of the page")
}

// Many changes to the list, of every kind, and breaks must leave the browser with what a
// new page shows.
func TestBrowser_ListIsRightAfterManyChanges(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	alice := browser.New(t).Open(network.URL + visitor.PresencePage)
	var guests []*visitor.Tab
	for range 8 {
		guest := visitor.New(t, server)
		guests = append(guests, guest.Open(visitor.PresencePage), guest.Open(visitor.PresencePage), guest.Open(visitor.PresencePage))
	}
	random := rand.New(rand.NewPCG(1, 2))
	list := regexp.MustCompile(`Username Join (.*)Joining needs`)
	for round := range 40 {
		if round%8 == 7 {
			network.Cut()
		}
		for range 5 {
			guest := guests[random.IntN(len(guests))]
			if random.IntN(3) == 0 {
				guest.Leave()
			} else {
				guest.Join(fmt.Sprint("guest ", random.IntN(3)))
			}
			guest.Settle()
		}
		want := list.FindStringSubmatch(visitor.New(t, server).Get(visitor.PresencePage))
		require.NotNil(t, want)
		alice.Shows("Username Join " + want[1] + "Try:")
	}
}

func TestBrowser_NameJoinsExactlyAsTyped(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	tb := browser.New(t).Open(server + visitor.PresencePage)
	for _, name := range []string{"true", "007", "1e-7", "1e21", "Infinity", "null", "{{.OnlineCount}}", "Zoë ☕", "<img src=x onerror=alert(1)>", `" onfocus="alert(2)`} {
		tb.TypeInto("username", name)
		tb.Click("join")
		tb.Shows("Logged in as " + name + " ")
		assert.False(t, tb.Has("main img"), "a name is text")
		tb.Click("leave")
		tb.WaitUntil(`document.querySelector("[name=username]")`, "the join form")
	}
}

func TestBrowser_RefusedNameKeepsReasonAndTextThroughUpdates(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	person := browser.New(t)
	peer := visitor.New(t, server).Open(visitor.PresencePage)
	for name, submit := range map[string]func(*browser.Tab){
		"by the button": func(tb *browser.Tab) { tb.Click("join") },
		"by Enter":      func(tb *browser.Tab) { tb.Press(kb.Enter) },
	} {
		t.Run(name, func(t *testing.T) {
			alice := person.Open(server + visitor.PresencePage)
			alice.TypeInto("username", "   ")
			submit(alice)
			alice.Shows(visitor.NoName)
			for range 5 {
				peer.Join("Bob")
				alice.Shows("1 user(s) online")
				peer.Leave()
				alice.Shows("0 user(s) online")
			}
			alice.Shows(visitor.NoName)
			assert.Equal(t, "   ", alice.Eval(`document.querySelector("[name=username]").value`))

			alice.TypeInto("username", "Alice")
			submit(alice)
			alice.Shows("Logged in as Alice")
			alice.Click("leave")
			alice.Shows("0 user(s) online")
		})
	}
}

func TestBrowser_WithoutScriptsCounterCountsAndPresenceSaysWhyNot(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	live := browser.New(t).Open(server + visitor.CounterPage)
	plain := browser.New(t).OpenWithoutScripts(server + visitor.CounterPage)

	plain.Click("increment")
	plain.Shows("Counter: 1")
	live.Shows("Counter: 1")
	live.Click("increment")
	live.Shows("Counter: 2")
	plain.Click("increment")
	plain.Shows("Counter: 3")
	live.Shows("Counter: 3")

	plain.Navigate(server + visitor.PresencePage)
	plain.Shows(visitor.NotLive) // the noscript line
	plain.TypeInto("username", "Alice")
	plain.Click("join")
	plain.WaitUntil(`document.querySelector("[role=alert]").innerText === `+browser.Quote(visitor.NotLive), "the reason beside the field")
	assert.Equal(t, "Alice", plain.Eval(`document.querySelector("[name=username]").value`))
	plain.Shows("0 user(s) online")
}

func TestBrowser_LinksLeaveOneLiveSocketToThePageShown(t *testing.T) {
	t.Parallel()
	sockets := &visitor.SocketCount{}
	server := visitor.ServeBehind(t, sockets.Count)
	tb := browser.New(t).Open(server + "/")
	steps := []struct{ do, wantHeading, wantSocket string }{
		{`document.querySelector("main a[href='/realtime/multi-user-sync']").click()`, "Multi-User Refresh", visitor.CounterPage},
		{`document.querySelector("nav a[href='/realtime/presence']").click()`, "Presence Tracking", visitor.PresencePage},
		{`history.back()`, "Multi-User Refresh", visitor.CounterPage},
		{`history.forward()`, "Presence Tracking", visitor.PresencePage},
		{`document.querySelector("nav a[href='/realtime/multi-user-sync']").click()`, "Multi-User Refresh", visitor.CounterPage},
	}
	for _, step := range steps {
		tb.Eval(`void setTimeout(() => {` + step.do + `})`)
		tb.WaitUntil(`document.querySelector("h1").innerText === `+browser.Quote(step.wantHeading), step.wantHeading)
		sockets.WaitFor(t, map[string]int{step.wantSocket: 1})
	}
	tb.WaitUntil(`liveTemplateClient.isReady()`, "a live page")
	tb.Click("increment")
	tb.Shows("Counter: 1")

	tb.Eval(`void setTimeout(() => document.querySelector("nav a[href='/']").click())`)
	tb.Shows("Live pages")
	sockets.WaitFor(t, map[string]int{})
}

func TestBrowser_PageThatIsLeftClosesItsSocketAndReopensItOnReturn(t *testing.T) {
	t.Parallel()
	sockets := &visitor.SocketCount{}
	server := visitor.ServeBehind(t, sockets.Count)
	alice, bob := browser.NewWindowed(t).Open(server+visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	alice.Join("Alice")
	bob.Shows("1 user(s) online")

	alice.ExpectErrors("404")
	alice.Navigate(server + "/nowhere") // by its address: no script of the page sees it coming
	bob.Shows("0 user(s) online")
	sockets.WaitFor(t, map[string]int{visitor.PresencePage: 1})

	alice.Eval(`void setTimeout(() => history.back())`)
	bob.Shows("1 user(s) online")
	alice.Shows("Logged in as Alice")
	sockets.WaitFor(t, map[string]int{visitor.PresencePage: 2})
	bob.Join("Bob")
	alice.Shows("2 user(s) online")
}

func TestBrowser_UpdateNeverMovesFocus(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	tb := browser.New(t).Open(server + visitor.PresencePage)
	peer := visitor.New(t, server).Open(visitor.PresencePage)
	tb.Eval(`void (window.focused = [], document.addEventListener("focusin", e => focused.push(e.target.name || e.target.tagName)))`)
	update := func() {
		t.Helper()
		peer.Join("Bob")
		tb.Shows("1 user(s) online")
		peer.Leave()
		tb.Shows("0 user(s) online")
	}

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

func TestBrowser_FormsWorkBeforeTheSocketIsOpen(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	server := visitor.ServeBehind(t, visitor.AnswerUpgrades(func(http.ResponseWriter, *http.Request) {
		<-ended // no answer as long as the test runs
	}))
	t.Cleanup(func() { close(ended) }) // before the server is closed
	person := browser.New(t)

	tb := person.Load(server + visitor.CounterPage)
	tb.Shows("Connecting… Buttons work.")
	assert.False(t, tb.Has("button:disabled, fieldset:disabled"))
	tb.Click("increment")
	tb.Shows("Counter: 1")
	tb.Click("increment")
	tb.Shows("Counter: 2")

	tb.Navigate(server + visitor.PresencePage)
	assert.False(t, tb.Has("button:disabled, input:disabled, fieldset:disabled"))
	tb.TypeInto("username", "Alice")
	tb.Click("join")
	tb.Shows(visitor.NotLive)
	assert.Equal(t, "Alice", tb.Eval(`document.querySelector("[name=username]").value`))
}

func TestBrowser_TooManyClicksAreToldToSlowDown(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	tb, peer := browser.New(t).Open(server+visitor.CounterPage), visitor.New(t, server).Open(visitor.CounterPage)
	tb.Eval(`void (window.refused = 0, document.addEventListener("lvt:updated", (e) => e.detail.success || refused++, true))`)
	// So many that some are too fast even where a machine is busy and clicks slowly.
	tb.Eval(`void (() => { for (let i = 0; i < 1000; i++) document.querySelector("[name=increment]").click() })()`)
	tb.Shows("Slow down: that was too fast, and did not count.")
	tb.WaitUntil(`document.querySelector("article strong").innerText == 1000 - refused`, "every click to count, or not to")
	tb.WaitUntil(`document.querySelector("#notice").innerText === ""`, "the note to go away")
	counted := tb.Eval(`document.querySelector("article strong").innerText`)
	peer.Shows("Counter: " + counted + " Increment")
	tb.Click("increment")
	tb.WaitUntil(`document.querySelector("article strong").innerText == 1001 - refused`, "a click to count again")
}

func TestBrowser_PolicyStopsScriptsAndFramesThatAreNotOurs(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	tb := browser.New(t).Open(server + visitor.PresencePage)
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

func TestBrowser_MessageThatIsTooLongIsToldSo(t *testing.T) {
	t.Parallel()
	tb := browser.New(t).Open(visitor.Serve(t) + visitor.CounterPage)
	tb.Eval(`void (() => {
		const socket = new WebSocket(location.href.replace("http", "ws"));
		socket.onopen = () => socket.send("x".repeat(8 << 20));
		socket.onclose = (event) => { window.endedWith = event.code; };
	})()`)
	tb.WaitUntil(`window.endedWith`, "the socket to be closed")
	assert.Equal(t, "1009", tb.Eval(`endedWith`))
}
