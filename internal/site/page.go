package site

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"

	"github.com/livetemplate/livetemplate"

	"realtime/internal/wsconn"
)

// Page is a live page: a controller behind an address. Everything fixed on it is
// rendered once. The framework renders only its live part, and each connection keeps
// only that.
type Page struct {
	handler       livetemplate.LiveHandler
	sessions      livetemplate.SessionStore
	upgrader      *wsconn.Upgrader
	admission     *admission
	refused       refuse
	path          string
	before, after string // the fixed text around the live part

	posts sync.Mutex // held while an action runs, never while a visitor is waited for
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

// maxForm is the maximum length of a posted form, in bytes.
const maxForm = 16 << 10

// ServeHTTP serves the socket of the page, or the page: its live part as it is now,
// between the fixed text before and after it. Where no socket opens, the browser
// client posts actions to it.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if livetemplate.WSIsUpgrade(r) {
		p.admission.serve(w, r, p.handler)
		return
	}
	w.Header().Add("Vary", "Accept") // the same address answers with HTML or JSON
	answer := newRecorder(w.Header())
	if r.Method == http.MethodPost {
		form, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
		if err != nil {
			p.refuseForm(w, r, err)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(form))
		p.post(answer, r)
	} else {
		p.handler.ServeHTTP(answer, r)
	}
	p.send(w, answer)
}

// refuseForm answers a form that could not be read.
func (p *Page) refuseForm(w http.ResponseWriter, r *http.Request, err error) {
	why, status := tooSlow, http.StatusRequestTimeout
	if errors.As(err, new(*http.MaxBytesError)) {
		why, status = tooLong, http.StatusRequestEntityTooLarge
	}
	p.refused(r, why)
	http.Error(w, "Your form was not accepted: it was "+why+".", status)
}

// post runs an action, and then a GET, which makes the framework forget the answer.
// The framework would send the next answer as a difference to this one. But it keeps
// one answer for all tabs of a browser, so a tab would get the difference to what
// another tab shows.
func (p *Page) post(answer *recorder, r *http.Request) {
	p.posts.Lock()
	defer p.posts.Unlock()
	defer func() {
		get := r.Clone(r.Context())
		get.Method, get.Body = http.MethodGet, http.NoBody
		for _, cookie := range (&http.Response{Header: answer.header}).Cookies() { // of a visit that begins with a POST
			get.AddCookie(cookie)
		}
		p.handler.ServeHTTP(newRecorder(http.Header{}), get)
	}()
	p.handler.ServeHTTP(answer, r)
}

// send sends an answer of the framework. It puts HTML between the fixed text of the
// page, and replaces the text of errors, which shows internals.
func (p *Page) send(w http.ResponseWriter, answer *recorder) {
	if answer.status() >= http.StatusBadRequest {
		http.Error(w, "Your request was not understood, and did not count.", answer.status())
		return
	}
	if answer.body.Len() > 0 && w.Header().Get("Content-Type") == "" { // the framework leaves it to be guessed
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
	}
	w.WriteHeader(answer.status())
	if answer.body.Len() > 0 && strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		fmt.Fprint(w, p.before, answer.body.String(), p.after)
		return
	}
	answer.body.WriteTo(w)
}

// close closes what the framework starts for a page and leaves running: the clean-up
// of its session store.
func (p *Page) close() {
	if store, ok := p.sessions.(interface{ Close() }); ok {
		store.Close()
	}
}
