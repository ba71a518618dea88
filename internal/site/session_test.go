package site_test

import (
	"net/http"
	"testing"

	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/site"
	"realtime/internal/visitor"
)

func TestSession_OnlyOneThatTheServerCouldHaveMadeIsTaken(t *testing.T) {
	s := newSite(t, site.Options{})
	made := visitor.MadeUpSession()
	for name, row := range map[string]struct {
		cookie string
		taken  bool
	}{
		"made here":    {made, true},
		"none":         {"", false},
		"too short":    {made[1:], false},
		"too long":     {"A" + made, false},
		"wildcard":     {"*" + made[1:], false},
		"no padding":   {made[:43] + "A", false},
		"another line": {made[:20] + `\n` + made[22:], false},
	} {
		for request, answer := range map[string]http.ResponseWriter{
			"GET":      ask(s, http.MethodGet, toyPage, session(row.cookie), ""),
			"a form":   ask(s, http.MethodPost, toyPage, session(row.cookie), "light="),
			"a script": ask(s, http.MethodPost, toyPage, with(session(row.cookie), asks), `{"action":"light"}`),
		} {
			cookies := (&http.Response{Header: answer.Header()}).Cookies()
			if row.taken {
				assert.Empty(t, cookies, "%s: %s", name, request)
				continue
			}
			require.Len(t, cookies, 1, "%s: %s", name, request)
			cookie := cookies[0]
			assert.Regexp(t, cookieValue, cookie.Value)
			assert.Equal(t, visitor.SessionCookie, cookie.Name)
			assert.Equal(t, "/", cookie.Path)
			assert.True(t, cookie.HttpOnly)
			assert.False(t, cookie.Secure, "plain HTTP")
			assert.Equal(t, http.SameSiteLaxMode, cookie.SameSite)
		}
	}
}

func TestSession_IsSecureWhereTheRequestIs(t *testing.T) {
	for _, row := range []struct {
		trust        bool
		proto        string
		tls, secured bool
	}{
		{false, "", false, false},
		{false, "https", false, false},
		{true, "https", false, true},
		{true, "http", false, false},
		{true, "https, http", false, false}, // the nearest proxy's word
		{true, "", false, false},
		{false, "", true, true},
		{false, "http", true, true},
	} {
		target := map[bool]string{false: "http", true: "https"}[row.tls] + "://example.com" + toyPage
		answer := ask(newSite(t, site.Options{TrustProxy: row.trust}), http.MethodGet, target, http.Header{"X-Forwarded-Proto": {row.proto}}, "").Result()
		require.Len(t, answer.Cookies(), 1)
		assert.Equal(t, row.secured, answer.Cookies()[0].Secure, "%+v", row)
		assert.Equal(t, row.secured, answer.Header.Get("Strict-Transport-Security") != "", "%+v", row)
	}
}

// who is a page that shows which browser its last action ran for.
type who struct{}

type whoState struct{ Browser string }

func (who) Mount(s whoState, ctx *livetemplate.Context) (whoState, error) {
	s.Browser = site.Browser(ctx)
	return s, ctx.Subscribe(ctx.SelfTopic())
}

func (who) Ask(s whoState, ctx *livetemplate.Context) (whoState, error) {
	return whoState{"asks: " + site.Browser(ctx)}, ctx.Publish(ctx.SelfTopic(), "Asked", nil)
}

func (who) Asked(s whoState, ctx *livetemplate.Context) (whoState, error) {
	return whoState{"hears: " + site.Browser(ctx)}, nil
}

func TestBrowser_IsTheSameInEveryActionOfABrowserAndInNoOther(t *testing.T) {
	s := newSite(t, site.Options{})
	_, err := site.Live(s, "/who", "who.tmpl", who{}, &whoState{})
	require.NoError(t, err)
	server := serveOn(t, s)
	alice, bob := visitor.New(t, server), visitor.New(t, server)
	tab, second, other := alice.Open("/who"), alice.Open("/who"), bob.Open("/who")
	require.NotEqual(t, alice.Session(), bob.Session())
	tab.Shows("Browser: " + alice.Session())
	other.Shows("Browser: " + bob.Session())

	tab.Do("ask", nil)
	tab.Shows("asks: " + alice.Session())
	second.Shows("hears: " + alice.Session())
	other.Shows("hears: " + bob.Session())

	withoutSocket := alice.OpenWithoutSocket("/who")
	assert.Contains(t, withoutSocket.Text(), "Browser: "+alice.Session())
	withoutSocket.Act("ask", nil)
	assert.Contains(t, withoutSocket.Text(), "asks: "+alice.Session())
	withoutSocket.Act("unknown", nil) // shows what Mount has read
	assert.Contains(t, withoutSocket.Text(), "Browser: "+alice.Session())

	// A socket without a cookie that the server could have made is given one.
	guessed := map[string]bool{}
	for range 2 {
		ws, resp := visitor.Knock(t, server, "/who", session("admin"))
		require.NotNil(t, ws)
		require.Len(t, resp.Cookies(), 1)
		_, page, err := ws.ReadMessage()
		require.NoError(t, err)
		assert.Contains(t, string(page), resp.Cookies()[0].Value)
		guessed[resp.Cookies()[0].Value] = true
	}
	assert.Len(t, guessed, 2, "a cookie that anybody can guess is nobody's")
}
