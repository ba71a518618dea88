// Package fanout merges and paces refreshes. A refresh carries no data: every
// subscriber of a topic reads the shared state again. Any number of refreshes
// between two changes can therefore be one.
//
// The first refresh is published at once. Later ones are published at most once
// per interval, and one always follows the last change. The interval grows with
// the crowd: a Fanout measures what a refresh costs while it runs, and keeps
// refreshes within their share of the processor.
//
// A connection that is busy has room for one action. If a page has several refresh
// actions, one may be dropped because another waits there: a Fanout publishes them again
// until none is.
//
// A Fanout does not know who subscribes. It relies on peers that read all shared state of
// their action again at every refresh.
package fanout

import (
	"cmp"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultInterval allows 20 refreshes a second, about as many as a person can read.
const DefaultInterval = 50 * time.Millisecond

// DefaultBudget leaves half of the processor to everything but refreshes.
const DefaultBudget = 0.5

// longest is the longest interval, however small the budget is.
const longest = time.Hour

// Options configure a Fanout. The zero value is ready to use.
type Options struct {
	// Interval is the shortest time between two refreshes of a topic.
	// Default: DefaultInterval.
	Interval time.Duration

	// Budget is the share of the available CPU time, above 0 and up to 1, that
	// refreshes may take. With many connections the interval grows to stay within
	// it. Default: DefaultBudget.
	Budget float64

	// CPUTime returns the CPU time that this process has used. Default: what the
	// operating system says.
	CPUTime func() time.Duration

	// Cores returns how many cores this process may use. Default: GOMAXPROCS, or
	// the quota of its control group if that is less.
	Cores func() float64
}

// Fanout paces the refreshes of all pages, which share one budget.
type Fanout struct {
	opts  Options
	pages []*Peers
}

// New returns a Fanout.
func New(opts Options) *Fanout {
	opts.Interval = cmp.Or(opts.Interval, DefaultInterval)
	opts.Budget = cmp.Or(opts.Budget, DefaultBudget)
	if opts.CPUTime == nil {
		opts.CPUTime = processTime
	}
	if opts.Cores == nil {
		opts.Cores = func() float64 { return availableCores(runtime.GOMAXPROCS(0), os.ReadFile) }
	}
	return &Fanout{opts: opts}
}

// Page is what a Fanout needs to know of a page.
type Page interface {
	// Publish publishes an action to the subscribers of a topic.
	Publish(topic, action string, data map[string]any) error
	// Connections returns the number of connections that are open.
	Connections() int
	// OnRefresh sets a function to call whenever a connection has rendered and
	// written a refresh.
	OnRefresh(f func())
	// Merges says that an action is a refresh: one that is dropped is nothing to warn of.
	Merges(action string)
	// Dropped returns how many actions were dropped so far, because another one waited
	// for the same connection. It is asked for only if several actions are refreshes.
	Dropped() int
}

// Context is the part of a livetemplate.Context that an action publishes with.
type Context interface {
	Publish(topic, action string, data map[string]any) error
}

// Peers returns the peers of a page: all of its connections. It must be called
// before the page serves.
func (f *Fanout) Peers(page Page) *Peers {
	p := &Peers{fanout: f, page: page, actions: map[string]bool{}, waiting: map[refresh]pause{}}
	page.OnRefresh(p.refreshed)
	f.pages = append(f.pages, p)
	return p
}

// Peers are the connections of a page. It is safe for concurrent use.
type Peers struct {
	Asked  atomic.Int64 // changes that asked for a refresh
	Merged atomic.Int64 // changes that were covered by a refresh already waiting

	fanout *Fanout
	page   Page
	cost   meter
	watch  stopwatch
	active atomic.Int64 // refreshes whose interval is running

	mu      sync.Mutex
	actions map[string]bool   // that were published so far
	waiting map[refresh]pause // refreshes whose interval is running
	again   time.Time         // when a refresh was published again
	dropped int               // actions that the page has dropped, as it was asked last
}

// refresh is an action that is published to a topic.
type refresh struct{ topic, action string }

// pause is an interval that is running.
type pause struct {
	asked   time.Time // when the first change in it came; zero: there was none
	dropped int       // as it was known when the refresh was published
	again   int       // intervals since then in which it could have been published again
}

// OnRefreshed sets a function to call with the time from a change until nearly all
// connections have rendered and written the refresh that it asked for. Of the changes
// that are merged, the first one counts. Of the connections, 95 % of those that are
// open when the refresh is published count, so that one slow peer does not. If
// refreshes overlap, only the first one is measured. OnRefreshed must be called before
// the page serves, and f must not wait.
func (p *Peers) OnRefreshed(f func(took time.Duration)) { p.watch.observe = f }

// Publish makes every other subscriber of topic run action, now or at the end of
// the interval. Call it after the change, outside the lock that guards the change, and
// last: the framework publishes when the action has returned, and not if that fails. It
// returns the error of ctx.Publish.
func (p *Peers) Publish(ctx Context, topic, action string) error {
	if p.merge(refresh{topic, action}) {
		return nil
	}
	return ctx.Publish(topic, action, nil)
}

// PublishTo is Publish for a change that no action has made. It reaches every
// subscriber, and logs an error.
func (p *Peers) PublishTo(topic, action string) {
	if r := (refresh{topic, action}); !p.merge(r) {
		p.send(r)
	}
}

// merge reports whether a refresh at the end of the running interval will do.
// Otherwise an interval begins, and the caller has to publish.
func (p *Peers) merge(r refresh) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Asked.Add(1)
	if !p.actions[r.action] {
		p.actions[r.action] = true
		p.page.Merges(r.action)
	}
	if running, found := p.waiting[r]; found {
		if running.asked.IsZero() {
			running.asked = time.Now()
			p.waiting[r] = running
		} else {
			p.Merged.Add(1)
		}
		return true
	}
	p.active.Add(1)
	p.begin(r, time.Now())
	return false
}

// begin starts an interval, and the refresh that a change has asked for. The caller
// holds p.mu.
func (p *Peers) begin(r refresh, asked time.Time) {
	p.wait(r, pause{dropped: p.dropped})
	connections := p.page.Connections()
	p.cost.start(connections, p.fanout.opts.CPUTime())
	p.watch.start(connections, asked)
}

func (p *Peers) wait(r refresh, running pause) {
	p.waiting[r] = running
	time.AfterFunc(p.interval(), func() { p.end(r) })
}

// anyDropped reports whether the page has dropped an action since the refresh was published,
// or shortly before. With a single refresh action that does not matter: the one that waits
// stands for the one that was dropped.
func (p *Peers) anyDropped(running pause) bool {
	if len(p.actions) > 1 {
		p.dropped = p.page.Dropped()
	}
	return p.dropped != running.dropped
}

// end ends an interval. If there was a change in it, or the refresh may have been dropped,
// it publishes, and another interval begins.
func (p *Peers) end(r refresh) {
	p.mu.Lock()
	p.cost.stop(p.fanout.opts.CPUTime)
	running, send := p.waiting[r], true
	switch {
	case !running.asked.IsZero():
		p.begin(r, running.asked)
	case p.anyDropped(running):
		send = p.goAgain(r, running)
	default:
		delete(p.waiting, r)
		p.active.Add(-1)
		send = false
	}
	p.mu.Unlock()
	if send {
		p.send(r)
	}
}

// goAgain starts another interval, and reports whether to publish again: not two refreshes
// together, which would be in each other's way, and less and less often at first, because an
// action may hang.
func (p *Peers) goAgain(r refresh, running pause) bool {
	send := false
	if time.Since(p.again) >= p.interval() {
		running.again++
		send = running.again&(running.again-1) == 0 || running.again%16 == 0 // 1, 2, 4, 8, and every 16th
	}
	if send {
		p.again, running.dropped = time.Now(), p.dropped
	}
	p.wait(r, running)
	return send
}

// refreshed notes that one more connection has rendered a refresh.
func (p *Peers) refreshed() {
	p.cost.count(p.fanout.opts.CPUTime)
	p.watch.count()
}

// interval is the time in which a refresh of every page that is being refreshed
// stays within the budget, but at least the shortest interval.
func (p *Peers) interval() time.Duration {
	var work float64 // CPU time, in nanoseconds
	for _, q := range p.fanout.pages {
		if q == p || q.active.Load() > 0 {
			work += float64(q.page.Connections()) * q.cost.perConnection()
		}
	}
	opts := p.fanout.opts
	return max(opts.Interval, time.Duration(min(work/opts.Budget/opts.Cores(), float64(longest))))
}

func (p *Peers) send(r refresh) {
	if err := p.page.Publish(r.topic, r.action, nil); err != nil {
		slog.Error("refresh not published", slog.String("action", r.action), slog.Any("error", err))
	}
}
