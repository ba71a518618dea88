// Package assets serves the files that pages load, under addresses that contain
// a hash of their content, so that a browser may keep them for a year.
//
// Third-party files are fetched by `make assets` into the folder vendor. Where
// they are missing, pages load the same versions from a public CDN. Either way a
// page names the hash of the content that it expects.
package assets

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"

	"github.com/benbjohnson/hashfs"
)

// Files are the files that pages load.
type Files struct {
	hashed  *hashfs.FS
	fromCDN bool
	vendor  map[string]File // by name
}

// File is what a tag needs to load one file.
type File struct {
	URL       string
	Integrity string // hash of the content; empty for a file of our own
}

const cdn = "https://cdn.jsdelivr.net"

// vendor lists the third-party files with the hashes of their content.
var vendor = []struct{ pkg, file, integrity string }{
	{"@livetemplate/client", "dist/livetemplate-client.browser.js", "sha384-eu851tpv39Qz6AFvnOIZYOo7iRBSw1j7/To2GHXrRIKQVtI3uZDhh9rOJJR9ehmR"},
	{"@picocss/pico", "css/pico.min.css", "sha384-L1dWfspMTHU/ApYnFiMz2QID/PlP1xCW9visvBdbEkOLkSSWsP6ZJWhPw6apiXxU"},
}

// New returns the files of a folder. It takes the versions of third-party files
// from npm's package.json in that folder, which is not served. An error means that
// package.json cannot be read.
func New(folder fs.FS) (*Files, error) {
	manifest, err := fs.ReadFile(folder, "package.json")
	if err != nil {
		return nil, err
	}
	var pinned struct {
		Dependencies map[string]string `json:"dependencies"`
	}
	if err := json.Unmarshal(manifest, &pinned); err != nil {
		return nil, fmt.Errorf("package.json: %w", err)
	}
	f := &Files{hashed: hashfs.NewFS(folder), vendor: map[string]File{}}
	for _, v := range vendor {
		if _, err := fs.Stat(folder, "vendor/"+path.Base(v.file)); err != nil {
			f.fromCDN = true
		}
	}
	for _, v := range vendor {
		url := f.address("vendor/" + path.Base(v.file))
		if f.fromCDN {
			url = cdn + "/npm/" + v.pkg + "@" + pinned.Dependencies[v.pkg] + "/" + v.file
		}
		f.vendor[path.Base(v.file)] = File{url, v.integrity}
	}
	return f, nil
}

// address is the address of a file, for as long as its content stays the same.
func (f *Files) address(name string) string { return "/static/" + f.hashed.HashName(name) }

// Lookup returns what a tag needs to load the named file. Third-party files are
// known by their base name. An error means that there is no such file.
func (f *Files) Lookup(name string) (File, error) {
	if found, ok := f.vendor[name]; ok {
		return found, nil
	}
	if _, err := fs.Stat(f.hashed, name); err != nil {
		return File{}, fmt.Errorf("no browser file named %q", name)
	}
	return File{URL: f.address(name)}, nil
}

// CDN is the origin that third-party files load from, or empty if they are served
// from here.
func (f *Files) CDN() string {
	if f.fromCDN {
		return cdn
	}
	return ""
}

// Handler serves the files by their path below /static/. It calls notFound for
// anything else, such as a directory.
func (f *Files) Handler(notFound http.Handler) http.Handler {
	files := hashfs.FileServer(f.hashed)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, err := fs.Stat(f.hashed, r.URL.Path)
		if err != nil || info.IsDir() || hidden(r.URL.Path) {
			notFound.ServeHTTP(w, r)
			return
		}
		// Under its plain name a file may change, so a browser has to ask each
		// time. The file server replaces this under a hashed address.
		_, hash := f.hashed.ParseName(f.hashed.HashName(r.URL.Path))
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("ETag", `"`+hash+`"`)
		// A file is not a page: a short policy is enough, and saves 0.3 kB for each.
		w.Header().Set("Content-Security-Policy", "default-src 'none'")
		w.Header().Del("Permissions-Policy")
		files.ServeHTTP(w, r)
	})
}

// hidden reports files that are there for npm and git only.
func hidden(name string) bool {
	return path.Ext(name) == ".json" || strings.HasPrefix(path.Base(name), ".")
}
