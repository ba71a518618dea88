package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
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

// New returns a Chromium with a profile of its own, in a process that tests share. It
// is the headless shell if there is one: Chromium without windows, which costs half.
// There every tab is shown, and the Back button loads its page anew. Without Chromium,
// or the files that pages load, the test is skipped, and fails in CI.
func New(t testing.TB) *Browser {
	t.Helper()
	return onShared(t, &windowless)
}

// NewWindowed is New with windows: a tab hides the others of its window, and a page may
// be kept whole for the Back button.
func NewWindowed(t testing.TB) *Browser {
	t.Helper()
	return onShared(t, &windowed)
}

func onShared(t testing.TB, shared *sharedChromium) *Browser {
	t.Helper()
	process := shared.process(t)
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
	return onChromium(t, ctx)
}

// NewProcess returns a browser in a Chromium process of its own, for a test that
// kills it or needs other flags.
func NewProcess(t testing.TB, flags ...chromedp.ExecAllocatorOption) *Browser {
	t.Helper()
	ctx, stop, err := startChromium(find(t, windowed.names), flags...)
	t.Cleanup(stop)
	require.NoError(t, err, "start Chromium")
	return onChromium(t, ctx)
}

func onChromium(t testing.TB, ctx context.Context) *Browser {
	b := &Browser{t: t, Ctx: ctx}
	b.open = func(tb *Tab, inNewWindow bool) (driver, error) {
		c := chromedp.FromContext(ctx)
		id, err := target.CreateTarget("about:blank").WithBrowserContextID(c.BrowserContextID).WithNewWindow(inNewWindow).Do(cdp.WithExecutor(ctx, c.Browser))
		if err != nil {
			return nil, err
		}
		var cancel func()
		tb.Ctx, cancel = chromedp.NewContext(ctx, chromedp.WithTargetID(id))
		chromedp.ListenTarget(tb.Ctx, tb.listen)
		return &chromiumTab{tb.Ctx, cancel}, chromedp.Run(tb.Ctx) // the context of this first run is the tab's own
	}
	return b
}

// sharedChromium is a process that tests share. The first test that needs it starts
// it, and End ends it.
type sharedChromium struct {
	names []string // of commands, the best first
	once  sync.Once
	ctx   context.Context
	stop  func()
	err   error
}

var (
	windowed   = sharedChromium{names: []string{"chromium", "chromium-browser", "google-chrome"}}
	windowless = sharedChromium{names: append([]string{"chromium-headless-shell", "chrome-headless-shell"}, windowed.names...)}
)

func (c *sharedChromium) process(t testing.TB) context.Context {
	t.Helper()
	path := find(t, c.names)
	c.once.Do(func() { c.ctx, c.stop, c.err = startChromium(path) })
	require.NoError(t, c.err, "start Chromium")
	return c.ctx
}

func (c *sharedChromium) end() {
	if c.stop == nil {
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, visitor.Soon)
	defer cancel()
	chromedp.Cancel(ctx) // it ends by itself: a killed one still writes, and may leave its files behind
	c.stop()
}

// windowFurniture is what Chromium prepares for each window beside its page. Nobody
// uses it here, and it costs more than the page.
const windowFurniture = "PreloadTopChromeWebUI,WebUIOmniboxPopup,SidePanelPreload"

func startChromium(path string, flags ...chromedp.ExecAllocatorOption) (ctx context.Context, stop func(), err error) {
	opts := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(path),
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
	opts = append(opts, flags...)
	alloc, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, _ = chromedp.NewContext(alloc)
	return ctx, stop, chromedp.Run(ctx)
}

// find returns the path of the first command that there is. Without one, or without
// the files that pages load, the test is skipped.
func find(t testing.TB, names []string) (path string) {
	t.Helper()
	NeedFiles(t)
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	visitor.Missing(t, "no Chromium: `make test` installs it as root on Debian, or put one on the PATH")
	return ""
}

// chromiumTab drives a tab of Chromium.
type chromiumTab struct {
	ctx    context.Context
	cancel func()
}

// run runs actions in the tab, for as long as ctx allows.
func (d *chromiumTab) run(ctx context.Context, actions ...chromedp.Action) error {
	deadline, _ := ctx.Deadline()
	onTab, cancel := context.WithDeadline(d.ctx, deadline)
	defer cancel()
	return chromedp.Run(onTab, actions...)
}

func (d *chromiumTab) navigate(ctx context.Context, url string) error {
	return d.run(ctx, chromedp.Navigate(url))
}

func (d *chromiumTab) reload(ctx context.Context) error { return d.run(ctx, chromedp.Reload()) }

func (d *chromiumTab) evaluate(ctx context.Context, script string) (value any, err error) {
	err = d.run(ctx, chromedp.Evaluate(script, &value))
	return value, err
}

func (d *chromiumTab) click(ctx context.Context, x, y float64) error {
	return d.run(ctx, chromedp.MouseClickXY(x, y))
}

func (d *chromiumTab) press(ctx context.Context, keys string) error {
	return d.run(ctx, chromedp.KeyEvent(keys))
}

func (d *chromiumTab) hide(_ context.Context, b *Browser) error {
	b.Load("about:blank").Show()
	return nil
}

func (d *chromiumTab) toFront(ctx context.Context) error { return d.run(ctx, page.BringToFront()) }

func (d *chromiumTab) close() { d.cancel() }

func (d *chromiumTab) inEveryPage(ctx context.Context, script string) error {
	return d.run(ctx, runtime.AddBinding("say"), chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := page.AddScriptToEvaluateOnNewDocument(script).Do(ctx)
		return err
	}), chromedp.Evaluate(script, nil))
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
		tb.hasLoaded()
	case *runtime.EventBindingCalled:
		tb.heard(e.Payload, time.Now())
	}
}

// LoadedFiles adds up what a tab loads over the network.
type LoadedFiles struct {
	mu     sync.Mutex
	urls   map[network.RequestID]string
	loaded map[string]int
}

// Listen notes an event of chromedp.
func (l *LoadedFiles) Listen(event any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch e := event.(type) {
	case *network.EventResponseReceived:
		if l.urls == nil {
			l.urls, l.loaded = map[network.RequestID]string{}, map[string]int{}
		}
		if !e.Response.FromDiskCache {
			l.urls[e.RequestID] = e.Response.URL
		}
	case *network.EventRequestServedFromCache:
		delete(l.urls, e.RequestID)
	case *network.EventLoadingFinished:
		if url, found := l.urls[e.RequestID]; found && e.EncodedDataLength > 0 {
			l.loaded[url] += int(e.EncodedDataLength)
		}
	}
}

// Take returns the bytes of each address that was loaded since the last Take.
func (l *LoadedFiles) Take() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	loaded := l.loaded
	l.loaded = map[string]int{}
	return loaded
}
