package site

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"regexp"
)

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
		if sessionOf(r) == "" {
			session := &http.Cookie{
				Name: sessionCookie, Value: newSession(), Path: "/", MaxAge: 365 * 24 * 60 * 60,
				HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: visitOf(r.Context()).secure,
			}
			http.SetCookie(w, session)
			r = withCookie(r, session)
		}
		next.ServeHTTP(w, r)
	})
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
