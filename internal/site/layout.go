package site

import (
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

// livePart stands for the live part of a page while its fixed text is rendered.
const livePart = "<live-part></live-part>"

// The kinds of a page, for the layout.
const (
	fixedPage  = "fixed" // it has no live part
	livePage   = "live"
	framedPage = "framed" // a live page as it is in a frame
)

// fixedText is the text before and after the live part of a page.
type fixedText struct{ before, after string }

// render renders a page of a kind from its template file.
func (l layout) render(data any, file, kind string) (string, error) {
	t := template.New("layout.tmpl").Funcs(l.funcs).Funcs(template.FuncMap{
		"asset": l.files.Lookup,
		"kind":  func() string { return kind },
	})
	t, err := t.ParseFS(l.templates, "layout.tmpl", "parts.tmpl", file)
	if err != nil {
		return "", err
	}
	if _, err := t.New("live").Parse(livePart); err != nil {
		return "", err
	}
	var page strings.Builder
	err = t.Execute(&page, data)
	return page.String(), err
}

// around renders the fixed text of a live page.
func (l layout) around(data any, file, kind string) (text fixedText, err error) {
	page, err := l.render(data, file, kind)
	if err != nil {
		return text, err
	}
	var found bool
	if text.before, text.after, found = strings.Cut(page, livePart); !found {
		return text, fmt.Errorf("%s has no live part", file)
	}
	return text, nil
}

// fixed returns the handler of a page without a live part.
func (l layout) fixed(status int, data any, file string) (http.Handler, error) {
	page, err := l.render(data, file, fixedPage)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		fmt.Fprint(w, page)
	}), nil
}
