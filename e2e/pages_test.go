package e2e

import (
	"net/http"
	"path"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

func TestPages_AreThere(t *testing.T) {
	t.Parallel()
	v := visitor.New(t, visitor.Serve(t))
	const html, text = "text/html; charset=utf-8", "text/plain; charset=utf-8"
	notFound := []string{"<h1>Page not found</h1>", `href="/"`}
	for address, row := range map[string]struct {
		wantStatus int
		wantType   string
		want       []string
	}{
		"/": {http.StatusOK, html, []string{
			"<title>Home · ", `href="` + visitor.CounterPage + `"`, `href="` + visitor.PresencePage + `"`, "Multi-User Refresh", "Presence Tracking"}},
		visitor.CounterPage: {http.StatusOK, html, []string{
			"<title>Multi-User Refresh · Real-Time &amp; Multi-User</title>", "<h1>Multi-User Refresh</h1>",
			"Counter: <strong>0</strong>", `<form method="POST">`, `<button name="increment">`,
			"ctx.Subscribe", "ctx.SelfTopic", "ctx.Publish", "Try:"}},
		visitor.PresencePage: {http.StatusOK, html, []string{
			"<title>Presence Tracking · Real-Time &amp; Multi-User</title>", "<h1>Presence Tracking</h1>",
			`role="status" aria-live="polite"><mark>0 user(s) online<`, `<label for="username">Username</label>`,
			`name="username"`, `placeholder="Pick a name…"`, `<button name="join">`, "Closed tabs", "Same names"}},
		"/healthz":        {http.StatusOK, text, []string{"ok"}},
		"/readyz":         {http.StatusOK, text, []string{"ready"}},
		"/metrics":        {http.StatusNotFound, html, notFound}, // they have an address of their own
		"/debug/pprof/":   {http.StatusNotFound, html, notFound},
		"/static/nothing": {http.StatusNotFound, html, notFound},
	} {
		t.Run(address, func(t *testing.T) {
			resp, body := v.With(t).Send(http.MethodGet, address, "", "")
			assert.Equal(t, row.wantStatus, resp.StatusCode)
			assert.Equal(t, row.wantType, resp.Header.Get("Content-Type"))
			assert.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
			for _, want := range row.want {
				assert.Contains(t, body, want)
			}
		})
	}

	// Every browser file is loaded by a page, at an address that is kept.
	browser.NeedFiles(t)
	types := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
	linked := map[string]bool{}
	for _, page := range []string{"/", visitor.CounterPage, visitor.PresencePage} {
		_, body := v.Send(http.MethodGet, page, "", "")
		for _, address := range addressOf.FindAllStringSubmatch(body, -1) {
			linked[address[2]+address[3]] = true
			resp, _ := v.Send(http.MethodGet, address[1], "", "")
			assert.Equal(t, http.StatusOK, resp.StatusCode, address[1])
			assert.Equal(t, types[path.Ext(address[3])], resp.Header.Get("Content-Type"), address[1])
			assert.Equal(t, "public, max-age=31536000", resp.Header.Get("Cache-Control"), address[1])
		}
	}
	for _, pattern := range []string{"../static/*.css", "../static/*.js", "../static/*.svg", "../static/vendor/*.css", "../static/vendor/*.js"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			assert.True(t, linked[filepath.Base(file)], "no page loads %s", file)
		}
	}
}

// addressOf matches the address of a browser file: what stands before the hash of its
// content, and after it.
var addressOf = regexp.MustCompile(`(?:src|href)="(/static/(?:vendor/)?([^"]*?)-[0-9a-f]{64}(\.[^"]*))"`)
