// Package fanout merges refreshes. A refresh carries no data: every subscriber
// of a topic reads the shared state again. So between the last change and the
// last refresh any number of them can be one.
//
// The first refresh goes out at once, later ones at most once per interval, and
// one always follows the last change.
package fanout

import (
	"cmp"
	"context"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultInterval makes 20 refreshes a second. With the answers to ten clicks of
// its own, a tab gets 30 frames: as fast as a number can be read.
const DefaultInterval = 50 * time.Millisecond

// DefaultBudget leaves half of the machine to everything that is no refresh.
const DefaultBudget = 0.5

// Options say how often refreshes may go out.
type Options struct {
	// Interval is the least time between two refreshes of one topic.
	// 0 means DefaultInterval.
	Interval time.Duration

	// Budget is the share of all CPU time, above 0 and up to 1, that refreshes may
	// take. With many connections the interval grows until that is enough.
	// 0 means DefaultBudget.
	Budget float64

	// Connections is how many connections are open now, for all topics together.
	// nil means that the interval does not grow.
	Connections func() int
}

// Fanout paces every refresh of an app.
type Fanout struct {
	opts      Options
	refreshes []*Refresh
}

// New returns a Fanout.
func New(opts Options) *Fanout {
	opts.Interval = cmp.Or(opts.Interval, DefaultInterval)
	opts.Budget = cmp.Or(opts.Budget, DefaultBudget)
	if opts.Connections == nil {
		opts.Connections = func() int { return 0 }
	}
	return &Fanout{opts: opts}
}

// Publisher publishes an action to the subscribers of a topic. A
// livetemplate.LiveHandler is one.
type Publisher interface {
	Publish(topic, action string, data map[string]any) error
}

// Context is the part of a livetemplate.Context that Publish uses.
type Context interface {
	Publisher
	SelfTopic() string
}

// Refresh returns what publishes one refreshing action of a handler. cost is the
// CPU time that it takes for one connection, from the dispatch to the socket.
// Refresh is for the time before the app serves, and not safe for concurrent use.
func (f *Fanout) Refresh(handler Publisher, action string, cost time.Duration) *Refresh {
	r := &Refresh{fanout: f, handler: handler, action: action, cost: cost, again: map[string]bool{}}
	f.refreshes = append(f.refreshes, r)
	return r
}

// Stop publishes every refresh that waits, and gives those on their way one
// more interval, or until ctx ends. Whatever is published later goes out at once.
func (f *Fanout) Stop(ctx context.Context) {
	var onTheirWay time.Duration
	for _, r := range f.refreshes {
		if r.stop() {
			onTheirWay = max(onTheirWay, r.interval())
		}
	}
	if onTheirWay == 0 {
		return
	}
	select {
	case <-time.After(onTheirWay):
	case <-ctx.Done():
	}
}

// Refresh publishes one action, merged. It is safe for concurrent use.
type Refresh struct {
	Asked  atomic.Int64 // changes that asked for a refresh
	Merged atomic.Int64 // those for which one that was waiting already will do

	fanout  *Fanout
	handler Publisher
	action  string
	cost    time.Duration

	mu      sync.Mutex
	again   map[string]bool // topics whose interval is running; whether to publish at its end
	stopped bool
}

// Publish makes every other subscriber of ctx's self topic refresh, now or at
// the end of the interval. It belongs after the change, and outside its lock.
// An error is that of ctx.Publish.
func (r *Refresh) Publish(ctx Context) error {
	topic := ctx.SelfTopic()
	if r.merge(topic) {
		return nil
	}
	return ctx.Publish(topic, r.action, nil)
}

// PublishTo makes every subscriber of topic refresh after a change that no
// action made. The log says so if topic is not one that can be published to.
func (r *Refresh) PublishTo(topic string) {
	if !r.merge(topic) {
		r.send(topic)
	}
}

// merge reports whether a refresh at the end of the running interval will do.
// Otherwise an interval begins, and the caller has to publish.
func (r *Refresh) merge(topic string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Asked.Add(1)
	if r.stopped {
		return false
	}
	if again, running := r.again[topic]; running {
		if again {
			r.Merged.Add(1)
		}
		r.again[topic] = true
		return true
	}
	r.begin(topic)
	return false
}

// interval is the time in which one refresh of every connection stays within the
// budget, or the least interval, if that is longer.
func (r *Refresh) interval() time.Duration {
	opts := r.fanout.opts
	work := float64(opts.Connections()) * float64(r.cost)
	return max(opts.Interval, time.Duration(work/opts.Budget/float64(runtime.GOMAXPROCS(0))))
}

// begin starts an interval. The caller holds r.mu.
func (r *Refresh) begin(topic string) {
	r.again[topic] = false
	time.AfterFunc(r.interval(), func() { r.end(topic) })
}

// end ends an interval. If there was a change in it, it publishes, and another begins.
func (r *Refresh) end(topic string) {
	r.mu.Lock()
	again := r.again[topic]
	if again {
		r.begin(topic)
	} else {
		delete(r.again, topic)
	}
	r.mu.Unlock()
	if again {
		r.send(topic)
	}
}

// stop ends merging, and reports whether a refresh may still be on its way.
func (r *Refresh) stop() bool {
	r.mu.Lock()
	running := r.again
	r.again, r.stopped = nil, true
	r.mu.Unlock()
	for topic, again := range running {
		if again {
			r.send(topic)
		}
	}
	return len(running) > 0
}

func (r *Refresh) send(topic string) {
	if err := r.handler.Publish(topic, r.action, nil); err != nil {
		slog.Error("refresh not published", slog.String("action", r.action), slog.Any("error", err))
	}
}
