// Package fanout merges and paces refreshes. A refresh carries no data: every
// subscriber of a topic reads the shared state again. Any number of refreshes
// between two changes can therefore be one.
//
// The first refresh is published at once. Later ones are published at most once
// per interval, and one always follows the last change. The interval grows with
// the crowd: the longer a refresh takes to reach it, the longer the next one waits.
//
// A busy connection has room for one action. If a page has several refresh actions,
// one may be dropped because another is waiting: a Fanout publishes them again until
// none is dropped.
//
// A Fanout relies on peers that read all shared state of their action again at every
// refresh.
package fanout

import (
	"cmp"
	"log/slog"
	"sync"
	"sync/atomic"
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

	// Budget is the share of the time, above 0 and up to 1, in which refreshes may be
	// under way. If one takes 100 ms to reach 95 % of the connections, the next begins
	// no sooner than 100 ms / Budget after it. Default: DefaultBudget.
	Budget float64

	// OnAction is called with every action that is a refresh, once or more: dropping one is
	// nothing to warn of. Default: nothing.
	OnAction func(action string)
}

// Fanout paces the refreshes of all pages, which share one budget.
type Fanout struct {
	opts  Options
	pages []*Peers
	mu    sync.Mutex // one for all pages, so that two waiting refreshes do not begin at once
}

// New returns a Fanout.
func New(opts Options) *Fanout {
	opts.Interval = cmp.Or(opts.Interval, DefaultInterval)
	opts.Budget = cmp.Or(opts.Budget, DefaultBudget)
	if opts.OnAction == nil {
		opts.OnAction = func(string) {}
	}
	return &Fanout{opts: opts}
}

// Page is what a Fanout needs to know of a page.
type Page interface {
	Publish(topic, action string, data map[string]any) error // to the subscribers of a topic
	Connections() int                                        // that are open
	OnRefresh(f func())                                      // calls f whenever one has rendered and written a refresh
	Dropped() int                                            // actions so far, because another was waiting for the same connection
}

// Context is the part of a livetemplate.Context that an action publishes with.
type Context interface {
	Publish(topic, action string, data map[string]any) error
}

// Peers returns the peers of a page: all of its connections. It must be called
// before any page serves.
func (f *Fanout) Peers(page Page) *Peers {
	p := &Peers{fanout: f, page: page, actions: map[string]bool{}, running: map[refresh]interval{}}
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

// Peers are the connections of a page. They are safe for concurrent use.
type Peers struct {
	Asked  atomic.Int64 // changes that asked for a refresh
	Merged atomic.Int64 // those covered by a refresh already waiting

	fanout *Fanout
	page   Page
	round  round

	// The rest is guarded by fanout.mu.
	actions map[string]bool      // published so far
	running map[refresh]interval // intervals that have not ended
	again   time.Time            // when a refresh was last published again
	dropped int                  // actions that the page had dropped when last asked
}

// refresh is an action that is published to a topic.
type refresh struct{ topic, action string }

// interval is the time from a refresh to the next one of the same action and topic.
type interval struct {
	began   time.Time
	taken   time.Duration // by all refreshes before it began
	asked   time.Time     // when its first change came; zero if none did
	dropped int           // actions that the page was known to have dropped when it began
	again   int           // times that the refresh could have been published again
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
	p.Asked.Add(1)
	if !p.actions[r.action] {
		p.actions[r.action] = true
		p.fanout.opts.OnAction(r.action)
	}
	if current, found := p.running[r]; found {
		if current.asked.IsZero() {
			current.asked = time.Now()
			p.running[r] = current
		} else {
			p.Merged.Add(1)
		}
		return true
	}
	p.begin(r, time.Now())
	return false
}

// begin begins an interval, and the refresh that a change has asked for. The caller
// holds fanout.mu.
func (p *Peers) begin(r refresh, asked time.Time) {
	p.beginInterval(r, interval{dropped: p.dropped})
	p.round.begin(p.page.Connections(), asked)
}

func (p *Peers) beginInterval(r refresh, i interval) {
	i.began = time.Now()
	i.taken, _ = p.fanout.progress()
	p.running[r] = i
	p.endAfter(p.fanout.opts.Interval, r)
}

func (p *Peers) endAfter(d time.Duration, r refresh) {
	time.AfterFunc(d, func() {
		if p.end(r) {
			p.send(r)
		}
	})
}

// end ends an interval, unless it must last longer. It reports whether the caller has to
// publish, because of a change in it or a dropped refresh: then another interval begins.
func (p *Peers) end(r refresh) (publish bool) {
	p.fanout.mu.Lock()
	defer p.fanout.mu.Unlock()
	current := p.running[r]
	rest := p.rest(current)
	switch {
	case rest > 0:
		p.endAfter(rest, r)
		return false
	case !current.asked.IsZero():
		p.begin(r, current.asked)
		return true
	case p.anyDropped(current):
		return p.goAgain(r, current)
	}
	delete(p.running, r)
	return false
}

// rest returns how much longer an interval must last, as far as is known: until no refresh
// is under way, and the refreshes of all pages have taken no more than their share of it.
func (p *Peers) rest(i interval) time.Duration {
	taken, underWay := p.fanout.progress()
	length := min(float64(taken-i.taken)/p.fanout.opts.Budget, float64(longest))
	rest := time.Duration(length) - time.Since(i.began)
	if underWay {
		rest = max(rest, time.Millisecond)
	}
	return rest
}

// anyDropped reports whether the page has dropped an action since the refresh was published,
// or shortly before. With a single refresh action that does not matter: the one that waits
// stands for the one that was dropped.
func (p *Peers) anyDropped(i interval) bool {
	if len(p.actions) > 1 {
		p.dropped = p.page.Dropped()
	}
	return p.dropped != i.dropped
}

// goAgain begins another interval, and reports whether to publish the refresh again. Two
// refreshes are not published together, because one would get the other dropped. The more
// often it was published in vain, the rarer it is: a connection may hang for long.
func (p *Peers) goAgain(r refresh, i interval) (publish bool) {
	if time.Since(p.again) >= p.fanout.opts.Interval {
		i.again++
		publish = i.again&(i.again-1) == 0 || i.again%16 == 0 // 1, 2, 4, 8, and every 16th
	}
	if publish {
		p.again, i.dropped = time.Now(), p.dropped
		p.round.begin(p.page.Connections(), time.Time{})
	}
	p.beginInterval(r, i)
	return publish
}

func (p *Peers) send(r refresh) {
	if err := p.page.Publish(r.topic, r.action, nil); err != nil {
		slog.Error("refresh not published", slog.String("action", r.action), slog.Any("error", err))
	}
}
