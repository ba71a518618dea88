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
	"io"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/livetemplate/livetemplate"

	"realtime/internal/assets"
	"realtime/internal/cluster"
	"realtime/internal/fanout"
	"realtime/internal/presence"
	"realtime/internal/site"
	"realtime/internal/wsconn"
)

//go:embed templates static/*.css static/*.js static/*.svg static/package.json all:static/vendor
var embedded embed.FS

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	err := run(ctx, os.Args[1:], os.Stdout)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "realtime:", err)
	if errors.Is(err, errUsage) {
		os.Exit(2)
	}
	os.Exit(1)
}

// run serves until ctx ends, then closes every socket and returns nil. It prints
// the address to out, and logs to standard error. An error in args is errUsage; -h
// prints the flags to out and returns nil.
func run(ctx context.Context, args []string, out io.Writer) error {
	opts, err := parseFlags(args, out)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	logger, flush := site.NewLogger(os.Stderr, opts.logLevel, opts.logFormat == "json")
	defer flush()
	slog.SetDefault(logger) // the framework logs to the default logger

	listener, err := net.Listen("tcp", opts.addr)
	if err != nil {
		return err
	}
	defer listener.Close()
	app, err := newApp(opts.config)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	if opts.adminAddr != "" {
		stopAdmin, err := serveAdmin(opts.adminAddr, app, failed)
		if err != nil {
			return err
		}
		defer stopAdmin()
	}
	server := app.server()
	go func() { failed <- server.Serve(listener) }()
	fmt.Fprintln(out, "Open", browserURL(opts.addr, listener.Addr()))

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		slog.Info("stopping", slog.Duration("within", stopWithin))
		app.stop(server)
		return nil
	}
}

// config is all that differs between the program and its tests. The zero value is
// ready to use.
type config struct {
	redis    string // URL of the Redis that servers share; empty: this server is the only one
	site     site.Options
	fanout   fanout.Options
	presence presence.Options
}

// app is the site with its two pages.
type app struct {
	*site.Site
	fanout  *fanout.Fanout
	servers *cluster.Member
}

// newApp builds the two pages and puts them on the site. An error means that an
// embedded file is broken, an allowed origin is invalid, or Redis cannot be used.
func newApp(cfg config) (*app, error) {
	servers, err := cluster.New(cluster.Options{URL: cfg.redis, Log: cfg.site.Log})
	if err != nil {
		return nil, err
	}
	s, err := newSite(cfg.site, servers)
	if err != nil {
		return nil, err
	}
	a := &app{s, fanout.New(cfg.fanout), servers}
	counter, err := multiUserSyncHandler(a)
	if err != nil {
		return nil, err
	}
	people, err := presenceHandler(a, cfg.presence)
	if err != nil {
		return nil, err
	}
	addMetrics(s.Metrics, counter, people)
	return a, join(servers, counter, people)
}

func multiUserSyncHandler(a *app) (c *MultiUserSyncController, err error) {
	c = &MultiUserSyncController{servers: a.servers}
	c.peers, err = live(a, "multi-user-sync", c, &MultiUserSyncState{Title: "Multi-User Refresh", Category: category})
	return c, err
}

func presenceHandler(a *app, opts presence.Options) (c *PresenceController, err error) {
	c = newPresenceController(a.servers, opts)
	c.peers, err = live(a, "presence", c, &PresenceState{Title: "Presence Tracking", Category: category})
	return c, err
}

// live puts a live page on the site, and returns its peers.
func live[S any](a *app, name string, controller any, state *S) (*fanout.Peers, error) {
	page, err := site.Live(a.Site, "/realtime/"+name, "realtime/"+name+".tmpl", controller, state)
	if err != nil {
		return nil, err
	}
	return a.fanout.Peers(page), nil
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

// join connects the controllers with other servers, and joins those.
func join(servers *cluster.Member, counter *MultiUserSyncController, people *PresenceController) error {
	servers.OnCounter(counter.counted)
	servers.OnStatus(counter.changed)
	servers.OnEntries(people.online.SetElsewhere, func(id string) { people.online.Leave(id) }, people.changed)
	servers.OnStatus(people.changed)
	people.online.Announce(servers)
	ctx, cancel := context.WithTimeout(context.Background(), redisWithin)
	defer cancel()
	return servers.Start(ctx)
}

// addMetrics adds what the site itself does not know.
func addMetrics(m site.Metrics, counter *MultiUserSyncController, people *PresenceController) {
	m.Counter("realtime_clicks_total", "Clicks on this server that counted.", nil, counter.servers.Counted)
	m.Gauge("realtime_users_online", "Users online, on all servers, each in one tab or more.", nil, people.online.Count)
	for action, peers := range map[string]*fanout.Peers{"RefreshCounter": counter.peers, "PresenceChanged": people.peers} {
		labels := map[string]string{"action": action}
		m.Counter("realtime_refreshes_asked_total", "Changes that asked for a refresh.", labels, func() int { return int(peers.Asked.Load()) })
		m.Counter("realtime_refreshes_merged_total", "Changes covered by a refresh that was already waiting.", labels, func() int { return int(peers.Merged.Load()) })
	}
	if servers := counter.servers; servers.Shared() {
		m.Gauge("realtime_redis_up", "1 while Redis can be reached.", nil, func() int {
			if servers.Away() {
				return 0
			}
			return 1
		})
	}
}

// The time that the parts of a start and a stop may take.
const (
	redisWithin    = 4 * time.Second        // to reach Redis at the start
	stopWithin     = 4 * time.Second        // to stop, in all
	leaveWithin    = 500 * time.Millisecond // to give the lease back
	refreshWithin  = time.Second            // to send the last refreshes
	requestsWithin = 300 * time.Millisecond // to answer requests under way
)

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

// serveAdmin serves metrics and profiles until stop is called.
func serveAdmin(addr string, a *app, failed chan<- error) (stop func() error, err error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	admin := &http.Server{Handler: a.Admin, ReadHeaderTimeout: 5 * time.Second, ErrorLog: errorLog()}
	go func() { failed <- admin.Serve(listener) }()
	slog.Info("metrics and profiles", slog.String("at", browserURL(addr, listener.Addr())))
	return admin.Close, nil
}

// stop closes every connection, and then the server, which answers /readyz until
// then. It cuts what is still open after stopWithin.
func (a *app) stop(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
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
}

// shutdown refuses new connections, gives the lease back, sends the refreshes that
// wait, and closes every connection. It takes at most stopWithin with the default
// drain. If ctx ends first, it returns ctx's error.
func (a *app) shutdown(ctx context.Context) error {
	a.RefuseConnections()
	within := func(d time.Duration, do func(context.Context)) {
		ctx, cancel := context.WithTimeout(ctx, d)
		defer cancel()
		do(ctx)
	}
	within(leaveWithin, a.servers.Leave)
	defer a.servers.Close()
	within(refreshWithin, a.fanout.Stop)
	return a.Shutdown(ctx)
}

// errUsage is an error in the command line.
var errUsage = errors.New("run with -h for the flags")

type options struct {
	addr      string
	adminAddr string
	logLevel  slog.Level
	logFormat string
	config
}

// parseFlags parses the command line. -h prints the flags to out.
func parseFlags(args []string, out io.Writer) (o options, err error) {
	flags, tuning := flagSets(&o)
	all := flag.NewFlagSet("realtime", flag.ContinueOnError)
	all.SetOutput(io.Discard) // one clear line instead of the whole usage text
	for _, set := range []*flag.FlagSet{flags, tuning} {
		set.VisitAll(func(f *flag.Flag) { all.Var(f.Value, f.Name, f.Usage) })
	}
	err = all.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(out, "Usage: realtime [flags]")
		flags.SetOutput(out)
		flags.PrintDefaults()
		fmt.Fprintln(out, "\nTo tune it:")
		tuning.SetOutput(out)
		tuning.PrintDefaults()
		return o, err
	case err != nil:
		return o, fmt.Errorf("%v; %w", err, errUsage)
	case all.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q; %w", all.Arg(0), errUsage)
	case o.logFormat != "text" && o.logFormat != "json":
		return o, fmt.Errorf("invalid value %q for flag -log-format: want text or json; %w", o.logFormat, errUsage)
	}
	o.redis = cmp.Or(o.redis, os.Getenv("REDIS_URL")) // not the flag's default: -h would print a password
	return o, nil
}

// flagSets returns the flags that everybody needs, and those to tune the program.
func flagSets(o *options) (flags, tuning *flag.FlagSet) {
	flags = flag.NewFlagSet("", flag.ContinueOnError)
	flags.StringVar(&o.addr, "addr", "localhost:8080", "`host:port` to listen on; port 0 takes any free one")
	flags.StringVar(&o.adminAddr, "admin-addr", "", "`host:port` for /metrics and /debug/pprof/; off by default, and not for visitors")
	flags.Func("allow-origin", "another `origin` whose pages may connect and post, such as https://example.com; repeatable", func(origin string) error {
		o.site.AllowOrigins = append(o.site.AllowOrigins, origin)
		return http.NewCrossOriginProtection().AddTrustedOrigin(origin)
	})
	flags.StringVar(&o.redis, "redis", "", "`address` of the Redis that servers share, such as redis://127.0.0.1:6379/0; also from REDIS_URL; off by default")
	flags.BoolVar(&o.site.TrustProxy, "trust-proxy", false, "believe X-Forwarded-Proto, -Host and -For: only where every request comes through a proxy that sets them")
	flags.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "least `level` to log: debug, info, warn or error")
	flags.StringVar(&o.logFormat, "log-format", "text", "log `format`: text or json")

	tuning = flag.NewFlagSet("", flag.ContinueOnError)
	number := func(n *int, name string, byDefault int, usage string) {
		tuning.Func(name, fmt.Sprintf("%s, a `number` (default %d)", usage, byDefault), above0(n, strconv.Atoi, "a whole number above 0"))
	}
	span := func(d *time.Duration, name string, byDefault time.Duration, usage string) {
		tuning.Func(name, fmt.Sprintf("%s, a `duration` (default %v)", usage, byDefault), above0(d, time.ParseDuration, "a duration above 0, such as 2s"))
	}
	number(&o.site.MaxConnections, "max-connections", site.DefaultMaxConnections, "most live connections")
	number(&o.site.MaxPerSession, "max-per-session", site.DefaultMaxPerSession, "most live connections of one browser")
	span(&o.presence.Grace, "grace", presence.DefaultGrace, "how long somebody stays online after a socket has ended")
	span(&o.site.Heartbeat.Ping, "ping", wsconn.DefaultPing, "time between two pings of a connection")
	span(&o.site.Heartbeat.Timeout, "ping-timeout", wsconn.DefaultTimeout, "longest time without an answer or a message")
	span(&o.site.Heartbeat.Write, "write-timeout", wsconn.DefaultWrite, "longest time for writing a single frame")
	span(&o.fanout.Interval, "refresh-interval", fanout.DefaultInterval, "shortest time between two refreshes")
	tuning.Func("refresh-budget", fmt.Sprintf("share of the CPU time that refreshes may take, a `number` up to 1 (default %v)", fanout.DefaultBudget),
		above0(&o.fanout.Budget, share, "a number above 0 and up to 1"))
	span(&o.site.Drain, "drain", site.DefaultDrain, "time over which a stop spreads the ends of connections")
	return flags, tuning
}

// share parses a number up to 1.
func share(text string) (float64, error) {
	n, err := strconv.ParseFloat(text, 64)
	if err == nil && n > 1 {
		err = strconv.ErrRange
	}
	return n, err
}

// above0 parses a flag whose value is above 0.
func above0[N int | float64 | time.Duration](n *N, parse func(string) (N, error), want string) func(string) error {
	return func(text string) (err error) {
		if *n, err = parse(text); err != nil || !(*n > 0) {
			return errors.New("want " + want)
		}
		return nil
	}
}

// browserURL returns the address to open: the host that was asked for, or localhost
// if that was every interface, and the port that is in use.
func browserURL(asked string, got net.Addr) string {
	host, _, _ := net.SplitHostPort(asked) // valid, because listening has not failed
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	_, port, _ := net.SplitHostPort(got.String())
	return "http://" + net.JoinHostPort(host, port)
}
