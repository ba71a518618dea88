// Package site stands between net/http and livetemplate. It serves the pages of any
// controller: it admits live connections, checks requests, starts sessions, counts, and
// shuts down gracefully.
//
// It knows nothing about what the pages do, and does not pace refreshes: package fanout does.
package site

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livetemplate/livetemplate"

	"realtime/internal/wsconn"
)

// Site serves pages. It is an http.Handler. Stop it with Shutdown.
type Site struct {
	http.Handler
	// Stats counts refused messages and slow peers of all pages.
	Stats *wsconn.Stats
	// RefusedConnections and RefusedForms count refusals, by reason.
	RefusedConnections, RefusedForms map[string]*atomic.Int64

	opts         Options
	layout       layout
	mux          *http.ServeMux
	pages        []*Page
	admission    *admission
	rate         *rateLimit
	formRefusals refusals
	server       *http.Server
}

// New returns a site with an index and without live pages. It panics if a template is
// broken, which is as much of a mistake in the program as broken code.
func New(opts Options) *Site {
	opts.Log = cmp.Or(opts.Log, slog.Default())
	opts.CloseOver = cmp.Or(opts.CloseOver, time.Second)
	if opts.Authenticator == nil {
		opts.Authenticator = &livetemplate.AnonymousAuthenticator{}
	}
	sockets := newRefusals(opts.Log, "live connection", stopping, full, sessionFull, foreign, noUpgrade, badHandshake)
	forms := newRefusals(opts.Log, "form", crossSite, tooFast, tooLong, tooSlow, incomplete)
	s := &Site{
		Stats:              &wsconn.Stats{},
		RefusedConnections: sockets.counts,
		RefusedForms:       forms.counts,
		opts:               opts,
		layout:             layout{opts.Templates, opts.Files, opts.Funcs},
		mux:                http.NewServeMux(),
		admission:          newAdmission(opts, sockets),
		rate:               &rateLimit{whole: map[string]time.Time{}},
		formRefusals:       forms,
	}
	s.addFixed()
	s.handle()
	s.server = newServer(s, opts.Log)
	return s
}

// addFixed adds everything but the live pages.
func (s *Site) addFixed() {
	type page struct{ Title, Category string }
	index := s.layout.fixed(http.StatusOK, page{"Home", s.opts.Category}, "/", "index.tmpl")
	notFound := s.layout.fixed(http.StatusNotFound, page{"Page not found", s.opts.Category}, "", "not-found.tmpl")
	s.mux.Handle("/{$}", readOnly(index))
	s.mux.Handle("/static/", readOnly(http.StripPrefix("/static/", s.opts.Files.Handler(notFound))))
	s.mux.Handle("/healthz", readOnly(http.HandlerFunc(s.admission.alive)))
	s.mux.Handle("/", notFound)
}

// Handle has a handler of the program answer GET and HEAD requests for a path.
func (s *Site) Handle(path string, handler http.Handler) { s.mux.Handle(path, readOnly(handler)) }

// HandlePost has a handler of the program answer posts to a path, such as a login. Those from
// other sites do not reach it, and none is read beyond the length of a form of a live page.
func (s *Site) HandlePost(path string, handler http.HandlerFunc) {
	s.mux.Handle("POST "+path, http.MaxBytesHandler(handler, maxForm))
}

// Live adds a live page to a site: the template file, run by a controller from a
// first state. The file defines "content", and within it uses "live", the part that
// the framework renders. With the query ?frame the page is there for a frame of another
// page of the site. Live panics if a template is broken.
//
// Of what livetemplate offers, a page cannot use
//   - uploads: the client sends parts of 256 KiB, and a message may have wsconn.MaxMessage;
//   - lvt-mounted and whatever else runs code from an attribute: the content security policy
//     forbids it;
//   - data in a publish, or the results of Async, where they must arrive: a busy connection
//     has room for one action. Of what is dropped the log has a warning. Refreshes of
//     fanout.Peers always arrive;
//   - fields that persist, GroupID and Session in an action that a page without a socket
//     posts: each post has a session of its own. Browser works everywhere. A post costs two
//     calls of Mount and two renderings.
//
// A page may use topics of its own. Only its controller subscribes a connection, so it has
// to check that a visitor may read what the topic is about. Patterns, such as "room/*", are
// refused: in a name that comes from an address, "*" would stand for every topic.
//
// A frame may have wsconn.MaxQueued bytes if another one is still waiting, and any length
// otherwise.
func Live[S any](s *Site, path, file string, controller any, state *S) *Page {
	p := &Page{
		path:      path,
		whole:     s.layout.around(state, path, file, livePage),
		framed:    s.layout.around(state, path, file, framedPage),
		admission: s.admission,
	}
	p.upgrader = wsconn.New(wsconn.Options{Log: s.opts.Log, Heartbeat: s.opts.Heartbeat, Stats: s.Stats,
		Protocols: []string{anyPage + "." + p.whole.build, anyPage + "." + p.framed.build, anyPage}})
	live := livetemplate.Must(livetemplate.New(p.Name(), append(s.liveOptions(p),
		livetemplate.WithParseFS(s.opts.Templates, "live.tmpl", file),
		func(c *livetemplate.Config) { p.sessions = c.SessionStore })...))
	// All connections share what the first rendering parses, but only if it comes
	// before them.
	livetemplate.Must(live, live.Execute(io.Discard, state))
	p.handler = live.Handle(controller, livetemplate.AsState(state))
	p.posts = posts{p.handler, live, s.rate, s.formRefusals}
	s.addPage(p)
	return p
}

// liveOptions are the options of the framework. docs/bench.md has the figures
// behind them.
func (s *Site) liveOptions(p *Page) []livetemplate.Option {
	return []livetemplate.Option{
		livetemplate.WithUpgrader(p.upgrader),
		livetemplate.WithAuthenticator(identifying(s.opts.Authenticator)),
		livetemplate.WithTopicACL(func(topic, _ string, _ *http.Request) (bool, error) {
			return !strings.Contains(topic, "*"), nil
		}),
		// Without a script, and until the socket is open, a form is a plain form.
		livetemplate.WithLoadingDisabled(),
		// A refresh reads everything, so one that waits stands for all that follow. With
		// more room, a busy connection would run one refresh after the other.
		livetemplate.WithDispatchBufferSize(1),
		// The framework closes a connection whose send queue is full. It holds the
		// answers that a peer may wait for, and refreshes.
		livetemplate.WithWebSocketBufferSize(2 * wsconn.MaxUnanswered),
		// Faster clicks do not count, and the page says so.
		livetemplate.WithMessageRateLimit(actionRate, actionBurst),
	}
}

// addPage adds a live page. Its address with a slash at the end leads to it.
func (s *Site) addPage(p *Page) {
	s.pages = append(s.pages, p)
	s.mux.Handle(p.path, p)
	s.mux.HandleFunc(p.path+"/{$}", func(w http.ResponseWriter, r *http.Request) {
		to := url.URL{Path: p.path, RawQuery: r.URL.RawQuery}
		http.Redirect(w, r, to.String(), http.StatusPermanentRedirect)
	})
}

// Pages returns the live pages.
func (s *Site) Pages() []*Page { return s.pages }

// MaxConnections returns how many live connections may be open.
func (s *Site) MaxConnections() int { return s.admission.max }

// handle sets the handler of all requests. Sockets have fewer layers: each would stay on
// the stack for as long as a socket is open.
func (s *Site) handle() {
	pages := sameSiteOnly(s.opts.AllowOrigins, s.formRefusals, compressed(s.mux))
	pages = withPolicy(s.opts.Files.CDN(), takesOnly(pages, http.MethodGet, http.MethodHead, http.MethodPost))
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r = withVisit(r); asksForSocket(r) {
			s.mux.ServeHTTP(w, r)
		} else {
			pages.ServeHTTP(w, r)
		}
	})
	if s.opts.Around != nil {
		s.Handler = s.opts.Around(s.Handler, s.route)
	}
}

// route returns the part of the site that a request is for, as a label: the path of
// a page, "/static/" for every file, or "other".
func (s *Site) route(r *http.Request) string {
	switch _, pattern := s.mux.Handler(r); pattern {
	case "/", "":
		return "other"
	default:
		return cmp.Or(strings.TrimSuffix(pattern, "/{$}"), "/")
	}
}

// Serve serves visitors. It returns the error of the listener, or http.ErrServerClosed after
// Shutdown.
func (s *Site) Serve(visitors net.Listener) error { return s.server.Serve(visitors) }

const (
	// answerWithin is the time that peers have to answer their close frames.
	answerWithin = 1500 * time.Millisecond

	// requestsWithin is the time that requests have to end. Browsers open connections
	// ahead of requests, which look as if a request were under way.
	requestsWithin = 300 * time.Millisecond
)

// Shutdown refuses new connections, and sends every open connection a close frame
// with code 1001 (going away), spread over Options.CloseOver. Pages
// are served meanwhile, and then Serve ends. If ctx ends first, or requests take too long,
// Shutdown cuts what is still open, and returns an error.
func (s *Site) Shutdown(ctx context.Context) error {
	err := s.closePages(ctx)
	requests, cancel := context.WithTimeout(ctx, requestsWithin)
	defer cancel()
	err = errors.Join(err, s.server.Shutdown(requests))
	s.server.Close()
	return err
}

// closePages closes all live connections, and then what the framework runs for them.
func (s *Site) closePages(ctx context.Context) error {
	empty := s.admission.stop()
	var closing sync.WaitGroup
	for _, p := range s.pages {
		closing.Go(func() { p.upgrader.CloseAll(ctx, s.opts.CloseOver) })
	}
	closing.Wait()
	select {
	case <-empty:
	case <-time.After(answerWithin):
	case <-ctx.Done():
	}
	// Only now, because the framework has a data race if a request arrives while it
	// waits for its connections.
	done := make(chan error, len(s.pages))
	for _, p := range s.pages {
		go func() {
			defer p.close()
			done <- p.handler.Shutdown(ctx)
		}()
	}
	var errs []error
	for range s.pages {
		select {
		case err := <-done:
			errs = append(errs, err)
		case <-ctx.Done(): // the framework can block for longer than its context
			return ctx.Err()
		}
	}
	return errors.Join(errs...)
}

// newServer returns a server with limits for slow and huge requests. A live connection has
// limits of its own.
func newServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelError),
	}
}
