// Package fanout merges and paces refreshes. A refresh carries no data: every
// subscriber of a topic reads the shared state again. Any number of refreshes
// between two changes can therefore be one.
//
// The first refresh is published at once. Later ones are published at most once
// per interval, and one always follows the last change. The interval grows with
// the crowd: a refresh that takes long is followed by a pause in proportion.
//
// A busy connection has room for one action. If a page has several refresh actions,
// one may be dropped because another is waiting: a Fanout publishes them again until
// none is dropped.
//
// A Fanout does not know who subscribes. It relies on peers that read all shared state of
// their action again at every refresh.
package fanout

import (
	"cmp"
	"log/slog"
	"sync"
	"time"
)

// DefaultInterval allows 20 refreshes a second, about as many as a person can read.
const DefaultInterval = 50 * time.Millisecond

// DefaultBudget leaves half of the time to everything but refreshes.
const DefaultBudget = 0.5

// longest is the longest interval, however small the budget is.
const longest = time.Hour

// Options configure a Fanout. The zero value is ready to use.
type Options struct {
	// Interval is the shortest time between two refreshes of a topic.
	// Default: DefaultInterval.
	Interval time.Duration

	// Budget is the share of time, above 0 and up to 1, in which refreshes may be under
	// way: after one that took 100 ms to reach 95 % of the connections, the next begins
	// no sooner than 100 ms / Budget after it began. Default: DefaultBudget.
	Budget float64
}

// Fanout paces the refreshes of all pages, which share one budget.
type Fanout struct {
	opts  Options
	pages []*Peers
	mu    sync.Mutex // guards intervals of all pages: two waiting refreshes must not begin at once
}

// New returns a Fanout.
func New(opts Options) *Fanout {
	opts.Interval = cmp.Or(opts.Interval, DefaultInterval)
	opts.Budget = cmp.Or(opts.Budget, DefaultBudget)
	return &Fanout{opts: opts}
}

// Page is what a Fanout needs to know of a page.
type Page interface {
	// Publish publishes an action to the subscribers of a topic.
	Publish(topic, action string, data map[string]any) error
	// Connections returns the number of open connections.
	Connections() int
	// OnRefresh sets a function to call whenever a connection has rendered and
	// written a refresh.
	OnRefresh(f func())
	// Merges says that an action is a refresh: dropping one is nothing to warn of.
	Merges(action string)
	// Dropped returns how many actions were dropped so far because another was waiting
	// for the same connection. It is called only if several actions are refreshes.
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
	page.OnRefresh(p.round.count)
	f.pages = append(f.pages, p)
	return p
}

// progress returns how long the refreshes of all pages have taken so far, and whether one is
// under way.
func (f *Fanout) progress() (taken time.Duration, underWay bool) {
	for _, p := range f.pages {
		t, u := p.round.progress()
		taken, underWay = taken+t, underWay || u
	}
	return taken, underWay
}

// Peers are the connections of a page. It is safe for concurrent use.
type Peers struct {
	fanout *Fanout
	page   Page
	round  round

	// The rest is guarded by fanout.mu.
	asked, merged int
	actions       map[string]bool   // published so far
	waiting       map[refresh]pause // refreshes whose interval is running
	again         time.Time         // when a refresh was last published again
	dropped       int               // actions that the page had dropped when last asked
}

// refresh is an action that is published to a topic.
type refresh struct{ topic, action string }

// pause is an interval that is running.
type pause struct {
	began   time.Time
	taken   time.Duration // by all refreshes until then
	asked   time.Time     // when the first change in it came; zero if none did
	dropped int           // actions that the page was known to have dropped at the publish
	again   int           // intervals since then in which it could have been published again
}

// Asked returns the number of changes that asked for a refresh.
func (p *Peers) Asked() int {
	p.fanout.mu.Lock()
	defer p.fanout.mu.Unlock()
	return p.asked
}

// Merged returns the number of changes that were covered by a refresh already waiting.
func (p *Peers) Merged() int {
	p.fanout.mu.Lock()
	defer p.fanout.mu.Unlock()
	return p.merged
}

// OnRefreshed sets a function to call with the time from a change until 95 % of the
// connections that are open at the publish have rendered and written the refresh that it
// asked for. Of the changes that are merged, the first counts. OnRefreshed must be called
// before the page serves, and f must not wait.
func (p *Peers) OnRefreshed(f func(took time.Duration)) { p.round.observe = f }

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
	p.fanout.mu.Lock()
	defer p.fanout.mu.Unlock()
	p.asked++
	if !p.actions[r.action] {
		p.actions[r.action] = true
		p.page.Merges(r.action)
	}
	if running, found := p.waiting[r]; found {
		if running.asked.IsZero() {
			running.asked = time.Now()
			p.waiting[r] = running
		} else {
			p.merged++
		}
		return true
	}
	p.begin(r, time.Now())
	return false
}

// begin starts an interval, and the refresh that a change has asked for. The caller
// holds fanout.mu.
func (p *Peers) begin(r refresh, asked time.Time) {
	p.wait(r, pause{dropped: p.dropped})
	p.round.begin(p.page.Connections(), asked)
}

func (p *Peers) wait(r refresh, running pause) {
	running.began = time.Now()
	running.taken, _ = p.fanout.progress()
	p.waiting[r] = running
	time.AfterFunc(p.fanout.opts.Interval, func() { p.end(r) })
}

// rest returns how much longer an interval lasts, as far as is known: until no refresh is
// under way, and those of all pages have taken no more than their share of it.
func (p *Peers) rest(running pause) time.Duration {
	taken, underWay := p.fanout.progress()
	interval := min(float64(taken-running.taken)/p.fanout.opts.Budget, float64(longest))
	rest := time.Duration(interval) - time.Since(running.began)
	if underWay {
		rest = max(rest, time.Millisecond)
	}
	return rest
}

// end ends an interval. If there was a change in it, or the refresh may have been dropped,
// it publishes, and another interval begins.
func (p *Peers) end(r refresh) {
	p.fanout.mu.Lock()
	running, send := p.waiting[r], true
	rest := p.rest(running)
	switch {
	case rest > 0:
		time.AfterFunc(rest, func() { p.end(r) })
		send = false
	case !running.asked.IsZero():
		p.begin(r, running.asked)
	case p.anyDropped(running):
		send = p.goAgain(r, running)
	default:
		delete(p.waiting, r)
		send = false
	}
	p.fanout.mu.Unlock()
	if send {
		p.send(r)
	}
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

// goAgain starts another interval, and reports whether to publish again: not two refreshes
// together, which would be in each other's way, and less and less often at first, because an
// action may hang.
func (p *Peers) goAgain(r refresh, running pause) bool {
	send := false
	if time.Since(p.again) >= p.fanout.opts.Interval {
		running.again++
		send = running.again&(running.again-1) == 0 || running.again%16 == 0 // 1, 2, 4, 8, and every 16th
	}
	if send {
		p.again, running.dropped = time.Now(), p.dropped
		p.round.begin(p.page.Connections(), time.Time{})
	}
	p.wait(r, running)
	return send
}

func (p *Peers) send(r refresh) {
	if err := p.page.Publish(r.topic, r.action, nil); err != nil {
		slog.Error("refresh not published", slog.String("action", r.action), slog.Any("error", err))
	}
}
