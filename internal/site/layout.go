package site

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"strings"

	"realtime/internal/assets"
)

// layout renders pages.
type layout struct {
	templates fs.FS
	files     *assets.Files
	funcs     template.FuncMap
}

// What stands for the live part of a page, for its build and for the origin of the site,
// while its fixed text is rendered.
const (
	livePart   = "<live-part></live-part>"
	pageBuild  = "page-build"
	pageOrigin = "page-origin"
)

// The kinds of a page, for the layout.
const (
	fixedPage  = "fixed" // it has no live part
	livePage   = "live"
	framedPage = "framed" // a live page as it is in a frame
)

// fixedText is the text before and after the live part of a page. Its build is a hash of
// all that a page is made of: that text, which names the hashes of scripts and styles, and
// the template of the live part.
type fixedText struct{ before, after, build string }

// render renders a page of a kind from its template file, for an address. It panics if a
// template is broken.
func (l layout) render(data any, address, file, kind string) string {
	t := template.New("layout.tmpl").Funcs(l.funcs).Funcs(template.FuncMap{
		"asset":   l.files.Lookup,
		"cdn":     l.files.CDN,
		"kind":    func() string { return kind },
		"build":   func() string { return pageBuild },
		"origin":  func() string { return pageOrigin },
		"address": func() string { return address },
		"to": func(there string) template.HTMLAttr {
			attr := `href="` + template.HTMLEscapeString(there) + `"`
			if there == address {
				attr += ` aria-current="page"`
			}
			return template.HTMLAttr(attr)
		},
	})
	template.Must(t.ParseFS(l.templates, "layout.tmpl", "parts.tmpl", file))
	template.Must(t.New("live").Parse(livePart))
	var page strings.Builder
	template.Must(t, t.Execute(&page, data))
	return page.String()
}

// around renders the fixed text of a live page.
func (l layout) around(data any, address, file, kind string) (text fixedText) {
	page := l.render(data, address, file, kind)
	source, _ := fs.ReadFile(l.templates, file) // rendered just now
	hash := sha256.Sum256(append([]byte(page), source...))
	text.build = hex.EncodeToString(hash[:8])
	var found bool
	if text.before, text.after, found = strings.Cut(page, livePart); !found {
		panic(file + " has no live part")
	}
	text.before = strings.Replace(text.before, pageBuild, text.build, 1)
	return text
}

// fixed returns the handler of a page without a live part.
func (l layout) fixed(status int, data any, address, file string) http.Handler {
	page := l.render(data, address, file, fixedPage)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		fmt.Fprint(w, withOrigin(page, r))
	})
}

// withOrigin returns text of a page as it is for a request: those who preview a link to it
// need whole addresses.
func withOrigin(text string, r *http.Request) string {
	return strings.ReplaceAll(text, pageOrigin, template.HTMLEscapeString(ownOrigin(r)))
}
