// Package browser drives a real Chromium, in the words of package visitor. It is a
// package of its own because its tools take long to compile, and most tests need
// none.
package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// Browser is what one person has: windows, cookies and storage of their own, in the
// Chromium process that all tests share.
type Browser struct {
	Ctx context.Context // of chromedp

	t         testing.TB
	hasWindow bool // where the next tab opens
}

// New returns a browser with a profile of its own. Without Chromium, or the files
// that pages load, the test is skipped, and fails in CI.
func New(t testing.TB) *Browser {
	t.Helper()
	process := sharedChromium(t)
	onProcess := cdp.WithExecutor(process, chromedp.FromContext(process).Browser)
	profile, err := target.CreateBrowserContext().Do(onProcess)
	require.NoError(t, err, "a profile")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(onProcess, visitor.Soon)
		defer cancel()
		assert.NoError(t, target.DisposeBrowserContext(profile).Do(ctx), "close the browser")
	})
	ctx, cancel := chromedp.NewContext(process, chromedp.WithExistingBrowserContext(profile))
	t.Cleanup(cancel)
	return &Browser{t: t, Ctx: ctx}
}

// NewProcess returns a browser in a Chromium process of its own, for a test that
// kills it or needs other flags.
func NewProcess(t testing.TB, flags ...chromedp.ExecAllocatorOption) *Browser {
	t.Helper()
	ctx, stop, err := startChromium(chromium(t), flags...)
	t.Cleanup(stop)
	require.NoError(t, err, "start Chromium")
	return &Browser{t: t, Ctx: ctx}
}

// shared is the Chromium process of all tests. The first test that needs it starts
// it, and End ends it.
var shared struct {
	once sync.Once
	ctx  context.Context
	stop func()
	err  error
}

func sharedChromium(t testing.TB) context.Context {
	t.Helper()
	path := chromium(t)
	shared.once.Do(func() { shared.ctx, shared.stop, shared.err = startChromium(path) })
	require.NoError(t, shared.err, "start Chromium")
	return shared.ctx
}

// End ends the Chromium process that tests have shared. It is for TestMain.
func End() {
	if shared.stop == nil {
		return
	}
	ctx, cancel := context.WithTimeout(shared.ctx, visitor.Soon)
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

// NeedFiles skips a test where the files that pages load are missing.
func NeedFiles(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(visitor.Root(), "static/vendor/pico.min.css")); err != nil {
		visitor.Missing(t, "the browser files are not fetched: run `make assets`")
	}
}

// chromium returns the path of the browser. Without one, or without the files that
// it loads, the test is skipped.
func chromium(t testing.TB) string {
	t.Helper()
	NeedFiles(t)
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	visitor.Missing(t, "no Chromium: `make test` installs it as root on Debian, or put one on the PATH")
	return ""
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

func (b *Browser) newTab() *Tab {
	b.t.Helper()
	c := chromedp.FromContext(b.Ctx)
	id, err := target.CreateTarget("about:blank").WithBrowserContextID(c.BrowserContextID).WithNewWindow(!b.hasWindow).Do(cdp.WithExecutor(b.Ctx, c.Browser))
	require.NoError(b.t, err, "open a tab")
	b.hasWindow = true
	ctx, cancel := chromedp.NewContext(b.Ctx, chromedp.WithTargetID(id))
	tb := &Tab{t: b.t, Ctx: ctx, Close: cancel}
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

// Tab is a tab of a real browser. The test fails if its console shows an error that
// was not expected, or if a dialog opens.
type Tab struct {
	Ctx   context.Context // of chromedp
	Close func()          // closes the tab

	t testing.TB

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

func (tb *Tab) listen(event any) {
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
		go chromedp.Run(tb.Ctx, page.HandleJavaScriptDialog(false))
	case *page.EventLoadEventFired:
		tb.mu.Lock()
		defer tb.mu.Unlock()
		tb.loaded++
	case *runtime.EventBindingCalled:
		tb.mu.Lock()
		defer tb.mu.Unlock()
		tb.said = append(tb.said, Said{e.Payload, time.Now()})
	}
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

// Run runs actions of chromedp.
func (tb *Tab) Run(actions ...chromedp.Action) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.Ctx, visitor.Soon)
	defer cancel()
	require.NoError(tb.t, chromedp.Run(ctx, actions...))
}

// Navigate loads another page, and waits until it is loaded.
func (tb *Tab) Navigate(url string) {
	tb.t.Helper()
	tb.Run(chromedp.Navigate(url))
}

// Click clicks a button with the mouse.
func (tb *Tab) Click(button string) {
	tb.t.Helper()
	query := `button[name="` + button + `"]`
	tb.WaitUntil(`document.querySelector(`+Quote(query)+`)`, "the button "+button)
	var at struct{ X, Y float64 }
	tb.Run(chromedp.Evaluate(`(() => {
		const button = document.querySelector(`+Quote(query)+`);
		button.scrollIntoView({block: "nearest"});
		const r = button.getBoundingClientRect();
		return {x: r.x + r.width / 2, y: r.y + r.height / 2};
	})()`, &at))
	tb.Run(chromedp.MouseClickXY(at.X, at.Y))
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
	tb.Run(chromedp.KeyEvent(keys))
}

// Eval returns the value of a script, as text.
func (tb *Tab) Eval(script string) string {
	tb.t.Helper()
	var value any
	tb.Run(chromedp.Evaluate(script, &value))
	if value == nil {
		return ""
	}
	return fmt.Sprint(value)
}

// Number returns the value of a script that is a number.
func (tb *Tab) Number(script string) (n float64) {
	tb.t.Helper()
	tb.Run(chromedp.Evaluate(script, &n))
	return n
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
		var ok bool
		ctx, cancel := context.WithTimeout(tb.Ctx, visitor.Soon)
		err := chromedp.Run(ctx, chromedp.Evaluate(`Boolean(`+script+`)`, &ok))
		cancel()
		if err == nil && ok {
			return true
		}
		time.Sleep(pause) // before the browser is asked again: only asking tells
	}
	return false
}

// Shows waits until the person reads want.
func (tb *Tab) Shows(want string) {
	tb.t.Helper()
	tb.WaitUntil(`(document.body.innerText.replace(/\s+/g, " ") + " ").includes(`+Quote(want)+`)`, fmt.Sprintf("%q", want))
}

// Reload loads the page again.
func (tb *Tab) Reload() {
	tb.t.Helper()
	tb.Run(chromedp.Reload())
}

// Hide puts another tab in front of this one, until Show.
func (tb *Tab) Hide(b *Browser) {
	tb.t.Helper()
	b.Load("about:blank").Run(page.BringToFront())
	tb.WaitUntil(`document.hidden`, "a hidden tab")
}

// Show puts the tab in front.
func (tb *Tab) Show() {
	tb.t.Helper()
	tb.Run(page.BringToFront())
}

// WatchStatus records what the foot of the page says about its connection, in
// this page and in those that the tab loads later.
func (tb *Tab) WatchStatus() {
	tb.t.Helper()
	tb.InEveryPage(`(() => {
		let last = "";
		new MutationObserver(() => {
			const text = document.getElementById("connection")?.textContent ?? "";
			if (text !== last) say(last = text);
		}).observe(document, {subtree: true, childList: true, characterData: true});
	})()`, runtime.AddBinding("say"))
}

// Heard returns what WatchStatus has recorded so far.
func (tb *Tab) Heard() []Said {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return slices.Clone(tb.said)
}

// InEveryPage runs a script in this page, and before all others in pages that the tab
// loads later. The actions in before run first.
func (tb *Tab) InEveryPage(script string, before ...chromedp.Action) {
	tb.t.Helper()
	tb.Run(append(before, chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := page.AddScriptToEvaluateOnNewDocument(script).Do(ctx)
		return err
	}), chromedp.Evaluate(script, nil))...)
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

// Text returns what the person reads.
func (tb *Tab) Text() string {
	tb.t.Helper()
	return tb.Eval(`document.body.innerText`)
}

// Has reports whether the page has an element.
func (tb *Tab) Has(selector string) bool {
	tb.t.Helper()
	return tb.Eval(`Boolean(document.querySelector(`+Quote(selector)+`))`) == "true"
}

// Quote returns a text as a literal of JavaScript.
func Quote(text string) string { return fmt.Sprintf("%q", text) }

// LoadedFiles adds up what a tab loads over the network.
type LoadedFiles struct {
	mu    sync.Mutex
	urls  map[network.RequestID]string
	bytes int
	files []string
}

// Listen notes an event of chromedp.
func (l *LoadedFiles) Listen(event any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch e := event.(type) {
	case *network.EventResponseReceived:
		if l.urls == nil {
			l.urls = map[network.RequestID]string{}
		}
		if !e.Response.FromDiskCache {
			l.urls[e.RequestID] = e.Response.URL
		}
	case *network.EventRequestServedFromCache:
		delete(l.urls, e.RequestID)
	case *network.EventLoadingFinished:
		if url, found := l.urls[e.RequestID]; found && e.EncodedDataLength > 0 {
			l.bytes += int(e.EncodedDataLength)
			l.files = append(l.files, url)
		}
	}
}

// Sum returns what was loaded since the last Sum.
func (l *LoadedFiles) Sum() (bytes int, files []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	bytes, files = l.bytes, l.files
	l.bytes, l.files = 0, nil
	return bytes, files
}
