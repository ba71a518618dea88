package assets_test

import (
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
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

// A page must name what was fetched: the same version, with the same content.
func TestNew_ThirdPartyFilesAreThePinnedOnes(t *testing.T) {
	files, err := assets.New(os.DirFS(static))
	require.NoError(t, err)
	if files.CDN() != "" {
		visitor.Missing(t, "the browser files are not fetched: run `make assets`")
	}
	handler := http.StripPrefix("/static/", files.Handler(http.NotFoundHandler()))
	for _, name := range []string{"livetemplate-client.browser.js", "pico.min.css"} {
		file, err := files.Lookup(name)
		require.NoError(t, err)
		assert.Regexp(t, `^/static/vendor/.*-[0-9a-f]{64}`, file.URL)
		resp := httptest.NewRecorder()
		handler.ServeHTTP(resp, httptest.NewRequest(http.MethodGet, file.URL, nil))
		require.Equal(t, http.StatusOK, resp.Code)
		sum := sha512.Sum384(resp.Body.Bytes())
		assert.Equal(t, "sha384-"+base64.StdEncoding.EncodeToString(sum[:]), file.Integrity, name)
	}
}

func TestNew_MissingFilesComeFromTheCDN(t *testing.T) {
	manifest, err := os.ReadFile(static + "/package.json")
	require.NoError(t, err)
	files, err := assets.New(fstest.MapFS{"package.json": {Data: manifest}, "own.css": {Data: []byte("p {}")}})
	require.NoError(t, err)
	assert.Equal(t, "https://cdn.jsdelivr.net", files.CDN())
	pinned := pinnedVersions(t)
	for name, want := range map[string]string{
		"livetemplate-client.browser.js": "https://cdn.jsdelivr.net/npm/@livetemplate/client@" + pinned["@livetemplate/client"] + "/dist/livetemplate-client.browser.js",
		"pico.min.css":                   "https://cdn.jsdelivr.net/npm/@picocss/pico@" + pinned["@picocss/pico"] + "/css/pico.min.css",
	} {
		file, err := files.Lookup(name)
		require.NoError(t, err)
		assert.Equal(t, want, file.URL)
		assert.True(t, strings.HasPrefix(file.Integrity, "sha384-"))
	}
	own, err := files.Lookup("own.css")
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(own.URL, "/static/own-"))
	_, err = files.Lookup("nothing.js")
	assert.ErrorContains(t, err, `"nothing.js"`)
}

func TestNew_SaysWhatIsWrongWithTheManifest(t *testing.T) {
	_, err := assets.New(fstest.MapFS{})
	assert.ErrorContains(t, err, "package.json")
	_, err = assets.New(fstest.MapFS{"package.json": {Data: []byte("{")}})
	assert.ErrorContains(t, err, "package.json")
}

// Under its hashed address a file is kept for a year. Under its plain name a browser
// asks each time.
func TestHandler_SaysHowLongAFileIsKept(t *testing.T) {
	files, err := assets.New(fstest.MapFS{"package.json": {Data: []byte("{}")}, "own.css": {Data: []byte("p {}")}, "vendor/.gitignore": {Data: []byte("*")}})
	require.NoError(t, err)
	own, err := files.Lookup("own.css")
	require.NoError(t, err)
	handler := http.StripPrefix("/static/", files.Handler(http.NotFoundHandler()))
	get := func(path, etag string) *http.Response {
		req := httptest.NewRequest(http.MethodGet, path, nil)
		req.Header.Set("If-None-Match", etag)
		resp := httptest.NewRecorder()
		handler.ServeHTTP(resp, req)
		return resp.Result()
	}
	hashed := get(own.URL, "")
	assert.Equal(t, http.StatusOK, hashed.StatusCode)
	assert.Equal(t, "public, max-age=31536000", hashed.Header.Get("Cache-Control"))
	plain := get("/static/own.css", "")
	assert.Equal(t, http.StatusOK, plain.StatusCode)
	assert.Equal(t, "no-cache", plain.Header.Get("Cache-Control"))
	assert.Equal(t, http.StatusNotModified, get("/static/own.css", plain.Header.Get("ETag")).StatusCode)

	hash := strings.TrimSuffix(strings.TrimPrefix(own.URL, "/static/own-"), ".css")
	for _, path := range []string{
		strings.Replace(own.URL, hash, strings.Repeat("0", 64), 1), // content of another version
		"/static/", "/static/vendor", "/static/nothing", "/static/package.json", "/static/vendor/.gitignore",
	} {
		assert.Equal(t, http.StatusNotFound, get(path, "").StatusCode, path)
	}
}

func TestLockFile_HoldsThePinnedVersionsAndNoAddresses(t *testing.T) {
	content, err := os.ReadFile(static + "/package-lock.json")
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
	content, err := os.ReadFile(static + "/package.json")
	require.NoError(t, err)
	var manifest struct{ Dependencies map[string]string }
	require.NoError(t, json.Unmarshal(content, &manifest))
	require.Len(t, manifest.Dependencies, 2)
	return manifest.Dependencies
}
