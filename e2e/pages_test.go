package e2e

import (
	"net/http"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// The pages are there, and every browser file is loaded by one, at an address that is kept.
func TestPages_AreThere(t *testing.T) {
	t.Parallel()
	browser.NeedFiles(t)
	const notFound = "<h1>Page not found</h1>"
	linked := map[string]bool{}
	v := visitor.New(t, visitor.Serve(t))
	for address, wants := range map[string][]string{
		"/": {"<title>Home · ", `href="` + visitor.CounterPage + `"`, `href="` + visitor.PresencePage + `"`, "Multi-User Refresh", "Presence Tracking"},
		visitor.CounterPage: {
			"<title>Multi-User Refresh · Real-Time &amp; Multi-User</title>", "<h1>Multi-User Refresh</h1>",
			"Counter: <strong>0</strong>", `<form method="POST">`, `<button name="increment">`,
			"ctx.Subscribe", "ctx.SelfTopic", "ctx.Publish", "Try:"},
		visitor.PresencePage: {
			"<title>Presence Tracking · Real-Time &amp; Multi-User</title>", "<h1>Presence Tracking</h1>",
			`role="status" aria-live="polite"><mark>0 user(s) online<`, `<label for="username">Username</label>`,
			`name="username"`, `placeholder="Pick a name…"`, `<button name="join">`, "Closed tabs", "Same names"},
		"/healthz":        {"ok"},
		"/readyz":         {"ready"},
		"/metrics":        {notFound, `href="/"`}, // they have an address of their own
		"/debug/pprof/":   {notFound},
		"/static/nothing": {notFound},
	} {
		resp, body := v.Send(http.MethodGet, address, "", "")
		assert.Equal(t, wants[0] == notFound, resp.StatusCode == http.StatusNotFound, address)
		assert.Equal(t, "no-store", resp.Header.Get("Cache-Control"), address)
		for _, want := range wants {
			assert.Contains(t, body, want, address)
		}
		for _, found := range addressOf.FindAllStringSubmatch(body, -1) {
			linked[found[2]+found[3]] = true
			resp, _ := v.Send(http.MethodGet, found[1], "", "")
			assert.Equal(t, "public, max-age=31536000", resp.Header.Get("Cache-Control"), found[1])
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
