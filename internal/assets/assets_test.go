package assets_test

import (
	"crypto/sha512"
	"encoding/base64"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/assets"
	"realtime/internal/visitor"
)

// static is the folder of the program.
const static = "../../static"

// newFiles returns the files of a folder.
func newFiles(t *testing.T, folder fs.FS) *assets.Files {
	t.Helper()
	return assets.New(folder, slog.New(slog.DiscardHandler))
}

// get asks for a file that a browser may have already.
func get(files *assets.Files, url, etag string) *http.Response {
	req := httptest.NewRequest(http.MethodGet, url, nil)
	req.Header.Set("If-None-Match", etag)
	resp := httptest.NewRecorder()
	http.StripPrefix("/static/", files.Handler(http.NotFoundHandler())).ServeHTTP(resp, req)
	return resp.Result()
}

// A page must name what was fetched: the same version, with the same content.
func TestNew_ThirdPartyFilesAreThePinnedOnes(t *testing.T) {
	files := newFiles(t, os.DirFS(static))
	if files.CDN() != "" {
		visitor.Missing(t, "the browser files are not fetched: run `make assets`")
	}
	for _, name := range []string{"livetemplate-client.browser.js", "pico.min.css"} {
		file, err := files.Lookup(name)
		require.NoError(t, err)
		assert.Regexp(t, `^/static/vendor/.*-[0-9a-f]{64}`, file.URL)
		content, err := io.ReadAll(get(files, file.URL, "").Body)
		require.NoError(t, err)
		sum := sha512.Sum384(content)
		assert.Equal(t, "sha384-"+base64.StdEncoding.EncodeToString(sum[:]), file.Integrity, name)
	}
	lockFile, err := os.ReadFile(static + "/package-lock.json") // npm checks that its versions are the pinned ones
	require.NoError(t, err)
	assert.NotContains(t, string(lockFile), "http", "download addresses")
}

func TestNew_MissingFilesComeFromTheCDNAndTheLogSaysSo(t *testing.T) {
	folder := fstest.MapFS{
		"package.json": {Data: []byte(`{"dependencies":{"@livetemplate/client":"1.2.3","@picocss/pico":"4.5.6"}}`)},
		"own.css":      {Data: []byte("p {}")},
	}
	log := &visitor.Log{}
	files := assets.New(folder, log.Logger())
	assert.Equal(t, "https://cdn.jsdelivr.net", files.CDN())
	assert.Equal(t, 1, strings.Count(log.String(), "run `make assets` to fetch them"), log.String())
	for name, want := range map[string]string{
		"livetemplate-client.browser.js": "https://cdn.jsdelivr.net/npm/@livetemplate/client@1.2.3/dist/livetemplate-client.browser.js",
		"pico.min.css":                   "https://cdn.jsdelivr.net/npm/@picocss/pico@4.5.6/css/pico.min.css",
	} {
		file, err := files.Lookup(name)
		require.NoError(t, err)
		assert.Equal(t, want, file.URL)
		assert.Regexp(t, "^sha384-", file.Integrity)

		folder["vendor/"+name] = &fstest.MapFile{}
		file, err = newFiles(t, folder).Lookup(name)
		require.NoError(t, err)
		assert.Regexp(t, "^/static/vendor/", file.URL, "whether or not another is missing")
	}
	log = &visitor.Log{}
	files = assets.New(folder, log.Logger())
	assert.Empty(t, files.CDN()+log.String(), "all files are here")

	own, err := files.Lookup("own.css")
	require.NoError(t, err)
	assert.Regexp(t, "^/static/own-", own.URL)
	_, err = files.Lookup("nothing.js")
	assert.ErrorContains(t, err, `"nothing.js"`)
	for _, folder := range []fstest.MapFS{{}, {"package.json": {Data: []byte("{")}}} {
		assert.Panics(t, func() { assets.New(folder, log.Logger()) })
	}
}

// Under its hashed address a file is kept for a year. Under its plain name a browser
// asks each time.
func TestHandler_SaysHowLongAFileIsKept(t *testing.T) {
	looksHashed := "own-" + strings.Repeat("0", 64) + ".js"
	files := newFiles(t, fstest.MapFS{
		"package.json": {Data: []byte("{}")}, "own.css": {Data: []byte("p {}")}, looksHashed: {Data: []byte("run()")}, "LICENSE": {},
		"vendor/.gitignore": {Data: []byte("*")}, "vendor/lock.json": {}, "node_modules/a/a.js": {},
	})
	for _, name := range []string{"own.css", looksHashed, "LICENSE"} {
		file, err := files.Lookup(name)
		require.NoError(t, err)
		assert.Equal(t, "public, max-age=31536000", get(files, file.URL, "").Header.Get("Cache-Control"), file.URL)
		plain := get(files, "/static/"+name, "").Header
		assert.Equal(t, "no-cache", plain.Get("Cache-Control"), name)
		assert.Equal(t, http.StatusNotModified, get(files, "/static/"+name, plain.Get("ETag")).StatusCode, name)
	}
	resp := httptest.NewRecorder()
	files.ForAWeek("own.css").ServeHTTP(resp, httptest.NewRequest(http.MethodGet, "/own.css", nil))
	assert.Equal(t, "p {} public, max-age=604800", resp.Body.String()+" "+resp.Header().Get("Cache-Control"))
	const hash = "-0123456789012345678901234567890123456789012345678901234567890123"
	for _, path := range []string{
		"/static/", "/static/vendor", "/static/nothing", "/static/package.json", "/static/vendor/.gitignore", "/static/vendor/lock.json",
		"/static/node_modules/a/a.js", "/static/../assets.go", "/static/" + hash, "/static/nothing" + hash + ".css", "/static/vendor" + hash,
		"/static/package" + hash + ".json", "/static/vendor/" + hash + ".gitignore", "/static/node_modules/a/a" + hash + ".js",
		"/static/own" + hash + "0.css", "/static/own" + hash[:64] + ".css", "/static/own" + hash + ".css/own.css",
	} {
		assert.Equal(t, http.StatusNotFound, get(files, path, "").StatusCode, path)
	}
}

// While servers restart one by one, a balancer sends what a page of one version asks
// for to a server of the other.
func TestHandler_PageOfAnotherVersionGetsAllItsFiles(t *testing.T) {
	names := []string{"own.css", "own.js", "vendor/pico.min.css", "vendor/livetemplate-client.browser.js"}
	version := func(changed string) *assets.Files {
		folder := fstest.MapFS{"package.json": {Data: []byte("{}")}}
		for _, name := range names {
			folder[name] = &fstest.MapFile{Data: []byte("first " + name)}
		}
		folder[changed] = &fstest.MapFile{Data: []byte("changed " + changed)}
		return newFiles(t, folder)
	}
	first := version("new.js")
	for _, changed := range names {
		second := version(changed)
		for _, name := range names {
			want, keep := "first "+name, "public, max-age=31536000"
			if name == changed {
				want, keep = "changed "+name, "no-store"
			}
			file, err := first.Lookup(strings.TrimPrefix(name, "vendor/"))
			require.NoError(t, err)
			resp := get(second, file.URL, "")
			content, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			assert.Equal(t, want, string(content), file.URL)
			assert.Equal(t, keep, resp.Header.Get("Cache-Control"), file.URL)
		}
	}
}
