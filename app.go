package main

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"github.com/livetemplate/livetemplate"

	"realtime/internal/cluster"
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

	// Redis is where servers share the counter and who is online, such as
	// redis://127.0.0.1:6379/0. Default: this server is the only one, and needs none.
	Redis string

	// AllowOrigins are origins beside the pages' own that may connect and post,
	// such as https://example.com.
	AllowOrigins []string
	// TrustProxy says that all requests come through a proxy that sets
	// X-Forwarded-Proto, -Host and -For. Without one, anybody could set them.
	TrustProxy bool
	// MaxConnections and MaxPerSession are how many live connections there may be,
	// together and of one browser. Default: DefaultMaxConnections and
	// DefaultMaxPerSession.
	MaxConnections int
	MaxPerSession  int

	// Grace is how long a visitor whose socket has ended stays online, so that a
	// reload is no leave. Default: presence.DefaultGrace.
	Grace time.Duration
	// Heartbeat finds visitors whose network is gone, or who do not read.
	// Default: that of wsconn.
	Heartbeat wsconn.Heartbeat
	// Fanout says how often tabs may be refreshed. Default: that of fanout, for
	// the sockets that are open.
	Fanout fanout.Options
	// Drain is the time over which a stop spreads the ends of the connections, so
	// that their pages do not come back all at once. Default: DefaultDrain.
	Drain time.Duration
}

// DefaultDrain also gives a load balancer time to see that /readyz says 503.
const DefaultDrain = time.Second

// App serves every page. It is an http.Handler; end it with Shutdown.
type App struct {
	http.Handler
	// Admin serves /metrics and /debug/pprof/. It is not for visitors.
	Admin http.Handler

	pages    pages
	live     []livetemplate.LiveHandler
	upgrader *wsconn.Upgrader
	drain    time.Duration
}

// NewApp builds the app. An error means that an embedded file is broken, an
// allowed origin is none, or Redis cannot be used.
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

	metrics := newMetrics()
	upgrader := wsconn.New(cfg.Log, cfg.Heartbeat)
	sockets := newSockets(cfg, metrics.connectionsRefused)
	cfg.Fanout.Connections = upgrader.Open
	var servers *cluster.Member
	if cfg.Redis != "" {
		if servers, err = cluster.New(cluster.Options{URL: cfg.Redis, Log: cfg.Log}); err != nil {
			return nil, err
		}
		metrics.redis(servers)
	}
	p := pages{
		log:     cfg.Log,
		funcs:   template.FuncMap{"asset": assets.lookup},
		live:    liveOptions(upgrader),
		fanout:  fanout.New(cfg.Fanout),
		servers: servers,
		sockets: sockets,
		metrics: metrics,
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
	live := []livetemplate.LiveHandler{counter, presence}
	metrics.sockets(&upgrader.Stats, live)

	mux := http.NewServeMux()
	mux.Handle("/{$}", readOnly(index))
	mux.Handle("/realtime/multi-user-sync", withSession(counter))
	mux.Handle("/realtime/presence", withSession(presence))
	mux.Handle("/static/", readOnly(http.StripPrefix("/static/", assets.serve(notFound))))
	mux.Handle("/healthz", readOnly(http.HandlerFunc(sockets.alive)))
	mux.Handle("/readyz", readOnly(sockets.ready(servers.Away)))
	mux.Handle("/", notFound)

	sameSite, err := sameSiteOnly(cfg, metrics.requestsRefused, compressed(mux))
	if err != nil {
		return nil, err
	}
	accepted := takesOnly(sameSite, http.MethodGet, http.MethodHead, http.MethodPost)
	if servers != nil {
		ctx, cancel := context.WithTimeout(context.Background(), redisWithin)
		defer cancel()
		if err := servers.Start(ctx); err != nil {
			return nil, err
		}
	}
	return &App{
		Handler:  received(cfg.Log, cfg.TrustProxy, withPolicy(assets.source(), accepted)),
		Admin:    metrics.admin(),
		pages:    p,
		live:     live,
		upgrader: upgrader,
		drain:    cmp.Or(cfg.Drain, DefaultDrain),
	}, nil
}

// redisWithin is how long a start may take that has to wait for Redis.
const redisWithin = 4 * time.Second

// Bounds of a stop beside the drain: for the last refreshes, whose intervals are
// long in a large crowd, and for the peers to answer their close frames.
const (
	leaveWithin   = 500 * time.Millisecond // to give the lease back; 0 without Redis
	refreshWithin = time.Second
	answerWithin  = 1500 * time.Millisecond
)

// Shutdown refuses new connections, and says so at /readyz; gives the lease back
// under which the people here are online elsewhere; sends the refreshes that wait;
// and sends every open connection a close frame (1001, going away), spread over the
// drain. Pages are served meanwhile. It takes at most 4 seconds with the default
// drain, and less if ctx ends before: then it returns ctx's error.
func (a *App) Shutdown(ctx context.Context) error {
	empty := a.pages.sockets.stop()
	if servers := a.pages.servers; servers != nil {
		leaving, cancel := context.WithTimeout(ctx, leaveWithin)
		defer cancel()
		servers.Leave(leaving)
		defer servers.Close()
	}
	refreshes, cancel := context.WithTimeout(ctx, refreshWithin)
	defer cancel()
	a.pages.fanout.Stop(refreshes)
	a.upgrader.CloseAll(ctx, a.drain)
	select {
	case <-empty:
	case <-time.After(answerWithin):
	case <-ctx.Done():
	}
	// The framework has little left to close. With none left, no request can
	// enter it while it counts them: that would be a race.
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

// allTabs is the self topic of every connection of a page. Changes that no action
// made are published to it.
var allTabs = livetemplate.UserTopic(everybody)

const everybody = "everyone"

// everyone gives all visitors one identity, so that SelfTopic is one topic that
// reaches every browser, as wide as the state it announces. By default it is
// one browser's cookie, and no other browser would hear of a change. The session
// group stays per browser: visitors share what happens, not what they typed.
type everyone struct {
	*livetemplate.AnonymousAuthenticator
}

func (everyone) Identify(*http.Request) (string, error) { return everybody, nil }
