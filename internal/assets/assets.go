// Package assets serves the files that pages load, at addresses that contain a hash of their
// content, so that a browser may keep them for a year.
//
// `make assets` fetches third-party files into the folder vendor. Pages load those that are
// missing from a public CDN, in the same versions. Either way a page names the hash of the
// content that it expects.
package assets

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"path"
	"regexp"
	"strings"
	"time"
)

// Files are the files that pages load.
type Files struct {
	served map[string]content // by path in the folder
	vendor map[string]File    // by name
	cdn    string             // origin of third-party files that are missing here, or empty
}

// content is the text of a file, and the hash of it.
type content struct{ text, hash string }

// File is what a tag needs to load one file.
type File struct {
	URL       string
	Integrity string // hash of the content; empty for a file of our own
}

const cdn = "https://cdn.jsdelivr.net"

// vendor lists the third-party files with the hashes of their content. When a version changes
// in package.json, TestNew_ThirdPartyFilesAreThePinnedOnes reports the new hash.
var vendor = []struct{ pkg, file, integrity string }{
	{"@livetemplate/client", "dist/livetemplate-client.browser.js", "sha384-eu851tpv39Qz6AFvnOIZYOo7iRBSw1j7/To2GHXrRIKQVtI3uZDhh9rOJJR9ehmR"},
	{"@picocss/pico", "css/pico.min.css", "sha384-L1dWfspMTHU/ApYnFiMz2QID/PlP1xCW9visvBdbEkOLkSSWsP6ZJWhPw6apiXxU"},
}

// New reads the files of a folder. It takes the versions of third-party files from npm's
// package.json in that folder, which is not served. It logs it if files load from the CDN,
// and panics if a file cannot be read: files are part of the program.
func New(folder fs.FS, log *slog.Logger) *Files {
	f := &Files{served: map[string]content{}, vendor: map[string]File{}}
	var pinned struct {
		Dependencies map[string]string `json:"dependencies"`
	}
	manifest, err := fs.ReadFile(folder, "package.json")
	if err == nil {
		err = json.Unmarshal(manifest, &pinned)
	}
	if err == nil {
		err = f.read(folder)
	}
	if err != nil {
		panic(fmt.Errorf("browser files: %w", err))
	}
	for _, v := range vendor {
		name := path.Base(v.file)
		url := f.address("vendor/" + name)
		if _, ok := f.served["vendor/"+name]; !ok {
			f.cdn = cdn
			url = cdn + "/npm/" + v.pkg + "@" + pinned.Dependencies[v.pkg] + "/" + v.file
		}
		f.vendor[name] = File{url, v.integrity}
	}
	if f.cdn != "" {
		log.Info("browser files are not built in: pages load them from the public CDN; run `make assets` to fetch them")
	}
	return f
}

// read reads all files except those that only npm and git need.
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
		f.Add(name, text)
		return err
	})
}

// Add serves one more file, and returns its address. Files are added before they are served.
func (f *Files) Add(name string, text []byte) (address string) {
	f.served[name] = content{string(text), fmt.Sprintf("%x", sha256.Sum256(text))}
	return f.address(name)
}

// address returns the address of a file. The hash stands before the first dot of the name.
func (f *Files) address(name string) string {
	dir, base := path.Split(name)
	stem, _, _ := strings.Cut(base, ".")
	return "/static/" + dir + stem + "-" + f.served[name].hash + strings.TrimPrefix(base, stem)
}

// Lookup returns what a tag needs to load the named file. The name of a third-party file is
// its base name. An error means that there is no such file.
func (f *Files) Lookup(name string) (File, error) {
	if found, ok := f.vendor[name]; ok {
		return found, nil
	}
	if _, ok := f.served[name]; !ok {
		return File{}, fmt.Errorf("no browser file named %q", name)
	}
	return File{URL: f.address(name)}, nil
}

// CDN returns the origin of the CDN, or an empty string if no file loads from there.
func (f *Files) CDN() string { return f.cdn }

// Handler serves the files by their path below /static/, and calls notFound for any other
// path, such as that of a directory.
func (f *Files) Handler(notFound http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file, keep, ok := f.find(r.URL.Path)
		if !ok {
			notFound.ServeHTTP(w, r)
			return
		}
		serve(w, r, file, keep)
	})
}

// AtRoot serves the files at the addresses of their names, /favicon.ico for example, to be
// kept for a week.
func (f *Files) AtRoot(notFound http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file, ok := f.served[strings.TrimPrefix(r.URL.Path, "/")]
		if !ok {
			notFound.ServeHTTP(w, r)
			return
		}
		serve(w, r, file, "public, max-age=604800")
	})
}

func serve(w http.ResponseWriter, r *http.Request, file content, keep string) {
	w.Header().Set("Cache-Control", keep)
	w.Header().Set("ETag", `W/"`+file.hash+`"`) // weak, because the compressed file has the same
	// A file is not a page: a short policy is enough, and saves 0.3 kB per file.
	w.Header().Set("Content-Security-Policy", "default-src 'none'")
	w.Header().Del("Permissions-Policy")
	http.ServeContent(w, r, r.URL.Path, time.Time{}, strings.NewReader(file.text))
}

// hashed matches the path of a file with a hash in it.
var hashed = regexp.MustCompile(`^(.*)-([0-9a-f]{64})((\.[^/]*)?)$`)

// find returns the file at a path, and its caching policy. An unknown hash comes from a page
// of another version of the program: while servers restart one by one, a load balancer mixes
// the two. The page gets the file as it is here, which is better than none.
func (f *Files) find(name string) (file content, keep string, ok bool) {
	if file, ok = f.served[name]; ok {
		return file, "no-cache", true // a browser asks each time, because the file may change
	}
	parts := hashed.FindStringSubmatch(name)
	if parts == nil {
		return file, "", false
	}
	file, ok = f.served[parts[1]+parts[3]]
	if file.hash != parts[2] {
		return file, "no-store", ok // the address belongs to other content
	}
	return file, "public, max-age=31536000", ok
}
