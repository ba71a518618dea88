package main

import (
	"bytes"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/testenv"
)

func TestPages_AreThere(t *testing.T) {
	v := newVisitor(t, newServer(t))
	for path, row := range map[string]struct {
		wantStatus int
		wantType   string
		want       []string
	}{
		"/": {http.StatusOK, "text/html; charset=utf-8", []string{
			"<title>Home · ", `href="` + counterPage + `"`, `href="` + presencePage + `"`, "Multi-User Refresh", "Presence Tracking"}},
		counterPage: {http.StatusOK, "text/html; charset=utf-8", []string{
			"<title>Multi-User Refresh · Real-Time &amp; Multi-User</title>", "<h1>Multi-User Refresh</h1>",
			"Counter: <strong>0</strong>", `<form method="POST">`, `<button name="increment">`,
			"ctx.Subscribe", "ctx.SelfTopic", "ctx.Publish", "Try:"}},
		presencePage: {http.StatusOK, "text/html; charset=utf-8", []string{
			"<title>Presence Tracking · Real-Time &amp; Multi-User</title>", "<h1>Presence Tracking</h1>",
			`role="status" aria-live="polite">0 user(s) online<`, `<label for="username">Username</label>`,
			`name="username"`, `placeholder="Pick a name…"`, `<button name="join">`, "Closed tabs", "Same names"}},
		"/readyz":               {http.StatusOK, "text/plain; charset=utf-8", []string{"ready"}},
		"/metrics":              {http.StatusNotFound, "text/html; charset=utf-8", nil}, // they have an address of their own
		"/debug/pprof/":         {http.StatusNotFound, "text/html; charset=utf-8", nil},
		"/healthz":              {http.StatusOK, "text/plain; charset=utf-8", []string{"ok"}},
		"/static/app.css":       {http.StatusOK, "text/css; charset=utf-8", nil},
		"/static/focus.js":      {http.StatusOK, "text/javascript; charset=utf-8", nil},
		"/static/live.js":       {http.StatusOK, "text/javascript; charset=utf-8", nil},
		"/static/notice.js":     {http.StatusOK, "text/javascript; charset=utf-8", nil},
		"/static/status.js":     {http.StatusOK, "text/javascript; charset=utf-8", nil},
		"/static/presence.js":   {http.StatusOK, "text/javascript; charset=utf-8", nil},
		"/nowhere":              {http.StatusNotFound, "text/html; charset=utf-8", []string{"<h1>Page not found</h1>", `href="/"`}},
		counterPage + "/":       {http.StatusNotFound, "text/html; charset=utf-8", []string{"<h1>Page not found</h1>"}},
		"/static/":              {http.StatusNotFound, "text/html; charset=utf-8", []string{"<h1>Page not found</h1>"}},
		"/static/vendor":        {http.StatusNotFound, "text/html; charset=utf-8", []string{"<h1>Page not found</h1>"}},
		"/static/nothing":       {http.StatusNotFound, "text/html; charset=utf-8", []string{"<h1>Page not found</h1>"}},
		"/static/../app.go":     {http.StatusNotFound, "text/html; charset=utf-8", []string{"<h1>Page not found</h1>"}},
		"/static/%2e%2e/x.tmpl": {http.StatusNotFound, "text/html; charset=utf-8", []string{"<h1>Page not found</h1>"}},
	} {
		t.Run(path, func(t *testing.T) {
			resp, body := v.send(http.MethodGet, path, "", "")
			if resp.StatusCode == http.StatusTemporaryRedirect { // the mux cleans the path first
				location, err := resp.Location()
				require.NoError(t, err)
				resp, body = v.send(http.MethodGet, location.Path, "", "")
			}
			assert.Equal(t, row.wantStatus, resp.StatusCode)
			assert.Equal(t, row.wantType, resp.Header.Get("Content-Type"))
			for _, want := range row.want {
				assert.Contains(t, body, want)
			}
		})
	}
}

// What never changes is in the page, and costs no refresh and no connection.
func TestLivePages_SendOnlyWhatLives(t *testing.T) {
	server := newServer(t)
	for path, lives := range map[string]string{counterPage: "Counter: ", presencePage: "user(s) online"} {
		v := newVisitor(t, server)
		fixed := []string{"<!DOCTYPE html>", "<title>", "<nav", "<h1>", "Try:", "</html>"}
		_, page := v.send(http.MethodGet, path, "", "")
		ws, err := v.dial(path)
		require.NoError(t, err)
		defer ws.Close()
		_, first, err := ws.ReadMessage()
		require.NoError(t, err)
		assert.Contains(t, string(first), lives)
		for _, text := range append(fixed, lives) {
			assert.Equal(t, 1, strings.Count(page, text), "%s in the page", text)
		}
		for _, text := range fixed {
			escaped, _ := json.Marshal(text)
			assert.NotContains(t, string(first), strings.Trim(string(escaped), `"`))
		}
	}
}

func TestLivePages_TellHTMLFromJSON(t *testing.T) {
	server := newServer(t)
	for _, path := range []string{counterPage, presencePage} {
		for accept, wantType := range map[string]string{
			"text/html":        "text/html; charset=utf-8",
			"application/json": "application/json",
		} {
			req, err := http.NewRequest(http.MethodGet, server+path, nil)
			require.NoError(t, err)
			req.Header.Set("Accept", accept)
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			resp.Body.Close()
			assert.Equal(t, wantType, resp.Header.Get("Content-Type"))
			assert.Contains(t, resp.Header.Values("Vary"), "Accept", "caches keep %s apart", accept)
			assert.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
		}
	}
}

func TestLivePages_TabsOfOneBrowserWithoutSocketsStayApart(t *testing.T) {
	v := newVisitor(t, newServer(t))
	v.get(presencePage) // for its cookie
	hostile := []string{`Alice`, `onfocus=alert(1)`, `" onfocus="alert(1)`, `x`, `true`}
	join := func(tb *requestTab, i int) {
		name := hostile[i%len(hostile)]
		tb.act("join", map[string]any{"username": name})
		assert.Contains(t, render(tb.tree), `id="username" name="username" value="`+template.HTMLEscapeString(name)+`" placeholder=`)
		assert.Contains(t, readable(render(tb.tree)), notLive)
	}

	first, second := v.openWithoutSocket(presencePage), v.openWithoutSocket(presencePage)
	for i := range 20 { // in turn
		join(first, i)
		second.act("presenceChanged", nil)
		assert.NotContains(t, readable(render(second.tree)), notLive)
		join(second, i+1)
		first.act("leave", nil)
		assert.NotContains(t, readable(render(first.tree)), notLive)
		resp, _ := v.post(presencePage, url.Values{"username": {"Carol"}, "join": {""}}) // and one without scripts
		assert.Equal(t, http.StatusOK, resp.StatusCode)
	}
	var tabs sync.WaitGroup
	for i, tb := range []*requestTab{first, second} { // at once
		tabs.Go(func() {
			for j := range 100 {
				join(tb, i+j)
			}
		})
	}
	tabs.Wait()

	one, two := v.openWithoutSocket(counterPage), v.openWithoutSocket(counterPage)
	for i := range 10 {
		one.act("increment", nil)
		assert.Contains(t, readable(render(one.tree)), fmt.Sprintf("Counter: %d ", 2*i+1))
		two.act("increment", nil)
		assert.Contains(t, readable(render(two.tree)), fmt.Sprintf("Counter: %d ", 2*i+2))
	}
}

func TestLivePages_RequestsLeaveNothingBehind(t *testing.T) {
	server := newServer(t)
	transport := &http.Transport{MaxIdleConnsPerHost: 1}
	visits := func() {
		for i := range 1000 {
			v := newVisitor(t, server)
			v.client.Transport = transport
			v.click() // without a cookie
			if i%2 == 0 {
				v.click()
				v.openWithoutSocket(counterPage).act("increment", nil)
			}
		}
	}
	visits()
	before := collected().HeapAlloc
	visits()
	after := collected().HeapAlloc
	t.Logf("%d kB, then %d kB", before>>10, after>>10)
	assert.Less(t, after, before+300<<10, "300 bytes a visit")
}

func TestLivePages_RefuseFormsThatAreTooLong(t *testing.T) {
	var log bytes.Buffer
	v := newVisitor(t, newServerWith(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil))}))
	resp, body := v.post(presencePage, url.Values{"username": {strings.Repeat("A", maxForm)}, "join": {""}})
	assert.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
	assert.Contains(t, body, "too long")
	assert.Equal(t, 1, strings.Count(log.String(), "form refused"), "the log:\n%s", log.String())
	resp, _ = v.post(presencePage, url.Values{"username": {strings.Repeat("A", maxForm-1000)}, "join": {""}})
	assert.Equal(t, http.StatusOK, resp.StatusCode)
}

func TestLivePages_RefuseSocketsFromOtherSites(t *testing.T) {
	server := newServer(t)
	for _, path := range []string{counterPage, presencePage} {
		_, resp := knock(t, server, path, http.Header{"Origin": {"https://evil.example"}})
		assert.Equal(t, http.StatusForbidden, resp.StatusCode)
	}
}

// The page must name what was fetched: the same version, with the same content.
func TestAssets_AreThePinnedFiles(t *testing.T) {
	needAssets(t)
	v := newVisitor(t, newServer(t))
	_, page := v.send(http.MethodGet, counterPage, "", "")
	page = strings.ReplaceAll(page, "&#43;", "+")
	for _, name := range []string{"livetemplate-client", "pico"} {
		tag := regexp.MustCompile(`"(/static/vendor/` + name + `[^"]*)" integrity="([^"]*)"`).FindStringSubmatch(page)
		require.NotNil(t, tag, page)
		resp, content := v.send(http.MethodGet, tag[1], "", "")
		require.Equal(t, http.StatusOK, resp.StatusCode)
		sum := sha512.Sum384([]byte(content))
		assert.Equal(t, "sha384-"+base64.StdEncoding.EncodeToString(sum[:]), tag[2], name)
	}
}

func TestAssets_NotFetchedComeFromTheCDNAndTheLogSaysSo(t *testing.T) {
	own := fstest.MapFS{"only.txt": {Data: []byte("only this file")}}
	scripts, err := filepath.Glob("static/*.*")
	require.NoError(t, err)
	for _, path := range scripts {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		own[filepath.Base(path)] = &fstest.MapFile{Data: content}
	}
	var log bytes.Buffer
	server := newServerWith(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil)), Static: own})

	v := newVisitor(t, server)
	pinned := pinnedVersions(t)
	for _, path := range []string{"/", counterPage, presencePage} {
		resp, page := v.send(http.MethodGet, path, "", "")
		policy := resp.Header.Get("Content-Security-Policy")
		assert.Contains(t, policy, "script-src 'self' https://cdn.jsdelivr.net;")
		assert.Contains(t, policy, "style-src 'self' https://cdn.jsdelivr.net;")
		for _, url := range []string{
			"https://cdn.jsdelivr.net/npm/@livetemplate/client@" + pinned["@livetemplate/client"] + "/dist/livetemplate-client.browser.js",
			"https://cdn.jsdelivr.net/npm/@picocss/pico@" + pinned["@picocss/pico"] + "/css/pico.min.css",
		} {
			assert.Contains(t, page, `"`+url+`" integrity="sha384-`)
		}
		assert.NotContains(t, page, "/static/vendor/")
	}
	assert.Equal(t, 1, strings.Count(log.String(), "\n"), "one line in the log:\n%s", log.String())
	assert.Contains(t, log.String(), "CDN")

	_, content := v.send(http.MethodGet, "/static/only.txt", "", "")
	assert.Equal(t, "only this file", content)
}

func TestLockFile_HoldsThePinnedVersionsAndNoAddresses(t *testing.T) {
	content, err := os.ReadFile("package-lock.json")
	require.NoError(t, err)
	assert.NotContains(t, string(content), "http", "download addresses")
	var lock struct {
		Packages map[string]struct{ Version string }
	}
	require.NoError(t, json.Unmarshal(content, &lock))
	for name, version := range pinnedVersions(t) {
		assert.Equal(t, lock.Packages["node_modules/"+name].Version, version, name)
	}
}

// pinnedVersions are the npm packages of package.json.
func pinnedVersions(t *testing.T) map[string]string {
	t.Helper()
	content, err := os.ReadFile("package.json")
	require.NoError(t, err)
	var manifest struct{ Dependencies map[string]string }
	require.NoError(t, json.Unmarshal(content, &manifest))
	require.Len(t, manifest.Dependencies, 2)
	return manifest.Dependencies
}

// needAssets skips a test where the browser files are not built in.
func needAssets(t *testing.T) {
	t.Helper()
	if _, err := fs.Stat(embedded, "static/vendor"); err != nil {
		testenv.Missing(t, "the browser files are not fetched: run `make assets`")
	}
}
