// Command reference serves the counter page in ways that the benchmarks compare
// with the program: by a plain hub, and by the pattern as it is documented.
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
)

func main() {
	addr := flag.String("addr", "", "")
	admin := flag.String("admin-addr", "", "")
	page := flag.String("page", "", "the template of the documented pattern; without it, the hub is served")
	flag.Parse()
	if err := run(*addr, *admin, *page); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves until it is killed. It prints and logs its addresses as the program does.
func run(addr, adminAddr, page string) error {
	var handler http.Handler = &hub{sockets: map[chan []byte]bool{}}
	if page != "" {
		var err error
		if handler, err = documented(page); err != nil {
			return err
		}
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

// documented serves a page as the pattern is documented, with every option of the
// framework left alone.
func documented(page string) (http.Handler, error) {
	t, err := livetemplate.New("documented", livetemplate.WithAuthenticator(everyone{&livetemplate.AnonymousAuthenticator{}}),
		livetemplate.WithParseFiles(page))
	if err != nil {
		return nil, err
	}
	return t.Handle(&counter{}, livetemplate.AsState(&state{Title: "Multi-User Refresh", Category: "Real-Time & Multi-User"})), nil
}

// everyone gives all visitors one identity, as the program does.
type everyone struct {
	*livetemplate.AnonymousAuthenticator
}

func (everyone) Identify(*http.Request) (string, error) { return "everyone", nil }

// state is what the page shows.
type state struct {
	Title, Category, Problem string
	Counter                  int
	Away                     bool
}

// counter publishes once for each click.
type counter struct {
	mu      sync.RWMutex
	counter int
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
	return s, ctx.Publish(ctx.SelfTopic(), "RefreshCounter", nil)
}

func (c *counter) RefreshCounter(s state, _ *livetemplate.Context) (state, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s.Counter = c.counter
	return s, nil
}
