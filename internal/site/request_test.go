package site_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/metrics"
	"realtime/internal/site"
	"realtime/internal/visitor"
)

func TestForms_FromOtherSitesAreRefused(t *testing.T) {
	log := &visitor.Log{}
	s := newSite(t, site.Options{Log: log.Logger(), AllowOrigins: []string{"https://friend.example"}})
	s.HandlePost("/route", func(http.ResponseWriter, *http.Request) {})
	const own = "http://example.com"
	for _, row := range []struct {
		origin, fetchSite string
		counts            bool
	}{
		{"https://evil.example", "", false},
		{"null", "", false},
		{"", "cross-site", false},
		{"https://sub.evil.example", "same-site", false},
		{own, "same-origin", true},
		{own, "", true},
		{"https://friend.example", "cross-site", true},
		{"", "", true}, // not from a page
	} {
		before := lamps(s)
		header := http.Header{"Origin": {row.origin}, "Sec-Fetch-Site": {row.fetchSite}}
		answer := ask(s, http.MethodPost, own+toyPage, header, "light=")
		assert.Equal(t, row.counts, lamps(s) == before+1, "%v", row)
		assert.Equal(t, row.counts, answer.Code < 400, "%v: %d", row, answer.Code)
		assert.Equal(t, row.counts, ask(s, http.MethodPost, own+"/route", header, "").Code < 400, "%v to another path", row)
	}
	assert.Equal(t, 8, strings.Count(log.String(), `msg="form refused" reason=cross_site`), log)
}

func TestForms_MalformedOnesAreRefusedWithoutInternals(t *testing.T) {
	s := newSite(t, site.Options{})
	for body, kind := range map[string]string{
		`{"action":`: "application/json",
		`[]`:         "application/json",
		`%zz=1`:      "application/x-www-form-urlencoded",
	} {
		answer := ask(s, http.MethodPost, toyPage, http.Header{"Content-Type": {kind}, "Accept": {"text/html"}}, body)
		assert.Equal(t, http.StatusBadRequest, answer.Code, body)
		assert.Equal(t, "Your request was not understood, and did not count.\n", answer.Body.String(), body)
	}
	assert.Zero(t, lamps(s))
}

func TestRequests_OtherMethodsAreRefused(t *testing.T) {
	s := newSite(t, site.Options{})
	for request, want := range map[string]string{ // the status, and the allowed methods
		"HEAD " + toyPage:      "200 ",
		"HEAD /static/toy.css": "200 ",
		"PUT " + toyPage:       "405 GET, HEAD, POST",
		"OPTIONS /nowhere":     "405 GET, HEAD, POST",
		"BREW " + toyPage:      "405 GET, HEAD, POST",
		"POST /":               "405 GET, HEAD",
		"POST /static/toy.css": "405 GET, HEAD",
		"POST /healthz":        "405 GET, HEAD",
		"POST /nowhere":        "404 ",
	} {
		method, path, _ := strings.Cut(request, " ")
		answer := ask(s, method, path, nil, "")
		assert.Equal(t, want, fmt.Sprint(answer.Code, " ", answer.Header().Get("Allow")), request)
	}
}

func TestLivePages_TrailingSlashRedirects(t *testing.T) {
	m := metrics.New(slog.Default(), nil)
	s := newSite(t, site.Options{Around: m.Requests})
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
		for _, query := range []string{"", "?frame&a=%2F%26"} {
			answer := ask(s, method, toyPage+"/"+query, nil, "")
			assert.Equal(t, http.StatusPermanentRedirect, answer.Code, method)
			assert.Equal(t, toyPage+query, answer.Header().Get("Location"), method)
		}
		assert.Equal(t, 2, valueOf(t, m, `realtime_request_duration_seconds_count{method="`+method+`",route="`+toyPage+`",status="308"}`))
	}
	assert.Equal(t, http.StatusNotFound, ask(s, http.MethodGet, toyPage+"/other", nil, "").Code)
}

// Those who preview a link need whole addresses. A proxy or a client can send anything as the host.
func TestPages_KnowTheirAddress(t *testing.T) {
	s := newSite(t, behind(true, site.Options{}))
	for _, row := range []struct{ target, host, want, current string }{
		{"http://example.com/", "", "http://example.com/", `<a href="/" aria-current="page">Home</a><a href="/toy">Toy</a>`},
		{"https://example.com" + toyPage, "", "https://example.com" + toyPage, `<a href="/">Home</a><a href="/toy" aria-current="page">Toy</a>`},
		{toyPage, `a"><b>`, "http://a&#34;&gt;&lt;b&gt;" + toyPage, ""},
	} {
		page := ask(s, http.MethodGet, row.target, http.Header{"X-Forwarded-Host": {row.host}}, "").Body.String()
		assert.Contains(t, page, `<meta property="og:url" content="`+row.want+`">`)
		assert.Contains(t, page, row.current)
		assert.NotContains(t, page, "page-origin", "before the live part and after it")
	}
}

// Only the index may have frames, and only a page requested with ?frame may be in one. The
// CDN is allowed only where files are missing.
func TestPolicy_IsOnEveryAnswer(t *testing.T) {
	const strict = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
		"form-action 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
	const cdn = "https://cdn.jsdelivr.net"
	framed := strings.Replace(strict, "frame-ancestors 'none'", "frame-ancestors 'self'", 1)
	own, missing := newSite(t, site.Options{}), newSite(t, site.Options{Files: files(t, false)})
	for path, policy := range map[string]string{
		"/":                 strict + "; frame-src 'self'",
		toyPage:             strict,
		toyPage + "?frame":  framed,
		toyPage + "?frames": strict,
		"/nowhere":          strict,
		"/static/nothing":   strict,
		"/healthz":          strict,
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut} {
			header := ask(own, method, path, nil, "").Header()
			assert.Equal(t, policy, header.Get("Content-Security-Policy"), "%s %s", method, path)
			assert.Equal(t, "nosniff", header.Get("X-Content-Type-Options"))
			assert.Equal(t, "same-origin", header.Get("Referrer-Policy"))
			assert.Contains(t, header.Get("Permissions-Policy"), "camera=()")
			assert.Empty(t, header.Get("Strict-Transport-Security"), "plain HTTP")
		}
		policy = strings.NewReplacer("script-src 'self'", "script-src 'self' "+cdn, "style-src 'self'", "style-src 'self' "+cdn).Replace(policy)
		assert.Equal(t, policy, ask(missing, http.MethodGet, path, nil, "").Header().Get("Content-Security-Policy"), path)
	}
	assert.Contains(t, ask(missing, http.MethodGet, toyPage, nil, "").Body.String(),
		`href="`+cdn+`/npm/@picocss/pico@2.1.1/css/pico.min.css" integrity="sha384-`)

	header := ask(own, http.MethodGet, "/static/toy.css", nil, "").Header()
	assert.Equal(t, "default-src 'none'", header.Get("Content-Security-Policy"), "a file is no page")
	assert.Empty(t, header.Get("Permissions-Policy"))
	assert.Equal(t, "nosniff", header.Get("X-Content-Type-Options"))
}

func TestStatic_IsCompressedAndTheSocketIsNot(t *testing.T) {
	s, server := serve(t, behind(false, site.Options{}))
	browser := session(visitor.MadeUpSession())
	withoutIDs := func(page string) string { // of live parts: they are random
		return regexp.MustCompile(`data-lvt-id="[^"]*"`).ReplaceAllString(page, "")
	}
	for _, path := range []string{toyPage, "/static/toy.css", "/static/vendor/pico.min.css"} {
		answer := ask(s, http.MethodGet, path, with(browser, http.Header{"Accept-Encoding": {"gzip"}}), "")
		require.Equal(t, "gzip", answer.Header().Get("Content-Encoding"), path)
		assert.Contains(t, answer.Header().Values("Vary"), "Accept-Encoding", path)
		unzipped, err := gzip.NewReader(answer.Body)
		require.NoError(t, err)
		content, err := io.ReadAll(unzipped)
		require.NoError(t, err)
		assert.Equal(t, withoutIDs(ask(s, http.MethodGet, path, browser, "").Body.String()), withoutIDs(string(content)), path)
	}
	ws, resp := visitor.Knock(t, server, toyPage, http.Header{"Accept-Encoding": {"gzip"}, "Sec-WebSocket-Extensions": {"permessage-deflate"}})
	require.NotNil(t, ws)
	assert.Empty(t, resp.Header.Get("Content-Encoding")+resp.Header.Get("Sec-WebSocket-Extensions"))
	assert.Regexp(t, `^[A-Z2-7]{26}$`, resp.Header.Get("X-Request-Id"), "a handshake's answer has the common headers")
}

func TestSession_ForgedCookieIsReplaced(t *testing.T) {
	s := newSite(t, site.Options{})
	made := visitor.MadeUpSession()
	for name, cookie := range map[string]string{
		"made here":    made,
		"none":         "",
		"too short":    made[1:],
		"too long":     "A" + made,
		"wildcard":     "*" + made[1:],
		"no padding":   made[:43] + "A",
		"another line": made[:20] + `\n` + made[22:],
	} {
		for request, answer := range map[string]http.ResponseWriter{
			"GET":      ask(s, http.MethodGet, toyPage, session(cookie), ""),
			"a form":   ask(s, http.MethodPost, toyPage, session(cookie), "light="),
			"a script": ask(s, http.MethodPost, toyPage, with(session(cookie), asks), `{"action":"light"}`),
		} {
			set := answer.Header().Get("Set-Cookie")
			if cookie == made {
				assert.Empty(t, set, request)
			} else {
				assert.Regexp(t, `^livetemplate-id=[A-Za-z0-9_-]{43}=; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax$`, set, "%s: %s", name, request)
			}
		}
	}
}

func TestSession_IsSecureWhereTheRequestIs(t *testing.T) {
	for _, row := range []struct {
		scheme  string
		trust   bool
		proto   string
		secured bool
	}{
		{"http", false, "", false},
		{"http", false, "https", false},
		{"http", true, "https", true},
		{"http", true, "https, http", false}, // the nearest proxy says http
		{"http", true, "", false},
		{"https", false, "http", true},
	} {
		s := newSite(t, behind(row.trust, site.Options{}))
		header := ask(s, http.MethodGet, row.scheme+"://example.com"+toyPage, http.Header{"X-Forwarded-Proto": {row.proto}}, "").Header()
		assert.Equal(t, row.secured, strings.Contains(header.Get("Set-Cookie"), "; Secure"), "%+v", row)
		assert.Equal(t, row.secured, header.Get("Strict-Transport-Security") != "", "%+v", row)
	}
}

func TestBrowser_IsTheSameInEveryActionOfABrowserAndInNoOther(t *testing.T) {
	_, server := serve(t, site.Options{})
	alice, bob := visitor.New(t, server), visitor.New(t, server)
	tab, second, other := alice.Open(toyPage), alice.Open(toyPage), bob.Open(toyPage)
	require.NotEqual(t, alice.Session(), bob.Session())
	tab.Shows("Browser: " + alice.Session())
	other.Shows("Browser: " + bob.Session())

	light(tab)
	tab.Shows("lights: " + alice.Session())
	second.Shows("hears: " + alice.Session())
	other.Shows("hears: " + bob.Session())

	withoutSocket := alice.OpenWithoutSocket(toyPage)
	for action, want := range map[string]string{"light": "lights: ", "unknown": "Browser: "} { // the second runs only Mount
		withoutSocket.Act(action, nil)
		assert.Contains(t, withoutSocket.Text(), want+alice.Session())
	}

	// A socket with a forged cookie gets a new one.
	guessed := map[string]bool{}
	for range 2 {
		ws, resp := visitor.Knock(t, server, toyPage, session("admin"))
		require.NotNil(t, ws)
		require.Len(t, resp.Cookies(), 1)
		_, page, err := ws.ReadMessage()
		require.NoError(t, err)
		assert.Contains(t, string(page), resp.Cookies()[0].Value)
		guessed[resp.Cookies()[0].Value] = true
	}
	assert.Len(t, guessed, 2, "two visitors with the same forged cookie share nothing")
}

// What never changes is in the HTML only, not on the socket.
func TestLivePages_SendOnlyTheLivePart(t *testing.T) {
	s, server := serve(t, site.Options{})
	page := ask(s, http.MethodGet, toyPage, nil, "").Body.String()
	ws, _ := visitor.Knock(t, server, toyPage, nil)
	require.NotNil(t, ws)
	_, frame, err := ws.ReadMessage()
	require.NoError(t, err)
	first := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(string(frame))
	for text, lives := range map[string]bool{"<!DOCTYPE html>": false, "<head>": false, "<h1>": false, "</html>": false, "Lamps: ": true} {
		assert.Equal(t, 1, strings.Count(page, text), "%s in the page", text)
		assert.Equal(t, lives, strings.Contains(first, text), "%s on the socket", text)
	}
	assert.Contains(t, first, "<p>", "tags can be found in the frame")
}

func TestLivePages_TellHTMLFromJSON(t *testing.T) {
	s := newSite(t, site.Options{})
	for accept, want := range map[string]string{"text/html": "text/html; charset=utf-8", "application/json": "application/json"} {
		answer := ask(s, http.MethodGet, toyPage, http.Header{"Accept": {accept}}, "")
		assert.Equal(t, want, answer.Header().Get("Content-Type"))
		assert.Contains(t, answer.Header().Values("Vary"), "Accept", "caches keep %s apart", accept)
		assert.Equal(t, "no-store", answer.Header().Get("Cache-Control"))
	}
}

// Requests use no memory permanently, whatever their cookie.
func TestLivePages_RequestsLeakNoMemory(t *testing.T) {
	s := newSite(t, site.Options{})
	requests := func(times int) (inUse int) {
		for range times {
			ask(s, http.MethodPost, toyPage, nil, "light=")
			ask(s, http.MethodPost, toyPage, session(strings.Repeat("x", 10<<10)), "light=")
			browser := session(visitor.MadeUpSession())
			ask(s, http.MethodPost, toyPage, browser, "light=")
			for _, action := range []string{"light", "unknown"} {
				ask(s, http.MethodPost, toyPage, with(browser, asks), `{"action":"`+action+`"}`)
			}
		}
		return collected()
	}
	before := requests(30)
	assert.Less(t, requests(150), before+150<<10, "bytes in use; %d before, and 200 allowed for each request", before)
}

// For a visitor whom the authenticator does not identify, the self topic is one browser's,
// even without a socket.
func TestPosts_ReachTheOtherTabsOfABrowserWithoutAnIdentity(t *testing.T) {
	_, server := serve(t, site.Options{Authenticator: &livetemplate.AnonymousAuthenticator{}})
	v := visitor.New(t, server)
	one, two, stranger := v.Open(toyPage), v.Open(toyPage), visitor.New(t, server).Open(toyPage)
	v.Post(toyPage, map[string][]string{"light": {""}})
	one.Shows("Lamps: 1 ")
	two.Shows("Lamps: 1 ")
	v.OpenWithoutSocket(toyPage).Act("light", nil)
	one.Shows("Lamps: 2 ")
	light(two)
	one.Shows("Lamps: 3 ")
	stranger.Settle()
	stranger.Never("Lamps: 3 ")
}

func TestAuthenticator_CanRequireAPassword(t *testing.T) {
	s := newSite(t, site.Options{Authenticator: livetemplate.NewBasicAuthenticator(func(name, password string) (bool, error) {
		return name == "alice" && password == "secret", nil
	})})
	answer := ask(s, http.MethodGet, toyPage, nil, "")
	assert.Equal(t, http.StatusUnauthorized, answer.Code)
	assert.Contains(t, answer.Header().Get("WWW-Authenticate"), "Basic realm=")
	answer = ask(s, http.MethodPost, toyPage, http.Header{"Authorization": {"Basic YWxpY2U6c2VjcmV0"}}, "light=")
	assert.Equal(t, http.StatusSeeOther, answer.Code)
}

// By default a browser may post 200 times at once, and 50 times a second.
func TestPosts_AboveTheRateAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &visitor.Log{}
		s := newSite(t, site.Options{Log: log.Logger()})
		mine, others := session(visitor.MadeUpSession()), session(visitor.MadeUpSession())
		post := func(browser http.Header) int { return ask(s, http.MethodPost, toyPage, browser, "light=").Code }
		for i := range 200 {
			assert.Equal(t, http.StatusSeeOther, post(mine), "post %d", i+1)
		}
		refused := ask(s, http.MethodPost, toyPage, mine, "light=")
		assert.Equal(t, http.StatusTooManyRequests, refused.Code)
		assert.Equal(t, "1", refused.Header().Get("Retry-After"))
		assert.Equal(t, "Your form was not accepted: it was too fast.\n", refused.Body.String())
		assert.Equal(t, 1, metric(t, s, `realtime_requests_refused_total{reason="too_fast"}`))
		assert.Contains(t, log.String(), `msg="form refused" reason=too_fast remote_addr=`)
		assert.Equal(t, http.StatusSeeOther, post(others), "another browser has its own limit")
		time.Sleep(20 * time.Millisecond)
		assert.Equal(t, http.StatusSeeOther, post(mine))
		assert.Equal(t, http.StatusTooManyRequests, post(mine))
		assert.Equal(t, 202, lamps(s), "refused posts do not count")
	})
}

// A form may have 16 kB. A client that sends a longer one is answered even if it reads
// nothing before it has sent everything. One that disconnects while it sends is not logged.
func TestPosts_TooLongOrAbortedOnesAreRefusedAndAnswered(t *testing.T) {
	const longest, body, button = 16 << 10, 3 << 20, "light=&text="
	log := &visitor.Log{}
	s, server := serve(t, site.Options{Log: log.Logger()})
	assert.Equal(t, http.StatusSeeOther, ask(s, http.MethodPost, toyPage, nil, button+strings.Repeat("x", longest-len(button))).Code)
	assert.Equal(t, http.StatusRequestEntityTooLarge, ask(s, http.MethodPost, toyPage, nil, button+strings.Repeat("x", longest-len(button)+1)).Code)
	s.HandlePost("/route", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	assert.Equal(t, longest, ask(s, http.MethodPost, "/route", nil, strings.Repeat("x", longest+1)).Body.Len(), "of a handler of the program")
	for name, row := range map[string]struct{ sent, want, why string }{
		"with a length": {fmt.Sprintf("Content-Length: %d\r\n\r\n", body) + strings.Repeat("x", body), "413 Request Entity Too Large", "too long"},
		"in chunks": {"Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("100000\r\n"+strings.Repeat("x", 1<<20)+"\r\n", 3) + "0\r\n\r\n",
			"413 Request Entity Too Large", "too long"},
		"aborted": {"Content-Length: 100\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\nligh", "400 Bad Request", "incomplete"},
		"gone":    {"Content-Length: 100\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\nligh", "", ""},
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(server, "http://"))
		require.NoError(t, err)
		defer conn.Close()
		_, err = io.WriteString(conn, "POST "+toyPage+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+row.sent)
		require.NoError(t, err)
		if row.want == "" {
			conn.Close()
			continue
		}
		require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		answer, err := io.ReadAll(conn)
		require.NoError(t, err, name)
		assert.Contains(t, string(answer), row.want, name)
		assert.Contains(t, string(answer), "Your form was not accepted: it was "+row.why+".", name)
	}
	refused := func() bool { return metric(t, s, `realtime_requests_refused_total{reason="incomplete"}`) == 2 }
	assert.Eventually(t, refused, visitor.Soon, tick)
	assert.Zero(t, metric(t, s, `realtime_requests_refused_total{reason="too_slow"}`))
	assert.Equal(t, 3, strings.Count(log.String(), `msg="form refused" reason=too_long`), log)
	assert.Equal(t, 3, strings.Count(log.String(), "\n"), "nothing else is logged: %s", log)
	assert.Equal(t, 1, lamps(s))
}
