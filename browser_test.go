package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestBrowser_CounterTicksInEveryTabOfEveryBrowser(t *testing.T) {
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

func TestBrowser_NameJoinsExactlyAsTyped(t *testing.T) {
	server := newServer(t)
	tb := newBrowser(t).open(server + presencePage)
	for _, name := range []string{"true", "007", "1e-7", "1e21", "Infinity", "null", "Zoë ☕", "<img src=x onerror=alert(1)>", `" onfocus="alert(2)`} {
		tb.typeInto("username", name)
		tb.click("join")
		tb.shows("Logged in as " + name + " ")
		assert.False(t, tb.has("main img"), "a name is text")
		tb.click("leave")
		tb.waitUntil(`document.querySelector("[name=username]")`, "the join form")
	}
}

func TestBrowser_RefusedNameKeepsReasonAndTextThroughUpdates(t *testing.T) {
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
	sockets := &socketCount{open: map[string]int{}}
	server := newServerBehind(t, sockets.count)
	alice := newBrowser(t).open(server + presencePage)
	alice.typeInto("username", "Alice")
	alice.click("join")
	bob := newVisitor(t, server).open(presencePage)
	bob.shows("1 user(s) online")

	alice.navigate(server + "/") // by its address: no script of the page sees it coming
	bob.shows("0 user(s) online")
	sockets.waitFor(t, map[string]int{presencePage: 1})

	alice.eval(`void setTimeout(() => history.back())`)
	alice.shows("0 user(s) online")
	sockets.waitFor(t, map[string]int{presencePage: 2})
	bob.join("Bob")
	alice.shows("1 user(s) online")
}

func TestBrowser_TypedTextAndCaretSurviveUpdates(t *testing.T) {
	server := newServer(t)
	tb := newBrowser(t).open(server + presencePage)
	peer := newVisitor(t, server).open(presencePage)
	const field = `(() => { const f = document.querySelector("[name=username]"); return [f.value, f.selectionStart, f.selectionEnd, document.activeElement === f].join() })()`

	tb.typeInto("username", "half a na")
	tb.eval(`document.querySelector("[name=username]").setSelectionRange(2, 5)`)
	for range 20 {
		peer.join("Bob")
		tb.shows("1 user(s) online")
		peer.leave()
		tb.shows("0 user(s) online")
		require.Equal(t, "half a na,2,5,true", tb.eval(field))
	}
}

func TestBrowser_UpdateNeverMovesFocus(t *testing.T) {
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

func TestBrowser_WithoutSocketsPagesWorkAndBackShowsThePage(t *testing.T) {
	server := newServerBehind(t, answerUpgrades(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no WebSockets here", http.StatusForbidden)
	}))
	// Back from the HTTP cache: a page kept whole in memory would come back whole.
	tb := newBrowser(t, chromedp.Flag("disable-features", "BackForwardCache")).load(server + counterPage)
	tb.expectErrors("WebSocket")
	const withoutSocket = `window.liveTemplateClient?.useHTTP`
	tb.waitUntil(withoutSocket, "the client to do without a socket")
	tb.navigate(server + presencePage)
	tb.waitUntil(withoutSocket, "the client to do without a socket")
	tb.eval(`void setTimeout(() => history.back())`)
	tb.waitUntil(`document.querySelector("h1")?.innerText === "Multi-User Refresh"`, "the page itself, not its data")

	tb.waitUntil(withoutSocket, "the client to do without a socket")
	assert.False(t, tb.has("button:disabled, fieldset:disabled"))
	tb.click("increment")
	tb.shows("Counter: 1")
	tb.navigate(server + presencePage)
	tb.waitUntil(withoutSocket, "the client to do without a socket")
	tb.typeInto("username", "Alice")
	tb.click("join")
	tb.shows(notLive)
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

// browser is one Chromium process with a profile of its own.
type browser struct {
	t   *testing.T
	ctx context.Context
}

func newBrowser(t *testing.T, flags ...chromedp.ExecAllocatorOption) *browser {
	t.Helper()
	needAssets(t)
	opts := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(chromium(t)),
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
	)
	if os.Geteuid() == 0 {
		opts = append(opts, chromedp.NoSandbox) // root has no sandbox
	}
	opts = append(opts, flags...)
	alloc, cancel := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Run(ctx), "start Chromium")
	return &browser{t, ctx}
}

// chromium is the path of the browser; without one the test is skipped.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	skipOrFail(t, "no Chromium: `make test` installs it as root on Debian, or put one on the PATH")
	return ""
}

// open opens a page in a new tab and waits until it is live.
func (b *browser) open(url string) *browserTab {
	b.t.Helper()
	tb := b.load(url)
	tb.waitUntil(`!document.querySelector("[data-lvt-id]") || window.liveTemplateClient?.isReady() && !liveTemplateClient.useHTTP`, "a live page")
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

func (b *browser) newTab() *browserTab {
	b.t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx)
	tb := &browserTab{t: b.t, ctx: ctx, close: cancel}
	b.t.Cleanup(func() {
		cancel()
		tb.mu.Lock()
		defer tb.mu.Unlock()
		assert.Empty(tb.t, tb.errors, "the console shows errors")
	})
	chromedp.ListenTarget(ctx, tb.listen)
	require.NoError(b.t, chromedp.Run(ctx), "open a tab") // the context of this first run is the tab's own
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

// waitUntil waits until a script is true. It asks again and again, because a
// navigation in between ends every promise that the page could have given.
func (tb *browserTab) waitUntil(script, name string) {
	tb.t.Helper()
	deadline := time.Now().Add(soon)
	for time.Now().Before(deadline) {
		var ok bool
		ctx, cancel := context.WithTimeout(tb.ctx, soon)
		err := chromedp.Run(ctx, chromedp.Evaluate(`Boolean(`+script+`)`, &ok))
		cancel()
		if err == nil && ok {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	require.FailNow(tb.t, "timeout", "want %s, the page reads:\n%s", name, tb.text())
}

// shows waits until the person reads want.
func (tb *browserTab) shows(want string) {
	tb.t.Helper()
	tb.waitUntil(`(document.body.innerText.replace(/\s+/g, " ") + " ").includes(`+quote(want)+`)`, fmt.Sprintf("%q", want))
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
