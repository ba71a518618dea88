package site

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"realtime/internal/logging"
	"realtime/internal/origin"
)

// visit is what is known about a request before it is handled.
type visit struct {
	secure  bool   // it came over TLS
	session string // of the browser; empty if it has none yet

	// Of a post:
	group        string // its session group, which nothing else has
	refusedState any    // the state that Refuse was called with
}

type visitKey struct{}

func visitOf(ctx context.Context) *visit {
	if v, ok := ctx.Value(visitKey{}).(*visit); ok {
		return v
	}
	return &visit{}
}

// scheme is that of the page that a request was sent to.
func (v *visit) scheme() string {
	if v.secure {
		return "https"
	}
	return "http"
}

// ownOrigin is the origin of the page that a request was sent to.
func ownOrigin(r *http.Request) string { return visitOf(r.Context()).scheme() + "://" + r.Host }

// fromHere reports whether a request comes from a page of this site or of an allowed
// origin, or from no page at all: then it carries no cookie of a visitor.
func fromHere(r *http.Request, allowed []string) bool {
	from := r.Header.Get("Origin")
	return from == "" || from == ownOrigin(r) || slices.Contains(allowed, from)
}

var requestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// received finds out who sends a request, and how. Forwarding headers count only
// if a proxy sets them: anybody could send them. From here on the host is as browsers
// write it, so that it can be compared with an origin.
type received struct {
	next       http.Handler
	log        *slog.Logger
	trustProxy bool
	warned     atomic.Bool
}

func (h *received) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.next.ServeHTTP(w, h.withVisit(w, r))
}

func (h *received) withVisit(w http.ResponseWriter, r *http.Request) *http.Request {
	v, id := &visit{secure: r.TLS != nil, session: sessionOf(r)}, rand.Text()
	host, addr := r.Host, r.RemoteAddr
	if h.trustProxy {
		if sent := r.Header.Get("X-Request-Id"); requestID.MatchString(sent) {
			id = sent
		}
		if proto := forwarded(r, "X-Forwarded-Proto"); proto != "" {
			v.secure = slices.Contains([]string{"https", "wss"}, strings.ToLower(proto)) // wss of a socket through Traefik
		}
		if name := forwarded(r, "X-Forwarded-Host"); name != "" {
			host = name
		}
		if ip, ok := forwardedIP(forwarded(r, "X-Forwarded-For")); ok {
			addr = ip.String()
		}
	}
	if !h.trustProxy && comesThroughProxy(r) && !h.warned.Swap(true) {
		h.log.Warn("forwarding headers are ignored: -trust-proxy is for a proxy that sets or removes each of them", slog.String("remote_addr", addr))
	}
	ctx := logging.With(r.Context(), slog.String("request_id", id))
	r = r.WithContext(context.WithValue(ctx, visitKey{}, v))
	r.Host, r.RemoteAddr = origin.Host(v.scheme(), host), addr
	w.Header().Set("X-Request-Id", id)
	return r
}

// comesThroughProxy reports whether a request looks as if a proxy had forwarded it.
func comesThroughProxy(r *http.Request) bool {
	h := r.Header
	return h.Get("X-Forwarded-Proto")+h.Get("X-Forwarded-Host")+h.Get("X-Forwarded-For") != ""
}

// forwarded returns the value that the nearest proxy has set. Proxies append to a
// value that they receive.
func forwarded(r *http.Request, header string) string {
	values := strings.Split(strings.Join(r.Header.Values(header), ","), ",")
	return strings.TrimSpace(values[len(values)-1])
}

// forwardedIP returns the address of a client, which some proxies write with a port, and
// an IPv6 address in brackets.
func forwardedIP(text string) (ip netip.Addr, ok bool) {
	if withPort, err := netip.ParseAddrPort(text); err == nil {
		return withPort.Addr().Unmap().WithZone(""), true
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	return ip.Unmap().WithZone(""), err == nil // a zone is any text
}

// sessionCookie is the framework's cookie. It identifies a browser, not a person.
const sessionCookie = "livetemplate-id"

// madeHere matches what newSession makes. Other values could have any length, and
// the framework keeps them.
var madeHere = regexp.MustCompile(`^[A-Za-z0-9_-]{43}=$`)

func newSession() string {
	var id [32]byte
	rand.Read(id[:])
	return base64.URLEncoding.EncodeToString(id[:])
}

// sessionOf returns the session of a request, or nothing.
func sessionOf(r *http.Request) string {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil || !madeHere.MatchString(cookie.Value) {
		return ""
	}
	return cookie.Value
}

// withSession starts a new session for a request that has no valid one. The
// framework would accept any value, and would not mark its cookie as secure.
func withSession(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v := visitOf(r.Context()); v.session == "" {
			r = startSession(w, r, v)
		}
		next.ServeHTTP(w, r)
	})
}

func startSession(w http.ResponseWriter, r *http.Request, v *visit) *http.Request {
	v.session = newSession()
	cookie := &http.Cookie{
		Name: sessionCookie, Value: v.session, Path: "/", MaxAge: 365 * 24 * 60 * 60,
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: v.secure,
	}
	http.SetCookie(w, cookie)
	return withCookie(r, cookie)
}

// withCookie returns a copy of a request in which a cookie replaces all others of
// its name.
func withCookie(r *http.Request, cookie *http.Cookie) *http.Request {
	others := r.Cookies()
	r = r.Clone(r.Context())
	r.Header.Del("Cookie")
	r.AddCookie(cookie)
	for _, other := range others {
		if other.Name != cookie.Name {
			r.AddCookie(other)
		}
	}
	return r
}
