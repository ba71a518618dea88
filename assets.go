package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path"

	"github.com/benbjohnson/hashfs"
)

// assets are the files that pages load. Their addresses hold a hash of their
// content, so that a browser can keep them for as long as it likes. Third-party
// files are fetched by `make assets` into static/vendor/; where it did not run,
// browsers load the same versions from the public CDN.
type assets struct {
	files   *hashfs.FS
	fromCDN bool
	byName  map[string]asset // the third-party ones
}

// asset is what a tag needs to load one file: where it is, and for a third-party
// one the hash of what it must contain.
type asset struct{ URL, Integrity string }

const cdn = "https://cdn.jsdelivr.net"

// newAssets takes the versions from package.json, the one place that pins them
// for npm and for the CDN. The hashes are of the same files, wherever they load from.
func newAssets(static fs.FS) (assets, error) {
	a := assets{files: hashfs.NewFS(static), byName: map[string]asset{}}
	manifest, err := embedded.ReadFile("package.json")
	if err != nil {
		return a, err
	}
	var pinned struct {
		Dependencies map[string]string `json:"dependencies"`
	}
	if err := json.Unmarshal(manifest, &pinned); err != nil {
		return a, fmt.Errorf("package.json: %w", err)
	}

	files := []struct{ pkg, file, integrity string }{
		{"@livetemplate/client", "dist/livetemplate-client.browser.js", "sha384-eu851tpv39Qz6AFvnOIZYOo7iRBSw1j7/To2GHXrRIKQVtI3uZDhh9rOJJR9ehmR"},
		{"@picocss/pico", "css/pico.min.css", "sha384-L1dWfspMTHU/ApYnFiMz2QID/PlP1xCW9visvBdbEkOLkSSWsP6ZJWhPw6apiXxU"},
	}
	for _, f := range files {
		if _, err := fs.Stat(static, "vendor/"+path.Base(f.file)); err != nil {
			a.fromCDN = true
		}
	}
	for _, f := range files {
		url := a.address("vendor/" + path.Base(f.file))
		if a.fromCDN {
			url = cdn + "/npm/" + f.pkg + "@" + pinned.Dependencies[f.pkg] + "/" + f.file
		}
		a.byName[path.Base(f.file)] = asset{url, f.integrity}
	}
	return a, nil
}

// address is where a file is served, for as long as it is as it is now.
func (a assets) address(name string) string { return "/static/" + a.files.HashName(name) }

// lookup is the template function "asset".
func (a assets) lookup(name string) (asset, error) {
	if found, ok := a.byName[name]; ok {
		return found, nil
	}
	if _, err := fs.Stat(a.files, name); err != nil {
		return asset{}, fmt.Errorf("no browser file named %q", name)
	}
	return asset{URL: a.address(name)}, nil
}

// source is where third-party files load from, if not from here.
func (a assets) source() string {
	if a.fromCDN {
		return cdn
	}
	return ""
}

// serve serves files, and notFound in place of a directory. Under its plain name
// a file can change, and a browser has to ask each time.
func (a assets) serve(notFound http.Handler) http.Handler {
	files := hashfs.FileServer(a.files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, err := fs.Stat(a.files, r.URL.Path)
		if err != nil || info.IsDir() {
			notFound.ServeHTTP(w, r)
			return
		}
		_, hash := a.files.ParseName(a.files.HashName(r.URL.Path))
		w.Header().Set("Cache-Control", "no-cache") // under its address the file server says otherwise
		w.Header().Set("ETag", `"`+hash+`"`)
		files.ServeHTTP(w, r)
	})
}
