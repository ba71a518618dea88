package site

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"sync"
)

// The default limits of live connections.
const (
	DefaultMaxConnections = 10_000
	DefaultMaxPerSession  = 50
)

// admission admits WebSocket connections from the site's own pages, or from an
// allowed origin, while there is room. It never closes an open connection.
type admission struct {
	origins       []string // allowed besides the site's own
	max           int
	maxPerSession int
	refused       refuse

	mu        sync.Mutex
	byPage    map[string]int
	bySession map[string]int
	open      int
	stopping  bool
	empty     chan struct{} // closed once the site is stopping and no connection is open
}

func newAdmission(opts Options, refused refuse) *admission {
	return &admission{
		origins:       opts.AllowOrigins,
		max:           cmp.Or(opts.MaxConnections, DefaultMaxConnections),
		maxPerSession: cmp.Or(opts.MaxPerSession, DefaultMaxPerSession),
		refused:       refused,
		byPage:        map[string]int{},
		bySession:     map[string]int{},
		empty:         make(chan struct{}),
	}
}

// serve calls next to upgrade a request and serve its connection until it ends.
// Otherwise it answers with a sentence for operators: a browser does not show it,
// and the page asks at /healthz.
func (a *admission) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	switch why := a.admit(r); why {
	case "":
		defer a.release(r)
		next.ServeHTTP(w, r)
	case foreign:
		a.refused(r, why)
		http.Error(w, "This page does not accept live connections from other sites.", http.StatusForbidden)
	default:
		a.refused(r, why)
		w.Header().Set("Retry-After", "15")
		http.Error(w, "No live connection is possible now: "+why+". Please try again later.", http.StatusServiceUnavailable)
	}
}

// admit counts a connection, or returns the reason to refuse it.
func (a *admission) admit(r *http.Request) (refused string) {
	if !a.mayConnect(r) {
		return foreign
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if why := a.noRoomLocked(r); why != "" {
		return why
	}
	a.countLocked(r, 1)
	return ""
}

func (a *admission) release(r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.countLocked(r, -1)
	if a.stopping && a.open == 0 {
		close(a.empty)
	}
}

// countLocked adds n to the number of connections.
func (a *admission) countLocked(r *http.Request, n int) {
	session := sessionOf(r)
	a.open += n
	a.byPage[r.URL.Path] += n
	a.bySession[session] += n
	if a.bySession[session] == 0 {
		delete(a.bySession, session)
	}
}

// mayConnect reports whether a request comes from a page that may connect, or from
// no page at all: then it carries no cookie of a visitor.
func (a *admission) mayConnect(r *http.Request) bool {
	from := r.Header.Get("Origin")
	return from == "" || from == origin(r) || slices.Contains(a.origins, from)
}

// noRoomLocked returns the reason why this browser cannot have another connection,
// or nothing.
func (a *admission) noRoomLocked(r *http.Request) string {
	switch {
	case a.stopping:
		return stopping
	case a.open >= a.max:
		return full
	case a.bySession[sessionOf(r)] >= a.maxPerSession:
		return sessionFull
	}
	return ""
}

// alive answers /healthz. It also tells a page why its connection would be refused.
// The status is 200 even then, because a browser logs any other as an error.
func (a *admission) alive(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fmt.Fprintln(w, cmp.Or(a.noRoomLocked(r), "ok"))
}

// ready answers /readyz, for a load balancer, with 503 while the site is stopping. A
// degraded server is as good as any other: its pages are up.
func (a *admission) ready(degraded func() bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		switch {
		case a.stopping:
			http.Error(w, stopping, http.StatusServiceUnavailable)
		case degraded():
			fmt.Fprintln(w, "degraded")
		default:
			fmt.Fprintln(w, "ready")
		}
	}
}

// on returns the number of connections of a page.
func (a *admission) on(path string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.byPage[path]
}

// stop refuses every connection from now on. The channel it returns is closed once
// none is open.
func (a *admission) stop() (empty <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.stopping && a.open == 0 {
		close(a.empty)
	}
	a.stopping = true
	return a.empty
}
