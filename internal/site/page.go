package site

import (
	"bytes"
	"cmp"
	"fmt"
	"net/http"
	"path"
	"strings"

	"github.com/livetemplate/livetemplate"

	"realtime/internal/wsconn"
)

// Page is a live page: a controller served at a path. Everything fixed on it is rendered
// once. The framework renders only its live part, and each connection keeps only that.
type Page struct {
	path          string
	whole, framed fixedText
	posts         posts
	handler       livetemplate.LiveHandler
	sessions      livetemplate.SessionStore
	upgrader      *wsconn.Upgrader
	admission     *admission
}

// Name returns the last part of the path.
func (p *Page) Name() string { return path.Base(p.path) }

// Publish publishes an action to the subscribers of a topic.
func (p *Page) Publish(topic, action string, data map[string]any) error {
	return p.handler.Publish(topic, action, data)
}

// Connections returns the number of open connections.
func (p *Page) Connections() int { return p.upgrader.Open() }

// Opened returns how many connections were opened so far.
func (p *Page) Opened() int { return p.upgrader.Opened() }

// OnRefresh sets a function to call whenever a connection has rendered and written a
// refresh. It must be called before the site serves, and f must not wait.
func (p *Page) OnRefresh(f func()) { p.upgrader.OnRefresh(f) }

// anyPage is the subprotocol of a page of any build. A page offers it after the one of its
// own build, and learns from the choice whether this server is of that build.
const anyPage = "page"

// Dropped returns how many actions were dropped so far, because another one waited for
// the same connection.
func (p *Page) Dropped() int { return p.Counted("livetemplate_websocket_dispatch_dropped_total") }

// Counted returns a counter of the framework, which offers them as text.
func (p *Page) Counted(name string) (n int) {
	text := newRecorder(http.Header{})
	p.handler.MetricsHandler().ServeHTTP(text, &http.Request{Method: http.MethodGet})
	_, value, _ := strings.Cut(text.body.String(), "\n"+name+" ")
	fmt.Sscan(value, &n)
	return n
}

// ServeHTTP serves the socket of the page, or the page: its live part as it is now,
// between the fixed text before and after it. Where no socket opens, the browser
// client posts actions to it.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r = withSession(w, r); asksForSocket(r) {
		p.admission.serve(w, r, p.handler)
	} else {
		p.serve(w, r)
	}
}

func (p *Page) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", "Accept") // the same address answers with HTML or JSON
	w.Header().Set("Page-Build", p.text(r).build)
	answer := newRecorder(w.Header())
	if r.Method != http.MethodPost {
		p.handler.ServeHTTP(answer, r)
	} else if accepted := p.posts.serve(w, r, answer); !accepted {
		return
	}
	p.send(w, r, answer)
}

// send sends an answer of the framework. It puts HTML between the fixed text of the
// page, and replaces the text of errors, which shows internals.
func (p *Page) send(w http.ResponseWriter, r *http.Request, answer *recorder) {
	if answer.status() >= http.StatusBadRequest {
		http.Error(w, "Your request was not understood, and did not count.", answer.status())
		return
	}
	if answer.body.Len() > 0 && w.Header().Get("Content-Type") == "" { // the framework leaves it to be guessed
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
	}
	w.WriteHeader(answer.status())
	if answer.body.Len() > 0 && strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		text := p.text(r)
		fmt.Fprint(w, withOrigin(text.before, r), answer.body.String(), withOrigin(text.after, r))
		return
	}
	answer.body.WriteTo(w)
}

// text is the fixed text of the page that a request asks for.
func (p *Page) text(r *http.Request) fixedText {
	if inFrame(r) {
		return p.framed
	}
	return p.whole
}

// close closes what the framework starts for a page and leaves running: the clean-up
// of its session store.
func (p *Page) close() {
	if store, ok := p.sessions.(interface{ Close() }); ok {
		store.Close()
	}
}

// A recorder holds an answer of the framework until it is complete. The framework
// writes answers while it holds locks, which must not wait for a slow reader.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func newRecorder(header http.Header) *recorder { return &recorder{header: header} }

func (a *recorder) Header() http.Header         { return a.header }
func (a *recorder) WriteHeader(status int)      { a.code = status }
func (a *recorder) Write(b []byte) (int, error) { return a.body.Write(b) }

// status is the status of the answer.
func (a *recorder) status() int { return cmp.Or(a.code, http.StatusOK) }
