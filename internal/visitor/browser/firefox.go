package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// Preferences are those of a Firefox profile, by name.
type Preferences map[string]any

// defaults keep Firefox from everything but the pages it is to show. Whatever lies
// outside this machine is behind a proxy that nobody runs: attempts to reach it end at
// once.
var defaults = Preferences{
	"network.proxy.type":                         1,
	"network.proxy.http":                         "127.0.0.1",
	"network.proxy.http_port":                    9,
	"network.proxy.ssl":                          "127.0.0.1",
	"network.proxy.ssl_port":                     9,
	"network.captive-portal-service.enabled":     false,
	"network.connectivity-service.enabled":       false,
	"app.normandy.enabled":                       false,
	"nimbus.rollouts.enabled":                    false,
	"browser.newtabpage.enabled":                 false,
	"browser.startup.page":                       0,
	"datareporting.policy.dataSubmissionEnabled": false,
	"dom.ipc.processPrelaunch.enabled":           false, // starting a process costs more than most tests
	"fission.autostart":                          false, // the same
}

// newFirefox returns a Firefox with cookies and storage of its own, in the process that
// all tests share.
func newFirefox(t testing.TB) *Browser {
	t.Helper()
	path := firefox(t)
	sharedFirefox.once.Do(func() { sharedFirefox.process, sharedFirefox.c, sharedFirefox.err = startFirefox(path, nil) })
	require.NoError(t, sharedFirefox.err, "start Firefox")
	return onFirefox(t, sharedFirefox.c)
}

// NewFirefox returns a Firefox in a process of its own, with other preferences.
func NewFirefox(t testing.TB, preferences Preferences) *Browser {
	t.Helper()
	process, c, err := startFirefox(firefox(t), preferences)
	if process != nil {
		t.Cleanup(process.stop)
	}
	require.NoError(t, err, "start Firefox")
	return onFirefox(t, c)
}

// sharedFirefox is the Firefox process of all tests. The first test that needs it
// starts it, and End ends it.
var sharedFirefox struct {
	once    sync.Once
	process *process
	c       *bidi
	err     error
}

func endFirefox() {
	if sharedFirefox.process != nil {
		sharedFirefox.process.stop()
	}
}

func firefox(t testing.TB) (path string) {
	t.Helper()
	NeedFiles(t)
	for _, name := range []string{"firefox-esr", "firefox"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	visitor.Missing(t, "no Firefox: `make test` installs it as root on Debian, or put one on the PATH")
	return ""
}

func startFirefox(path string, preferences Preferences) (*process, *bidi, error) {
	home, err := os.MkdirTemp("", "firefox")
	if err != nil {
		return nil, nil, err
	}
	var lines strings.Builder
	for _, some := range []Preferences{defaults, preferences} {
		for name, value := range some {
			fmt.Fprintf(&lines, "user_pref(%q, %#v);\n", name, value)
		}
	}
	if err := os.WriteFile(filepath.Join(home, "user.js"), []byte(lines.String()), 0o600); err != nil {
		return nil, nil, err
	}
	p, err := startProcess(home, nil, path, "--headless", "--no-remote", "--profile", home, "--remote-debugging-port=0", "about:blank")
	if err != nil {
		return nil, nil, err
	}
	address, err := p.await("WebDriver BiDi listening on (.*)")
	if err != nil {
		return p, nil, err
	}
	go p.discard()
	ctx, cancel := context.WithTimeout(context.Background(), visitor.Soon)
	defer cancel()
	c, err := dialBidi(ctx, address)
	return p, c, err
}

func onFirefox(t testing.TB, c *bidi) *Browser {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), visitor.Soon)
	defer cancel()
	var profile struct{ UserContext string }
	require.NoError(t, c.do(ctx, &profile, "browser.createUserContext", parameters{}), "a profile")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), visitor.Soon)
		defer cancel()
		assert.NoError(t, c.do(ctx, nil, "browser.removeUserContext", parameters{"userContext": profile.UserContext}), "close the browser")
	})
	b := &Browser{t: t}
	beside := "" // the tab that the next one opens beside
	b.open = func(tb *Tab, inNewWindow bool) (driver, error) {
		ctx, cancel := context.WithTimeout(context.Background(), visitor.Soon)
		defer cancel()
		params := parameters{"type": "tab", "userContext": profile.UserContext}
		if inNewWindow {
			params["type"] = "window"
		} else {
			params["referenceContext"] = beside
		}
		var made struct{ Context string }
		err := c.do(ctx, &made, "browsingContext.create", params)
		beside = made.Context
		d := &firefoxTab{c, made.Context}
		c.listen(d.id, func(event string, e bidiEvent) { d.handle(tb, event, e) })
		return d, err
	}
	return b
}

// firefoxTab drives a tab of Firefox.
type firefoxTab struct {
	c  *bidi
	id string
}

// do sends a command about the tab.
func (d *firefoxTab) do(ctx context.Context, result any, method string, params parameters) error {
	params["context"] = d.id
	return d.c.do(ctx, result, method, params)
}

func (d *firefoxTab) handle(tb *Tab, event string, e bidiEvent) {
	switch event {
	case "browsingContext.load":
		tb.hasLoaded()
	case "log.entryAdded":
		if e.Level == "error" {
			tb.failed(e.Text)
		}
	case "browsingContext.userPromptOpened":
		tb.failed("a dialog opened: " + e.Message) // Firefox dismisses it by itself
	case "script.message":
		text, _ := e.Data.plain()
		tb.heard(fmt.Sprint(text), time.Now())
	}
}

func (d *firefoxTab) navigate(ctx context.Context, url string) error {
	return d.do(ctx, nil, "browsingContext.navigate", parameters{"url": url, "wait": "complete"})
}

func (d *firefoxTab) reload(ctx context.Context) error {
	return d.do(ctx, nil, "browsingContext.reload", parameters{"wait": "complete"})
}

func (d *firefoxTab) evaluate(ctx context.Context, script string) (any, error) {
	var evaluated struct {
		Result           bidiValue
		ExceptionDetails struct{ Text string }
	}
	err := d.c.do(ctx, &evaluated, "script.evaluate", parameters{
		"expression": script, "target": parameters{"context": d.id}, "awaitPromise": false,
	})
	if err != nil {
		return nil, err
	}
	if text := evaluated.ExceptionDetails.Text; text != "" {
		return nil, errors.New(text)
	}
	return evaluated.Result.plain()
}

func (d *firefoxTab) click(ctx context.Context, x, y float64) error {
	return d.do(ctx, nil, "input.performActions", parameters{"actions": []parameters{mouseClick(x, y)}})
}

func (d *firefoxTab) press(ctx context.Context, keys string) error {
	return d.do(ctx, nil, "input.performActions", parameters{"actions": []parameters{keyPresses(keys)}})
}

func (d *firefoxTab) hide(_ context.Context, b *Browser) error {
	b.Load("about:blank").Show()
	return nil
}

func (d *firefoxTab) toFront(ctx context.Context) error {
	return d.do(ctx, nil, "browsingContext.activate", parameters{})
}

func (d *firefoxTab) close() {
	ctx, cancel := context.WithTimeout(context.Background(), visitor.Soon)
	defer cancel()
	d.do(ctx, nil, "browsingContext.close", parameters{}) // an error if it is closed already
}

func (d *firefoxTab) inEveryPage(ctx context.Context, script string) error {
	function := "(say) => { window.say = say; " + script + " }"
	channel := []parameters{{"type": "channel", "value": parameters{"channel": "say"}}}
	err := d.c.do(ctx, nil, "script.addPreloadScript", parameters{
		"functionDeclaration": function, "arguments": channel, "contexts": []string{d.id},
	})
	if err != nil {
		return err
	}
	return d.c.do(ctx, nil, "script.callFunction", parameters{
		"functionDeclaration": function, "arguments": channel, "target": parameters{"context": d.id}, "awaitPromise": false,
	})
}
