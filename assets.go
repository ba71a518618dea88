package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
)

// assets are the third-party browser files. `make assets` puts them into
// static/vendor/; where it did not run, browsers load the same versions from
// the public CDN.
type assets struct {
	fromCDN bool
	byName  map[string]asset
}

// asset is what a tag needs to load one file: where it is, and the hash of what
// it must contain.
type asset struct{ URL, Integrity string }

// newAssets takes the versions from package.json, the one place that pins them
// for npm and for the CDN. The hashes are of the same files, wherever they load from.
func newAssets(static fs.FS) (assets, error) {
	a := assets{byName: map[string]asset{}}
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
		url := "/static/vendor/" + path.Base(f.file)
		if a.fromCDN {
			url = "https://cdn.jsdelivr.net/npm/" + f.pkg + "@" + pinned.Dependencies[f.pkg] + "/" + f.file
		}
		a.byName[path.Base(f.file)] = asset{url, f.integrity}
	}
	return a, nil
}

// lookup is the template function "asset".
func (a assets) lookup(name string) (asset, error) {
	found, ok := a.byName[name]
	if !ok {
		return found, fmt.Errorf("no browser file named %q", name)
	}
	return found, nil
}
