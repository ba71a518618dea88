package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// By default the server takes 10,000 connections, and 50 of one browser.
const (
	DefaultMaxConnections = 10_000
	DefaultMaxPerSession  = 50
)

// sockets admits WebSocket connections to the live pages: from the page's own
// origin, or one that is allowed, and while there is room. Whoever is connected
// already is never touched.
type sockets struct {
	origins       []string // allowed beside the page's own
	max           int
	maxPerSession int
	log           *slog.Logger
	refused       *prometheus.CounterVec // by reason

	mu        sync.Mutex
	byPage    map[string]int
	bySession map[string]int
	open      int
	stopping  bool
	empty     chan struct{} // closed when stopping, and none is open any more
}

func newSockets(cfg Config, refused *prometheus.CounterVec) *sockets {
	return &sockets{
		origins:       cfg.AllowOrigins,
		max:           cmp.Or(cfg.MaxConnections, DefaultMaxConnections),
		maxPerSession: cmp.Or(cfg.MaxPerSession, DefaultMaxPerSession),
		log:           cfg.Log,
		refused:       refused,
		byPage:        map[string]int{},
		bySession:     map[string]int{},
		empty:         make(chan struct{}),
	}
}

// The reasons for which a connection is refused.
const (
	stopping    = "stopping"
	full        = "full"
	sessionFull = "session full"
	foreign     = "foreign origin"
)

// serve lets next upgrade a request and serve its connection until that ends. Or
// it refuses, in a sentence that only a proxy or an operator will see: a browser
// does not show it. The page asks at /healthz, and says so itself.
func (s *sockets) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	switch why := s.admit(r); why {
	case "":
		defer s.release(r)
		next.ServeHTTP(w, r)
	case foreign:
		s.refuse(r, why)
		http.Error(w, "This page takes no live connections from other sites.", http.StatusForbidden)
	default:
		s.refuse(r, why)
		w.Header().Set("Retry-After", "15")
		http.Error(w, "No live connection now: "+why+". Please try again later.", http.StatusServiceUnavailable)
	}
}

func (s *sockets) refuse(r *http.Request, why string) {
	s.refused.WithLabelValues(why).Inc()
	s.log.WarnContext(r.Context(), "live connection refused", slog.String("reason", why),
		slog.String("remote_addr", r.RemoteAddr), slog.String("origin", r.Header.Get("Origin")))
}

// admit counts a connection in, or says why not.
func (s *sockets) admit(r *http.Request) (refused string) {
	if !s.mayConnect(r) {
		return foreign
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if why := s.noRoom(r); why != "" {
		return why
	}
	s.count(r, 1)
	return ""
}

func (s *sockets) release(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(r, -1)
	if s.stopping && s.open == 0 {
		close(s.empty)
	}
}

// count counts connections in or out; s.mu is held.
func (s *sockets) count(r *http.Request, n int) {
	session := sessionOf(r)
	s.open += n
	s.byPage[r.URL.Path] += n
	s.bySession[session] += n
	if s.bySession[session] == 0 {
		delete(s.bySession, session)
	}
}

// mayConnect reports whether a request is from a page of ours, or from one that
// is allowed, or from no page at all: then it brings no visitor's cookie along.
func (s *sockets) mayConnect(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	return origin == "" || origin == originOf(r) || slices.Contains(s.origins, origin)
}

// noRoom says why there is no room for one more connection of this browser, or
// nothing if there is; s.mu is held.
func (s *sockets) noRoom(r *http.Request) string {
	switch {
	case s.stopping:
		return stopping
	case s.open >= s.max:
		return full
	case s.bySession[sessionOf(r)] >= s.maxPerSession:
		return sessionFull
	}
	return ""
}

// alive answers /healthz. The page that asks hears as well why its connection
// would be refused. That is no error: a browser would complain of one.
func (s *sockets) alive(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintln(w, cmp.Or(s.noRoom(r), "ok"))
}

// ready answers /readyz, for a load balancer: 503 while stopping. A server without
// Redis is degraded, and no worse than the others: its pages are up.
func (s *sockets) ready(degraded func() bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case s.stopping:
			http.Error(w, stopping, http.StatusServiceUnavailable)
		case degraded():
			fmt.Fprintln(w, "degraded")
		default:
			fmt.Fprintln(w, "ready")
		}
	}
}

// on is how many connections a page has.
func (s *sockets) on(page string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byPage[page]
}

// stop admits no connection from now on. The channel it returns is closed when
// none is left.
func (s *sockets) stop() (empty <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopping && s.open == 0 {
		close(s.empty)
	}
	s.stopping = true
	return s.empty
}

// originOf is the origin of the pages that a request was sent to.
func originOf(r *http.Request) string {
	scheme := "http"
	if visitOf(r.Context()).secure {
		scheme = "https"
	}
	return scheme + "://" + strings.ToLower(r.Host)
}
