package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/testenv"
)

func TestBrowser_CounterTicksInEveryTabOfEveryBrowser(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	alice, bob := newBrowser(t), newBrowser(t)
	tab1, tab2, other := alice.open(server+counterPage), alice.open(server+counterPage), bob.open(server+counterPage)
	tabs := []*browserTab{tab1, tab2, other}

	tab1.click("increment")
	for _, tb := range tabs {
		tb.shows("Counter: 1")
	}
	other.click("increment")
	for _, tb := range tabs {
		tb.shows("Counter: 2")
	}
	for _, tb := range tabs {
		assert.Equal(t, 1, tb.loads(), "the page was loaded once: all of this came without reload")
	}
	alice.openWithoutScripts(server + counterPage).shows("Counter: 2")
}

func TestBrowser_PresenceCountsEverywhereAndNamesStayApart(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	alice, bob := newBrowser(t).open(server+presencePage), newBrowser(t).open(server+presencePage)

	alice.typeInto("username", "Alice")
	alice.click("join")
	alice.shows("Logged in as Alice")
	bob.shows("1 user(s) online")
	bob.typeInto("username", "Bob")
	bob.press(kb.Enter)
	bob.shows("Logged in as Bob")
	for _, tb := range []*browserTab{alice, bob} {
		tb.shows("2 user(s) online")
	}
	assert.False(t, strings.Contains(alice.text(), "Logged in as Bob") || alice.has(`[value="Bob"]`))
	assert.False(t, strings.Contains(bob.text(), "Logged in as Alice") || bob.has(`[value="Alice"]`))
	newBrowser(t).openWithoutScripts(server + presencePage).shows("2 user(s) online")

	bob.click("leave")
	alice.shows("1 user(s) online")
	bob.shows("1 user(s) online")
	assert.False(t, bob.has(`button[name="leave"]`))
	assert.True(t, bob.has(`button[name="join"]`))
	bob.typeInto("username", "Bob")
	bob.click("join")
	alice.shows("2 user(s) online")
	bob.close()
	alice.shows("1 user(s) online")
}

func TestBrowser_TabsOfOneBrowserShareAUserNotTheirNames(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	browser := newBrowser(t)
	peer := newVisitor(t, server).open(presencePage)
	first := browser.open(server + presencePage)
	first.join("Alice")
	second := browser.open(server + presencePage)
	second.shows("1 user(s) online")
	assert.True(t, second.showsForm(), "a new tab has not joined")

	second.join("Alice")
	for _, tb := range []*browserTab{first, second} {
		tb.shows("1 user(s) online")
		tb.shows("Alice (you) in 2 tabs")
	}
	peer.shows("Alice in 2 tabs")

	first.click("leave")
	first.shows("Username")
	second.shows("1 user(s) online Logged in as Alice Leave Alice (you) Try:")
	first.reload()
	first.waitUntil(live, "a live page")
	assert.True(t, first.showsForm(), "who left does not join again")

	newBrowser(t).open(server + presencePage).join("Alice")
	peer.shows("2 user(s) online")
	second.close()
	peer.shows("1 user(s) online")
}

func TestBrowser_LeaveForgetsTheNameThoughAnUpdateComesFirst(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	alice, peer := newBrowser(t).open(server+presencePage), newVisitor(t, server).open(presencePage)
	alice.join("Alice")
	alice.eval(`void (window.held = [], liveTemplateClient.send = (message) => held.push(message))`)
	alice.click("leave") // on its way
	alice.waitUntil(`held.length === 1`, "the message")
	peer.join("Bob")
	alice.shows("2 user(s) online Logged in as Alice")
	alice.eval(`void (delete liveTemplateClient.send, liveTemplateClient.send(held[0]))`)
	alice.shows("1 user(s) online Username")
	assert.True(t, alice.showsForm())

	alice.reload()
	alice.waitUntil(live, "a live page")
	alice.shows("1 user(s) online")
	assert.True(t, alice.showsForm())

	alice.join("Alice")
	alice.click("leave")
	alice.shows("1 user(s) online Username")
	alice.join("Alicia")
	alice.reload()
	alice.shows("2 user(s) online Logged in as Alicia")
}

func TestBrowser_RememberedNameThatIsRefusedIsForgotten(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	alice := newBrowser(t).open(server + presencePage)
	alice.join("Alice")
	alice.eval(`sessionStorage.setItem("presence-name", "A".repeat(41))`)
	alice.reload()
	alice.shows(longName)
	assert.True(t, alice.showsForm())
	alice.join("Alice")
	alice.reload()
	alice.shows("1 user(s) online Logged in as Alice")
}

func TestBrowser_ReloadIsNoticedByNobody(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	alice, peer := newBrowser(t).open(server+presencePage), newVisitor(t, server).open(presencePage)
	alice.watchForm()
	alice.reload()
	alice.waitUntil(live, "a live page")
	assert.True(t, alice.sawForm(), "before the tab joins")

	alice.join("Alice")
	peer.join("Bob")
	alice.shows("2 user(s) online")
	peer.settle()
	peer.startHistory()
	for range 10 {
		alice.reload()
		alice.shows("2 user(s) online Logged in as Alice Leave Alice (you) Bob Try:")
		assert.False(t, alice.sawForm(), "while it joins again")
	}
	peer.noChange()

	alice.close()
	peer.shows("1 user(s) online")
}

func TestBrowser_BrokenSocketComesBackJoined(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	network := newNetwork(t, server)
	alice, peer := newBrowser(t).open(network.url+presencePage), newVisitor(t, server).open(presencePage)
	alice.join("Alice")
	alice.watchForm()
	peer.shows("1 user(s) online")
	peer.startHistory()
	alice.countConnects()
	for cut := range 3 {
		network.cut()
		alice.waitUntil(fmt.Sprintf(`connects > %d`, cut), "a new socket")
		alice.shows("1 user(s) online Logged in as Alice Leave Alice (you) Try:")
		peer.settle()
	}
	peer.noChange()
	assert.False(t, alice.sawForm(), "while it joined again")
	assert.Equal(t, 1, alice.loads())
	peer.join("Bob")
	alice.shows("2 user(s) online")
	alice.click("leave")
	alice.shows("1 user(s) online Username Join Bob")
}

func TestBrowser_RestartedServerGetsEverybodyBack(t *testing.T) {
	t.Parallel()
	exe := build(t)
	server := start(t, exe)
	names := []string{"Alice", "Alice too", "Bob"}
	first, second := newBrowser(t), newBrowser(t)
	tabs := []*browserTab{first.open(server.url + presencePage), first.open(server.url + presencePage), second.open(server.url + presencePage)}
	for i, tb := range tabs {
		tb.join(names[i])
		tb.expectErrors("net::ERR_") // what the browser says about a server that is away
		tb.watchForm()
	}
	for range 2 {
		assert.Equal(t, 0, server.stop(t, syscall.SIGTERM))
		tabs[0].waitUntil(`!window.liveTemplateClient.isReady()`, "the tab to lose its socket")
		server = start(t, exe, "-addr", strings.TrimPrefix(server.url, "http://"))
		newVisitor(t, server.url).open(presencePage).shows("3 user(s) online")
		for i, tb := range tabs {
			tb.shows("3 user(s) online Logged in as " + names[i] + " Leave " + names[i] + " (you) ")
			assert.False(t, tb.sawForm(), "while it joins again")
			assert.Equal(t, 1, tb.loads(), "without reload")
		}
	}
}

func TestBrowser_KilledBrowserLeavesWithAllItsTabs(t *testing.T) {
	server := newServer(t)
	browser, peer := newProcess(t), newVisitor(t, server).open(presencePage)
	for i := range 5 {
		browser.open(server + presencePage).join(fmt.Sprint("tab ", i))
	}
	peer.shows("5 user(s) online")

	killed := time.Now()
	require.NoError(t, chromedp.FromContext(browser.ctx).Browser.Process().Kill())
	peer.shows("0 user(s) online")
	assert.Less(t, time.Since(killed), 3*time.Second)
}

func TestBrowser_ListNamesEveryoneUpToALimit(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	browser := newBrowser(t)
	alice := browser.open(server + presencePage)
	var guests []*tab
	for i := range 24 {
		guest := newVisitor(t, server).open(presencePage)
		guest.join(fmt.Sprintf("guest %d", i))
		guest.shows("Logged in as")
		guests = append(guests, guest)
	}
	alice.shows("24 user(s) online Username Join guest 0 guest 1 ")
	alice.shows("guest 19 and 4 more Try:")
	alice.join("Alice")
	alice.shows("25 user(s) online Logged in as Alice Leave Alice (you) guest 0 ")
	alice.shows("guest 18 and 5 more")
	assert.Equal(t, "20", alice.eval(`document.querySelectorAll("article li").length`))
	browser.open(server + presencePage).join("Alice")
	alice.shows("Alice (you) in 2 tabs")
	alice.waitUntil(`document.title.startsWith("(25) Presence Tracking")`, "the count in the title")

	for _, guest := range guests[3:] {
		guest.leave()
	}
	alice.shows("4 user(s) online Logged in as Alice Leave Alice (you) in 2 tabs guest 0 guest 1 guest 2 Try:")
	alice.waitUntil(`document.title.startsWith("(4) Presence Tracking")`, "the count in the title")
	alice.eval(`void setTimeout(() => document.querySelector("nav a[href='/realtime/multi-user-sync']").click())`)
	alice.waitUntil(`document.title.startsWith("Multi-User Refresh")`, "the title of the page")
}

// Many changes to the list, of every kind, and breaks must leave the browser with what a
// new page shows.
func TestBrowser_ListIsRightAfterManyChanges(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	network := newNetwork(t, server)
	alice := newBrowser(t).open(network.url + presencePage)
	var guests []*tab
	for range 8 {
		guest := newVisitor(t, server)
		guests = append(guests, guest.open(presencePage), guest.open(presencePage), guest.open(presencePage))
	}
	random := rand.New(rand.NewPCG(1, 2))
	list := regexp.MustCompile(`Username Join (.*)Joining needs`)
	for round := range 40 {
		if round%4 == 3 {
			network.cut()
		}
		for range 5 {
			guest := guests[random.IntN(len(guests))]
			if random.IntN(3) == 0 {
				guest.leave()
			} else {
				guest.join(fmt.Sprint("guest ", random.IntN(3)))
			}
			guest.settle()
		}
		want := list.FindStringSubmatch(newVisitor(t, server).get(presencePage))
		require.NotNil(t, want)
		alice.shows("Username Join " + want[1] + "Try:")
	}
}

func TestBrowser_NameJoinsExactlyAsTyped(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	tb := newBrowser(t).open(server + presencePage)
	for _, name := range []string{"true", "007", "1e-7", "1e21", "Infinity", "null", "{{.OnlineCount}}", "Zoë ☕", "<img src=x onerror=alert(1)>", `" onfocus="alert(2)`} {
		tb.typeInto("username", name)
		tb.click("join")
		tb.shows("Logged in as " + name + " ")
		assert.False(t, tb.has("main img"), "a name is text")
		tb.click("leave")
		tb.waitUntil(`document.querySelector("[name=username]")`, "the join form")
	}
}

func TestBrowser_RefusedNameKeepsReasonAndTextThroughUpdates(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	browser := newBrowser(t)
	peer := newVisitor(t, server).open(presencePage)
	for name, submit := range map[string]func(*browserTab){
		"by the button": func(tb *browserTab) { tb.click("join") },
		"by Enter":      func(tb *browserTab) { tb.press(kb.Enter) },
	} {
		t.Run(name, func(t *testing.T) {
			alice := browser.open(server + presencePage)
			alice.typeInto("username", "   ")
			submit(alice)
			alice.shows(noName)
			for range 5 {
				peer.join("Bob")
				alice.shows("1 user(s) online")
				peer.leave()
				alice.shows("0 user(s) online")
			}
			alice.shows(noName)
			assert.Equal(t, "   ", alice.eval(`document.querySelector("[name=username]").value`))

			alice.typeInto("username", "Alice")
			submit(alice)
			alice.shows("Logged in as Alice")
			alice.click("leave")
			alice.shows("0 user(s) online")
		})
	}
}

func TestBrowser_WithoutScriptsCounterCountsAndPresenceSaysWhyNot(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	live := newBrowser(t).open(server + counterPage)
	plain := newBrowser(t).openWithoutScripts(server + counterPage)

	plain.click("increment")
	plain.shows("Counter: 1")
	live.shows("Counter: 1")
	live.click("increment")
	live.shows("Counter: 2")
	plain.click("increment")
	plain.shows("Counter: 3")
	live.shows("Counter: 3")

	plain.navigate(server + presencePage)
	plain.shows(notLive) // the noscript line
	plain.typeInto("username", "Alice")
	plain.click("join")
	plain.waitUntil(`document.querySelector("[role=alert]").innerText === `+quote(notLive), "the reason beside the field")
	assert.Equal(t, "Alice", plain.eval(`document.querySelector("[name=username]").value`))
	plain.shows("0 user(s) online")
}

func TestBrowser_LinksLeaveOneLiveSocketToThePageShown(t *testing.T) {
	t.Parallel()
	sockets := &socketCount{open: map[string]int{}}
	server := newServerBehind(t, sockets.count)
	tb := newBrowser(t).open(server + "/")
	steps := []struct{ do, wantHeading, wantSocket string }{
		{`document.querySelector("main a[href='/realtime/multi-user-sync']").click()`, "Multi-User Refresh", counterPage},
		{`document.querySelector("nav a[href='/realtime/presence']").click()`, "Presence Tracking", presencePage},
		{`history.back()`, "Multi-User Refresh", counterPage},
		{`history.forward()`, "Presence Tracking", presencePage},
		{`document.querySelector("nav a[href='/realtime/multi-user-sync']").click()`, "Multi-User Refresh", counterPage},
	}
	for _, step := range steps {
		tb.eval(`void setTimeout(() => {` + step.do + `})`)
		tb.waitUntil(`document.querySelector("h1").innerText === `+quote(step.wantHeading), step.wantHeading)
		sockets.waitFor(t, map[string]int{step.wantSocket: 1})
	}
	tb.waitUntil(`liveTemplateClient.isReady()`, "a live page")
	tb.click("increment")
	tb.shows("Counter: 1")

	tb.eval(`void setTimeout(() => document.querySelector("nav a[href='/']").click())`)
	tb.shows("Live pages")
	sockets.waitFor(t, map[string]int{})
}

func TestBrowser_PageThatIsLeftClosesItsSocketAndReopensItOnReturn(t *testing.T) {
	t.Parallel()
	sockets := &socketCount{open: map[string]int{}}
	server := newServerBehind(t, sockets.count)
	alice, bob := newBrowser(t).open(server+presencePage), newVisitor(t, server).open(presencePage)
	alice.join("Alice")
	bob.shows("1 user(s) online")

	alice.navigate(server + "/") // by its address: no script of the page sees it coming
	bob.shows("0 user(s) online")
	sockets.waitFor(t, map[string]int{presencePage: 1})

	alice.eval(`void setTimeout(() => history.back())`)
	bob.shows("1 user(s) online")
	alice.shows("Logged in as Alice")
	sockets.waitFor(t, map[string]int{presencePage: 2})
	bob.join("Bob")
	alice.shows("2 user(s) online")
}

func TestBrowser_UpdateNeverMovesFocus(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	tb := newBrowser(t).open(server + presencePage)
	peer := newVisitor(t, server).open(presencePage)
	tb.eval(`void (window.focused = [], document.addEventListener("focusin", e => focused.push(e.target.name || e.target.tagName)))`)
	update := func() {
		t.Helper()
		peer.join("Bob")
		tb.shows("1 user(s) online")
		peer.leave()
		tb.shows("0 user(s) online")
	}

	tb.typeInto("username", "Al")
	tb.press(kb.Tab)
	update()
	assert.Equal(t, "username,join", tb.eval(`focused.join()`), "Tab went on to the button")
	assert.Equal(t, "join", tb.eval(`document.activeElement.name`), "and the focus stays there")
	tb.press(kb.Enter)
	tb.shows("Logged in as Al")
	tb.click("leave")
	tb.shows("0 user(s) online")

	tb.typeInto("username", "Bo")
	tb.eval(`document.querySelector("nav a").focus()`)
	update()
	assert.Equal(t, "A", tb.eval(`document.activeElement.tagName`), "a link keeps the focus")
	tb.eval(`document.querySelector("[name=username]").focus()`)
	tb.eval(`document.activeElement.blur()`)
	update()
	assert.Equal(t, "BODY", tb.eval(`document.activeElement.tagName`), "nothing has the focus after a click beside everything")
}

func TestBrowser_FormsWorkBeforeTheSocketIsOpen(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	server := newServerBehind(t, answerUpgrades(func(http.ResponseWriter, *http.Request) {
		<-ended // no answer as long as the test runs
	}))
	t.Cleanup(func() { close(ended) }) // before the server's own clean-up
	browser := newBrowser(t)

	tb := browser.load(server + counterPage)
	assert.False(t, tb.has("button:disabled, fieldset:disabled"))
	tb.click("increment")
	tb.shows("Counter: 1")
	tb.click("increment")
	tb.shows("Counter: 2")

	tb.navigate(server + presencePage)
	assert.False(t, tb.has("button:disabled, input:disabled, fieldset:disabled"))
	tb.typeInto("username", "Alice")
	tb.click("join")
	tb.shows(notLive)
	assert.Equal(t, "Alice", tb.eval(`document.querySelector("[name=username]").value`))
}

func TestBrowser_TooManyClicksAreToldToSlowDown(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	tb, peer := newBrowser(t).open(server+counterPage), newVisitor(t, server).open(counterPage)
	tb.eval(`void (window.refused = 0, document.addEventListener("lvt:updated", (e) => e.detail.success || refused++, true))`)
	tb.eval(`void (() => { for (let i = 0; i < 300; i++) document.querySelector("[name=increment]").click() })()`)
	tb.shows("Slow down: that was too fast, and did not count.")
	tb.waitUntil(`document.querySelector("article strong").innerText == 300 - refused`, "every click to count, or not to")
	tb.waitUntil(`document.querySelector("#notice").innerText === ""`, "the note to go away")
	counted := tb.eval(`document.querySelector("article strong").innerText`)
	peer.shows("Counter: " + counted + " Increment")
	tb.click("increment")
	tb.waitUntil(`document.querySelector("article strong").innerText == 301 - refused`, "a click to count again")
}

// refuseUpgrade answers as a proxy that knows no WebSockets.
func refuseUpgrade(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "no WebSockets here", http.StatusForbidden)
}

// answerUpgrades is a proxy that answers WebSocket handshakes in the app's place.
func answerUpgrades(answer http.HandlerFunc) func(http.Handler) http.Handler {
	return func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if livetemplate.WSIsUpgrade(r) {
				answer(w, r)
				return
			}
			app.ServeHTTP(w, r)
		})
	}
}

// socketCount counts the open sockets of each page.
type socketCount struct {
	mu   sync.Mutex
	open map[string]int
}

func (c *socketCount) count(app http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if livetemplate.WSIsUpgrade(r) {
			c.add(r.URL.Path, 1)
			defer c.add(r.URL.Path, -1)
		}
		app.ServeHTTP(w, r)
	})
}

func (c *socketCount) add(path string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[path] += n
	if c.open[path] == 0 {
		delete(c.open, path)
	}
}

func (c *socketCount) waitFor(t *testing.T, want map[string]int) {
	t.Helper()
	assert.EventuallyWithT(t, func(check *assert.CollectT) {
		c.mu.Lock()
		defer c.mu.Unlock()
		assert.Equal(check, want, c.open, "open sockets")
	}, soon, 10*time.Millisecond)
}

// browser is what one person has: windows, cookies and storage of their own, in the
// Chromium process that all tests share.
type browser struct {
	t         *testing.T
	ctx       context.Context
	hasWindow bool // where the next tab opens
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	process := sharedChromium(t)
	onProcess := cdp.WithExecutor(process, chromedp.FromContext(process).Browser)
	profile, err := target.CreateBrowserContext().Do(onProcess)
	require.NoError(t, err, "a profile")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(onProcess, soon)
		defer cancel()
		assert.NoError(t, target.DisposeBrowserContext(profile).Do(ctx), "close the browser")
	})
	ctx, cancel := chromedp.NewContext(process, chromedp.WithExistingBrowserContext(profile))
	t.Cleanup(cancel)
	return &browser{t: t, ctx: ctx}
}

// newProcess is a browser in a Chromium process of its own, for a test that kills it
// or needs other flags.
func newProcess(t *testing.T, flags ...chromedp.ExecAllocatorOption) *browser {
	t.Helper()
	ctx, stop, err := startChromium(chromium(t), flags...)
	t.Cleanup(stop)
	require.NoError(t, err, "start Chromium")
	return &browser{t: t, ctx: ctx}
}

// shared is the Chromium process of all tests. The first that needs it starts it,
// and TestMain ends it.
var shared struct {
	once sync.Once
	ctx  context.Context
	stop func()
	err  error
}

func sharedChromium(t *testing.T) context.Context {
	t.Helper()
	path := chromium(t)
	shared.once.Do(func() { shared.ctx, shared.stop, shared.err = startChromium(path) })
	require.NoError(t, shared.err, "start Chromium")
	return shared.ctx
}

func endSharedChromium() {
	if shared.stop == nil {
		return
	}
	ctx, cancel := context.WithTimeout(shared.ctx, soon)
	defer cancel()
	chromedp.Cancel(ctx) // it ends by itself: a killed one still writes, and may leave its files behind
	shared.stop()
}

func startChromium(path string, flags ...chromedp.ExecAllocatorOption) (ctx context.Context, stop func(), err error) {
	opts := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(path),
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("process-per-site", true), // starting a process costs more than most tests
	)
	if os.Geteuid() == 0 {
		opts = append(opts, chromedp.NoSandbox) // root has no sandbox
	}
	opts = append(opts, flags...)
	alloc, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, _ = chromedp.NewContext(alloc)
	return ctx, stop, chromedp.Run(ctx)
}

// chromium is the path of the browser; without one, or the files it is to load, the
// test is skipped.
func chromium(t *testing.T) string {
	t.Helper()
	needAssets(t)
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	testenv.Missing(t, "no Chromium: `make test` installs it as root on Debian, or put one on the PATH")
	return ""
}

// live is true of a page that has its socket, or needs none.
const live = `!document.querySelector("[data-lvt-id]") || window.liveTemplateClient?.isReady() && !liveTemplateClient.useHTTP`

// open opens a page in a new tab and waits until it is live.
func (b *browser) open(url string) *browserTab {
	b.t.Helper()
	tb := b.load(url)
	tb.waitUntil(live, "a live page")
	return tb
}

// openWithoutScripts opens a page in a new tab that runs no scripts.
func (b *browser) openWithoutScripts(url string) *browserTab {
	b.t.Helper()
	tb := b.newTab()
	tb.run(emulation.SetScriptExecutionDisabled(true))
	tb.navigate(url)
	return tb
}

// load opens a page in a new tab.
func (b *browser) load(url string) *browserTab {
	b.t.Helper()
	tb := b.newTab()
	tb.navigate(url)
	return tb
}

// openWindow opens a page in a window of its own, where no other tab hides it.
func (b *browser) openWindow(url string) *browserTab {
	b.t.Helper()
	b.hasWindow = false
	return b.open(url)
}

func (b *browser) newTab() *browserTab {
	b.t.Helper()
	c := chromedp.FromContext(b.ctx)
	id, err := target.CreateTarget("about:blank").WithBrowserContextID(c.BrowserContextID).WithNewWindow(!b.hasWindow).Do(cdp.WithExecutor(b.ctx, c.Browser))
	require.NoError(b.t, err, "open a tab")
	b.hasWindow = true
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithTargetID(id))
	tb := &browserTab{t: b.t, ctx: ctx, close: cancel}
	b.t.Cleanup(func() {
		cancel()
		tb.mu.Lock()
		defer tb.mu.Unlock()
		assert.Empty(tb.t, tb.errors, "the console shows errors")
	})
	chromedp.ListenTarget(ctx, tb.listen)
	require.NoError(b.t, chromedp.Run(ctx), "attach to the tab") // the context of this first run is the tab's own
	return tb
}

// browserTab is a tab of a real browser. A test fails if its console shows an
// error, or a dialog opens.
type browserTab struct {
	t     *testing.T
	ctx   context.Context
	close func()

	mu       sync.Mutex
	errors   []string
	expected []string // texts of errors that the test brings about
	loaded   int
	said     []said
}

// said is what the foot of a page says about its connection, from then on.
type said struct {
	text string
	at   time.Time
}

func (tb *browserTab) listen(event any) {
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		tb.failed(e.ExceptionDetails.Error())
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.APITypeError {
			text := "console.error:"
			for _, arg := range e.Args {
				text += fmt.Sprintf(" %s%s", arg.Value, arg.Description)
			}
			tb.failed(text)
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.LevelError {
			tb.failed(e.Entry.Text + " " + e.Entry.URL)
		}
	case *page.EventJavascriptDialogOpening:
		tb.failed("a dialog opened: " + e.Message)
		go chromedp.Run(tb.ctx, page.HandleJavaScriptDialog(false))
	case *page.EventLoadEventFired:
		tb.mu.Lock()
		defer tb.mu.Unlock()
		tb.loaded++
	case *runtime.EventBindingCalled:
		tb.mu.Lock()
		defer tb.mu.Unlock()
		tb.said = append(tb.said, said{text: e.Payload, at: time.Now()})
	}
}

func (tb *browserTab) failed(text string) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if !slices.ContainsFunc(tb.expected, func(part string) bool { return strings.Contains(text, part) }) {
		tb.errors = append(tb.errors, text)
	}
}

// expectErrors allows console errors that contain part.
func (tb *browserTab) expectErrors(part string) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.expected = append(tb.expected, part)
	tb.errors = slices.DeleteFunc(tb.errors, func(text string) bool { return strings.Contains(text, part) })
}

// loads is how often the tab has loaded a page.
func (tb *browserTab) loads() int {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.loaded
}

func (tb *browserTab) run(actions ...chromedp.Action) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, soon)
	defer cancel()
	require.NoError(tb.t, chromedp.Run(ctx, actions...))
}

func (tb *browserTab) navigate(url string) {
	tb.t.Helper()
	tb.run(chromedp.Navigate(url))
}

// click clicks a button with the mouse.
func (tb *browserTab) click(button string) {
	tb.t.Helper()
	query := `button[name="` + button + `"]`
	tb.waitUntil(`document.querySelector(`+quote(query)+`)`, "the button "+button)
	var at struct{ X, Y float64 }
	tb.run(chromedp.Evaluate(`(() => {
		const button = document.querySelector(`+quote(query)+`);
		button.scrollIntoView({block: "nearest"});
		const r = button.getBoundingClientRect();
		return {x: r.x + r.width / 2, y: r.y + r.height / 2};
	})()`, &at))
	tb.run(chromedp.MouseClickXY(at.X, at.Y))
}

// typeInto replaces the text of a field, key by key.
func (tb *browserTab) typeInto(field, text string) {
	tb.t.Helper()
	query := `[name="` + field + `"]`
	tb.waitUntil(`document.querySelector(`+quote(query)+`)`, "the field "+field)
	tb.eval(`(() => { const f = document.querySelector(` + quote(query) + `); f.focus(); f.select(); })()`)
	tb.press(text)
}

// join joins by the form.
func (tb *browserTab) join(name string) {
	tb.t.Helper()
	tb.typeInto("username", name)
	tb.click("join")
	tb.shows("Logged in as " + name)
}

// press types into whatever has the focus.
func (tb *browserTab) press(keys string) {
	tb.t.Helper()
	tb.run(chromedp.KeyEvent(keys))
}

// eval is the value of a script, as text.
func (tb *browserTab) eval(script string) string {
	tb.t.Helper()
	var value any
	tb.run(chromedp.Evaluate(script, &value))
	if value == nil {
		return ""
	}
	return fmt.Sprint(value)
}

// number is the value of a script that is a number.
func (tb *browserTab) number(script string) (n float64) {
	tb.t.Helper()
	tb.run(chromedp.Evaluate(script, &n))
	return n
}

// waitUntil waits until a script is true. It asks again and again, because a
// navigation in between ends every promise that the page could have given.
func (tb *browserTab) waitUntil(script, name string) {
	tb.t.Helper()
	tb.waitUntilWithin(soon, script, name)
}

func (tb *browserTab) waitUntilWithin(timeout time.Duration, script, name string) {
	tb.t.Helper()
	deadline := time.Now().Add(timeout)
	for time.Now().Before(deadline) {
		var ok bool
		ctx, cancel := context.WithTimeout(tb.ctx, soon)
		err := chromedp.Run(ctx, chromedp.Evaluate(`Boolean(`+script+`)`, &ok))
		cancel()
		if err == nil && ok {
			return
		}
		time.Sleep(50 * time.Millisecond) // before the browser is asked again: only asking tells
	}
	require.FailNow(tb.t, "timeout", "want %s, the page reads:\n%s", name, tb.text())
}

// shows waits until the person reads want.
func (tb *browserTab) shows(want string) {
	tb.t.Helper()
	tb.waitUntil(`(document.body.innerText.replace(/\s+/g, " ") + " ").includes(`+quote(want)+`)`, fmt.Sprintf("%q", want))
}

// reload loads the page again.
func (tb *browserTab) reload() {
	tb.t.Helper()
	tb.run(chromedp.Reload())
}

// hide puts another tab before this one, until show.
func (tb *browserTab) hide(b *browser) {
	tb.t.Helper()
	b.load("about:blank").run(page.BringToFront())
	tb.waitUntil(`document.hidden`, "a hidden tab")
}

func (tb *browserTab) show() {
	tb.t.Helper()
	tb.run(page.BringToFront())
}

// watchStatus records what the foot of the page says about its connection, in
// this page and in those that the tab loads later.
func (tb *browserTab) watchStatus() {
	tb.t.Helper()
	tb.inEveryPage(`(() => {
		let last = "";
		new MutationObserver(() => {
			const text = document.getElementById("connection")?.textContent ?? "";
			if (text !== last) say(last = text);
		}).observe(document, {subtree: true, childList: true, characterData: true});
	})()`, runtime.AddBinding("say"))
}

// heard is what watchStatus has recorded so far.
func (tb *browserTab) heard() []said {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return slices.Clone(tb.said)
}

// inEveryPage runs a script in this page, and first thing in those that the tab
// loads later. Other actions come before it.
func (tb *browserTab) inEveryPage(script string, before ...chromedp.Action) {
	tb.t.Helper()
	tb.run(append(before, chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := page.AddScriptToEvaluateOnNewDocument(script).Do(ctx)
		return err
	}), chromedp.Evaluate(script, nil))...)
}

// countConnects counts, in the page's connects, the sockets it opens from now on.
func (tb *browserTab) countConnects() {
	tb.t.Helper()
	tb.eval(`void (window.connects = 0, document.addEventListener("lvt:connected", () => connects++, true))`)
}

const formIsShown = `Boolean(document.querySelector("[name=join]")?.checkVisibility())`

// showsForm reports whether the form to join is on the screen.
func (tb *browserTab) showsForm() bool {
	tb.t.Helper()
	return tb.eval(formIsShown) == "true"
}

// watchForm looks for the form to join at every frame the browser draws, in
// this page and in those that the tab loads later.
func (tb *browserTab) watchForm() {
	tb.t.Helper()
	tb.inEveryPage(`(() => {
		const look = () => {
			if (` + formIsShown + `) window.sawForm = true;
			requestAnimationFrame(look);
		};
		look();
	})()`)
}

// sawForm reports whether watchForm has found the form in the page shown now.
func (tb *browserTab) sawForm() bool {
	tb.t.Helper()
	return tb.eval(`window.sawForm === true`) == "true"
}

// text is what the person reads.
func (tb *browserTab) text() string {
	tb.t.Helper()
	return tb.eval(`document.body.innerText`)
}

func (tb *browserTab) has(selector string) bool {
	tb.t.Helper()
	return tb.eval(`Boolean(document.querySelector(`+quote(selector)+`))`) == "true"
}

func quote(text string) string { return fmt.Sprintf("%q", text) }
