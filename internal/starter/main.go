// Command starter serves a live page: a number that everybody can raise.
package main

import (
	"context"
	"embed"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/livetemplate/livetemplate"

	"realtime/internal/assets"
	"realtime/internal/fanout"
	"realtime/internal/site"
	"realtime/static"
)

//go:embed templates
var embedded embed.FS

func main() {
	addr := flag.String("addr", "localhost:8080", "`host:port` to listen on")
	flag.Parse()
	if err := run(*addr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves until a signal ends it or the listener fails, and then closes every socket.
func run(addr string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	slog.SetDefault(slog.New(calm{slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: hideSession})}))
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s := newSite()
	fmt.Printf("Open http://%s\n", listener.Addr())
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(listener) }()
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	stop() // the next Ctrl-C ends the program at once
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s.Shutdown(ctx) // at the deadline it cuts what is still open
	return err
}

// hideSession removes session cookies, which the framework logs, from the log.
func hideSession(_ []string, a slog.Attr) slog.Attr {
	if a.Key == "group_id" {
		return slog.Attr{}
	}
	return a
}

// calm logs nothing when the framework drops a refresh: the one that waits stands for it.
type calm struct{ slog.Handler }

func (h calm) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "dispatch channel full, dropping broadcast action" {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// newSite returns the site with its live pages.
func newSite() *site.Site {
	files, _ := fs.Sub(embedded, "templates") // fails only for an invalid name
	s := site.New(site.Options{
		Templates:     files,
		Files:         assets.New(static.Files, slog.New(slog.NewTextHandler(os.Stderr, nil))), // says what is not built in
		Authenticator: everyone{&livetemplate.AnonymousAuthenticator{}},
	})
	pages := fanout.New(fanout.Options{})

	likes := &LikesController{}
	likes.peers = pages.Peers(site.Live(s, "/likes", "likes.tmpl", likes, &LikesState{Title: "Likes"}))
	return s
}
