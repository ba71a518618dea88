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
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/livetemplate/livetemplate"
	redislog "github.com/redis/go-redis/v9/logging"

	"realtime/internal/assets"
	"realtime/internal/cluster"
	"realtime/internal/fanout"
	"realtime/internal/listen"
	"realtime/internal/listing"
	"realtime/internal/phone"
	"realtime/internal/presence"
	"realtime/internal/site"
	"realtime/internal/store"
	"realtime/internal/wsconn"
)

//go:embed handlers_realtime.go state_realtime.go templates static/*.css static/*.js static/*.svg static/package.json all:static/vendor
var embedded embed.FS

// code renders listings of these files on pages.
var code = listing.In(embedded)

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
// the address to out, and logs to standard error. An error in args is errUsage; -h and
// -version print their answer to out and return nil.
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
	redislog.Disable()      // it logs each lost connection; cluster says what an operator should know

	listener, err := listen.On(opts.addr)
	if err != nil {
		return err
	}
	defer listener.Close()
	app, err := newApp(ctx, opts.config)
	if ctx.Err() != nil {
		return nil // stopped before it has begun
	}
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
	if tcp, ok := listener.Addr().(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		slog.Info("listening on all interfaces", slog.Int("port", tcp.Port))
	}
	said := listen.Says(opts.addr, listener) + "\n"
	if !opts.site.TrustProxy { // then nobody may go past the proxy, whose address is not known here
		said += phone.Says(listener, out)
	}
	io.WriteString(out, said) // in one piece: a reader may close the pipe after the first line

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		signal.Reset(os.Interrupt, syscall.SIGTERM) // the next signal ends the program at once
		within := opts.site.Drain + stopWithin
		slog.Info("stopping", slog.Duration("within", within))
		app.stop(server, within)
		return nil
	}
}

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
		m.Counter("realtime_refreshes_asked_total", "Changes that asked for a refresh.", labels, func() int { return int(peers.Asked.Load()) })
		m.Counter("realtime_refreshes_merged_total", "Changes covered by a refresh that was already waiting.", labels, func() int { return int(peers.Merged.Load()) })
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
	stopWithin     = 2400 * time.Millisecond // to close everything, beside the drain
	leaveWithin    = 500 * time.Millisecond  // to tell other servers
	requestsWithin = 300 * time.Millisecond  // to answer requests under way
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
	listener, err := listen.On(addr)
	if err != nil {
		return nil, err
	}
	admin := &http.Server{Handler: a.Admin, ReadHeaderTimeout: 5 * time.Second, ErrorLog: errorLog()}
	go func() { failed <- admin.Serve(listener) }()
	slog.Info("metrics and profiles", slog.String("at", listen.Where(addr, listener)))
	return admin.Close, nil
}

// stop closes every connection, and then the server, which answers requests until
// then. It tells other servers last: until then every click counts, and this server
// hears of people who are back on another one. It cuts what is still open after a time,
// and takes leaveWithin longer.
func (a *app) stop(server *http.Server, within time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
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

// errUsage is an error in the command line.
var errUsage = errors.New("run with -h for the flags")

type options struct {
	addr      string
	adminAddr string
	logLevel  slog.Level
	logFormat string
	config
}

// parseFlags parses the command line. For -h and -version it prints the answer to
// out, and returns flag.ErrHelp.
func parseFlags(args []string, out io.Writer) (o options, err error) {
	port := os.Getenv("PORT")
	groups, version := flagGroups(&o, port)
	all := flag.NewFlagSet("realtime", flag.ContinueOnError)
	all.SetOutput(io.Discard) // one clear line instead of the whole usage text
	for _, group := range groups {
		group.VisitAll(func(f *flag.Flag) { all.Var(f.Value, f.Name, f.Usage) })
	}
	err = all.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		printFlags(out, groups)
		return o, err
	case err != nil:
		return o, fmt.Errorf("%v; %w", err, errUsage)
	case *version:
		fmt.Fprintln(out, "realtime", site.ThisBuild())
		return o, flag.ErrHelp
	case all.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q; %w", all.Arg(0), errUsage)
	case o.logFormat != "text" && o.logFormat != "json":
		return o, fmt.Errorf("invalid value %q for flag -log-format: want text or json; %w", o.logFormat, errUsage)
	case o.addr == ":"+port && !isPort(port):
		return o, fmt.Errorf("invalid value %q for PORT: want a number up to 65535; %w", port, errUsage)
	}
	o.redis = cmp.Or(o.redis, os.Getenv("REDIS_URL")) // not the flag's default: -h would print a password
	return o, nil
}

// printFlags prints every flag with its default.
func printFlags(out io.Writer, groups []*flag.FlagSet) {
	fmt.Fprintln(out, "Usage: realtime [flags]")
	for _, group := range groups {
		fmt.Fprintf(out, "\n%s:\n", group.Name())
		group.VisitAll(func(f *flag.Flag) {
			value, usage := flag.UnquoteUsage(f)
			fmt.Fprintf(out, "  %s\n\t%s (default %s)\n", strings.TrimSpace("-"+f.Name+" "+value),
				strings.ReplaceAll(usage, "\n", "\n\t"), cmp.Or(f.DefValue, "none"))
		})
	}
}

// flagGroups returns the flags, by what they are for. port is where to listen if no
// flag says so; without it, that is on this machine only.
func flagGroups(o *options, port string) (groups []*flag.FlagSet, version *bool) {
	group := func(name string) *flag.FlagSet {
		groups = append(groups, flag.NewFlagSet(name, flag.ContinueOnError))
		return groups[len(groups)-1]
	}
	addr := "localhost:8080"
	if port != "" {
		addr = ":" + port
	}
	f := group("Serving")
	f.StringVar(&o.addr, "addr", addr, "`address` to listen on: host:port, where port 0 is any free one, or unix:/path;\nif PORT is set in the environment, the default is that port on all interfaces")
	f.StringVar(&o.adminAddr, "admin-addr", "", "`address` for /metrics and /debug/pprof/; not for visitors")
	f.Func("allow-origin", "another `origin` whose pages may connect and post, such as https://example.com; repeatable", func(origin string) error {
		o.site.AllowOrigins = append(o.site.AllowOrigins, origin)
		return http.NewCrossOriginProtection().AddTrustedOrigin(origin)
	})
	f.StringVar(&o.redis, "redis", "", "`URL` of the Redis that servers share, such as redis://127.0.0.1:6379/0;\nREDIS_URL in the environment does the same")
	f.StringVar(&o.prefix, "redis-prefix", "realtime", "what all names in that Redis begin with: `text` of its own for each installation")
	f.StringVar(&o.data, "data", "", "`file` that keeps the counter when the program ends; it is made if there is none")
	f.BoolVar(&o.site.TrustProxy, "trust-proxy", false, "believe X-Forwarded-Proto, X-Forwarded-Host, X-Forwarded-For and X-Request-Id: only where every request\ncomes through a proxy that sets or removes each of them, because clients can send them too")

	f = group("Log and version")
	f.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "least `level` to log: debug, info, warn or error")
	f.Lookup("log-level").DefValue = "info" // as people write it
	f.StringVar(&o.logFormat, "log-format", "text", "`format` of the log: text or json")
	version = f.Bool("version", false, "print the version and exit")

	f = group("Limits")
	number(f, &o.site.MaxConnections, "max-connections", site.DefaultMaxConnections, "largest `number` of live connections")
	number(f, &o.site.MaxPerSession, "max-per-session", site.DefaultMaxPerSession, "largest `number` of live connections of one browser")
	span(f, &o.site.Heartbeat.Ping, "ping", wsconn.DefaultPing, "`time` between two pings of a connection")
	span(f, &o.site.Heartbeat.Timeout, "ping-timeout", wsconn.DefaultTimeout, "longest `time` without an answer or a message")
	span(f, &o.site.Heartbeat.Write, "write-timeout", wsconn.DefaultWrite, "longest `time` for writing a single frame")

	f = group("Pace")
	span(f, &o.fanout.Interval, "refresh-interval", fanout.DefaultInterval, "shortest `time` between two refreshes")
	o.fanout.Budget = fanout.DefaultBudget
	f.Var(above0[float64]{&o.fanout.Budget, share, "a number above 0 and up to 1"}, "refresh-budget", "`share` of the CPU time that refreshes may take, up to 1")
	span(f, &o.presence.Grace, "grace", presence.DefaultGrace, "`time` that somebody stays online after a socket has ended")
	span(f, &o.site.Drain, "drain", site.DefaultDrain, "`time` that a stop takes: in the first half only /readyz changes, to 503, and in the\nsecond half connections are closed; the program ends at most 3s later")
	return groups, version
}

func number(f *flag.FlagSet, n *int, name string, byDefault int, usage string) {
	*n = byDefault
	f.Var(above0[int]{n, strconv.Atoi, "a whole number above 0"}, name, usage)
}

func span(f *flag.FlagSet, d *time.Duration, name string, byDefault time.Duration, usage string) {
	*d = byDefault
	f.Var(above0[time.Duration]{d, time.ParseDuration, "a duration above 0, such as 2s"}, name, usage)
}

// above0 is a flag whose value is above 0.
type above0[N int | float64 | time.Duration] struct {
	n     *N
	parse func(string) (N, error)
	want  string
}

func (f above0[N]) String() string { return fmt.Sprint(*f.n) }

func (f above0[N]) Set(text string) (err error) {
	if *f.n, err = f.parse(text); err != nil || !(*f.n > 0) {
		return errors.New("want " + f.want)
	}
	return nil
}

// share parses a number up to 1.
func share(text string) (float64, error) {
	n, err := strconv.ParseFloat(text, 64)
	if err == nil && n > 1 {
		err = strconv.ErrRange
	}
	return n, err
}

func isPort(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return err == nil
}
