package site_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/site"
	"realtime/internal/visitor"
)

func TestForms_FromOtherSitesAreRefused(t *testing.T) {
	log := &visitor.Log{}
	server := newServer(t, site.Options{Log: log.Logger(), AllowOrigins: []string{"https://friend.example"}})
	tb := visitor.New(t, server).Open(toyPage)
	clicks := 0
	for _, row := range []struct {
		headers http.Header
		body    string
		kind    string
		counts  bool
	}{
		{http.Header{"Origin": {"https://evil.example"}}, "light=", "application/x-www-form-urlencoded", false},
		{http.Header{"Origin": {"https://evil.example"}}, `{"action":"light"}`, "text/plain", false},
		{http.Header{"Origin": {"null"}}, "light=", "application/x-www-form-urlencoded", false},
		{http.Header{"Sec-Fetch-Site": {"cross-site"}}, "light=", "application/x-www-form-urlencoded", false},
		{http.Header{"Sec-Fetch-Site": {"same-site"}, "Origin": {"https://sub.evil.example"}}, `{"action":"light"}`, "application/json", false},
		{http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {server}}, "light=", "application/x-www-form-urlencoded", true},
		{http.Header{"Origin": {server}}, `{"action":"light"}`, "application/json", true},
		{http.Header{"Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://friend.example"}}, "light=", "application/x-www-form-urlencoded", true},
		{http.Header{}, "light=", "application/x-www-form-urlencoded", true}, // not from a page
	} {
		req, err := http.NewRequest(http.MethodPost, server+toyPage, strings.NewReader(row.body))
		require.NoError(t, err)
		req.Header = row.headers.Clone()
		req.Header.Set("Content-Type", row.kind)
		resp, err := http.DefaultTransport.RoundTrip(req)
		require.NoError(t, err)
		resp.Body.Close()
		if row.counts {
			clicks++
			assert.Less(t, resp.StatusCode, 400, "%v", row.headers)
		} else {
			assert.Equal(t, http.StatusForbidden, resp.StatusCode, "%v", row.headers)
		}
		assert.Contains(t, visitor.New(t, server).Get(toyPage), fmt.Sprintf("Lamps: %d ", clicks), "%v", row.headers)
	}
	tb.Shows(fmt.Sprintf("Lamps: %d ", clicks))
	assert.Equal(t, 5, strings.Count(log.String(), `msg="form refused" reason=cross_site`), log.String())
}

func TestForms_ThatAreNoneSayNothingOfWhatIsInside(t *testing.T) {
	v := visitor.New(t, newServer(t, site.Options{}))
	for body, kind := range map[string]string{
		`{"action":`: "application/json",
		`[]`:         "application/json",
		`%zz=1`:      "application/x-www-form-urlencoded",
	} {
		resp, answer := v.Send(http.MethodPost, toyPage, kind, body)
		if assert.Equal(t, http.StatusBadRequest, resp.StatusCode, body) {
			assert.Equal(t, "Your request was not understood, and did not count.\n", answer, body)
		}
	}
	assert.Contains(t, v.Get(toyPage), "Lamps: 0 ")
}

func TestRequests_OnlyMethodsThatPagesHave(t *testing.T) {
	v := visitor.New(t, newServer(t, site.Options{}))
	const all, read = "GET, HEAD, POST", "GET, HEAD"
	for _, row := range []struct {
		method, path string
		want         int
		allow        string
	}{
		{http.MethodHead, "/", 200, ""},
		{http.MethodHead, toyPage, 200, ""},
		{http.MethodHead, "/static/toy.css", 200, ""},
		{http.MethodHead, "/readyz", 200, ""},
		{http.MethodPut, toyPage, 405, all},
		{http.MethodDelete, toyPage, 405, all},
		{http.MethodPatch, "/", 405, all},
		{http.MethodOptions, "/nowhere", 405, all},
		{http.MethodTrace, "/static/toy.css", 405, all},
		{"BREW", toyPage, 405, all},
		{http.MethodPost, "/", 405, read},
		{http.MethodPost, "/static/toy.css", 405, read},
		{http.MethodPost, "/healthz", 405, read},
		{http.MethodPost, "/nowhere", 404, ""},
		{http.MethodGet, "/nowhere", 404, ""},
	} {
		resp, _ := v.Send(row.method, row.path, "", "")
		assert.Equal(t, row.want, resp.StatusCode, "%s %s", row.method, row.path)
		assert.Equal(t, row.allow, resp.Header.Get("Allow"), "%s %s", row.method, row.path)
	}
}

func TestPolicy_IsOnEveryAnswer(t *testing.T) {
	v := visitor.New(t, newServer(t, site.Options{}))
	for _, path := range []string{"/", toyPage, "/nowhere", "/static/nothing", "/healthz"} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut} {
			resp, _ := v.Send(method, path, "application/x-www-form-urlencoded", "")
			policy := resp.Header.Get("Content-Security-Policy")
			for _, part := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
				"form-action 'self'", "frame-ancestors 'none'", "object-src 'none'", "base-uri 'none'"} {
				assert.Contains(t, strings.Split(policy, "; "), part, "%s %s", method, path)
			}
			assert.NotContains(t, policy, "unsafe")
			assert.NotContains(t, policy, "http", "only from here")
			assert.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
			assert.Equal(t, "same-origin", resp.Header.Get("Referrer-Policy"))
			assert.Contains(t, resp.Header.Get("Permissions-Policy"), "camera=()")
			assert.Empty(t, resp.Header.Get("Strict-Transport-Security"), "plain HTTP")
		}
	}
}

func TestPolicy_OnlyTheIndexHasFramesAndOnlyFramedPagesAreInOne(t *testing.T) {
	v := visitor.New(t, newServer(t, site.Options{}))
	for path, row := range map[string]struct{ frames, ancestors string }{
		"/":                 {"frame-src 'self'", "frame-ancestors 'none'"},
		toyPage:             {"", "frame-ancestors 'none'"},
		toyPage + "?frame":  {"", "frame-ancestors 'self'"},
		toyPage + "?frames": {"", "frame-ancestors 'none'"},
		"/nowhere":          {"", "frame-ancestors 'none'"},
	} {
		resp, _ := v.Send(http.MethodGet, path, "", "")
		policy := strings.Split(resp.Header.Get("Content-Security-Policy"), "; ")
		assert.Contains(t, policy, row.ancestors, path)
		assert.Equal(t, row.frames != "", slices.ContainsFunc(policy, func(part string) bool { return strings.HasPrefix(part, "frame-src") }), path)
		if row.frames != "" {
			assert.Contains(t, policy, row.frames, path)
		}
	}
	resp, _ := v.Send(http.MethodGet, "/static/toy.css", "", "")
	assert.Equal(t, "default-src 'none'", resp.Header.Get("Content-Security-Policy"), "a file is no page")
	assert.Empty(t, resp.Header.Get("Permissions-Policy"))
	assert.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
}

func TestStatic_IsCompressedAndTheSocketIsNot(t *testing.T) {
	server := newServer(t, site.Options{})
	for _, path := range []string{toyPage, "/static/toy.css", "/static/vendor/pico.min.css"} {
		req, err := http.NewRequest(http.MethodGet, server+path, nil)
		require.NoError(t, err)
		req.Header.Set("Accept-Encoding", "gzip")
		resp, err := http.DefaultTransport.RoundTrip(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, "gzip", resp.Header.Get("Content-Encoding"), path)
		assert.Contains(t, resp.Header.Values("Vary"), "Accept-Encoding", path)
		unzipped, err := gzip.NewReader(resp.Body)
		require.NoError(t, err)
		content, err := io.ReadAll(unzipped)
		require.NoError(t, err)
		_, plain := visitor.New(t, server).Send(http.MethodGet, path, "", "")
		assert.Equal(t, withoutIDs(plain), withoutIDs(string(content)), path)
	}
	ws, resp := visitor.Knock(t, server, toyPage, http.Header{"Accept-Encoding": {"gzip"}, "Sec-WebSocket-Extensions": {"permessage-deflate"}})
	require.NotNil(t, ws)
	assert.Empty(t, resp.Header.Get("Content-Encoding")+resp.Header.Get("Sec-WebSocket-Extensions"))
}

// withoutIDs returns a page without the ID that the framework gives each live part.
func withoutIDs(page string) string {
	return regexp.MustCompile(`data-lvt-id="[^"]*"`).ReplaceAllString(page, "")
}

func TestPolicy_NamesTheCDNWhereFilesAreMissing(t *testing.T) {
	v := visitor.New(t, newServer(t, site.Options{Files: files(t, false)}))
	resp, page := v.Send(http.MethodGet, toyPage, "", "")
	policy := resp.Header.Get("Content-Security-Policy")
	assert.Contains(t, policy, "script-src 'self' https://cdn.jsdelivr.net;")
	assert.Contains(t, policy, "style-src 'self' https://cdn.jsdelivr.net;")
	assert.Contains(t, page, `href="https://cdn.jsdelivr.net/npm/@picocss/pico@2.1.1/css/pico.min.css" integrity="sha384-`)
}
