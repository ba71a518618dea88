// Package assets serves the files that pages load, under addresses that contain
// a hash of their content, so that a browser may keep them for a year.
//
// Third-party files are fetched by `make assets` into the folder vendor. Where
// they are missing, pages load the same versions from a public CDN. Either way a
// page names the hash of the content that it expects.
package assets

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"regexp"
	"strings"
	"time"
)

// Files are the files that pages load.
type Files struct {
	served  map[string]content // by path in the folder
	fromCDN bool
	vendor  map[string]File // by name
}

// content is what a file holds, and the hash of it.
type content struct{ text, hash string }

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

// New reads the files of a folder. It takes the versions of third-party files from
// npm's package.json in that folder, which is not served. An error means that a file
// cannot be read.
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
	f := &Files{served: map[string]content{}, vendor: map[string]File{}}
	if err := f.read(folder); err != nil {
		return nil, err
	}
	for _, v := range vendor {
		if _, ok := f.served["vendor/"+path.Base(v.file)]; !ok {
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

// read reads all files but those that are there for npm and git only.
func (f *Files) read(folder fs.FS) error {
	return fs.WalkDir(folder, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name == "node_modules":
			return fs.SkipDir
		case entry.IsDir(), path.Ext(name) == ".json", strings.HasPrefix(path.Base(name), "."):
			return nil
		}
		text, err := fs.ReadFile(folder, name)
		f.served[name] = content{string(text), fmt.Sprintf("%x", sha256.Sum256(text))}
		return err
	})
}

// address is the address of a file, for as long as its content stays the same. The hash
// stands before the first dot of the name.
func (f *Files) address(name string) string {
	dir, base := path.Split(name)
	stem, _, _ := strings.Cut(base, ".")
	return "/static/" + dir + stem + "-" + f.served[name].hash + strings.TrimPrefix(base, stem)
}

// Lookup returns what a tag needs to load the named file. Third-party files are
// known by their base name. An error means that there is no such file.
func (f *Files) Lookup(name string) (File, error) {
	if found, ok := f.vendor[name]; ok {
		return found, nil
	}
	if _, ok := f.served[name]; !ok {
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
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file, keep, ok := f.find(r.URL.Path)
		if !ok {
			notFound.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Cache-Control", keep)
		w.Header().Set("ETag", `W/"`+file.hash+`"`) // weak: it is the same for the compressed file
		// A file is not a page: a short policy is enough, and saves 0.3 kB for each.
		w.Header().Set("Content-Security-Policy", "default-src 'none'")
		w.Header().Del("Permissions-Policy")
		http.ServeContent(w, r, r.URL.Path, time.Time{}, strings.NewReader(file.text))
	})
}

// hashed matches the path of a file with a hash in it.
var hashed = regexp.MustCompile(`^(.*)-([0-9a-f]{64})((\.[^/]*)?)$`)

// find returns the file at a path, and how long it may be kept. A hash that is not known
// belongs to a page of another version of this program: while servers restart one by
// one, a balancer mixes the two. The page gets the file as it is here, which is better
// than none.
func (f *Files) find(name string) (file content, keep string, ok bool) {
	if file, ok = f.served[name]; ok {
		return file, "no-cache", true // the file may change, so a browser has to ask each time
	}
	parts := hashed.FindStringSubmatch(name)
	if parts == nil {
		return file, "", false
	}
	file, ok = f.served[parts[1]+parts[3]]
	if file.hash != parts[2] {
		return file, "no-store", ok // the address is that of another content
	}
	return file, "public, max-age=31536000", ok
}
