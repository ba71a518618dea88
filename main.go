// Command realtime serves two live demo pages: a counter that updates in every open
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
	"realtime/internal/edge"
	"realtime/internal/fanout"
	"realtime/internal/flags"
	"realtime/internal/listen"
	"realtime/internal/listing"
	"realtime/internal/logging"
	"realtime/internal/lossy"
	"realtime/internal/metrics"
	"realtime/internal/presence"
	"realtime/internal/site"
	"realtime/internal/store"
	"realtime/static"
)

//go:embed handlers_realtime.go state_realtime.go templates
var embedded embed.FS

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
	logger, flush := logging.New(os.Stderr, opts.LogLevel, opts.LogJSON)
	defer flush()
	slog.SetDefault(logger) // the framework logs to the default logger
	redislog.Disable()      // it logs each lost connection; cluster says what an operator should know

	visitors, err := listen.Listen(opts.Addr)
	if err != nil {
		return listen.Advise(err, "-addr (make run ADDR=localhost:8081)")
	}
	defer visitors.Close()
	var admin net.Listener
	if opts.AdminAddr != "" {
		if admin, err = listen.Listen(opts.AdminAddr); err != nil {
			return listen.Advise(err, "-admin-addr")
		}
		defer admin.Close()
	}
	app, err := newApp(ctx, opts)
	if err != nil && ctx.Err() != nil {
		return nil // stopped before it has begun
	}
	if err != nil {
		return err
	}
	say(opts, visitors, admin)
	return app.serve(ctx, visitors, admin, opts.Drain+stopWithin)
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
		slog.Info("metrics and profiles", slog.String("at", listen.URL(opts.AdminAddr, admin)))
	}
	if tcp, ok := visitors.Addr().(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		slog.Info("listening on all interfaces", slog.Int("port", tcp.Port))
	}
	listen.CheckOpenFiles(opts.Site.MaxConnections)
	banner := listen.Banner(opts.Addr, visitors, opts.TrustProxy, os.Stdout)
	io.WriteString(lossy.New(os.Stdout, nil), banner) // a terminal that is paused must not stop the server
}

// app is the site with its two pages.
type app struct {
	*site.Site
	metrics *metrics.Metrics
	ready   *edge.Ready
	fanout  *fanout.Fanout
	servers *cluster.Member
	kept    io.Closer // the file of -data
	online  *presence.Record
}

// newApp builds the two pages and puts them on the site. An error means that the file of
// -data or Redis cannot be used, or that ctx has ended meanwhile.
func newApp(ctx context.Context, opts flags.Options) (*app, error) {
	servers, kept, err := newServers(opts)
	if err != nil {
		return nil, err
	}
	opts.Fanout.OnAction = func(action string) { logging.Refresh(cmp.Or(opts.Site.Log, slog.Default()), action) }
	a := &app{fanout: fanout.New(opts.Fanout), servers: servers, kept: kept}
	a.addSite(opts)
	counter, people := multiUserSyncHandler(a), presenceHandler(a, opts.Presence)
	a.online = people.online
	a.metrics.WatchSite(a.Site)
	a.metrics.WatchPeers(counter.peers, "RefreshCounter")
	a.metrics.WatchPeers(people.peers, "PresenceChanged")
	a.metrics.WatchServers(servers, opts.Redis != "")
	a.metrics.Gauge("realtime_users_online", "Users online, on all servers, each in one tab or more.", nil, people.online.Count)
	ctx, cancel := context.WithTimeout(ctx, redisWithin)
	defer cancel()
	return a, servers.Start(ctx, counter.counted, people.online, people.changed)
}

// newServers returns this server as one of those that share a Redis, if there is one, and
// the file that keeps its count, if there is one.
func newServers(opts flags.Options) (servers *cluster.Member, kept io.Closer, err error) {
	shared := cluster.Options{URL: opts.Redis, Prefix: opts.Prefix, Log: opts.Site.Log, Grace: cmp.Or(opts.Presence.Grace, presence.DefaultGrace)}
	if opts.Data != "" {
		file, err := store.Open(opts.Data, cmp.Or(opts.Site.Log, slog.Default()))
		if err != nil {
			return nil, nil, err
		}
		shared.Keep, shared.Kept, kept = file.Keep, file.Counts(), file
	}
	servers, err = cluster.New(shared)
	return servers, kept, err
}

func multiUserSyncHandler(a *app) *MultiUserSyncController {
	c := &MultiUserSyncController{servers: a.servers}
	c.peers = addPage(a, "multi-user-sync", c, &MultiUserSyncState{Title: "Multi-User Refresh", Category: category})
	return c
}

func presenceHandler(a *app, opts presence.Options) *PresenceController {
	opts.Announce = cmp.Or[presence.Announcer](opts.Announce, a.servers)
	opts.Row = template.Must(template.ParseFS(embedded, "templates/realtime/presence.tmpl")).Lookup("row")
	c := &PresenceController{servers: a.servers, online: presence.New(opts)}
	c.peers = addPage(a, "presence", c, &PresenceState{Title: "Presence Tracking", Category: category})
	return c
}

// addPage puts a live page on the site, and returns its peers.
func addPage[S any](a *app, name string, controller any, state *S) *fanout.Peers {
	return a.fanout.Peers(site.Live(a.Site, "/realtime/"+name, "realtime/"+name+".tmpl", controller, state))
}

// addSite adds the site without the two pages.
func (a *app) addSite(all flags.Options) {
	opts, log := all.Site, cmp.Or(all.Site.Log, slog.Default())
	a.metrics, a.ready = metrics.New(log, flags.ThisVersion().Labels()), &edge.Ready{Degraded: a.servers.Away, Notice: all.Drain / 2}
	opts.Templates, _ = fs.Sub(embedded, "templates") // fails only for an invalid name
	opts.Files = assets.New(static.Files, log)
	opts.Funcs = template.FuncMap{"listing": listing.From(embedded, opts.Files.Add), "source": func() string { return listing.SourceURL }}
	opts.Authenticator = everyone{&livetemplate.AnonymousAuthenticator{}}
	opts.Category, opts.CloseOver = category, all.Drain/2
	opts.Around = func(next http.Handler, route func(*http.Request) string) http.Handler {
		return edge.New(a.metrics.Requests(next, route), log, all.TrustProxy)
	}
	a.Site = site.New(opts)
	a.Handle("/readyz", a.ready)
	a.Handle("/favicon.ico", opts.Files.ForAWeek("favicon.ico")) // some ask here, whatever a page says
	a.Handle("/apple-touch-icon.png", opts.Files.ForAWeek("apple-touch-icon.png"))
}

// The time that the parts of a start and a stop may take.
const (
	redisWithin = 4 * time.Second         // to reach Redis at the start
	stopWithin  = 2300 * time.Millisecond // to close everything, beside the drain
	leaveWithin = 500 * time.Millisecond  // to tell other servers
)

// serve serves visitors, and metrics and profiles to admin, which may be nil. When ctx
// ends or a listener fails, it stops within a time, and returns the error of the listener.
func (a *app) serve(ctx context.Context, visitors, admin net.Listener, within time.Duration) (err error) {
	failed := make(chan error, 2)
	go func() { failed <- a.Serve(visitors) }()
	if admin != nil {
		go func() { failed <- a.metrics.Serve(admin) }()
	}
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), within) // before anything is logged: that may wait for a reader
	defer cancel()
	// The next signal ends the program at once. HUP does not: when a session ends, systemd
	// sends it right after TERM.
	signal.Reset(os.Interrupt, syscall.SIGTERM)
	slog.Info("stopping: closing connections one by one; Ctrl-C again ends it at once", slog.Duration("within", within))
	if a.stop(ctx) != nil {
		slog.Warn("some connections did not close in time and were cut")
	}
	return err
}

// stop closes every connection. Refreshes go on until then, and a page that reconnects
// shows all there is. It tells other servers last: until then every click counts, and this
// server hears of people who are back on another one. At the deadline of ctx it cuts what
// is still open, and returns an error; it may take leaveWithin longer.
func (a *app) stop(ctx context.Context) error {
	a.ready.Drain(ctx)
	a.online.Stop()
	err := a.Shutdown(ctx)
	a.metrics.Close()
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
	defer cancel()
	a.servers.Leave(leaving)
	if a.kept != nil {
		a.kept.Close()
	}
	return err
}
