// Package browser drives real browsers, in the words of package visitor: Chromium,
// Firefox, and WebKit, which is the engine of Safari. The words are written once, on
// what a driver does for each. It is a package of its own because its tools take long
// to compile, and most tests need none.
package browser

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// Engine is a kind of browser.
type Engine struct {
	Name string
	New  func(t testing.TB) *Browser // returns a browser as the function NewWindowed does
}

// The engines. A test that needs one which is missing is skipped, and fails in CI.
var (
	Chromium = Engine{"Chromium", NewWindowed}
	Firefox  = Engine{"Firefox", newFirefox}
	WebKit   = Engine{"WebKit", newWebKit}
)

// Engines lists every engine.
func Engines() []Engine { return []Engine{Chromium, Firefox, WebKit} }

// Browser is what one person has: windows, and cookies and storage of their own.
type Browser struct {
	Ctx context.Context // of chromedp, in Chromium alone

	t         testing.TB
	open      func(tb *Tab, inNewWindow bool) (driver, error) // opens an empty tab
	hasWindow bool                                            // where the next tab opens
}

// driver does to one tab what a person does, and runs scripts in it. A script is an
// expression, and only values of JSON come back.
type driver interface {
	navigate(ctx context.Context, url string) error // until the page is loaded
	reload(ctx context.Context) error               // until the page is loaded
	evaluate(ctx context.Context, script string) (any, error)
	click(ctx context.Context, x, y float64) error
	press(ctx context.Context, keys string) error // keys as chromedp/kb names them
	hide(ctx context.Context, b *Browser) error
	toFront(ctx context.Context) error
	close()

	// inEveryPage runs a script in this page, and at the start of those that come. The
	// script may call say, a function that gives a text to Tab.heard.
	inEveryPage(ctx context.Context, script string) error
}

// End ends the browsers that tests have shared. It is for TestMain.
func End() {
	windowless.end()
	windowed.end()
	endFirefox()
	endScreen()
}

// NeedFiles skips a test where the files that pages load are missing.
func NeedFiles(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(visitor.Root(), "static/vendor/pico.min.css")); err != nil {
		visitor.Missing(t, "the browser files are not fetched: run `make assets`")
	}
}

// Live is a script that is true on a page that has its socket, or needs none.
const Live = `!document.querySelector("[data-lvt-id]") || window.liveTemplateClient?.isReady() && !liveTemplateClient.useHTTP`

// Open opens a page in a new tab and waits until it is live.
func (b *Browser) Open(url string) *Tab {
	b.t.Helper()
	tb := b.Load(url)
	tb.WaitUntil(Live, "a live page")
	return tb
}

// OpenWithoutScripts opens a page in a new tab that runs no scripts.
func (b *Browser) OpenWithoutScripts(url string) *Tab {
	b.t.Helper()
	tb := b.newTab()
	tb.Run(emulation.SetScriptExecutionDisabled(true))
	tb.Navigate(url)
	return tb
}

// Load opens a page in a new tab.
func (b *Browser) Load(url string) *Tab {
	b.t.Helper()
	tb := b.newTab()
	tb.Navigate(url)
	return tb
}

// OpenWindow opens a page in a window of its own, where no other tab hides it.
func (b *Browser) OpenWindow(url string) *Tab {
	b.t.Helper()
	b.hasWindow = false
	return b.Open(url)
}

// LoadWindow is OpenWindow without waiting until the page is live.
func (b *Browser) LoadWindow(url string) *Tab {
	b.t.Helper()
	b.hasWindow = false
	return b.Load(url)
}

func (b *Browser) newTab() *Tab {
	b.t.Helper()
	tb := &Tab{t: b.t}
	d, err := b.open(tb, !b.hasWindow)
	require.NoError(b.t, err, "open a tab")
	b.hasWindow = true
	tb.driver, tb.Close = d, sync.OnceFunc(d.close)
	b.t.Cleanup(func() {
		tb.Close()
		tb.mu.Lock()
		defer tb.mu.Unlock()
		assert.Empty(tb.t, tb.errors, "the console shows errors")
	})
	return tb
}

// Tab is a tab of a real browser. The test fails if its console shows an error that
// was not expected, or if a dialog opens.
type Tab struct {
	Ctx   context.Context // of chromedp, in Chromium alone
	Close func()          // closes the tab

	t      testing.TB
	driver driver

	mu       sync.Mutex
	errors   []string
	expected []string // texts of errors that the test brings about
	loaded   int
	said     []Said
}

// Said is what the foot of a page has said about its connection, and since when.
type Said struct {
	Text string
	At   time.Time
}

func (tb *Tab) failed(text string) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if !slices.ContainsFunc(tb.expected, func(part string) bool { return strings.Contains(text, part) }) {
		tb.errors = append(tb.errors, text)
	}
}

// ExpectErrors allows console errors that contain part.
func (tb *Tab) ExpectErrors(part string) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.expected = append(tb.expected, part)
	tb.errors = slices.DeleteFunc(tb.errors, func(text string) bool { return strings.Contains(text, part) })
}

// Loads returns how often the tab has loaded a page.
func (tb *Tab) Loads() int {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.loaded
}

func (tb *Tab) hasLoaded() {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.loaded++
}

func (tb *Tab) heard(text string, at time.Time) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.said = append(tb.said, Said{text, at})
}

// Run runs actions of chromedp, in Chromium alone.
func (tb *Tab) Run(actions ...chromedp.Action) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.Ctx, visitor.Soon)
	defer cancel()
	require.NoError(tb.t, chromedp.Run(ctx, actions...))
}

// drive has the driver do something.
func (tb *Tab) drive(do func(ctx context.Context) error) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), visitor.Soon)
	defer cancel()
	require.NoError(tb.t, do(ctx))
}

// Navigate loads another page, and waits until it is loaded.
func (tb *Tab) Navigate(url string) {
	tb.t.Helper()
	tb.drive(func(ctx context.Context) error { return tb.driver.navigate(ctx, url) })
}

// Click clicks a button with the mouse.
func (tb *Tab) Click(button string) {
	tb.t.Helper()
	query := `button[name="` + button + `"]`
	tb.WaitUntil(`document.querySelector(`+Quote(query)+`)`, "the button "+button)
	tb.clickOn(`document.querySelector(` + Quote(query) + `)`)
}

// Follow clicks a link with the mouse.
func (tb *Tab) Follow(href string) {
	tb.t.Helper()
	query := `a[href="` + href + `"]`
	tb.WaitUntil(`document.querySelector(`+Quote(query)+`)`, "the link to "+href)
	tb.clickOn(`document.querySelector(` + Quote(query) + `)`)
}

func (tb *Tab) clickOn(element string) {
	tb.t.Helper()
	var x, y float64
	_, err := fmt.Sscan(tb.Eval(`(() => {
		const element = `+element+`;
		element.scrollIntoView({block: "nearest"});
		const r = element.getBoundingClientRect();
		return (r.x + r.width / 2) + " " + (r.y + r.height / 2);
	})()`), &x, &y)
	require.NoError(tb.t, err)
	tb.drive(func(ctx context.Context) error { return tb.driver.click(ctx, x, y) })
}

// TypeInto replaces the text of a field, key by key.
func (tb *Tab) TypeInto(field, text string) {
	tb.t.Helper()
	query := `[name="` + field + `"]`
	tb.WaitUntil(`document.querySelector(`+Quote(query)+`)`, "the field "+field)
	tb.Eval(`(() => { const f = document.querySelector(` + Quote(query) + `); f.focus(); f.select(); })()`)
	tb.Press(text)
}

// Join joins by the form, and waits until that is done.
func (tb *Tab) Join(name string) {
	tb.t.Helper()
	tb.TypeInto("username", name)
	tb.Click("join")
	tb.Shows("Logged in as " + name)
}

// Press types into whatever has the focus.
func (tb *Tab) Press(keys string) {
	tb.t.Helper()
	tb.drive(func(ctx context.Context) error { return tb.driver.press(ctx, keys) })
}

// Eval returns the value of a script, as text.
func (tb *Tab) Eval(script string) string {
	tb.t.Helper()
	value := tb.value(script)
	if value == nil {
		return ""
	}
	return fmt.Sprint(value)
}

// Number returns the value of a script that is a number.
func (tb *Tab) Number(script string) float64 {
	tb.t.Helper()
	value := tb.value(script)
	n, isNumber := value.(float64)
	require.True(tb.t, isNumber, "%s is %v, which is no number", script, value)
	return n
}

func (tb *Tab) value(script string) (value any) {
	tb.t.Helper()
	tb.drive(func(ctx context.Context) (err error) {
		value, err = tb.driver.evaluate(ctx, script)
		return err
	})
	return value
}

// WaitUntil waits until a script is true. It asks again and again, because a
// navigation in between ends every promise that the page could have given.
func (tb *Tab) WaitUntil(script, name string) {
	tb.t.Helper()
	tb.WaitUntilWithin(visitor.Soon, script, name)
}

// WaitUntilWithin is WaitUntil with another limit.
func (tb *Tab) WaitUntilWithin(timeout time.Duration, script, name string) {
	tb.t.Helper()
	if !tb.Becomes(timeout, script) {
		require.FailNow(tb.t, "timeout", "want %s, the page reads:\n%s", name, tb.Text())
	}
}

// Becomes reports whether a script becomes true within a time.
func (tb *Tab) Becomes(timeout time.Duration, script string) bool {
	tb.t.Helper()
	deadline := time.Now().Add(timeout)
	for pause := 20 * time.Millisecond; time.Now().Before(deadline); pause = min(pause*3/2, 200*time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), visitor.Soon)
		is, err := tb.driver.evaluate(ctx, `Boolean(`+script+`)`)
		cancel()
		if err == nil && is == true {
			return true
		}
		time.Sleep(pause) // before the browser is asked again: only asking tells
	}
	return false
}

// readable is the text of a page without listings, which hold all words that the page
// may say.
const readable = `[...document.querySelectorAll("body > :not(main), main > :not(.listing)")].filter((part) => part.checkVisibility()).map((part) => part.innerText).join("\n")`

// Shows waits until the person reads want.
func (tb *Tab) Shows(want string) {
	tb.t.Helper()
	tb.WaitUntil(`(`+readable+`.replace(/\s+/g, " ") + " ").includes(`+Quote(want)+`)`, fmt.Sprintf("%q", want))
}

// Reload loads the page again.
func (tb *Tab) Reload() {
	tb.t.Helper()
	tb.drive(tb.driver.reload)
}

// Hide puts another tab of b in front of this one, or minimizes the window, until Show.
func (tb *Tab) Hide(b *Browser) {
	tb.t.Helper()
	tb.drive(func(ctx context.Context) error { return tb.driver.hide(ctx, b) })
	tb.WaitUntil(`document.hidden`, "a hidden tab")
}

// Show puts the tab in front.
func (tb *Tab) Show() {
	tb.t.Helper()
	tb.drive(tb.driver.toFront)
}

// WatchStatus records what the foot of the page says about its connection, in
// this page and in those that the tab loads later.
func (tb *Tab) WatchStatus() {
	tb.t.Helper()
	tb.watch("connection")
}

// WatchFoot records all that the foot of the page says: about its connection, and about
// what the person did.
func (tb *Tab) WatchFoot() {
	tb.t.Helper()
	tb.watch("connection", "notice")
}

func (tb *Tab) watch(ids ...string) {
	tb.t.Helper()
	tb.InEveryPage(`(() => {
		const last = {};
		const look = () => {
			for (const id of ` + Quote(strings.Join(ids, " ")) + `.split(" ")) {
				const text = document.getElementById(id)?.textContent ?? "";
				if (text !== (last[id] ?? "")) say(last[id] = text);
			}
		};
		new MutationObserver(look).observe(document, {subtree: true, childList: true, characterData: true});
		look();
	})()`)
}

// Heard returns what WatchStatus has recorded so far.
func (tb *Tab) Heard() []Said {
	ctx, cancel := context.WithTimeout(context.Background(), visitor.Soon)
	defer cancel()
	tb.driver.evaluate(ctx, "0") // brings what WebKit has noted; in vain once the tab is closed
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return slices.Clone(tb.said)
}

// InEveryPage runs a script in this page, and before all others in pages that the tab
// loads later. In WebKit, whose protocol has nothing of the kind, it runs there when
// the tab is first asked something.
func (tb *Tab) InEveryPage(script string) {
	tb.t.Helper()
	tb.drive(func(ctx context.Context) error { return tb.driver.inEveryPage(ctx, script) })
}

// CountConnects counts the sockets that the page opens from now on, in its variable
// connects.
func (tb *Tab) CountConnects() {
	tb.t.Helper()
	tb.Eval(`void (window.connects = 0, document.addEventListener("lvt:connected", () => connects++, true))`)
}

const formIsShown = `Boolean(document.querySelector("[name=join]")?.checkVisibility())`

// ShowsForm reports whether the form to join is on the screen.
func (tb *Tab) ShowsForm() bool {
	tb.t.Helper()
	return tb.Eval(formIsShown) == "true"
}

// WatchForm looks for the form to join at every frame the browser draws, in
// this page and in those that the tab loads later.
func (tb *Tab) WatchForm() {
	tb.t.Helper()
	tb.InEveryPage(`(() => {
		const look = () => {
			if (` + formIsShown + `) window.sawForm = true;
			requestAnimationFrame(look);
		};
		look();
	})()`)
}

// SawForm reports whether WatchForm has found the form in the page shown now.
func (tb *Tab) SawForm() bool {
	tb.t.Helper()
	return tb.Eval(`window.sawForm === true`) == "true"
}

// Text returns what the person reads, without listings.
func (tb *Tab) Text() string {
	tb.t.Helper()
	return tb.Eval(readable)
}

// Has reports whether the page has an element.
func (tb *Tab) Has(selector string) bool {
	tb.t.Helper()
	return tb.Eval(`Boolean(document.querySelector(`+Quote(selector)+`))`) == "true"
}

// Quote returns a text as a literal of JavaScript.
func Quote(text string) string { return fmt.Sprintf("%q", text) }

// WatchNotices records what the foot of the page says about what the person did, in
// this page and in those that the tab loads later.
func (tb *Tab) WatchNotices() {
	tb.InEveryPage(`(() => {
		let last = "";
		new MutationObserver(() => {
			const text = document.getElementById("notice")?.textContent ?? "";
			if (text !== last) sessionStorage.setItem("notices", (sessionStorage.getItem("notices") ?? "") + text);
			last = text;
		}).observe(document, {subtree: true, childList: true, characterData: true});
	})()`)
}

// Notices returns what WatchNotices has recorded, also in pages that were left.
func (tb *Tab) Notices() string { return tb.Eval(`sessionStorage.getItem("notices") ?? ""`) }

// ComesOnline tells the page that the network is back, as the browser does.
const ComesOnline = `void dispatchEvent(new Event("online"))`

// ReloadUnnoticed reloads Alice's tab, where Bob is online as well. It joins again
// without showing the form, and a peer notices nothing.
func ReloadUnnoticed(t *testing.T, alice *Tab, peer *visitor.Tab, times int) {
	t.Helper()
	peer.Settle()
	peer.StartHistory()
	for range times {
		alice.Reload()
		alice.Shows("2 user(s) online Logged in as Alice Leave Alice (you) Bob Try:")
		assert.False(t, alice.SawForm(), "while it joins again")
	}
	peer.NoChange(visitor.Grace)
}

// ExpectServerAway lets the console tell of a server that is away, or stopping, in the
// words of each engine.
func (tb *Tab) ExpectServerAway() {
	for _, part := range []string{"net::ERR_", "503", "WebSocket", "can’t establish a connection", "was interrupted while the page was loading"} {
		tb.ExpectErrors(part)
	}
}

// ToggleWire opens or closes the panel, and waits until that is done.
func (tb *Tab) ToggleWire(open bool) {
	tb.Eval(`document.querySelector("#wire summary").click()`)
	tb.WaitUntil(fmt.Sprintf(`document.querySelector("#wire").open === %t && !document.querySelector("#wire [hidden]")`, open), "the panel")
	tb.WaitUntil(fmt.Sprintf(`[...openSockets].every((socket) => Object.hasOwn(socket, "send") === %t)`, open), "the panel to record, or not")
}

// Main is for TestMain: visitor.Main, and the end of the browsers that tests have shared.
func Main(m *testing.M) {
	code := visitor.Main(m)
	End()
	os.Exit(code)
}
