package main

import (
	"fmt"
	"html/template"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/livetemplate/livetemplate"

	"realtime/internal/fanout"
)

// pages builds the pages of the app. The layout and everything fixed is rendered
// once. The framework renders, and each of its connections keeps, only the part
// of a page that lives: the template "live".
type pages struct {
	funcs  template.FuncMap
	live   []livetemplate.Option
	fanout *fanout.Fanout
}

// render puts a page into the layout. Where it has a live part, there is livePart.
func (p pages) render(data any, file string) (string, error) {
	t, err := template.New("layout.tmpl").Funcs(p.funcs).ParseFS(embedded, "templates/layout.tmpl", "templates/assets.tmpl", file)
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

// livePart stands for the live part of a page.
const livePart = "<live-part></live-part>"

// plain is a page without a live part.
func (p pages) plain(status int, title, file string) (http.Handler, error) {
	page, err := p.render(struct{ Title, Category string }{title, category}, file)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		fmt.Fprint(w, page)
	}), nil
}

// newLivePage is the page templates/realtime/NAME.tmpl, run by a controller from
// a first state.
func newLivePage[S any](p pages, name string, controller any, state *S) (livetemplate.LiveHandler, error) {
	file := "templates/realtime/" + name + ".tmpl"
	page, err := p.render(state, file)
	if err != nil {
		return nil, err
	}
	before, after, found := strings.Cut(page, livePart)
	if !found {
		return nil, fmt.Errorf("%s has no live part", file)
	}
	files := livetemplate.WithParseFS(embedded, "templates/live.tmpl", file)
	t, err := livetemplate.New(name, append(slices.Clip(p.live), files)...)
	if err != nil {
		return nil, err
	}
	// What a first rendering parses is shared by all connections that come after
	// it: 9 kB that an idle one does not hold.
	if err := t.Execute(io.Discard, state); err != nil {
		return nil, err
	}
	return livePage{t.Handle(controller, livetemplate.AsState(state)), before, after}, nil
}

// livePage serves the socket of a page, and the page: its live part as it is
// now, between the fixed text before and after it.
type livePage struct {
	livetemplate.LiveHandler
	before, after string
}

func (p livePage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if livetemplate.WSIsUpgrade(r) {
		p.LiveHandler.ServeHTTP(w, r)
		return
	}
	// One address answers with HTML or JSON: neither the Back button nor a cache
	// in between may show one for the other.
	w.Header().Set("Vary", "Accept")
	w.Header().Set("Cache-Control", "private, no-cache")
	between := &betweenText{ResponseWriter: w, page: p}
	p.LiveHandler.ServeHTTP(between, r)
	between.end()
}

// betweenText puts the fixed text of a page around an answer that is HTML. Data,
// redirects and errors stay as they are.
type betweenText struct {
	http.ResponseWriter
	page  livePage
	begun bool
	html  bool
}

func (w *betweenText) Write(b []byte) (int, error) {
	if !w.begun {
		w.begun = true
		if w.Header().Get("Content-Type") == "" { // the framework leaves a page's to be guessed
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
		}
		w.html = strings.HasPrefix(w.Header().Get("Content-Type"), "text/html")
		if w.html {
			fmt.Fprint(w.ResponseWriter, w.page.before)
		}
	}
	return w.ResponseWriter.Write(b)
}

func (w *betweenText) end() {
	if w.html {
		fmt.Fprint(w.ResponseWriter, w.page.after)
	}
}
