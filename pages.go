package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/livetemplate/livetemplate"

	"realtime/internal/cluster"
	"realtime/internal/fanout"
)

// pages builds the pages of the app. The layout and everything fixed is rendered
// once. The framework renders, and each of its connections keeps, only the part
// of a page that lives: the template "live".
type pages struct {
	log     *slog.Logger
	funcs   template.FuncMap
	live    []livetemplate.Option
	fanout  *fanout.Fanout
	servers *cluster.Member // nil: this server is the only one
	sockets *sockets
	metrics *metrics
}

// render puts a page into the layout. Where it has a live part, there is livePart.
func (p pages) render(data any, file string) (string, error) {
	t, err := template.New("layout.tmpl").Funcs(p.funcs).ParseFS(embedded, "templates/layout.tmpl", "templates/assets.tmpl", file)
	if err != nil {
		return "", err
	}
	if _, err := t.New("live").Parse(livePart); err != nil {
		return "", err
	}
	var page strings.Builder
	err = t.Execute(&page, data)
	return page.String(), err
}

// livePart stands for the live part of a page.
const livePart = "<live-part></live-part>"

// plain is a page without a live part.
func (p pages) plain(status int, title, file string) (http.Handler, error) {
	page, err := p.render(struct{ Title, Category string }{title, category}, file)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		fmt.Fprint(w, page)
	}), nil
}

// newLivePage is the page templates/realtime/NAME.tmpl, run by a controller from
// a first state.
func newLivePage[S any](p pages, name string, controller any, state *S) (livetemplate.LiveHandler, error) {
	file := "templates/realtime/" + name + ".tmpl"
	page, err := p.render(state, file)
	if err != nil {
		return nil, err
	}
	before, after, found := strings.Cut(page, livePart)
	if !found {
		return nil, fmt.Errorf("%s has no live part", file)
	}
	files := livetemplate.WithParseFS(embedded, "templates/live.tmpl", file)
	var sessions livetemplate.SessionStore
	keep := func(c *livetemplate.Config) { sessions = c.SessionStore }
	t, err := livetemplate.New(name, append(slices.Clip(p.live), files, keep)...)
	if err != nil {
		return nil, err
	}
	// What a first rendering parses is shared by all connections that come after
	// it: 9 kB that an idle one does not hold.
	if err := t.Execute(io.Discard, state); err != nil {
		return nil, err
	}
	handler := t.Handle(controller, livetemplate.AsState(state))
	p.metrics.page(name, handler, func() int { return p.sockets.on("/realtime/" + name) })
	return &livePage{LiveHandler: handler, sessions: sessions, pages: p, before: before, after: after}, nil
}

// refresh is what publishes one refreshing action of a page.
func (p pages) refresh(page livetemplate.LiveHandler, action string, cost time.Duration) *fanout.Refresh {
	r := p.fanout.Refresh(page, action, cost)
	p.metrics.refresh(action, r)
	return r
}

// livePage serves the socket of a page, and the page: its live part as it is
// now, between the fixed text before and after it. Where no socket opens, the
// browser client posts actions to it.
type livePage struct {
	livetemplate.LiveHandler
	sessions      livetemplate.SessionStore
	pages         pages
	before, after string
	posts         sync.Mutex // held while an action runs, never while a visitor is waited for
}

// Shutdown also ends what the framework starts for each page and leaves running:
// a clean-up of its session store.
func (p *livePage) Shutdown(ctx context.Context) error {
	err := p.LiveHandler.Shutdown(ctx)
	if store, ok := p.sessions.(interface{ Close() }); ok {
		store.Close()
	}
	return err
}

// maxForm bounds the body of a POST, in bytes.
const maxForm = 16 << 10

func (p *livePage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if livetemplate.WSIsUpgrade(r) {
		p.pages.sockets.serve(w, r, p.LiveHandler)
		return
	}
	// One address answers with HTML or JSON: a cache in between may not show one
	// for the other.
	w.Header().Add("Vary", "Accept")
	answer := &answer{ResponseWriter: w}
	if r.Method == http.MethodPost {
		form, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
		if err != nil {
			p.refuse(w, r, err)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(form))
		p.post(answer, r)
	} else {
		p.LiveHandler.ServeHTTP(answer, r)
	}
	answer.send(p)
}

// The reasons for which a form is refused, beside crossSite.
const (
	tooLong = "too long"
	tooSlow = "too slow"
)

// refuse answers a form that could not be read.
func (p *livePage) refuse(w http.ResponseWriter, r *http.Request, err error) {
	why, status := tooSlow, http.StatusRequestTimeout
	if errors.As(err, new(*http.MaxBytesError)) {
		why, status = tooLong, http.StatusRequestEntityTooLarge
	}
	p.pages.metrics.requestsRefused.WithLabelValues(why).Inc()
	p.pages.log.WarnContext(r.Context(), "form refused", slog.String("reason", why), slog.String("remote_addr", r.RemoteAddr))
	http.Error(w, "This form did not count: it was "+why+".", status)
}

// post runs an action and makes the framework forget its answer. It would answer
// the next one with the difference, but keeps one answer for all tabs of a
// browser: a tab would get what is new to another one, and show a name as an
// attribute. A GET makes it forget.
func (p *livePage) post(answer *answer, r *http.Request) {
	p.posts.Lock()
	defer p.posts.Unlock()
	defer func() {
		get := r.Clone(r.Context())
		get.Method, get.Body = http.MethodGet, http.NoBody
		for _, cookie := range (&http.Response{Header: answer.Header()}).Cookies() { // of a visit that began with the POST
			get.AddCookie(cookie)
		}
		p.LiveHandler.ServeHTTP(discard{http.Header{}}, get)
	}()
	p.LiveHandler.ServeHTTP(answer, r)
}

// answer holds an answer back until it is complete: what the framework locks
// while it writes must not wait for a visitor who reads slowly.
type answer struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

// send puts the fixed text of a page around an answer that is HTML. Data and
// redirects stay as they are. The text of an error is the framework's, and says
// what is inside.
func (a *answer) send(p *livePage) {
	status := cmp.Or(a.status, http.StatusOK)
	if status >= http.StatusBadRequest {
		http.Error(a.ResponseWriter, "This could not be understood, and did not count.", status)
		return
	}
	if a.body.Len() > 0 && a.Header().Get("Content-Type") == "" { // the framework leaves a page's to be guessed
		a.Header().Set("Content-Type", "text/html; charset=utf-8")
	}
	a.ResponseWriter.WriteHeader(status)
	if a.body.Len() > 0 && strings.HasPrefix(a.Header().Get("Content-Type"), "text/html") {
		fmt.Fprint(a.ResponseWriter, p.before, a.body.String(), p.after)
		return
	}
	a.body.WriteTo(a.ResponseWriter)
}

// discard is a ResponseWriter that drops what is written.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}
