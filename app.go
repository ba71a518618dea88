package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"github.com/livetemplate/livetemplate"

	"realtime/internal/fanout"
	"realtime/internal/wsconn"
)

//go:embed templates static package.json
var embedded embed.FS

// Config is all that differs between the program and its tests.
// The zero value is ready to use.
type Config struct {
	Log    *slog.Logger // default: slog.Default()
	Static fs.FS        // files below /static/; default: those embedded in the binary

	// Grace is how long a visitor whose socket has ended stays online, so that a
	// reload is no leave. Default: presence.DefaultGrace.
	Grace time.Duration
	// Heartbeat finds visitors whose network is gone. Default: that of wsconn.
	Heartbeat wsconn.Heartbeat
	// Fanout says how often tabs may be refreshed. Default: that of fanout, for
	// the sockets that are open.
	Fanout fanout.Options
}

// App serves every page. It is an http.Handler; end it with Shutdown.
type App struct {
	http.Handler
	pages pages
	live  []livetemplate.LiveHandler
}

// NewApp builds the app. An error means that an embedded file is broken.
func NewApp(cfg Config) (*App, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Static == nil {
		cfg.Static, _ = fs.Sub(embedded, "static") // fails only for an invalid name
	}
	assets, err := newAssets(cfg.Static)
	if err != nil {
		return nil, err
	}
	if assets.fromCDN {
		cfg.Log.Info("browser files are not built in: pages load them from the public CDN; `make assets` fetches them")
	}

	upgrader := wsconn.New(cfg.Log, cfg.Heartbeat)
	cfg.Fanout.Connections = upgrader.Open
	p := pages{
		log:    cfg.Log,
		funcs:  template.FuncMap{"asset": assets.lookup},
		live:   liveOptions(upgrader),
		fanout: fanout.New(cfg.Fanout),
	}
	counter, err := multiUserSyncHandler(p)
	if err != nil {
		return nil, err
	}
	presence, err := presenceHandler(cfg.Grace, p)
	if err != nil {
		return nil, err
	}
	index, err := p.plain(http.StatusOK, "Home", "templates/index.tmpl")
	if err != nil {
		return nil, err
	}
	notFound, err := p.plain(http.StatusNotFound, "Page not found", "templates/not-found.tmpl")
	if err != nil {
		return nil, err
	}

	mux := http.NewServeMux()
	mux.Handle("GET /{$}", index)
	mux.Handle("/realtime/multi-user-sync", counter)
	mux.Handle("/realtime/presence", presence)
	mux.Handle("GET /static/", http.StripPrefix("/static/", filesOnly(cfg.Static, notFound)))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.Handle("/", notFound)
	return &App{Handler: mux, live: []livetemplate.LiveHandler{counter, presence}, pages: p}, nil
}

// refreshWithin bounds what a stop spends on the last refreshes. In a large crowd
// an interval is longer, and the close frames need time as well.
const refreshWithin = time.Second

// Shutdown sends the refreshes that wait, refuses new sockets, sends every open
// one a close frame (1001, going away) and waits for them to close. It returns
// ctx's error if ctx ends first.
func (a *App) Shutdown(ctx context.Context) error {
	refreshes, cancel := context.WithTimeout(ctx, refreshWithin)
	defer cancel()
	a.pages.fanout.Stop(refreshes)
	done := make(chan error, len(a.live))
	for _, h := range a.live {
		go func() { done <- h.Shutdown(ctx) }()
	}
	var errs []error
	for range a.live {
		select {
		case err := <-done:
			errs = append(errs, err)
		case <-ctx.Done(): // the framework can block for longer than its context
			return ctx.Err()
		}
	}
	return errors.Join(errs...)
}

// liveOptions are what the two live pages share.
func liveOptions(upgrader livetemplate.WSUpgrader) []livetemplate.Option {
	return []livetemplate.Option{
		livetemplate.WithUpgrader(upgrader),
		livetemplate.WithAuthenticator(everyone{&livetemplate.AnonymousAuthenticator{}}),
		// Without a script, or before the socket is open, a form is a plain form.
		livetemplate.WithLoadingDisabled(),
		// A refresh re-reads, so one that waits stands for all that follow. While
		// they are merged, 1 and 16 measure the same; unmerged, 1,000 clicks in
		// 1,000 tabs took 0.6 to 1.0 s with 1, and 1.2 s or for ever with 16.
		livetemplate.WithDispatchBufferSize(1),
		// A full send queue cuts its tab off. It holds the answers that a peer may
		// wait for, and refreshes: of 100 tabs that each clicked 200 times at once,
		// 73 were cut off with 64, none with 128. An idle tab pays 8 bytes for each.
		livetemplate.WithWebSocketBufferSize(2 * wsconn.MaxUnanswered),
		// Clicks above the limit do not count, and the page says so. The default, 20
		// and then 10 a second, meets a fast finger; key repeat is under 50 a second.
		livetemplate.WithMessageRateLimit(50, 200),
	}
}

// everyone gives all visitors one identity, so that SelfTopic is one topic that
// reaches every browser, as wide as the state it announces. By default it is
// one browser's cookie, and no other browser would hear of a change. The session
// group stays per browser: visitors share what happens, not what they typed.
type everyone struct {
	*livetemplate.AnonymousAuthenticator
}

func (everyone) Identify(*http.Request) (string, error) { return "everyone", nil }

// filesOnly serves the files of fsys, and notFound in place of a directory.
func filesOnly(fsys fs.FS, notFound http.Handler) http.Handler {
	files := http.FileServerFS(fsys)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, err := fs.Stat(fsys, r.URL.Path)
		if err != nil || info.IsDir() {
			notFound.ServeHTTP(w, r)
			return
		}
		files.ServeHTTP(w, r)
	})
}
