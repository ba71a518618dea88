package site

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
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
	refusals      refusals
	proxyLogged   atomic.Bool // a proxy that passes no upgrade on

	mu        sync.Mutex
	bySession map[string]int
	open      int
	stopping  bool          // no connection is admitted any more
	empty     chan struct{} // closed once the site is stopping and no connection is open
}

func newAdmission(opts Options, refusals refusals) *admission {
	return &admission{
		origins:       opts.AllowOrigins,
		max:           cmp.Or(opts.MaxConnections, DefaultMaxConnections),
		maxPerSession: cmp.Or(opts.MaxPerSession, DefaultMaxPerSession),
		refusals:      refusals,
		bySession:     map[string]int{},
		empty:         make(chan struct{}),
	}
}

// serve calls next to upgrade a request and serve its connection until it ends, or
// refuses it.
func (a *admission) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if why := a.admit(r); why != "" {
		a.refuse(w, r, why)
		return
	}
	defer a.release(r)
	next.ServeHTTP(w, r)
}

// refuse answers with a sentence for operators: a browser does not show it, and the page
// asks at /healthz. Of a proxy that passes no upgrade on, only the first refusal is logged:
// every tab keeps trying.
func (a *admission) refuse(w http.ResponseWriter, r *http.Request, why string) {
	switch {
	case why != noUpgrade:
		a.refusals.add(r, ownOrigin(r), why)
	case a.proxyLogged.Swap(true):
		a.refusals.count(why)
	default:
		a.refusals.add(r, ownOrigin(r), why, slog.String("hint", "a proxy does not pass on the upgrade: set HTTP/1.1 and the headers Upgrade and "+
			"Connection there, in nginx by proxy_http_version 1.1, proxy_set_header Upgrade $http_upgrade and proxy_set_header Connection upgrade"))
	}
	switch why {
	case noUpgrade:
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		http.Error(w, "No live connection is possible: a proxy does not pass on the upgrade to a WebSocket.", http.StatusUpgradeRequired)
	case badHandshake:
		w.Header().Set("Sec-WebSocket-Version", "13")
		http.Error(w, "This handshake is not one of WebSocket version 13.", http.StatusBadRequest)
	case foreign:
		http.Error(w, "This page does not accept live connections from other sites.", http.StatusForbidden)
	default:
		w.Header().Set("Retry-After", "15")
		http.Error(w, "No live connection is possible now: "+words(why)+". Please try again later.", http.StatusServiceUnavailable)
	}
}

// asksForSocket reports whether a request is a WebSocket handshake, or what a proxy
// without WebSocket support has left of one.
func asksForSocket(r *http.Request) bool {
	return websocket.IsWebSocketUpgrade(r) || r.Method == http.MethodGet && r.Header.Get("Sec-WebSocket-Key") != ""
}

// handshakeError returns the reason why a handshake is not valid, or nothing. The
// framework would serve the page instead, or log an error.
func handshakeError(r *http.Request) (why string) {
	key, _ := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	switch {
	case !websocket.IsWebSocketUpgrade(r):
		return noUpgrade
	case !livetemplate.WSIsUpgrade(r) || len(key) != 16 || r.ContentLength != 0:
		return badHandshake
	}
	return ""
}

// admit counts a connection, or returns the reason to refuse it.
func (a *admission) admit(r *http.Request) (why string) {
	if why := handshakeError(r); why != "" {
		return why
	}
	if !fromHere(r, a.origins) {
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
	session := visitOf(r.Context()).session
	a.open += n
	a.bySession[session] += n
	if a.bySession[session] == 0 {
		delete(a.bySession, session)
	}
}

// noRoomLocked returns the reason why this browser cannot have another connection,
// or nothing.
func (a *admission) noRoomLocked(r *http.Request) string {
	switch {
	case a.stopping:
		return stopping
	case a.open >= a.max:
		return full
	case a.bySession[visitOf(r.Context()).session] >= a.maxPerSession:
		return sessionFull
	}
	return ""
}

// alive answers /healthz. It also tells a page why its connection would be refused.
// The status is 503 while the site is stopping, so that a proxy asks another server.
// Otherwise it is 200, because a browser logs any other status as an error.
func (a *admission) alive(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	why := a.noRoomLocked(r)
	a.mu.Unlock()
	if why == stopping {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprintln(w, cmp.Or(words(why), "ok"))
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
