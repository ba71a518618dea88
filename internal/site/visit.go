package site

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"regexp"
	"slices"
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

func withVisit(r *http.Request) *http.Request {
	v := &visit{secure: r.TLS != nil || r.URL.Scheme == "https", session: sessionOf(r)}
	return r.WithContext(context.WithValue(r.Context(), visitKey{}, v))
}

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
