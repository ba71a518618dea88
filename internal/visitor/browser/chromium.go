package browser

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// The shared process of each kind of Chromium.
var windowless, windowed shared[context.Context]

// chromium are the commands that start Chromium with windows.
var chromium = []string{"chromium", "chromium-browser", "google-chrome"}

// New returns a Chromium with a profile of its own, in a shared process. It prefers the
// headless shell, which costs half as much but has no windows: every tab is visible, and the
// Back button reloads its page. Without Chromium or npm's browser files, the test is
// skipped; in CI it fails.
func New(t testing.TB) *Browser {
	t.Helper()
	return withProfile(t, &windowless, "make test", append([]string{"chromium-headless-shell", "chrome-headless-shell"}, chromium...)...)
}

// NewWindowed is New with windows: a tab hides the others of its window, and there is a
// back/forward cache.
func NewWindowed(t testing.TB) *Browser {
	t.Helper()
	return withProfile(t, &windowed, "make test-all", chromium...)
}

func withProfile(t testing.TB, kind *shared[context.Context], makeTarget string, commands ...string) *Browser {
	t.Helper()
	path := find(t, makeTarget, commands...)
	process := kind.get(t, func() (context.Context, func(), error) { return startChromium(path) })
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
	return &Browser{t: t, open: func(tb *Tab, inNewWindow bool) (driver, error) {
		id, err := target.CreateTarget("about:blank").WithBrowserContextID(profile).WithNewWindow(inNewWindow).Do(onProcess)
		if err != nil {
			return nil, err
		}
		d := chromiumTab{}
		d.ctx, d.cancel = chromedp.NewContext(ctx, chromedp.WithTargetID(id))
		tb.Ctx = d.ctx
		chromedp.ListenTarget(d.ctx, tb.listenToChromium)
		return d, chromedp.Run(d.ctx) // the context of this first run is the tab's own
	}}
}

// windowFurniture are features of Chromium's windows that cost more than the page and are
// not used here.
const windowFurniture = "PreloadTopChromeWebUI,WebUIOmniboxPopup,SidePanelPreload"

func startChromium(path string) (ctx context.Context, stop func(), err error) {
	opts := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(path),
		chromedp.WSURLReadTimeout(visitor.StartTimeout),
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("process-per-site", true), // starting a process costs more than most tests
		chromedp.Flag("disable-features", "site-per-process,Translate,"+windowFurniture),
	)
	if os.Geteuid() == 0 {
		opts = append(opts, chromedp.NoSandbox) // root has no sandbox
	}
	for name, value := range visitor.ChromiumFlags() {
		opts = append(opts, chromedp.Flag(name, value))
	}
	alloc, kill := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, _ = chromedp.NewContext(alloc)
	stop = func() {
		defer kill()
		ending, cancel := context.WithTimeout(ctx, visitor.Soon)
		defer cancel()
		chromedp.Cancel(ending) // gracefully: a killed Chromium may leave files behind
	}
	if err = chromedp.Run(ctx); err != nil {
		kill()
	}
	return ctx, stop, err
}

func (tb *Tab) listenToChromium(event any) {
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
	}
}

// chromiumTab drives a tab of Chromium.
type chromiumTab struct {
	ctx    context.Context
	cancel func()
}

func (d chromiumTab) run(actions ...chromedp.Action) error {
	ctx, cancel := context.WithTimeout(d.ctx, visitor.Soon)
	defer cancel()
	return chromedp.Run(ctx, actions...)
}

func (d chromiumTab) navigate(url string) error { return d.run(chromedp.Navigate(url)) }

func (d chromiumTab) reload() error { return d.run(chromedp.Reload()) }

func (d chromiumTab) evaluate(script string) (value any, err error) {
	err = d.run(chromedp.Evaluate(script, &value))
	return value, err
}

func (d chromiumTab) click(x, y float64) error { return d.run(chromedp.MouseClickXY(x, y)) }

func (d chromiumTab) press(keys string) error { return d.run(chromedp.KeyEvent(keys)) }

func (d chromiumTab) inEveryPage(script string) error {
	return d.run(chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := page.AddScriptToEvaluateOnNewDocument(script).Do(ctx)
		return err
	}))
}

func (d chromiumTab) show() error { return d.run(page.BringToFront()) }

func (d chromiumTab) close() { d.cancel() }
