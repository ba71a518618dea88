package e2e

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

func TestPages_AreThere(t *testing.T) {
	v := visitor.New(t, visitor.Serve(t))
	for path, row := range map[string]struct {
		wantStatus int
		wantType   string
		want       []string
	}{
		"/": {http.StatusOK, "text/html; charset=utf-8", []string{
			"<title>Home · ", `href="` + visitor.CounterPage + `"`, `href="` + visitor.PresencePage + `"`, "Multi-User Refresh", "Presence Tracking"}},
		visitor.CounterPage: {http.StatusOK, "text/html; charset=utf-8", []string{
			"<title>Multi-User Refresh · Real-Time &amp; Multi-User</title>", "<h1>Multi-User Refresh</h1>",
			"Counter: <strong>0</strong>", `<form method="POST">`, `<button name="increment">`,
			"ctx.Subscribe", "ctx.SelfTopic", "ctx.Publish", "Try:"}},
		visitor.PresencePage: {http.StatusOK, "text/html; charset=utf-8", []string{
			"<title>Presence Tracking · Real-Time &amp; Multi-User</title>", "<h1>Presence Tracking</h1>",
			`role="status" aria-live="polite"><mark>0 user(s) online<`, `<label for="username">Username</label>`,
			`name="username"`, `placeholder="Pick a name…"`, `<button name="join">`, "Closed tabs", "Same names"}},
		"/readyz":                 {http.StatusOK, "text/plain; charset=utf-8", []string{"ready"}},
		"/metrics":                {http.StatusNotFound, "text/html; charset=utf-8", nil}, // they have an address of their own
		"/debug/pprof/":           {http.StatusNotFound, "text/html; charset=utf-8", nil},
		"/healthz":                {http.StatusOK, "text/plain; charset=utf-8", []string{"ok"}},
		"/static/app.css":         {http.StatusOK, "text/css; charset=utf-8", nil},
		"/static/focus.js":        {http.StatusOK, "text/javascript; charset=utf-8", nil},
		"/static/frames.js":       {http.StatusOK, "text/javascript; charset=utf-8", nil},
		"/static/listing.js":      {http.StatusOK, "text/javascript; charset=utf-8", nil},
		"/static/live.js":         {http.StatusOK, "text/javascript; charset=utf-8", nil},
		"/static/notice.js":       {http.StatusOK, "text/javascript; charset=utf-8", nil},
		"/static/status.js":       {http.StatusOK, "text/javascript; charset=utf-8", nil},
		"/static/pulse.js":        {http.StatusOK, "text/javascript; charset=utf-8", nil},
		"/static/wire.js":         {http.StatusOK, "text/javascript; charset=utf-8", nil},
		"/static/presence.js":     {http.StatusOK, "text/javascript; charset=utf-8", nil},
		"/nowhere":                {http.StatusNotFound, "text/html; charset=utf-8", []string{"<h1>Page not found</h1>", `href="/"`}},
		visitor.CounterPage + "/": {http.StatusNotFound, "text/html; charset=utf-8", []string{"<h1>Page not found</h1>"}},
		"/static/":                {http.StatusNotFound, "text/html; charset=utf-8", []string{"<h1>Page not found</h1>"}},
		"/static/vendor":          {http.StatusNotFound, "text/html; charset=utf-8", []string{"<h1>Page not found</h1>"}},
		"/static/nothing":         {http.StatusNotFound, "text/html; charset=utf-8", []string{"<h1>Page not found</h1>"}},
		"/static/../main.go":      {http.StatusNotFound, "text/html; charset=utf-8", []string{"<h1>Page not found</h1>"}},
		"/static/%2e%2e/x.tmpl":   {http.StatusNotFound, "text/html; charset=utf-8", []string{"<h1>Page not found</h1>"}},
	} {
		t.Run(path, func(t *testing.T) {
			resp, body := v.Send(http.MethodGet, path, "", "")
			if resp.StatusCode == http.StatusTemporaryRedirect { // the mux cleans the path first
				location, err := resp.Location()
				require.NoError(t, err)
				resp, body = v.Send(http.MethodGet, location.Path, "", "")
			}
			assert.Equal(t, row.wantStatus, resp.StatusCode)
			assert.Equal(t, row.wantType, resp.Header.Get("Content-Type"))
			for _, want := range row.want {
				assert.Contains(t, body, want)
			}
		})
	}
}

func TestStatic_IsKeptForAYearUnderItsHashAndAskedForOtherwise(t *testing.T) {
	browser.NeedFiles(t)
	v := visitor.New(t, visitor.Serve(t))
	_, page := v.Send(http.MethodGet, visitor.CounterPage, "", "")
	addresses := addressOf.FindAllStringSubmatch(page, -1)
	require.Len(t, addresses, 12)
	for _, address := range addresses {
		resp, _ := v.Send(http.MethodGet, address[1], "", "")
		assert.Equal(t, http.StatusOK, resp.StatusCode)
		assert.Equal(t, "public, max-age=31536000", resp.Header.Get("Cache-Control"), address[1])
		plain := strings.Replace(address[1], "-"+address[2], "", 1)
		resp, content := v.Send(http.MethodGet, plain, "", "")
		require.Equal(t, http.StatusOK, resp.StatusCode, plain)
		assert.Equal(t, "no-cache", resp.Header.Get("Cache-Control"), plain)
		assert.NotEmpty(t, content)

		req, err := http.NewRequest(http.MethodGet, v.Base+plain, nil)
		require.NoError(t, err)
		req.Header.Set("If-None-Match", resp.Header.Get("ETag"))
		again, err := v.Client.Do(req)
		require.NoError(t, err)
		again.Body.Close()
		assert.Equal(t, http.StatusNotModified, again.StatusCode, plain)

		resp, _ = v.Send(http.MethodGet, strings.Replace(address[1], address[2], strings.Repeat("0", 64), 1), "", "")
		assert.Equal(t, http.StatusNotFound, resp.StatusCode, "content of another version")
	}
	for _, path := range []string{"/", visitor.CounterPage, visitor.PresencePage, "/nowhere"} {
		resp, _ := v.Send(http.MethodGet, path, "", "")
		assert.Equal(t, "no-store", resp.Header.Get("Cache-Control"), path)
	}
}

var addressOf = regexp.MustCompile(`(?:src|href)="(/static/[^"]*?-([0-9a-f]{64})[^"]*)"`)
