// Command reference serves the counter page in ways that the benchmarks compare
// with the program: by a plain hub, by the pattern as it is documented, and by the
// parts of the program with the whole page in its live part.
package main

import (
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os"
	"sync"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"realtime/internal/assets"
	"realtime/internal/fanout"
	"realtime/internal/site"
)

func main() {
	addr := flag.String("addr", "", "")
	admin := flag.String("admin-addr", "", "")
	kind := flag.String("kind", "", "hub, documented or whole page live")
	pages := flag.String("pages", "", "the directory of the templates")
	flag.Parse()
	if err := run(*addr, *admin, *kind, *pages); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves until it is killed. It prints and logs its addresses as the program does.
func run(addr, adminAddr, kind, pages string) error {
	handler, err := handlerOf(kind, pages)
	if err != nil {
		return err
	}
	admin, err := net.Listen("tcp", adminAddr)
	if err != nil {
		return err
	}
	http.Handle("/metrics", promhttp.Handler())
	go http.Serve(admin, nil)
	slog.Info("metrics and profiles", slog.String("at", "http://"+admin.Addr().String()))

	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("Open http://" + listener.Addr().String())
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the framework logs every connection, and every refresh it drops
	return http.Serve(listener, handler)
}

func handlerOf(kind, pages string) (http.Handler, error) {
	switch kind {
	case "hub":
		return &hub{sockets: map[chan []byte]bool{}}, nil
	case "documented":
		return documented(pages)
	case "whole page live":
		return wholePage(pages), nil
	}
	return nil, fmt.Errorf("unknown kind %q", kind)
}

// hub writes every click to every socket. It renders nothing.
type hub struct {
	upgrader websocket.Upgrader

	mu      sync.Mutex
	number  int
	sockets map[chan []byte]bool // what to write to each
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := h.upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer ws.Close()
	out := make(chan []byte, 256)
	h.mu.Lock()
	h.sockets[out] = true
	out <- h.frame("")
	h.mu.Unlock()
	go func() {
		for frame := range out {
			ws.WriteMessage(websocket.TextMessage, frame)
		}
	}()
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			break
		}
		h.increment(out)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sockets, out)
	close(out)
}

func (h *hub) increment(clicker chan []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.number++
	frame := h.frame("")
	for out := range h.sockets {
		if out != clicker {
			out <- frame
		}
	}
	clicker <- h.frame(`,"action":"increment"`)
}

func (h *hub) frame(action string) []byte {
	return fmt.Appendf(nil, `{"tree":{"0":"%d"},"meta":{"success":true,"errors":null%s}}`, h.number, action)
}

// everyone gives all visitors one identity, as the program does.
type everyone struct {
	*livetemplate.AnonymousAuthenticator
}

func (everyone) Identify(*http.Request) (string, error) { return "everyone", nil }

// state is what the page shows.
type state struct {
	Title, Category string
	Counter         int
	Away            bool
}

var first = &state{Title: "Multi-User Refresh", Category: "Real-Time & Multi-User"}

// counter is the controller as it is documented.
type counter struct {
	mu      sync.RWMutex
	counter int

	// publish tells the peers.
	publish func(ctx *livetemplate.Context) error
}

func (c *counter) Mount(s state, ctx *livetemplate.Context) (state, error) {
	if err := ctx.Subscribe(ctx.SelfTopic()); err != nil {
		return s, err
	}
	return c.RefreshCounter(s, ctx)
}

func (c *counter) Increment(s state, ctx *livetemplate.Context) (state, error) {
	c.mu.Lock()
	c.counter++
	s.Counter = c.counter
	c.mu.Unlock()
	return s, c.publish(ctx)
}

func (c *counter) RefreshCounter(s state, _ *livetemplate.Context) (state, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s.Counter = c.counter
	return s, nil
}

// documented serves page.tmpl with every option of the framework left alone, and
// publishes once for each click.
func documented(pages string) (http.Handler, error) {
	t, err := livetemplate.New("documented", livetemplate.WithAuthenticator(everyone{&livetemplate.AnonymousAuthenticator{}}),
		livetemplate.WithParseFS(os.DirFS(pages), "page.tmpl"))
	if err != nil {
		return nil, err
	}
	c := &counter{publish: func(ctx *livetemplate.Context) error {
		return ctx.Publish(ctx.SelfTopic(), "RefreshCounter", nil)
	}}
	return t.Handle(c, livetemplate.AsState(first)), nil
}

// wholePage serves whole.tmpl as the program serves its pages.
func wholePage(pages string) http.Handler {
	s := site.New(site.Options{Templates: os.DirFS(pages), Files: assets.New(os.DirFS(pages), slog.Default()),
		Authenticator: everyone{&livetemplate.AnonymousAuthenticator{}}})
	c := &counter{}
	peers := fanout.New(fanout.Options{}).Peers(site.Live(s, "/realtime/multi-user-sync", "whole.tmpl", c, first))
	c.publish = func(ctx *livetemplate.Context) error {
		return peers.Publish(ctx, ctx.SelfTopic(), "RefreshCounter")
	}
	return s
}
