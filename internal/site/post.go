package site

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/livetemplate/livetemplate"
)

// posts serves the actions of a page that has no socket. The framework sends an answer as a
// difference to the last one of the session group, which is a browser: a tab would get the
// difference to what another tab shows. So every post has a session group of its own. act,
// show, the authenticator, Refuse and Browser hide that from actions.
type posts struct {
	handler  livetemplate.LiveHandler
	live     *livetemplate.Template // the live part of the page
	rate     *rateLimit
	refusals refusals
}

const (
	// maxForm is the maximum length of a posted form, in bytes.
	maxForm = 16 << 10

	// maxDiscarded is the length of a form, in bytes, up to which a form that is too
	// long is read to its end. A client that is still sending when the connection is
	// closed may not see the answer.
	maxDiscarded = 4 << 20
)

// serve writes the answer to a form, or refuses it and reports that.
func (p *posts) serve(w http.ResponseWriter, r *http.Request, answer *recorder) (accepted bool) {
	form, why := p.form(r)
	if why != "" {
		p.refuse(w, r, why)
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(form))
	p.act(answer, r)
	return true
}

// form returns the form that a visitor has posted, or the reason to refuse it.
func (p *posts) form(r *http.Request) (form []byte, why string) {
	if !p.rate.allow(visitOf(r.Context()).session) {
		return nil, tooFast
	}
	form, err := io.ReadAll(io.LimitReader(r.Body, maxForm+1))
	var timeout net.Error
	switch {
	case len(form) > maxForm:
		if r.ContentLength <= maxDiscarded {
			io.CopyN(io.Discard, r.Body, maxDiscarded)
		}
		return nil, tooLong
	case errors.As(err, &timeout) && timeout.Timeout():
		return nil, tooSlow
	case err != nil:
		return nil, incomplete
	}
	return form, ""
}

// refuse answers a form that does not count. A client that has aborted its form does not
// read the answer, and is nothing to warn about.
func (p *posts) refuse(w http.ResponseWriter, r *http.Request, why string) {
	if why == incomplete {
		p.refusals.count(why)
	} else {
		p.refusals.add(r, ownOrigin(r), why)
	}
	if why == tooFast {
		w.Header().Set("Retry-After", "1")
	}
	status := map[string]int{
		tooFast:    http.StatusTooManyRequests,
		tooLong:    http.StatusRequestEntityTooLarge,
		tooSlow:    http.StatusRequestTimeout,
		incomplete: http.StatusBadRequest,
	}
	http.Error(w, "Your form was not accepted: it was "+words(why)+".", status[why])
}

// act runs an action in a group of its own, and then a GET, which makes the framework
// forget the group.
func (p *posts) act(answer *recorder, r *http.Request) {
	v := visitOf(r.Context())
	v.group = rand.Text()
	defer func() {
		get := r.Clone(r.Context())
		get.Method, get.Body = http.MethodGet, http.NoBody
		p.handler.ServeHTTP(newRecorder(http.Header{}), get)
	}()
	p.handler.ServeHTTP(answer, r)
	if v.refusedState != nil {
		if err := p.show(answer, v.refusedState); err != nil {
			answer.WriteHeader(http.StatusInternalServerError)
		}
	}
	answer.header["Set-Cookie"] = slices.DeleteFunc(answer.header["Set-Cookie"], func(cookie string) bool {
		return strings.HasPrefix(cookie, sessionCookie+"="+v.group) // the browser keeps its own
	})
}

// show adds a state to the answer to a refused action, from which the framework leaves it
// out.
func (p *posts) show(answer *recorder, state any) error {
	t, err := p.live.Clone() // a new clone renders everything, and not a difference
	if err != nil {
		return err
	}
	if strings.HasPrefix(answer.header.Get("Content-Type"), "text/html") {
		answer.body.Reset()
		return t.Execute(&answer.body, state)
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(answer.body.Bytes(), &parts); err != nil {
		return err
	}
	var tree bytes.Buffer
	if err := t.ExecuteUpdates(&tree, state); err != nil {
		return err
	}
	parts["tree"] = tree.Bytes()
	answer.body.Reset()
	return json.NewEncoder(&answer.body).Encode(parts)
}

// Text returns the text that was typed into a field, or nothing if there is no such
// field.
//
// The browser client sends text that looks like a number or a boolean as one. Go's
// JSON prints both as JavaScript does, which restores the text: 1e-7 stays 1e-7.
// Only infinity has no JSON form. It arrives as null, so "-Infinity" loses its sign.
func Text(ctx *livetemplate.Context, field string) string {
	if !ctx.Has(field) {
		return ""
	}
	switch v := ctx.Get(field).(type) {
	case string:
		return v
	case nil:
		return "Infinity"
	default:
		text, _ := json.Marshal(v) // it came out of JSON, so this cannot fail
		return string(text)
	}
}

// Refuse returns the error of an action that refuses what a person has asked for. The
// action returns it together with its state, which tells the person why, and keeps what
// they have typed.
//
// On a socket it returns nil, because the framework drops a state that comes with an
// error. A plain request gets the error, and Refuse makes the page answer with the state.
func Refuse(ctx *livetemplate.Context, state any, why string) error {
	v := visitOf(ctx)
	if v.group == "" {
		return nil
	}
	v.refusedState = state
	return livetemplate.FieldError{Field: ctx.Action(), Message: why}
}

// Browser returns the session of the browser that an action runs for: the same in all
// its tabs and in its plain requests, and another in every other browser. A browser that
// has lost its cookie is another one. Do not show it or log it: whoever knows it can act
// as that browser.
func Browser(ctx *livetemplate.Context) string {
	if v := visitOf(ctx); v.group != "" {
		return v.session
	}
	return ctx.GroupID()
}

// authenticator gives every POST the session group that act has chosen. The self
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
		hash := sha256.Sum256([]byte(visitOf(r.Context()).session))
		user = "session-" + base64.RawURLEncoding.EncodeToString(hash[:])
	}
	return user, err
}

// GetSessionGroup returns the group of a POST, or the one of the visitor.
func (a authenticator) GetSessionGroup(r *http.Request, user string) (string, error) {
	if group := visitOf(r.Context()).group; group != "" {
		return group, nil
	}
	return a.Authenticator.GetSessionGroup(r, user)
}
