// Package site stands between net/http and livetemplate. It serves the pages of any
// controller: it admits live connections, checks requests, starts sessions, counts,
// logs, and stops in an orderly way.
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
	"net/http"
	"net/url"
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

	opts        Options
	layout      layout
	mux         *http.ServeMux
	pages       []*Page
	stats       *wsconn.Stats
	admission   *admission
	rate        *rateLimit
	formRefused refusals
}

// New returns a site with an index and without live pages. An error means that a
// template is broken or that an allowed origin is invalid.
func New(opts Options) (*Site, error) {
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
	origins, err := canonicalOrigins(opts.AllowOrigins)
	if err != nil {
		return nil, err
	}
	opts.AllowOrigins = origins
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
		formRefused: newRefusals(opts.Log, m.registry, "form", "realtime_requests_refused_total",
			"Form posts refused.", crossSite, tooFast, tooLong, tooSlow, incomplete),
	}
	s.connectionMetrics()
	if err := s.addFixed(); err != nil {
		return nil, err
	}
	s.handle()
	return s, nil
}

// addFixed adds everything but the live pages.
func (s *Site) addFixed() error {
	type page struct{ Title, Category string }
	index, err := s.layout.fixed(http.StatusOK, page{"Home", s.opts.Category}, "index.tmpl")
	if err != nil {
		return err
	}
	notFound, err := s.layout.fixed(http.StatusNotFound, page{"Page not found", s.opts.Category}, "not-found.tmpl")
	if err != nil {
		return err
	}
	s.mux.Handle("/{$}", readOnly(index))
	s.mux.Handle("/static/", readOnly(http.StripPrefix("/static/", s.opts.Files.Handler(notFound))))
	s.mux.Handle("/healthz", readOnly(http.HandlerFunc(s.admission.alive)))
	s.mux.Handle("/readyz", readOnly(s.admission.ready(s.opts.Degraded)))
	s.mux.Handle("/", notFound)
	return nil
}

// Live adds a live page to a site: the template file, run by a controller from a
// first state. The file defines "content", and within it uses "live", the part that
// the framework renders. With the query ?frame the page is there for a frame of another
// page of the site. An error means that a template is broken.
//
// A connection that is busy has room for one published action. Refreshes of fanout.Peers
// reach it all the same, however many actions they are. What the controller publishes by
// itself, to carry data, and the results of Async may be dropped, which logs a warning, or
// take the place of a refresh.
func Live[S any](s *Site, path, file string, controller any, state *S) (*Page, error) {
	whole, err := s.layout.around(state, file, livePage)
	if err != nil {
		return nil, err
	}
	framed, err := s.layout.around(state, file, framedPage)
	if err != nil {
		return nil, err
	}
	p := &Page{
		upgrader: wsconn.New(wsconn.Options{Log: s.opts.Log, Heartbeat: s.opts.Heartbeat, Stats: s.stats,
			Protocols: []string{anyPage + "." + whole.build, anyPage + "." + framed.build, anyPage}}),
		admission: s.admission,
		rate:      s.rate,
		refused:   s.formRefused,
		path:      path,
		whole:     whole,
		framed:    framed,
	}
	p.live, err = livetemplate.New(p.name(), append(s.liveOptions(p),
		livetemplate.WithParseFS(s.opts.Templates, "live.tmpl", file),
		func(c *livetemplate.Config) { p.sessions = c.SessionStore })...)
	if err != nil {
		return nil, err
	}
	// All connections share what the first rendering parses, but only if it comes
	// before them.
	if err := p.live.Execute(io.Discard, state); err != nil {
		return nil, err
	}
	p.handler = p.live.Handle(controller, livetemplate.AsState(state))
	s.add(p)
	return p, nil
}

// liveOptions are the options of the framework. docs/measurements.md has the figures
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

// add adds a live page. Its address with a slash at the end leads to it.
func (s *Site) add(p *Page) {
	s.pages = append(s.pages, p)
	s.mux.Handle(p.path, withSession(p))
	s.mux.HandleFunc(p.path+"/{$}", func(w http.ResponseWriter, r *http.Request) {
		to := url.URL{Path: p.path, RawQuery: r.URL.RawQuery}
		http.Redirect(w, r, to.String(), http.StatusPermanentRedirect)
	})
	s.pageMetrics(p)
}

// handle sets the handler of all requests.
func (s *Site) handle() {
	sameSite := sameSiteOnly(s.opts.AllowOrigins, s.formRefused, compressed(s.mux))
	accepted := takesOnly(sameSite, http.MethodGet, http.MethodHead, http.MethodPost)
	noted := answered(s.opts.Log, s.Metrics.requests(), s.route, withPolicy(s.opts.Files.CDN(), accepted))
	s.Handler = received(s.opts.Log, s.opts.TrustProxy, noted)
}

// answerWithin is the time that peers have to answer their close frames when the
// site stops.
const answerWithin = 1500 * time.Millisecond

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
// are served meanwhile. If ctx ends first, it returns ctx's error.
func (s *Site) Shutdown(ctx context.Context) error {
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
