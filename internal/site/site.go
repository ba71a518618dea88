// Package site stands between net/http and livetemplate. It serves the pages of any
// controller: it admits live connections, checks requests, starts sessions, counts, and
// shuts down gracefully.
//
// It knows nothing about what the pages do, and does not pace refreshes: see package
// fanout for that.
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
	"sync/atomic"
	"time"

	"github.com/livetemplate/livetemplate"

	"realtime/internal/wsconn"
)

// Site serves pages. It is an http.Handler. Stop it with Shutdown.
type Site struct {
	http.Handler
	// Admin serves /metrics and /debug/pprof/. It is not for visitors.
	Admin http.Handler
	// Metrics are served by Admin.
	Metrics Metrics

	opts          Options
	layout        layout
	mux           *http.ServeMux
	pages         []*Page
	stats         *wsconn.Stats
	admission     *admission
	rate          *rateLimit
	formRefusals  refusals
	server, admin *http.Server
}

// New returns a site with an index and without live pages. It panics if a template is
// broken, which is as much of a mistake in the program as broken code.
func New(opts Options) *Site {
	opts.Log = cmp.Or(opts.Log, slog.Default())
	opts.Drain = cmp.Or(opts.Drain, DefaultDrain)
	opts.ActionRate = cmp.Or(opts.ActionRate, DefaultActionRate)
	opts.ActionBurst = cmp.Or(opts.ActionBurst, DefaultActionBurst)
	if opts.Authenticator == nil {
		opts.Authenticator = &livetemplate.AnonymousAuthenticator{}
	}
	if opts.Degraded == nil {
		opts.Degraded = func() bool { return false }
	}
	m := newMetrics()
	s := &Site{
		Admin:   m.admin(),
		Metrics: m,
		opts:    opts,
		layout:  layout{opts.Templates, opts.Files, opts.Funcs},
		mux:     http.NewServeMux(),
		stats:   &wsconn.Stats{},
		admission: newAdmission(opts, newRefusals(opts.Log, m.registry, "live connection", "realtime_connections_refused_total",
			"Live connections refused.", stopping, full, sessionFull, foreign, noUpgrade, badHandshake)),
		rate: newRateLimit(opts.ActionRate, opts.ActionBurst),
		formRefusals: newRefusals(opts.Log, m.registry, "form", "realtime_requests_refused_total",
			"Form posts refused.", crossSite, tooFast, tooLong, tooSlow, incomplete),
	}
	s.addMetrics()
	s.addFixed()
	s.handle()
	s.server = newServer(s, opts.Log)
	s.admin = &http.Server{Handler: s.Admin, ReadHeaderTimeout: s.server.ReadHeaderTimeout, ErrorLog: s.server.ErrorLog}
	return s
}

// addFixed adds everything but the live pages.
func (s *Site) addFixed() {
	type page struct{ Title, Category string }
	index := s.layout.fixed(http.StatusOK, page{"Home", s.opts.Category}, "/", "index.tmpl")
	notFound := s.layout.fixed(http.StatusNotFound, page{"Page not found", s.opts.Category}, "", "not-found.tmpl")
	s.mux.Handle("/{$}", readOnly(index))
	s.mux.Handle("/static/", readOnly(http.StripPrefix("/static/", s.opts.Files.Handler(notFound))))
	for _, icon := range []string{"/favicon.ico", "/apple-touch-icon.png"} { // some ask here, whatever a page says
		s.mux.Handle(icon, readOnly(s.opts.Files.AtRoot(notFound)))
	}
	s.mux.Handle("/healthz", readOnly(http.HandlerFunc(s.admission.alive)))
	s.mux.Handle("/readyz", readOnly(s.admission.ready(s.opts.Degraded)))
	s.mux.Handle("/", notFound)
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
//   - topics other than the self topic: they need an access list, which a Site has not;
//   - fields that persist, GroupID and Session in an action that a page without a socket
//     posts: each post has a session of its own. Browser works everywhere. A post costs two
//     calls of Mount and two renderings.
//
// A frame may have wsconn.MaxQueued bytes if another one is still waiting, and any length
// otherwise.
func Live[S any](s *Site, path, file string, controller any, state *S) *Page {
	p := &Page{
		path:      path,
		whole:     s.layout.around(state, path, file, livePage),
		framed:    s.layout.around(state, path, file, framedPage),
		admission: s.admission,
		log:       s.opts.Log,
	}
	p.upgrader = wsconn.New(wsconn.Options{Log: s.opts.Log, Heartbeat: s.opts.Heartbeat, Stats: s.stats,
		Protocols: []string{anyPage + "." + p.whole.build, anyPage + "." + p.framed.build, anyPage}})
	live := livetemplate.Must(livetemplate.New(p.name(), append(s.liveOptions(p),
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
		// Without a script, and until the socket is open, a form is a plain form.
		livetemplate.WithLoadingDisabled(),
		// A refresh reads everything, so one that waits stands for all that follow. With
		// more room, a busy connection would run one refresh after the other.
		livetemplate.WithDispatchBufferSize(1),
		// The framework closes a connection whose send queue is full. It holds the
		// answers that a peer may wait for, and refreshes.
		livetemplate.WithWebSocketBufferSize(2 * wsconn.MaxUnanswered),
		// Faster clicks do not count, and the page says so. A key that is held down
		// repeats less than 50 times a second.
		livetemplate.WithMessageRateLimit(s.opts.ActionRate, s.opts.ActionBurst),
	}
}

// addPage adds a live page. Its address with a slash at the end leads to it.
func (s *Site) addPage(p *Page) {
	s.pages = append(s.pages, p)
	s.mux.Handle(p.path, withSession(p))
	s.mux.HandleFunc(p.path+"/{$}", func(w http.ResponseWriter, r *http.Request) {
		to := url.URL{Path: p.path, RawQuery: r.URL.RawQuery}
		http.Redirect(w, r, to.String(), http.StatusPermanentRedirect)
	})
	labels := map[string]string{"page": p.name()}
	m := s.Metrics
	m.Gauge("realtime_connections", "Live connections open now.", labels, func() int { return s.admission.on(p.path) })
	m.Counter("realtime_connections_opened_total", "Live connections opened.", labels, p.upgrader.Opened)
	m.Counter("realtime_refreshes_sent_total", "Refreshes handed to a connection.", labels,
		func() int { return p.counted("livetemplate_publishes_sent_total") })
	m.Counter("realtime_dispatch_drops_total", "Actions dropped because another was waiting for the connection. A refresh that waits covers those that are dropped.", labels, p.Dropped)
}

// addMetrics adds the metrics of all live connections, and of what they send.
func (s *Site) addMetrics() {
	m := s.Metrics
	m.Gauge("realtime_connections_limit", "Most live connections that may be open.", nil, func() int { return s.admission.max })
	for reason, count := range map[string]*atomic.Int64{
		"too_fast":   &s.stats.TooFast,
		"too_long":   &s.stats.TooLong,
		"not_text":   &s.stats.NotText,
		"not_action": &s.stats.NotAction,
	} {
		m.Counter("realtime_messages_refused_total", "Messages refused.", map[string]string{"reason": reason},
			func() int { return int(count.Load()) })
	}
	m.Counter("realtime_slow_closes_total", "Connections closed because their peer did not read.", nil, s.slowCloses)
}

// slowCloses adds up the connections that wsconn has closed, and those that the framework
// has, because a queue of its own was full.
func (s *Site) slowCloses() int {
	sum := int(s.stats.SlowCloses.Load())
	for _, p := range s.pages {
		sum += p.counted("livetemplate_websocket_slow_client_closes_total")
	}
	return sum
}

// handle sets the handler of all requests. Sockets have fewer layers: each would stay on
// the stack for as long as a socket is open.
func (s *Site) handle() {
	pages := sameSiteOnly(s.opts.AllowOrigins, s.formRefusals, compressed(s.mux))
	pages = withPolicy(s.opts.Files.CDN(), takesOnly(pages, http.MethodGet, http.MethodHead, http.MethodPost))
	all := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asksForSocket(r) {
			s.mux.ServeHTTP(w, r)
		} else {
			pages.ServeHTTP(w, r)
		}
	})
	s.Handler = &received{next: &measured{all, s.opts.Log, s.Metrics.requests(), s.route}, log: s.opts.Log, trustProxy: s.opts.TrustProxy}
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

// Serve serves visitors, and metrics and profiles to admin, which may be nil. It returns
// the error of the first listener that fails, or http.ErrServerClosed after Shutdown.
func (s *Site) Serve(visitors, admin net.Listener) error {
	failed := make(chan error, 2)
	go func() { failed <- s.server.Serve(visitors) }()
	if admin != nil {
		go func() { failed <- s.admin.Serve(admin) }()
	}
	return <-failed
}

const (
	// answerWithin is the time that peers have to answer their close frames.
	answerWithin = 1500 * time.Millisecond

	// requestsWithin is the time that requests have to end. Browsers open connections
	// ahead of requests, which look as if a request were under way.
	requestsWithin = 300 * time.Millisecond
)

// Drain answers /readyz with 503 from now on, and waits for the first half of
// Options.Drain, or until ctx ends. Then it refuses new connections. Call Shutdown
// afterwards.
func (s *Site) Drain(ctx context.Context) {
	s.admission.drain()
	select {
	case <-time.After(s.opts.Drain / 2):
	case <-ctx.Done():
	}
	s.admission.stop()
}

// Shutdown refuses new connections, and sends every open connection a close frame
// with code 1001 (going away), spread over the second half of Options.Drain. Pages
// are served meanwhile, and then Serve ends. If ctx ends first, or requests take too long,
// Shutdown cuts what is still open, and returns an error.
func (s *Site) Shutdown(ctx context.Context) error {
	err := s.closePages(ctx)
	requests, cancel := context.WithTimeout(ctx, requestsWithin)
	defer cancel()
	err = errors.Join(err, s.server.Shutdown(requests))
	s.server.Close()
	s.admin.Close()
	return err
}

// closePages closes all live connections, and then what the framework runs for them.
func (s *Site) closePages(ctx context.Context) error {
	empty := s.admission.stop()
	s.closeConnections(ctx)
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

// closeConnections sends the close frames of all pages, side by side.
func (s *Site) closeConnections(ctx context.Context) {
	done := make(chan bool, len(s.pages))
	for _, p := range s.pages {
		go func() {
			p.upgrader.CloseAll(ctx, s.opts.Drain/2)
			done <- true
		}()
	}
	for range s.pages {
		<-done
	}
}
