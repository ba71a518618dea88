package site_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/site"
	"realtime/internal/visitor"
)

func TestSession_OnlyOneThatTheServerCouldHaveMadeIsTaken(t *testing.T) {
	server := newServer(t, site.Options{})
	made := madeUp()
	for name, row := range map[string]struct {
		cookie string
		taken  bool
	}{
		"made here":     {made, true},
		"none":          {"", false},
		"too short":     {made[1:], false},
		"too long":      {"A" + made, false},
		"huge":          {strings.Repeat("A", 8000), false},
		"wildcard":      {"*" + made[1:], false},
		"not base64":    {strings.Repeat("!", 43) + "=", false},
		"no padding":    {made[:43] + "A", false},
		"another line":  {made[:20] + `\n` + made[22:], false},
		"anything else": {"admin", false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{toyPage} {
				for _, method := range []string{http.MethodGet, http.MethodPost} {
					req, err := http.NewRequest(method, server+path, strings.NewReader("x="))
					require.NoError(t, err)
					req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
					if row.cookie != "" {
						req.Header.Set("Cookie", visitor.SessionCookie+"="+row.cookie)
					}
					resp, err := http.DefaultTransport.RoundTrip(req)
					require.NoError(t, err)
					resp.Body.Close()
					var set []*http.Cookie
					for _, cookie := range resp.Cookies() {
						if cookie.Name == visitor.SessionCookie {
							set = append(set, cookie)
						}
					}
					if row.taken {
						assert.Empty(t, set, "%s %s", method, path)
						continue
					}
					require.Len(t, set, 1, "%s %s", method, path)
					assert.Regexp(t, cookieValue, set[0].Value)
					assert.True(t, set[0].HttpOnly)
					assert.Equal(t, http.SameSiteLaxMode, set[0].SameSite)
					assert.False(t, set[0].Secure, "plain HTTP")
					assert.Equal(t, "/", set[0].Path)
				}
			}
		})
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
		server, client := newServer(t, site.Options{TrustProxy: row.trust}), http.DefaultClient
		if row.tls {
			server, client = newTLSServer(t)
		}
		req, err := http.NewRequest(http.MethodGet, server+toyPage, nil)
		require.NoError(t, err)
		if row.proto != "" {
			req.Header.Set("X-Forwarded-Proto", row.proto)
		}
		resp, err := client.Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		require.Len(t, resp.Cookies(), 1)
		assert.Equal(t, row.secured, resp.Cookies()[0].Secure, "%+v", row)
		assert.Equal(t, row.secured, resp.Header.Get("Strict-Transport-Security") != "", "%+v", row)
	}
}

func TestSession_HostileCookiesHoldNoMemory(t *testing.T) {
	server := newServer(t, site.Options{})
	post := func(i int) {
		req, err := http.NewRequest(http.MethodPost, server+toyPage, strings.NewReader("light="))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Cookie", fmt.Sprintf("%s=%d%s", visitor.SessionCookie, i, strings.Repeat("x", 100<<10)))
		resp, err := http.DefaultTransport.RoundTrip(req)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, http.StatusSeeOther, resp.StatusCode)
	}
	for i := range 50 {
		post(i)
	}
	before := collected()
	for i := range 500 {
		post(i)
	}
	after := collected()
	t.Logf("%d kB, then %d kB", before>>10, after>>10)
	assert.Less(t, after, before+500<<10, "1 kB a post")
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
	server := serveOn(t, s, httptest.NewServer(s)).URL
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
}
