package browser

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// Preferences are the preferences of a Firefox profile, by name.
type Preferences map[string]any

// defaults keep Firefox from connecting to other machines: the proxy for them does not
// exist.
var defaults = Preferences{
	"network.proxy.type":                         1,
	"network.proxy.http":                         "127.0.0.1",
	"network.proxy.http_port":                    9,
	"network.proxy.ssl":                          "127.0.0.1",
	"network.proxy.ssl_port":                     9,
	"network.captive-portal-service.enabled":     false,
	"network.connectivity-service.enabled":       false,
	"datareporting.policy.dataSubmissionEnabled": false,
	"dom.ipc.processPrelaunch.enabled":           false, // starting a process costs more than most tests
	"fission.autostart":                          false, // the same
}

// NewFirefox returns a Firefox in a process of its own, with additional preferences.
func NewFirefox(t testing.TB, preferences Preferences) *Browser {
	t.Helper()
	path := find(t, "make test-all", "firefox-esr", "firefox")
	home, err := os.MkdirTemp("", "firefox")
	require.NoError(t, err)
	var lines strings.Builder
	for _, some := range []Preferences{defaults, preferences} {
		for name, value := range some {
			fmt.Fprintf(&lines, "user_pref(%q, %#v);\n", name, value)
		}
	}
	require.NoError(t, os.WriteFile(filepath.Join(home, "user.js"), []byte(lines.String()), 0o600))
	p, err := visitor.StartProcess(home, nil, "WebDriver BiDi listening on (.*)",
		path, "--headless", "--no-remote", "--profile", home, "--remote-debugging-port=0", "about:blank")
	require.NoError(t, err, "start Firefox")
	t.Cleanup(p.Stop)
	c, err := dialBidi(p.Match)
	require.NoError(t, err, "start Firefox")
	var last struct{ Context string } // the last opened tab
	return &Browser{t: t, Kill: p.Stop, open: func(tb *Tab, inNewWindow bool) (driver, error) {
		params := parameters{"type": "window"}
		if !inNewWindow {
			params = parameters{"type": "tab", "referenceContext": last.Context}
		}
		err := c.do(&last, "browsingContext.create", params)
		d := firefoxTab{c: c, id: last.Context}
		d.perform = func(actions parameters) error {
			return d.do("input.performActions", parameters{"actions": []parameters{actions}})
		}
		c.tabs[d.id] = tb.listenToFirefox
		return d, err
	}}
}

func (tb *Tab) listenToFirefox(event message) {
	switch event.Method {
	case "log.entryAdded":
		if event.Params.Level == "error" {
			tb.failed(event.Params.Text)
		}
	case "browsingContext.userPromptOpened":
		tb.failed("a dialog opened: " + event.Params.Message) // Firefox dismisses it by itself
	}
}

// firefoxTab drives a tab of Firefox.
type firefoxTab struct {
	perform
	c  *bidi
	id string
}

// do sends a command about the tab.
func (d firefoxTab) do(method string, params parameters) error {
	params["context"] = d.id
	return d.c.do(nil, method, params)
}

func (d firefoxTab) navigate(url string) error {
	return d.do("browsingContext.navigate", parameters{"url": url, "wait": "complete"})
}

func (d firefoxTab) reload() error {
	return d.do("browsingContext.reload", parameters{"wait": "complete"})
}

func (d firefoxTab) evaluate(script string) (value any, err error) {
	var evaluated struct {
		Result           struct{ Value string }
		ExceptionDetails struct{ Text string }
	}
	err = d.c.do(&evaluated, "script.evaluate", parameters{
		"expression": "JSON.stringify(" + script + ")", "target": parameters{"context": d.id}, "awaitPromise": false,
	})
	if text := evaluated.ExceptionDetails.Text; text != "" {
		return nil, errors.New(text)
	}
	if err == nil && evaluated.Result.Value != "" { // otherwise it is undefined
		err = json.Unmarshal([]byte(evaluated.Result.Value), &value)
	}
	return value, err
}

func (d firefoxTab) inEveryPage(script string) error {
	return d.c.do(nil, "script.addPreloadScript", parameters{"functionDeclaration": "() => " + script, "contexts": []string{d.id}})
}

func (d firefoxTab) show() error { return d.do("browsingContext.activate", parameters{}) }

func (d firefoxTab) close() { d.do("browsingContext.close", parameters{}) } // an error if it is closed already
