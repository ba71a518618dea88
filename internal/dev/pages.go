//go:build unix

package main

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// pages are the open pages of the program.
type pages struct{ now atomic.Pointer[state] }

// state is what pages show and are: what happens to the server, or nothing while all is well,
// and the build that runs or ran last.
type state struct {
	Says, Build string
	changed     chan struct{} // closed when there is another state
}

func newPages() *pages {
	p := &pages{}
	p.now.Store(&state{changed: make(chan struct{})})
	return p
}

// say prints what happens to the server, and shows it in all pages.
func (p *pages) say(what string) {
	fmt.Println(what)
	p.change(what, p.now.Load().Build)
}

// change shows what happens to the server in all pages, and makes those of other builds new.
func (p *pages) change(says, build string) {
	old := p.now.Swap(&state{says, build, make(chan struct{})})
	close(old.changed)
}

//go:embed dev.js
var script []byte

// handler forwards requests to the program, and adds a script to its pages.
func (p *pages) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/dev.js", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "dev.js", time.Time{}, bytes.NewReader(script))
	})
	mux.HandleFunc("/dev", p.tell)
	mux.Handle("/", &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "program"
			r.Out.Header.Del("Accept-Encoding") // addScript reads the page
			r.SetXForwarded()
		},
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}},
		ModifyResponse: p.addScript,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { // the script says why
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, `<!DOCTYPE html><html lang="en"><title>No server yet</title>`+p.tag())
		},
	})
	return mux
}

// tag names the build that a page is of.
func (p *pages) tag() string { return `<script src="/dev.js?` + p.now.Load().Build + `"></script>` }

func (p *pages) addScript(resp *http.Response) error {
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		return nil
	}
	page, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	page = bytes.Replace(page, []byte("<head>"), []byte("<head>"+p.tag()), 1)
	resp.Body = io.NopCloser(bytes.NewReader(page))
	resp.Header.Del("Content-Length")
	return err
}

// tell tells a page the state, and each that follows.
func (p *pages) tell(w http.ResponseWriter, r *http.Request) {
	page, err := new(websocket.Upgrader).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer page.Close()
	for now := p.now.Load(); page.WriteJSON(now) == nil; now = p.now.Load() {
		<-now.changed
	}
}
