package site

import (
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"strings"

	"github.com/livetemplate/livetemplate"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

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
	log           *slog.Logger
}

// name is the name of the page in metrics.
func (p *Page) name() string { return path.Base(p.path) }

// Publish publishes an action to the subscribers of a topic.
func (p *Page) Publish(topic, action string, data map[string]any) error {
	return p.handler.Publish(topic, action, data)
}

// Connections returns the number of open connections.
func (p *Page) Connections() int { return p.upgrader.Open() }

// OnRefresh sets a function to call whenever a connection has rendered and written a
// refresh. It must be called before the site serves, and f must not wait.
func (p *Page) OnRefresh(f func()) { p.upgrader.OnRefresh(f) }

// anyPage is the subprotocol of a page of any build. A page offers it after the one of its
// own build, and learns from the choice whether this server is of that build.
const anyPage = "page"

// Merges says that an action is a refresh. If one is dropped, because another action
// waits for the same connection, a log of package logging has no warning.
func (p *Page) Merges(action string) {
	if h, ok := p.log.Handler().(interface{ Merges(action string) }); ok {
		h.Merges(action)
	}
}

// Dropped returns how many actions were dropped so far, because another one waited for
// the same connection.
func (p *Page) Dropped() int { return p.counted("livetemplate_websocket_dispatch_dropped_total") }

// counted returns a counter of the framework, or 0 if it has none of that name. The
// framework offers its counters as text.
func (p *Page) counted(name string) int {
	text := newRecorder(http.Header{})
	p.handler.MetricsHandler().ServeHTTP(text, &http.Request{Method: http.MethodGet})
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, _ := parser.TextToMetricFamilies(&text.body)
	if family := families[name]; family != nil {
		return int(family.Metric[0].GetCounter().GetValue())
	}
	return 0
}

// ServeHTTP serves the socket of the page, or the page: its live part as it is now,
// between the fixed text before and after it. Where no socket opens, the browser
// client posts actions to it.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if asksForSocket(r) {
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
		fmt.Fprint(w, withOrigin(text.before, r), answer.body.String(), text.after)
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
