package site

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"regexp"

	"github.com/livetemplate/livetemplate"
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

// Browser returns the session of the browser that an action runs for: the same in all
// its tabs and in its plain requests, and another in every other browser. A browser that
// has lost its cookie is another one. Do not show it or log it: whoever knows it can act
// as that browser.
func Browser(ctx *livetemplate.Context) string {
	if sent := postOf(ctx); sent != nil {
		return sent.browser
	}
	return ctx.GroupID()
}

// authenticator gives every POST the session group that Page.act has chosen. The self
// topic of a visitor without an identity would be the topic of that group, so it also
// gives an identity to everybody who has none.
type authenticator struct{ livetemplate.Authenticator }

// identifying returns an authenticator that challenges as the given one does.
func identifying(a livetemplate.Authenticator) livetemplate.Authenticator {
	if challenge, ok := a.(livetemplate.ChallengeAuthenticator); ok {
		return struct {
			authenticator
			livetemplate.ChallengeAuthenticator
		}{authenticator{a}, challenge}
	}
	return authenticator{a}
}

// Identify returns the identity of a visitor, or a hash of the session. The framework
// logs identities, and the log must not contain session cookies.
func (a authenticator) Identify(r *http.Request) (string, error) {
	user, err := a.Authenticator.Identify(r)
	if user == "" && err == nil {
		hash := sha256.Sum256([]byte(sessionOf(r)))
		user = "session-" + base64.RawURLEncoding.EncodeToString(hash[:])
	}
	return user, err
}

// GetSessionGroup returns the group of a POST, or the one of the visitor.
func (a authenticator) GetSessionGroup(r *http.Request, user string) (string, error) {
	if sent := postOf(r.Context()); sent != nil {
		return sent.group, nil
	}
	return a.Authenticator.GetSessionGroup(r, user)
}
