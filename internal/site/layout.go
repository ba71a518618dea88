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
}

// livePart stands for the live part of a page while its fixed text is rendered.
const livePart = "<live-part></live-part>"

// render renders a page from its template file.
func (l layout) render(data any, file string) (string, error) {
	funcs := template.FuncMap{"asset": l.files.Lookup}
	t, err := template.New("layout.tmpl").Funcs(funcs).ParseFS(l.templates, "layout.tmpl", file)
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

// around renders the fixed text before and after the live part of a page.
func (l layout) around(data any, file string) (before, after string, err error) {
	page, err := l.render(data, file)
	if err != nil {
		return "", "", err
	}
	before, after, found := strings.Cut(page, livePart)
	if !found {
		return "", "", fmt.Errorf("%s has no live part", file)
	}
	return before, after, nil
}

// fixed returns the handler of a page without a live part.
func (l layout) fixed(status int, data any, file string) (http.Handler, error) {
	page, err := l.render(data, file)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		fmt.Fprint(w, page)
	}), nil
}
