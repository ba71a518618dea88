package site

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/livetemplate/livetemplate"

	"realtime/internal/wsconn"
)

// Page is a live page: a controller behind an address. Everything fixed on it is
// rendered once. The framework renders only its live part, and each connection keeps
// only that.
//
// A POST has a state and a session group of its own: in its action, GroupID and Session
// of the context are not those of the browser, and persistent fields are not restored.
// Browser works in any action.
type Page struct {
	handler       livetemplate.LiveHandler
	sessions      livetemplate.SessionStore
	upgrader      *wsconn.Upgrader
	admission     *admission
	rate          *rateLimit
	refused       refusals
	path          string
	whole, framed fixedText
	live          *livetemplate.Template // the live part
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
// waits for the same connection, the log has no warning: whoever publishes it knows.
func (p *Page) Merges(action string) {
	if log, ok := p.refused.log.Handler().(calm); ok {
		log.seen.refreshes.Store(action, true)
	}
}

// Dropped returns how many actions were dropped so far, because another one waited for
// the same connection.
func (p *Page) Dropped() int {
	return int(frameworkMetrics(p.handler.MetricsHandler())[dropped])
}

const (
	// maxForm is the maximum length of a posted form, in bytes.
	maxForm = 16 << 10

	// maxDiscarded is the length of a form, in bytes, up to which a form that is too
	// long is read to its end. A client that is still sending when the connection is
	// closed may not see the answer.
	maxDiscarded = 4 << 20
)

// ServeHTTP serves the socket of the page, or the page: its live part as it is now,
// between the fixed text before and after it. Where no socket opens, the browser
// client posts actions to it.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if asksForSocket(r) {
		p.admission.serve(w, r, p.handler)
		return
	}
	w.Header().Add("Vary", "Accept") // the same address answers with HTML or JSON
	w.Header().Set("Page-Build", p.text(r).build)
	answer := newRecorder(w.Header())
	if r.Method != http.MethodPost {
		p.handler.ServeHTTP(answer, r)
		p.send(w, r, answer)
		return
	}
	form, why := p.form(r)
	if why != "" {
		p.refuseForm(w, r, why)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(form))
	p.act(answer, r)
	p.send(w, r, answer)
}

// form returns the form that a visitor has posted, or the reason to refuse it.
func (p *Page) form(r *http.Request) (form []byte, refused string) {
	if !p.rate.allow(sessionOf(r)) {
		return nil, tooFast
	}
	form, err := io.ReadAll(io.LimitReader(r.Body, maxForm+1))
	var timeout net.Error
	switch {
	case len(form) > maxForm:
		if r.ContentLength <= maxDiscarded {
			io.CopyN(io.Discard, r.Body, maxDiscarded)
		}
		return nil, tooLong
	case errors.As(err, &timeout) && timeout.Timeout():
		return nil, tooSlow
	case err != nil:
		return nil, incomplete
	}
	return form, ""
}

// refuseForm answers a form that does not count. A client that has aborted its form
// does not read the answer, and is nothing to warn about.
func (p *Page) refuseForm(w http.ResponseWriter, r *http.Request, why string) {
	if why == incomplete {
		p.refused.count(why)
	} else {
		p.refused.note(r, why)
	}
	if why == tooFast {
		w.Header().Set("Retry-After", "1")
	}
	status := map[string]int{
		tooFast:    http.StatusTooManyRequests,
		tooLong:    http.StatusRequestEntityTooLarge,
		tooSlow:    http.StatusRequestTimeout,
		incomplete: http.StatusBadRequest,
	}
	http.Error(w, "Your form was not accepted: it was "+words(why)+".", status[why])
}

// post is what the context of a POST holds.
type post struct {
	group   string // its session group
	browser string // the session of the browser that sends it
	refused any    // the state that Refuse was called with
}

type postKey struct{}

// postOf returns the post that ctx is the context of, or nil.
func postOf(ctx context.Context) *post {
	p, _ := ctx.Value(postKey{}).(*post)
	return p
}

// act runs an action in a session group of its own, and then a GET, which makes the
// framework forget the group. The framework sends an answer as a difference to the
// last one of the group. In the group of the browser, a tab would get the difference
// to what another tab shows.
func (p *Page) act(answer *recorder, r *http.Request) {
	sent := &post{group: rand.Text(), browser: sessionOf(r)}
	r = r.WithContext(context.WithValue(r.Context(), postKey{}, sent))
	defer func() {
		get := r.Clone(r.Context())
		get.Method, get.Body = http.MethodGet, http.NoBody
		p.handler.ServeHTTP(newRecorder(http.Header{}), get)
	}()
	p.handler.ServeHTTP(answer, r)
	if sent.refused != nil {
		if err := p.show(answer, sent.refused); err != nil {
			answer.WriteHeader(http.StatusInternalServerError)
		}
	}
	answer.header["Set-Cookie"] = slices.DeleteFunc(answer.header["Set-Cookie"], func(cookie string) bool {
		return strings.HasPrefix(cookie, sessionCookie+"="+sent.group) // the browser keeps its own
	})
}

// show puts a state into the answer to an action that has failed. The framework has
// left it out.
func (p *Page) show(answer *recorder, state any) error {
	t, err := p.live.Clone() // a new clone renders everything, and not a difference
	if err != nil {
		return err
	}
	if strings.HasPrefix(answer.header.Get("Content-Type"), "text/html") {
		answer.body.Reset()
		return t.Execute(&answer.body, state)
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(answer.body.Bytes(), &parts); err != nil {
		return err
	}
	var tree bytes.Buffer
	if err := t.ExecuteUpdates(&tree, state); err != nil {
		return err
	}
	parts["tree"] = tree.Bytes()
	answer.body.Reset()
	return json.NewEncoder(&answer.body).Encode(parts)
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
		fmt.Fprint(w, text.before, answer.body.String(), text.after)
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
