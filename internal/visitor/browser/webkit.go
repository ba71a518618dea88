package browser

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// newWebKit returns a WebKit in processes of its own, which is how WebKitGTK gives one
// person cookies that nobody else has.
func newWebKit(t testing.TB) *Browser {
	t.Helper()
	miniBrowser := webKit(t)
	screen.once.Do(startScreen)
	require.NoError(t, screen.err, "start a screen")
	home, err := os.MkdirTemp("", "webkit")
	require.NoError(t, err)
	addr := visitor.FreeAddr(t) // the driver does not tell which port it has chosen
	// No sandbox is asked for, so that nothing is to be set for root.
	p, err := startProcess(home, []string{
		"DISPLAY=:" + screen.display, "GDK_BACKEND=x11", "NO_AT_BRIDGE=1", "LIBGL_ALWAYS_SOFTWARE=1", "WEBKIT_DISABLE_DMABUF_RENDERER=1",
	}, "WebKitWebDriver", "--host=127.0.0.1", "--port="+strings.TrimPrefix(addr, "127.0.0.1:"))
	require.NoError(t, err, "start WebKit")
	t.Cleanup(p.stop)
	go p.discard()
	s := &webKitSession{url: "http://" + addr + "/session"}
	ctx, cancel := context.WithTimeout(context.Background(), visitor.Soon)
	defer cancel()
	require.NoError(t, s.start(ctx, miniBrowser), "start WebKit")
	return &Browser{t: t, open: s.open}
}

func webKit(t testing.TB) (miniBrowser string) {
	t.Helper()
	NeedFiles(t)
	for _, name := range []string{"WebKitWebDriver", "Xvfb"} {
		if _, err := exec.LookPath(name); err != nil {
			visitor.Missing(t, "no "+name+": `make test` installs it as root on Debian")
		}
	}
	found, _ := filepath.Glob("/usr/lib*/*/webkit*/MiniBrowser")
	if len(found) == 0 {
		visitor.Missing(t, "no MiniBrowser of WebKitGTK: `make test` installs it as root on Debian")
	}
	return found[0]
}

// screen is the screen of every WebKit. The first test that needs it starts it, and End
// ends it.
var screen struct {
	once    sync.Once
	process *process
	display string
	err     error
}

func startScreen() {
	home, err := os.MkdirTemp("", "screen")
	if err == nil {
		screen.process, err = startProcess(home, nil, "Xvfb", "-displayfd", "1", "-screen", "0", "1280x1024x24", "-nolisten", "tcp")
	}
	if err == nil {
		screen.display, err = screen.process.await(`^(\d+)$`)
		go screen.process.discard()
	}
	screen.err = err
}

func endScreen() {
	if screen.process != nil {
		screen.process.stop()
	}
}

// webKitSession is a browser that speaks WebDriver.
type webKitSession struct {
	url   string
	first string // the window that the browser has opened by itself, until it is used

	mu      sync.Mutex // held during a command
	current string     // the window that commands go to
}

func (s *webKitSession) start(ctx context.Context, miniBrowser string) error {
	wanted := parameters{"capabilities": parameters{"alwaysMatch": parameters{
		"unhandledPromptBehavior":  "dismiss",
		"webkitgtk:browserOptions": parameters{"binary": miniBrowser, "args": []string{"--automation"}},
	}}}
	var made struct{ SessionID string }
	for s.do(ctx, http.MethodGet, "/../status", nil, nil) != nil && ctx.Err() == nil {
		time.Sleep(20 * time.Millisecond) // before it is asked again: only asking tells
	}
	if err := s.do(ctx, http.MethodPost, "", wanted, &made); err != nil {
		return err
	}
	s.url += "/" + made.SessionID
	err := s.do(ctx, http.MethodGet, "/window", nil, &s.first)
	s.current = s.first
	return err
}

// do sends a command, and reads its answer into result unless that is nil.
func (s *webKitSession) do(ctx context.Context, method, path string, params parameters, result any) error {
	var body bytes.Buffer
	if params != nil {
		if err := json.NewEncoder(&body).Encode(params); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, &body)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer := struct{ Value any }{result}
	if resp.StatusCode != http.StatusOK {
		var problem struct{ Error, Message string }
		answer.Value = &problem
		err := json.NewDecoder(resp.Body).Decode(&answer)
		return fmt.Errorf("%s: %s: %s %w", path, problem.Error, problem.Message, err)
	}
	return json.NewDecoder(resp.Body).Decode(&answer)
}

// open opens a window: a tab that is not alone in its window would stay hidden, because
// the protocol cannot bring it to the front.
func (s *webKitSession) open(tb *Tab, _ bool) (driver, error) {
	d := &webKitTab{s: s, tb: tb, window: s.first}
	s.first = ""
	if d.window != "" {
		return d, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), visitor.Soon)
	defer cancel()
	var made struct{ Handle string }
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.do(ctx, http.MethodPost, "/window/new", parameters{"type": "window"}, &made)
	d.window = made.Handle
	return d, err
}

// webKitTab drives a window of WebKit.
type webKitTab struct {
	s       *webKitSession
	tb      *Tab
	window  string
	scripts []string // of inEveryPage
}

// do sends a command to the window.
func (d *webKitTab) do(ctx context.Context, method, path string, params parameters, result any) error {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	if d.s.current != d.window {
		if err := d.s.do(ctx, http.MethodPost, "/window", parameters{"handle": d.window}, nil); err != nil {
			return err
		}
		d.s.current = d.window
	}
	return d.s.do(ctx, method, path, params, result)
}

func (d *webKitTab) navigate(ctx context.Context, url string) error {
	return d.do(ctx, http.MethodPost, "/url", parameters{"url": url}, nil)
}

func (d *webKitTab) reload(ctx context.Context) error {
	return d.do(ctx, http.MethodPost, "/refresh", parameters{}, nil)
}

// notes runs once in every page, when it is first asked something, and keeps notes of
// what happens there. The protocol has no events: every answer brings the notes since
// the one before. They are in the name of the window, which stays when a page is left.
const notes = `if (!window.say) {
	const note = (kind, text) => { window.name = JSON.stringify([...JSON.parse(window.name || "[]"), {kind, text: String(text), at: Date.now()}]); };
	window.say = (text) => note("said", text);
	note("loaded", location);
	addEventListener("error", (event) => note("error", event.message));
	addEventListener("unhandledrejection", (event) => note("error", event.reason));
	const error = console.error;
	console.error = (...values) => { note("error", values.join(" ")); error.apply(console, values); };
	%s
}
const value = (%s), since = window.name;
window.name = "";
return [value, since];`

func (d *webKitTab) evaluate(ctx context.Context, script string) (any, error) {
	var answer [2]any
	err := d.do(ctx, http.MethodPost, "/execute/sync", parameters{
		"script": fmt.Sprintf(notes, strings.Join(d.scripts, ";\n"), script), "args": []any{},
	}, &answer)
	if err != nil {
		return nil, err
	}
	since, _ := answer[1].(string)
	d.read(since)
	return answer[0], nil
}

func (d *webKitTab) read(since string) {
	var noted []struct {
		Kind, Text string
		At         int64
	}
	json.Unmarshal([]byte(since), &noted) // in vain if there are none
	for _, n := range noted {
		switch n.Kind {
		case "loaded":
			d.tb.hasLoaded()
		case "error":
			d.tb.failed(n.Text)
		case "said":
			d.tb.heard(n.Text, time.UnixMilli(n.At))
		}
	}
}

func (d *webKitTab) click(ctx context.Context, x, y float64) error {
	return d.do(ctx, http.MethodPost, "/actions", parameters{"actions": []parameters{mouseClick(x, y)}}, nil)
}

func (d *webKitTab) press(ctx context.Context, keys string) error {
	return d.do(ctx, http.MethodPost, "/actions", parameters{"actions": []parameters{keyPresses(keys)}}, nil)
}

func (d *webKitTab) hide(ctx context.Context, _ *Browser) error {
	return d.do(ctx, http.MethodPost, "/window/minimize", parameters{}, nil)
}

// A window is in front when it is not minimized, and setting its size ends that.
func (d *webKitTab) toFront(ctx context.Context) error {
	return d.do(ctx, http.MethodPost, "/window/rect", parameters{"width": 1000, "height": 700}, nil)
}

func (d *webKitTab) close() {
	ctx, cancel := context.WithTimeout(context.Background(), visitor.Soon)
	defer cancel()
	d.evaluate(ctx, "0") // for the notes
	d.do(ctx, http.MethodDelete, "/window", nil, nil)
}

func (d *webKitTab) inEveryPage(ctx context.Context, script string) error {
	d.scripts = append(d.scripts, script)
	_, err := d.evaluate(ctx, `void (`+script+`)`)
	return err
}
