// Command realtime serves two live demo pages: a counter that ticks in every open
// tab, and presence, which shows how many people are online.
package main

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/livetemplate/livetemplate"
	redislog "github.com/redis/go-redis/v9/logging"

	"realtime/internal/assets"
	"realtime/internal/cluster"
	"realtime/internal/fanout"
	"realtime/internal/flags"
	"realtime/internal/listen"
	"realtime/internal/listing"
	"realtime/internal/lossy"
	"realtime/internal/phone"
	"realtime/internal/presence"
	"realtime/internal/site"
	"realtime/internal/store"
)

//go:embed handlers_realtime.go state_realtime.go templates static/*.css static/*.js static/*.svg static/package.json all:static/vendor
var embedded embed.FS

// code renders listings of these files on pages.
var code = listing.In(embedded)

func main() {
	signal.Ignore(syscall.SIGPIPE) // who reads the log may end before the server
	opts, err := flags.Parse(os.Args[1:], os.Stdout)
	if err == nil {
		err = run(opts)
	}
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	fmt.Fprintln(lossy.New(os.Stderr, nil), "realtime:", err)
	if errors.Is(err, flags.ErrUsage) {
		os.Exit(2)
	}
	os.Exit(1)
}

// run serves until a signal ends it or an address fails, and then closes every socket.
func run(opts flags.Options) error {
	ctx, stop := signal.NotifyContext(context.Background(), stopSignals()...)
	defer stop()
	logger, flush := site.NewLogger(os.Stderr, opts.LogLevel, opts.LogJSON)
	defer flush()
	slog.SetDefault(logger) // the framework logs to the default logger
	redislog.Disable()      // it logs each lost connection; cluster says what an operator should know

	visitors, err := listen.On(opts.Addr)
	if err != nil {
		return err
	}
	defer visitors.Close()
	var admin net.Listener
	if opts.AdminAddr != "" {
		if admin, err = listen.On(opts.AdminAddr); err != nil {
			return err
		}
		defer admin.Close()
	}
	app, err := newApp(ctx, config{redis: opts.Redis, prefix: opts.Prefix, data: opts.Data,
		site: opts.Site, fanout: opts.Fanout, presence: opts.Presence})
	if err != nil && ctx.Err() != nil {
		return nil // stopped before it has begun
	}
	if err != nil {
		return err
	}
	say(opts, visitors, admin)
	return app.serve(ctx, visitors, admin, opts.Site.Drain+stopWithin)
}

// stopSignals are the signals that stop the program. A terminal that is closed sends HUP;
// a program that nohup has started goes on.
func stopSignals() []os.Signal {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

// say tells the operator where the program listens, and visitors where to go.
func say(opts flags.Options, visitors, admin net.Listener) {
	if admin != nil {
		slog.Info("metrics and profiles", slog.String("at", listen.Where(opts.AdminAddr, admin)))
	}
	if tcp, ok := visitors.Addr().(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		slog.Info("listening on all interfaces", slog.Int("port", tcp.Port))
	}
	if files, needed := listen.OpenFiles(), uint64(opts.Site.MaxConnections)+filesBeside; files > 0 && files < needed {
		slog.Warn("fewer files may be open than -max-connections needs: raise the limit (ulimit -n), or lower -max-connections",
			slog.Uint64("limit", files), slog.Uint64("needed", needed))
	}
	said := listen.Says(opts.Addr, visitors) + "\n"
	if !opts.Site.TrustProxy { // then nobody may go past the proxy, whose address is not known here
		said += phone.Says(visitors, os.Stdout)
	}
	io.WriteString(lossy.New(os.Stdout, nil), said) // a terminal that is paused must not stop the server
}

// filesBeside is how many files are open beside live connections: requests, Redis, the log.
const filesBeside = 64

// config is all that differs between the program and its tests. The zero value is
// ready to use.
type config struct {
	redis    string // URL of the Redis that servers share; empty: this server is the only one
	prefix   string // of the names in Redis
	data     string // file that keeps the number of clicks; empty: it ends with the process
	site     site.Options
	fanout   fanout.Options
	presence presence.Options
}

// app is the site with its two pages.
type app struct {
	*site.Site
	fanout  *fanout.Fanout
	servers *cluster.Member
	kept    io.Closer // the file of -data
	online  *presence.Record
	broken  error // what is wrong with the templates of live pages
}

// newApp builds the two pages and puts them on the site. An error means that an
// embedded file is broken, an allowed origin is invalid, Redis cannot be used, or ctx
// has ended meanwhile.
func newApp(ctx context.Context, cfg config) (*app, error) {
	servers, kept, err := newServers(cfg)
	if err != nil {
		return nil, err
	}
	s, err := newSite(cfg.site, servers)
	if err != nil {
		return nil, err
	}
	a := &app{Site: s, fanout: fanout.New(cfg.fanout), servers: servers, kept: kept}
	counter := multiUserSyncHandler(a)
	people := presenceHandler(a, cfg.presence)
	if a.broken != nil {
		return nil, a.broken
	}
	a.online = people.online
	addMetrics(s.Metrics, cfg, counter, people)
	ctx, cancel := context.WithTimeout(ctx, redisWithin)
	defer cancel()
	return a, servers.Start(ctx, counter.counted, people.online, people.changed)
}

// newServers returns this server as one of those that share a Redis, if there is one, and
// the file that keeps its count, if there is one.
func newServers(cfg config) (servers *cluster.Member, kept io.Closer, err error) {
	opts := cluster.Options{URL: cfg.redis, Prefix: cfg.prefix, Log: cfg.site.Log, Grace: cmp.Or(cfg.presence.Grace, presence.DefaultGrace)}
	if cfg.data != "" {
		file, err := store.Open(cfg.data, cmp.Or(cfg.site.Log, slog.Default()))
		if err != nil {
			return nil, nil, err
		}
		opts.Keep, opts.Kept, kept = file.Keep, file.Counts(), file
	}
	servers, err = cluster.New(opts)
	return servers, kept, err
}

func multiUserSyncHandler(a *app) *MultiUserSyncController {
	c := &MultiUserSyncController{servers: a.servers}
	c.peers = live(a, "multi-user-sync", c, &MultiUserSyncState{Title: "Multi-User Refresh", Category: category})
	return c
}

func presenceHandler(a *app, opts presence.Options) *PresenceController {
	opts.Announce = cmp.Or[presence.Announcer](opts.Announce, a.servers)
	c := &PresenceController{servers: a.servers, online: presence.New(opts)}
	c.peers = live(a, "presence", c, &PresenceState{Title: "Presence Tracking", Category: category})
	return c
}

// live puts a live page on the site, and returns its peers. If the template is broken
// it notes that in the app, which must not serve then.
func live[S any](a *app, name string, controller any, state *S) *fanout.Peers {
	page, err := site.Live(a.Site, "/realtime/"+name, "realtime/"+name+".tmpl", controller, state)
	if err != nil {
		a.broken = errors.Join(a.broken, err)
		return nil
	}
	return a.fanout.Peers(page)
}

// newSite builds the site without the two pages.
func newSite(opts site.Options, servers *cluster.Member) (*site.Site, error) {
	opts.Templates, _ = fs.Sub(embedded, "templates") // fails only for an invalid name
	static, _ := fs.Sub(embedded, "static")
	files, err := browserFiles(static, cmp.Or(opts.Log, slog.Default()))
	if err != nil {
		return nil, err
	}
	opts.Files, opts.Category = files, category
	opts.Funcs = template.FuncMap{"listing": code}
	opts.Authenticator = everyone{&livetemplate.AnonymousAuthenticator{}}
	opts.Degraded = servers.Away
	return site.New(opts)
}

// browserFiles returns the files that pages load, and logs it if some are missing.
func browserFiles(static fs.FS, log *slog.Logger) (*assets.Files, error) {
	files, err := assets.New(static)
	if err == nil && files.CDN() != "" {
		log.Info("browser files are not built in: pages load them from the public CDN; run `make assets` to fetch them")
	}
	return files, err
}

// addMetrics adds what the site itself does not know, before it serves.
func addMetrics(m site.Metrics, cfg config, counter *MultiUserSyncController, people *PresenceController) {
	servers := counter.servers
	m.Counter("realtime_clicks_total", "Clicks on this server.", nil, servers.Counted)
	m.Gauge("realtime_users_online", "Users online, on all servers, each in one tab or more.", nil, people.online.Count)
	for action, peers := range map[string]*fanout.Peers{"RefreshCounter": counter.peers, "PresenceChanged": people.peers} {
		labels := map[string]string{"action": action}
		m.Counter("realtime_refreshes_asked_total", "Changes that asked for a refresh.", labels, peers.Asked)
		m.Counter("realtime_refreshes_merged_total", "Changes covered by a refresh that was already waiting.", labels, peers.Merged)
		peers.OnRefreshed(m.Histogram("realtime_refresh_duration_seconds",
			"Time from a change until 95 % of the connections open then have rendered and written the refresh that it asked for: "+
				"the wait for the interval is part of it, one slow peer is not.", labels))
	}
	if cfg.redis == "" {
		return
	}
	m.Counter("realtime_redis_ignored_total", "Messages and counts in Redis that no server can have written.", nil, servers.Ignored)
	m.Gauge("realtime_redis_up", "1 while servers share through Redis: it can be reached, and takes what they write.", nil, func() int {
		if servers.Away() {
			return 0
		}
		return 1
	})
}

// The time that the parts of a start and a stop may take.
const (
	redisWithin    = 4 * time.Second         // to reach Redis at the start
	stopWithin     = 2300 * time.Millisecond // to close everything, beside the drain
	leaveWithin    = 500 * time.Millisecond  // to tell other servers
	requestsWithin = 300 * time.Millisecond  // to answer requests under way
)

// serve serves visitors, and metrics and profiles to admin, which may be nil. When ctx
// ends or a listener fails, it stops within a time, and returns the error of the listener.
func (a *app) serve(ctx context.Context, visitors, admin net.Listener, within time.Duration) (err error) {
	failed := make(chan error, 2)
	server := a.server()
	go func() { failed <- server.Serve(visitors) }()
	if admin != nil {
		admins := &http.Server{Handler: a.Admin, ReadHeaderTimeout: 5 * time.Second, ErrorLog: errorLog()}
		go func() { failed <- admins.Serve(admin) }()
		defer admins.Close()
	}
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	deadline := time.Now().Add(within) // before anything is logged: that may wait for a reader
	// The next signal ends the program at once. HUP does not: when a session ends, systemd
	// sends it right after TERM.
	signal.Reset(os.Interrupt, syscall.SIGTERM)
	slog.Info("stopping", slog.Duration("within", within))
	a.stop(server, deadline)
	return err
}

// server returns an HTTP server with limits for slow and huge requests. A live
// connection has limits of its own.
func (a *app) server() *http.Server {
	return &http.Server{
		Handler:           a,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          errorLog(),
	}
}

func errorLog() *log.Logger { return slog.NewLogLogger(slog.Default().Handler(), slog.LevelError) }

// stop closes every connection, and then the server, which answers requests until
// then. It tells other servers last: until then every click counts, and this server
// hears of people who are back on another one. It cuts what is still open at the deadline,
// and takes leaveWithin longer.
func (a *app) stop(server *http.Server, deadline time.Time) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	err := a.shutdown(ctx)
	// Browsers open connections ahead of requests. To the server they look as if a
	// request were under way.
	requests, cancel := context.WithTimeout(ctx, requestsWithin)
	defer cancel()
	if err := errors.Join(err, server.Shutdown(requests)); err != nil {
		slog.Warn("some connections did not close in time and were cut")
	}
	server.Close()
	leaving, cancel := context.WithTimeout(context.Background(), leaveWithin)
	defer cancel()
	a.servers.Leave(leaving)
	if a.kept != nil {
		a.kept.Close()
	}
}

// shutdown lets load balancers see that the app stops, refuses new connections, and
// closes every connection. Refreshes go on until then, and a page that reconnects shows
// all there is. If ctx ends first, it returns ctx's error.
func (a *app) shutdown(ctx context.Context) error {
	a.Drain(ctx)
	a.online.Stop()
	return a.Shutdown(ctx)
}
