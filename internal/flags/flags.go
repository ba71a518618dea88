// Package flags reads the command line, and PORT and REDIS_URL in the environment. An
// error is one clear line for a person.
package flags

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"time"

	"realtime/internal/fanout"
	"realtime/internal/origin"
	"realtime/internal/presence"
	"realtime/internal/site"
	"realtime/internal/wsconn"
)

// ErrUsage is an error in the command line.
var ErrUsage = errors.New("run with -h for the flags")

// Options are the values of all flags. In the zero value Addr and Prefix are empty, Drain is
// no time, and everything else is as on a command line without flags.
type Options struct {
	Addr      string // to listen on
	AdminAddr string // for metrics and profiles; empty: nowhere
	LogLevel  slog.Level
	LogJSON   bool   // instead of text
	Redis     string // URL; empty: this server is the only one
	Prefix    string // of the names in Redis
	Data      string // file that keeps the number of clicks; empty: it ends with the process
	Site      site.Options
	Fanout    fanout.Options
	Presence  presence.Options

	TrustProxy bool          // believe what a proxy says about requests
	Drain      time.Duration // half for load balancers to see a stop, half to close connections
}

// DefaultDrain gives load balancers that check every half second time for two checks.
const DefaultDrain = 2 * time.Second

// Parse parses the command line. For -h and -version it prints the answer to out, and
// returns flag.ErrHelp. Any other error is ErrUsage.
func Parse(args []string, out io.Writer) (o Options, err error) {
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
	case err == nil && *version:
		fmt.Fprintln(out, "realtime", ThisVersion())
		return o, flag.ErrHelp
	case err == nil && all.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", all.Arg(0))
	case err == nil && port != "" && o.Addr == ":"+port && !isPort(port):
		err = fmt.Errorf("invalid value %q for PORT: want a number up to 65535", port)
	case err == nil:
		err = o.contradiction()
	}
	if err != nil {
		return o, fmt.Errorf("%w; %w", err, ErrUsage)
	}
	o.Redis = cmp.Or(o.Redis, os.Getenv("REDIS_URL")) // not the flag's default: -h would print a password
	return o, nil
}

// contradiction returns what is wrong with flags that are valid one by one.
func (o Options) contradiction() error {
	if beat := o.Site.Heartbeat; beat.Timeout <= beat.Ping {
		return fmt.Errorf("-ping-timeout %v must be longer than -ping %v: otherwise everybody who is idle is disconnected", beat.Timeout, beat.Ping)
	}
	if o.Prefix == "" {
		return errors.New("-redis-prefix must not be empty")
	}
	return nil
}

// printFlags prints every flag with its default.
func printFlags(out io.Writer, groups []*flag.FlagSet) {
	fmt.Fprintln(out, "Usage: realtime [flags]")
	for _, group := range groups {
		fmt.Fprintf(out, "\n%s:\n", group.Name())
		group.SetOutput(out)
		group.PrintDefaults()
	}
}

// flagGroups returns the flags, by what they are for. port is where to listen if no
// flag says so; without it, that is on this machine only.
func flagGroups(o *Options, port string) (groups []*flag.FlagSet, version *bool) {
	group := func(name string) *flag.FlagSet {
		groups = append(groups, flag.NewFlagSet(name, flag.ContinueOnError))
		return groups[len(groups)-1]
	}
	addr := "localhost:8080"
	if port != "" {
		addr = ":" + port
	}
	f := group("Serving")
	f.StringVar(&o.Addr, "addr", addr, "`address` to listen on: host:port, where port 0 is any free one, or unix:/path;\nif PORT is set in the environment, the default is that port on all interfaces")
	f.StringVar(&o.AdminAddr, "admin-addr", "", "`address` for /metrics and /debug/pprof/; not for visitors")
	f.Func("allow-origin", "another `origin` whose pages may connect and post, such as https://example.com; repeatable", func(text string) error {
		allowed, err := origin.Canonical(text)
		o.Site.AllowOrigins = append(o.Site.AllowOrigins, allowed)
		return err
	})
	f.StringVar(&o.Redis, "redis", "", "`URL` of the Redis that servers share, such as redis://127.0.0.1:6379/0;\nREDIS_URL in the environment does the same")
	f.StringVar(&o.Prefix, "redis-prefix", "realtime", "what all names in that Redis begin with: `text` of its own for each installation")
	f.StringVar(&o.Data, "data", "", "`file` that keeps the counter when the program ends; it is made if there is none")
	f.BoolVar(&o.TrustProxy, "trust-proxy", false, "believe X-Forwarded-Proto, X-Forwarded-Host, X-Forwarded-For and X-Request-Id: only where every request\ncomes through a proxy that sets or removes each of them, because clients can send them too")

	f = group("Log and version")
	f.Func("log-level", "least `level` to log: debug, info, warn or error (default info)", func(text string) error {
		if o.LogLevel.UnmarshalText([]byte(text)) != nil {
			return errors.New("want debug, info, warn or error")
		}
		return nil
	})
	f.Func("log-format", "`format` of the log: text or json (default text)", func(text string) error {
		if o.LogJSON = text == "json"; !o.LogJSON && text != "text" {
			return errors.New("want text or json")
		}
		return nil
	})
	version = f.Bool("version", false, "print the version and exit")

	f = group("Limits")
	number(f, &o.Site.MaxConnections, "max-connections", site.DefaultMaxConnections, "largest `number` of live connections")
	number(f, &o.Site.MaxPerSession, "max-per-session", site.DefaultMaxPerSession, "largest `number` of live connections of one browser")
	span(f, &o.Site.Heartbeat.Ping, "ping", wsconn.DefaultPing, "`time` between two pings of a connection")
	span(f, &o.Site.Heartbeat.Timeout, "ping-timeout", wsconn.DefaultTimeout, "longest `time` without an answer or a message; longer than -ping")
	span(f, &o.Site.Heartbeat.Write, "write-timeout", wsconn.DefaultWrite, "longest `time` for writing a single frame")

	f = group("Pace")
	span(f, &o.Fanout.Interval, "refresh-interval", fanout.DefaultInterval, "shortest `time` between two refreshes")
	share(f, &o.Fanout.Budget, "refresh-budget", fanout.DefaultBudget, "`share` of the time in which refreshes may be under way, up to 1")
	span(f, &o.Presence.Grace, "grace", presence.DefaultGrace, "`time` that somebody stays online after a socket has ended")
	span(f, &o.Drain, "drain", DefaultDrain, "`time` that a stop takes: in the first half only /readyz changes, to 503, and in the\nsecond half connections are closed; the program ends at most 3s later")
	return groups, version
}

func number(f *flag.FlagSet, n *int, name string, byDefault int, usage string) {
	*n = byDefault
	f.Func(name, fmt.Sprintf("%s (default %d)", usage, byDefault), func(text string) (err error) {
		if *n, err = strconv.Atoi(text); err != nil || *n <= 0 {
			return errors.New("want a whole number above 0")
		}
		return nil
	})
}

func span(f *flag.FlagSet, d *time.Duration, name string, byDefault time.Duration, usage string) {
	*d = byDefault
	f.Func(name, fmt.Sprintf("%s (default %v)", usage, byDefault), func(text string) (err error) {
		if *d, err = time.ParseDuration(text); err != nil || *d <= 0 {
			return errors.New("want a duration above 0, such as 2s")
		}
		return nil
	})
}

func share(f *flag.FlagSet, n *float64, name string, byDefault float64, usage string) {
	*n = byDefault
	f.Func(name, fmt.Sprintf("%s (default %v)", usage, byDefault), func(text string) (err error) {
		if *n, err = strconv.ParseFloat(text, 64); err != nil || !(0 < *n && *n <= 1) { // not a number is neither
			return errors.New("want a number above 0 and up to 1")
		}
		return nil
	})
}

func isPort(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return err == nil
}
