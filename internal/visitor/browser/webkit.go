package browser

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// screen is the X display that every WebKit uses.
var screen shared[string]

func startScreen() (display string, stop func(), err error) {
	home, err := os.MkdirTemp("", "screen")
	if err != nil {
		return "", nil, err
	}
	p, err := visitor.StartProcess(home, nil, `^(\d+)$`, "Xvfb", "-displayfd", "1", "-screen", "0", "1280x1024x24", "-nolisten", "tcp")
	if err != nil {
		return "", nil, err
	}
	return p.Match, p.Stop, nil
}

// newWebKit returns a WebKit in processes of its own, so that its cookies are its own.
func newWebKit(t testing.TB) *Browser {
	t.Helper()
	find(t, "make test-all", "WebKitWebDriver")
	find(t, "make test-all", "Xvfb")
	miniBrowser, _ := filepath.Glob("/usr/lib*/*/webkit*/MiniBrowser")
	if len(miniBrowser) == 0 {
		visitor.Missing(t, "no MiniBrowser of WebKitGTK: `make test-all` installs it as root on Debian")
	}
	display := screen.get(t, startScreen)
	home, err := os.MkdirTemp("", "webkit")
	require.NoError(t, err)
	addr := visitor.FreeAddr(t) // the driver does not tell which port it has chosen
	p, err := visitor.StartProcess(home, []string{
		"DISPLAY=:" + display, "GDK_BACKEND=x11", "NO_AT_BRIDGE=1", "LIBGL_ALWAYS_SOFTWARE=1", "WEBKIT_DISABLE_DMABUF_RENDERER=1",
	}, visitor.PID, "WebKitWebDriver", "--host=127.0.0.1", "--port="+strings.TrimPrefix(addr, "127.0.0.1:"))
	require.NoError(t, err, "start WebKit")
	t.Cleanup(p.Stop)
	s := &webKitSession{url: "http://" + addr}
	require.Eventually(t, func() bool { return s.do("GET /status", nil, nil) == nil }, visitor.StartTimeout, 20*time.Millisecond, "an answer of WebKit")
	s.url += "/session"
	require.NoError(t, s.begin(miniBrowser[0]), "start WebKit")
	return &Browser{t: t, Kill: p.Stop, open: s.open}
}

// webKitSession is a WebDriver session.
type webKitSession struct {
	url     string
	first   string // the window that the browser opens at its start
	current string // the window that receives commands
}

func (s *webKitSession) begin(miniBrowser string) error {
	wanted := parameters{"capabilities": parameters{"alwaysMatch": parameters{
		"unhandledPromptBehavior":  "dismiss",
		"webkitgtk:browserOptions": parameters{"binary": miniBrowser, "args": []string{"--automation"}},
	}}}
	var made struct{ SessionID string }
	if err := s.do("POST ", wanted, &made); err != nil {
		return err
	}
	s.url += "/" + made.SessionID
	return s.do("GET /window", nil, &s.first)
}

// do sends a command, a method and a path, and decodes the answer into result unless that
// is nil.
func (s *webKitSession) do(command string, params parameters, result any) error {
	method, path, _ := strings.Cut(command, " ")
	body, _ := json.Marshal(params)
	req, err := http.NewRequest(method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	within := visitor.Soon
	if path == "/execute/sync" {
		within /= 8 // a page that is being left may not answer; pollers then ask the next one
	}
	resp, err := (&http.Client{Timeout: within}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s", command, answer)
	}
	return json.NewDecoder(resp.Body).Decode(&struct{ Value any }{result})
}

// open opens a window: the protocol cannot bring a second tab of a window to the front.
func (s *webKitSession) open(tb *Tab, _ bool) (driver, error) {
	var made struct{ Handle string }
	if err := (&webKitTab{s: s, window: s.first}).do("POST /window/new", parameters{"type": "window"}, &made); err != nil {
		return nil, err
	}
	d := &webKitTab{s: s, tb: tb, window: made.Handle}
	d.perform = func(actions parameters) error {
		return d.do("POST /actions", parameters{"actions": []parameters{actions}}, nil)
	}
	return d, nil
}

// webKitTab drives a window of WebKit.
type webKitTab struct {
	perform
	s       *webKitSession
	tb      *Tab
	window  string
	scripts string // of inEveryPage
}

// do sends a command to the window.
func (d *webKitTab) do(command string, params parameters, result any) error {
	if d.s.current != d.window {
		if err := d.s.do("POST /window", parameters{"handle": d.window}, nil); err != nil {
			return err
		}
		d.s.current = d.window
	}
	return d.s.do(command, params, result)
}

func (d *webKitTab) navigate(url string) error {
	return d.do("POST /url", parameters{"url": url}, nil)
}

func (d *webKitTab) reload() error { return d.do("POST /refresh", parameters{}, nil) }

// atFirst runs with the first evaluation in each page. The protocol does not report errors,
// so the page records them.
const atFirst = `if (!window.notesErrors) {
	` + say + `
	const failed = (text) => say(text, "error"), { error } = console;
	window.notesErrors = true;
	addEventListener("error", (event) => failed(event.message));
	addEventListener("unhandledrejection", (event) => failed(event.reason));
	console.error = (...values) => { failed(values.join(" ")); error.apply(console, values); };
`

func (d *webKitTab) evaluate(script string) (value any, err error) {
	err = d.do("POST /execute/sync", parameters{"script": atFirst + d.scripts + "}\nreturn (" + script + ")", "args": []any{}}, &value)
	return value, err
}

func (d *webKitTab) inEveryPage(script string) error {
	d.scripts += script + ";\n"
	return nil
}

func (d *webKitTab) minimize() error { return d.do("POST /window/minimize", parameters{}, nil) }

// show restores the window: setting its size does that.
func (d *webKitTab) show() error {
	return d.do("POST /window/rect", parameters{"width": 1000, "height": 700}, nil)
}

func (d *webKitTab) close() {
	for _, text := range d.tb.Said("error") {
		d.tb.failed(text)
	}
	d.do("DELETE /window", nil, nil)
}
