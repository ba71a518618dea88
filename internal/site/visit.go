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
	scheme  string // of the page
	session string // of the browser; empty if it has none yet

	// Of a post:
	group        string // its session group, which nothing else has
	refusedState any    // the state that Refuse was called with
}

type visitKey struct{}

func withVisit(r *http.Request) *http.Request {
	v := &visit{scheme: "http", session: sessionOf(r)}
	// Where nothing around the site knows what a proxy has done, the page knows that it came by TLS.
	if r.TLS != nil || r.URL.Scheme == "https" || r.URL.Scheme == "" && r.Header.Get("Origin") == "https://"+r.Host {
		v.scheme = "https"
	}
	return r.WithContext(context.WithValue(r.Context(), visitKey{}, v))
}

func visitOf(ctx context.Context) *visit {
	if v, ok := ctx.Value(visitKey{}).(*visit); ok {
		return v
	}
	return &visit{}
}

// ownOrigin is the origin of the page that a request was sent to.
func ownOrigin(r *http.Request) string { return visitOf(r.Context()).scheme + "://" + r.Host }

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
func withSession(w http.ResponseWriter, r *http.Request) *http.Request {
	v := visitOf(r.Context())
	if v.session != "" {
		return r
	}
	v.session = newSession()
	cookie := &http.Cookie{
		Name: sessionCookie, Value: v.session, Path: "/", MaxAge: 365 * 24 * 60 * 60,
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: v.scheme == "https",
	}
	http.SetCookie(w, cookie)
	r = r.Clone(r.Context())
	r.Header["Cookie"] = append([]string{sessionCookie + "=" + v.session}, r.Header["Cookie"]...) // the first of a name counts
	return r
}
