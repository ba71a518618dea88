// Package browser drives real browsers with the methods of package visitor: Chromium,
// Firefox, and WebKit, the engine of Safari. The methods are written once, on top of a
// driver for each engine. It is a package of its own because its dependencies take long
// to compile, and most tests need no browser.
package browser

import (
	"context"
	"encoding/json"
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

// Others do what New does, for the other engines. Where an engine is not installed, the
// test is skipped; in CI it fails.
var Others = map[string]func(t testing.TB) *Browser{
	"Firefox": func(t testing.TB) *Browser { t.Helper(); return NewFirefox(t, nil) },
	"WebKit":  newWebKit,
}

// Browser is one person's browser, with its own cookies and storage.
type Browser struct {
	Kill func() // ends its processes, in Firefox and WebKit

	t         testing.TB
	open      func(tb *Tab, inNewWindow bool) (driver, error) // opens an empty tab
	hasWindow bool                                            // where the next tab opens
}

// driver controls one tab. A script is an expression whose value must fit in JSON.
type driver interface {
	navigate(url string) error // waits until the page is loaded
	reload() error             // waits until the page is loaded
	evaluate(script string) (any, error)
	inEveryPage(script string) error // runs a script at the start of each later page
	click(x, y float64) error
	press(keys string) error // \r is Enter
	show() error
	close()
}

// NeedFiles skips the test if npm's browser files are missing.
func NeedFiles(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(visitor.Root(), "static/vendor/pico.min.css")); err != nil {
		visitor.Missing(t, "the browser files are not fetched: run `make assets`")
	}
}

// Open opens a page in a new tab and waits until it is live.
func (b *Browser) Open(url string) *Tab {
	b.t.Helper()
	tb := b.Load(url)
	tb.WaitUntil(Live, "a live page")
	return tb
}

// OpenWithoutScripts opens a page in a new tab with scripts disabled.
func (b *Browser) OpenWithoutScripts(url string) *Tab {
	b.t.Helper()
	tb := b.Load("about:blank")
	tb.Run(emulation.SetScriptExecutionDisabled(true))
	tb.Navigate(url)
	return tb
}

// OpenWindow opens a page in a window of its own, where no other tab hides it.
func (b *Browser) OpenWindow(url string) *Tab {
	b.t.Helper()
	b.hasWindow = false
	return b.Open(url)
}

// Load opens a page in a new tab.
func (b *Browser) Load(url string) *Tab {
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
		assert.Empty(tb.t, slices.DeleteFunc(tb.errors, func(text string) bool {
			return slices.ContainsFunc(tb.expected, func(part string) bool { return strings.Contains(text, part) })
		}), "the console shows errors")
	})
	tb.Navigate(url)
	return tb
}

// Tab is a tab of a real browser. The test fails if its console shows an unexpected error,
// or if a dialog opens.
type Tab struct {
	Ctx   context.Context // of chromedp, in Chromium only
	Close func()          // closes the tab

	t      testing.TB
	driver driver

	mu       sync.Mutex
	errors   []string
	expected []string // parts of errors that the test causes
	loaded   int
}

func (tb *Tab) failed(text string) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.errors = append(tb.errors, text)
}

// ExpectErrors allows console errors that contain part.
func (tb *Tab) ExpectErrors(part string) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.expected = append(tb.expected, part)
}

// ExpectServerAway allows the errors with which each engine reports a server that is away
// or stopping.
func (tb *Tab) ExpectServerAway() {
	for _, part := range []string{"net::ERR_", "503", "WebSocket", "can’t establish a connection", "was interrupted while the page was loading"} {
		tb.ExpectErrors(part)
	}
}

// Loads returns how often the tab has loaded a page, in Chromium only.
func (tb *Tab) Loads() int {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.loaded
}

// Run runs chromedp actions, in Chromium only.
func (tb *Tab) Run(actions ...chromedp.Action) {
	tb.t.Helper()
	require.NoError(tb.t, tb.driver.(chromiumTab).run(actions...))
}

// Navigate loads another page, and waits until it is loaded.
func (tb *Tab) Navigate(url string) {
	tb.t.Helper()
	require.NoError(tb.t, tb.driver.navigate(url))
}

// Reload loads the page again.
func (tb *Tab) Reload() {
	tb.t.Helper()
	require.NoError(tb.t, tb.driver.reload())
}

// Hide puts another tab of b in front of this one until Show. In WebKit, where each window
// has one tab, it minimizes the window.
func (tb *Tab) Hide(b *Browser) {
	tb.t.Helper()
	if window, ok := tb.driver.(*webKitTab); ok {
		require.NoError(tb.t, window.minimize())
	} else {
		b.Load("about:blank").Show()
	}
	tb.WaitUntil(`document.hidden`, "a hidden tab")
}

// Show puts the tab in front.
func (tb *Tab) Show() {
	tb.t.Helper()
	require.NoError(tb.t, tb.driver.show())
}

// Click clicks a button with the mouse.
func (tb *Tab) Click(button string) {
	tb.t.Helper()
	var x, y float64
	_, err := fmt.Sscan(tb.Eval(`((element) => {
		element.scrollIntoView({block: "nearest"});
		const r = element.getBoundingClientRect();
		return (r.x + r.width / 2) + " " + (r.y + r.height / 2);
	})(`+tb.find(`button[name="`+button+`"]`)+`)`), &x, &y)
	require.NoError(tb.t, err)
	require.NoError(tb.t, tb.driver.click(x, y))
}

// find waits for an element, and returns a script that finds it.
func (tb *Tab) find(selector string) (script string) {
	tb.t.Helper()
	script = `document.querySelector(` + Quote(selector) + `)`
	tb.WaitUntil(script, selector)
	return script
}

// TypeInto replaces the text of a field, key by key.
func (tb *Tab) TypeInto(field, text string) {
	tb.t.Helper()
	tb.Eval(`((field) => { field.focus(); field.select(); })(` + tb.find(`[name="`+field+`"]`) + `)`)
	tb.Press(text)
}

// Press types into whatever has the focus.
func (tb *Tab) Press(keys string) {
	tb.t.Helper()
	require.NoError(tb.t, tb.driver.press(keys))
}

// Join joins with the form, and waits until the page says so.
func (tb *Tab) Join(name string) {
	tb.t.Helper()
	tb.TypeInto("username", name)
	tb.Click("join")
	tb.Shows("Logged in as " + name)
}

// Eval returns the value of a script, as text.
func (tb *Tab) Eval(script string) string {
	tb.t.Helper()
	value, err := tb.driver.evaluate(script)
	require.NoError(tb.t, err)
	if value == nil {
		return ""
	}
	return fmt.Sprint(value)
}

// Number returns the value of a script whose value is a number.
func (tb *Tab) Number(script string) (n float64) {
	tb.t.Helper()
	_, err := fmt.Sscan(tb.Eval(script), &n)
	require.NoError(tb.t, err, script)
	return n
}

// WaitUntil waits until a script is true. It polls, because a navigation would reject any
// promise that the page had returned.
func (tb *Tab) WaitUntil(script, name string) {
	tb.t.Helper()
	if !tb.Becomes(visitor.Soon, script) {
		require.FailNow(tb.t, "timeout", "want %s, the page reads:\n%s", name, tb.Text())
	}
}

// Becomes reports whether a script becomes true within a time.
func (tb *Tab) Becomes(timeout time.Duration, script string) bool {
	tb.t.Helper()
	deadline := time.Now().Add(timeout)
	for pause := 20 * time.Millisecond; time.Now().Before(deadline); pause = min(pause*3/2, 200*time.Millisecond) {
		if is, err := tb.driver.evaluate(`Boolean(` + script + `)`); err == nil && is == true {
			return true
		}
		time.Sleep(pause)
	}
	return false
}

// readable is the visible text of a page, without listings, which contain every text that
// the page may show.
const readable = `[...document.querySelectorAll("body > :not(main, .notices), .notices > :not(#announced), main > :not(.listing)")].filter((part) => part.checkVisibility()).map((part) => part.innerText).join("\n")`

// Shows waits until the visible text contains want.
func (tb *Tab) Shows(want string) {
	tb.t.Helper()
	tb.WaitUntil(`(`+readable+`.replace(/\s+/g, " ") + " ").includes(`+Quote(want)+`)`, fmt.Sprintf("%q", want))
}

// Text returns the visible text, without listings.
func (tb *Tab) Text() string { tb.t.Helper(); return tb.Eval(readable) }

// is reports whether a script is true now.
func (tb *Tab) is(script string) bool { tb.t.Helper(); return tb.Eval(`Boolean(`+script+`)`) == "true" }

// Has reports whether the page has an element.
func (tb *Tab) Has(selector string) bool {
	tb.t.Helper()
	return tb.is(`document.querySelector(` + Quote(selector) + `)`)
}

// InEveryPage runs a script in this page, and before all others in pages that the tab
// loads later. WebKit's protocol lacks this: there it runs with the first evaluation.
func (tb *Tab) InEveryPage(script string) {
	tb.t.Helper()
	script = "(() => {" + say + script + "\n})()"
	tb.Eval("void " + script)
	require.NoError(tb.t, tb.driver.inEveryPage(script))
}

// say is a script that records a text, in the name of the window, which survives
// navigation.
const say = `window.say ??= (text, id) => {
	top.name = JSON.stringify([...JSON.parse(top.name || "[]"), {id, text: String(text)}]);
};
`

// Watch records the texts of the lines "connection" and "notice" at the foot of the page,
// in this page and in those that the tab loads later.
func (tb *Tab) Watch() {
	tb.t.Helper()
	tb.InEveryPage(`
		const last = {connection: "", notice: ""};
		const look = () => {
			for (const id in last) {
				const text = document.getElementById(id)?.textContent ?? "";
				if (text !== last[id]) say(last[id] = text, id);
			}
		};
		new MutationObserver(look).observe(document, {subtree: true, childList: true, characterData: true});
		look();`)
}

// Said returns the texts that the line with an id has had since Watch.
func (tb *Tab) Said(id string) (texts []string) {
	var said []struct{ ID, Text string }
	recorded, _ := tb.driver.evaluate(`top.name`)
	json.Unmarshal([]byte(fmt.Sprint(recorded)), &said) // empty before the first text
	for _, s := range said {
		if s.ID == id {
			texts = append(texts, s.Text)
		}
	}
	return texts
}

// CountConnects counts the sockets that the page opens from now on, in its variable
// connects.
func (tb *Tab) CountConnects() {
	tb.t.Helper()
	tb.Eval(`void (window.connects = 0, document.addEventListener("lvt:connected", () => connects++, true))`)
}

// FormIsShown is a script that is true while the form to join is on the screen.
const FormIsShown = `document.querySelector("[name=join]")?.checkVisibility()`

// ShowsForm reports whether the form to join is on the screen.
func (tb *Tab) ShowsForm() bool { tb.t.Helper(); return tb.is(FormIsShown) }

// ToggleWire opens or closes the wire panel, and waits until it shows frames, or no longer does.
func (tb *Tab) ToggleWire(open bool) {
	tb.t.Helper()
	tb.Eval(`document.querySelector("#wire summary").click()`)
	tb.WaitUntil(fmt.Sprintf(`document.querySelector("#wire section").hidden !== %t`, open), "the panel to open, or close")
}

// Live is a script that is true on a page that has its socket, or needs none.
const Live = `!document.querySelector("[data-lvt-id]") || window.liveTemplateClient?.isReady() && !liveTemplateClient.useHTTP`

// Up is a script that is true on a page that has its socket and shows that it is live.
const Up = Live + ` && document.documentElement.dataset.connection === "up"`

// ComesOnline is a script that tells the page that the network is back, as browsers do.
const ComesOnline = `void dispatchEvent(new Event("online"))`

// Quote returns a text as a JavaScript literal.
func Quote(text string) string { return fmt.Sprintf("%q", text) }
