package site_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/site"
	"realtime/internal/visitor"
)

func TestForms_FromOtherSitesAreRefused(t *testing.T) {
	log := &visitor.Log{}
	s := newSite(t, site.Options{Log: log.Logger(), AllowOrigins: []string{"https://friend.example"}})
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
	}
	assert.Equal(t, 4, strings.Count(log.String(), `msg="form refused" reason=cross_site`), log)
}

func TestForms_ThatAreNoneSayNothingOfWhatIsInside(t *testing.T) {
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

func TestRequests_OnlyMethodsThatPagesHave(t *testing.T) {
	s := newSite(t, site.Options{})
	const all, read = "GET, HEAD, POST", "GET, HEAD"
	for _, row := range []struct {
		method, path string
		want         int
		allow        string
	}{
		{http.MethodHead, toyPage, 200, ""},
		{http.MethodHead, "/static/toy.css", 200, ""},
		{http.MethodPut, toyPage, 405, all},
		{http.MethodOptions, "/nowhere", 405, all},
		{"BREW", toyPage, 405, all},
		{http.MethodPost, "/", 405, read},
		{http.MethodPost, "/static/toy.css", 405, read},
		{http.MethodPost, "/healthz", 405, read},
		{http.MethodPost, "/nowhere", 404, ""},
	} {
		answer := ask(s, row.method, row.path, nil, "")
		assert.Equal(t, row.want, answer.Code, "%s %s", row.method, row.path)
		assert.Equal(t, row.allow, answer.Header().Get("Allow"), "%s %s", row.method, row.path)
	}
}

// Only the index has frames, and only a page that is asked for as in a frame may be in
// one. Where files are missing, they come from the CDN.
func TestPolicy_IsOnEveryAnswer(t *testing.T) {
	const strict = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
		"form-action 'self'; frame-ancestors 'none'; object-src 'none'; base-uri 'none'"
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
	s, server := serve(t, site.Options{})
	withoutIDs := func(page string) string { // which the framework gives each live part
		return regexp.MustCompile(`data-lvt-id="[^"]*"`).ReplaceAllString(page, "")
	}
	for _, path := range []string{toyPage, "/static/toy.css", "/static/vendor/pico.min.css"} {
		answer := ask(s, http.MethodGet, path, http.Header{"Accept-Encoding": {"gzip"}}, "")
		require.Equal(t, "gzip", answer.Header().Get("Content-Encoding"), path)
		assert.Contains(t, answer.Header().Values("Vary"), "Accept-Encoding", path)
		unzipped, err := gzip.NewReader(answer.Body)
		require.NoError(t, err)
		content, err := io.ReadAll(unzipped)
		require.NoError(t, err)
		assert.Equal(t, withoutIDs(ask(s, http.MethodGet, path, nil, "").Body.String()), withoutIDs(string(content)), path)
	}
	ws, resp := visitor.Knock(t, server, toyPage, http.Header{"Accept-Encoding": {"gzip"}, "Sec-WebSocket-Extensions": {"permessage-deflate"}})
	require.NotNil(t, ws)
	assert.Empty(t, resp.Header.Get("Content-Encoding")+resp.Header.Get("Sec-WebSocket-Extensions"))
}
