package fanout

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const interval = DefaultInterval

// Tests run in a bubble of synctest, in which sleeping takes no time.

// outbox is a handler that notes when it published, counted from the first.
type outbox struct {
	mu    sync.Mutex
	first time.Time
	sent  []sent
}

type sent struct {
	by    string
	topic string
	after time.Duration
}

func (o *outbox) Publish(topic, action string, _ map[string]any) error {
	return o.note("handler", topic)
}

func (o *outbox) note(by, topic string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.first.IsZero() {
		o.first = time.Now()
	}
	o.sent = append(o.sent, sent{by, topic, time.Since(o.first)})
	return nil
}

func (o *outbox) all() []sent {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.sent)
}

// action is the context of an action that publishes to an outbox.
type action struct {
	*outbox
	topic string
}

func (a action) SelfTopic() string { return a.topic }

func (a action) Publish(topic, _ string, _ map[string]any) error { return a.note("action", topic) }

func newRefresh(opts Options) (*Fanout, *Refresh, *outbox) {
	f, o := New(opts), &outbox{}
	return f, f.Refresh(o, "Changed", time.Microsecond), o
}

func TestRefresh_FirstGoesOutAtOnceAndOneFollowsTheLastChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, r, o := newRefresh(Options{})
		for range 3 {
			require.NoError(t, r.Publish(action{o, "all"}))
		}
		assert.Equal(t, []sent{{"action", "all", 0}}, o.all())
		pass(interval)
		assert.Equal(t, []sent{{"action", "all", 0}, {"handler", "all", interval}}, o.all())
		pass(10 * interval)
		assert.Len(t, o.all(), 2, "nothing changed")

		require.NoError(t, r.Publish(action{o, "all"}))
		assert.Equal(t, sent{"action", "all", 11 * interval}, o.all()[2], "after a rest the first goes out at once again")
		r.PublishTo("all")
		pass(interval)
		assert.Equal(t, sent{"handler", "all", 12 * interval}, o.all()[3])
		pass(interval)
		r.PublishTo("all")
		assert.Equal(t, sent{"handler", "all", 13 * interval}, o.all()[4], "outside an action as well")
	})
}

func TestRefresh_SteadyStreamIsOnePerInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, r, o := newRefresh(Options{})
		for range 500 {
			require.NoError(t, r.Publish(action{o, "all"}))
			pass(2 * time.Millisecond)
		}
		pass(10 * interval)
		require.Len(t, o.all(), 21, "in one second, with the first and the last")
		for i, s := range o.all() {
			assert.Equal(t, time.Duration(i)*interval, s.after)
		}
	})
}

func TestRefresh_OneTopicDoesNotWaitForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, r, o := newRefresh(Options{})
		for range 3 {
			r.PublishTo("one")
			r.PublishTo("two")
		}
		pass(10 * interval)
		assert.ElementsMatch(t, []sent{{"handler", "one", 0}, {"handler", "two", 0}, {"handler", "one", interval}, {"handler", "two", interval}}, o.all())
		assert.Empty(t, r.again, "a topic at rest is not kept")
	})
}

func TestFanout_IntervalGrowsWithTheCrowd(t *testing.T) {
	connections := 0
	f := New(Options{Connections: func() int { return connections }})
	cheap, dear := f.Refresh(nil, "Changed", 40*time.Microsecond), f.Refresh(nil, "Changed", 400*time.Microsecond)
	cores := time.Duration(runtime.GOMAXPROCS(0))
	for _, row := range []struct {
		connections int
		want        time.Duration
	}{
		{0, DefaultInterval},
		{1, DefaultInterval},
		{10, DefaultInterval},
		{1_000_000, 40 * time.Second / cores * 2}, // 40 s of CPU time, on half of the cores
	} {
		connections = row.connections
		assert.Equal(t, row.want, cheap.interval(), "%d connections", connections)
	}
	assert.Equal(t, 10*cheap.interval(), dear.interval())
	all := New(Options{Budget: 1, Connections: f.opts.Connections})
	assert.Equal(t, cheap.interval()/2, all.Refresh(nil, "Changed", 40*time.Microsecond).interval())
	assert.Equal(t, time.Second, New(Options{Interval: time.Second}).Refresh(nil, "Changed", 0).interval())
}

func TestStop_SendsWhatWaitsAndHoldsNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		New(Options{}).Stop(t.Context())
		assert.Zero(t, time.Since(begin), "there was nothing to wait for")

		f, r, o := newRefresh(Options{})
		r.PublishTo("all")
		r.PublishTo("all")
		pass(interval / 4)
		f.Stop(t.Context())
		assert.Equal(t, []sent{{"handler", "all", 0}, {"handler", "all", interval / 4}}, o.all())
		assert.Equal(t, interval+interval/4, time.Since(begin), "an interval, for what is on its way")

		r.PublishTo("all")
		r.PublishTo("all")
		assert.Len(t, o.all(), 4)
		pass(10 * interval)
		assert.Len(t, o.all(), 4)
		f.Stop(t.Context())

		f, r, _ = newRefresh(Options{})
		r.PublishTo("all")
		begin = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), interval/2)
		defer cancel()
		f.Stop(ctx)
		assert.Equal(t, interval/2, time.Since(begin))
	})
}

// pass lets time pass, and all that is due in it happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

type refusing struct{ action }

func (refusing) Publish(string, string, map[string]any) error { return errors.New("no such topic") }

func TestRefresh_RefusedTopicIsAnErrorAndNeverSilent(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{}).Refresh(refusing{}, "Changed", 0)
		assert.Error(t, r.Publish(refusing{}))
		assert.Empty(t, log.String())
		r.PublishTo("") // merged: tried at the end of the interval
		pass(interval)
		assert.Contains(t, log.String(), "no such topic")
		assert.Contains(t, log.String(), "Changed")
	})
}

// After quiet, every subscriber has read the shared value after its last change:
// whenever changes, publishes, refreshes, new subscribers and the stop came.
func TestRefresh_NoScheduleLosesTheLastChange(t *testing.T) {
	const schedules = 20_000
	for seed := range uint64(schedules) {
		synctest.Test(t, func(t *testing.T) {
			s := newSchedule(seed)
			s.run(t.Context())
			for i, tb := range s.tabs {
				require.Equal(t, s.value, tb.read, "seed %d: tab %d has not read the last value", seed, i)
			}
			for i := 1; i < len(s.published); i++ {
				gap := s.published[i].Sub(s.published[i-1])
				stopped := !s.stoppedAt.IsZero() && !s.published[i].Before(s.stoppedAt)
				require.True(t, gap >= interval || stopped, "seed %d: two refreshes within %v", seed, gap)
			}
		})
	}
}

// schedule is a crowd of tabs that act as the framework lets them: each does one
// thing at a time, one refresh may wait for it, and more are dropped; what an
// action publishes goes out when the action is over, to all other tabs.
type schedule struct {
	random  *rand.Rand
	fanout  *Fanout
	refresh *Refresh

	mu        sync.Mutex
	value     int // what is shared
	tabs      []*tab
	published []time.Time
	stoppedAt time.Time
}

type tab struct {
	schedule *schedule
	idle     chan struct{} // holds a token while the tab does nothing
	waiting  chan struct{}
	read     int // the value as last read
}

func newSchedule(seed uint64) *schedule {
	s := &schedule{random: rand.New(rand.NewPCG(seed, 0))}
	s.fanout = New(Options{})
	s.refresh = s.fanout.Refresh(s, "Changed", 0)
	return s
}

func (s *schedule) run(ctx context.Context) {
	var actors sync.WaitGroup
	for range 2 + s.random.IntN(3) {
		start, slow := s.moment(), s.moment()/2
		var pauses []time.Duration
		for range s.random.IntN(6) {
			pauses = append(pauses, s.moment(), s.moment()/8, s.moment()/8)
		}
		actors.Go(func() {
			time.Sleep(start)
			tb := s.subscribe()
			go tb.loop(ctx, slow)
			for len(pauses) > 0 {
				time.Sleep(pauses[0])
				tb.act(pauses[1], pauses[2])
				pauses = pauses[3:]
			}
		})
	}
	for range s.random.IntN(3) { // a leave that nobody clicked
		at, late := s.moment(), s.moment()/8
		actors.Go(func() {
			time.Sleep(at)
			s.change()
			time.Sleep(late)
			s.refresh.PublishTo("all")
		})
	}
	if s.random.IntN(3) == 0 {
		at := 3 * s.moment()
		actors.Go(func() {
			time.Sleep(at)
			s.mu.Lock()
			s.stoppedAt = time.Now()
			s.mu.Unlock()
			s.fanout.Stop(ctx)
		})
	}
	actors.Wait()
	pass(10 * interval)
}

// moment is up to two intervals, and often one of a few that others have as well.
func (s *schedule) moment() time.Duration {
	if s.random.IntN(2) == 0 {
		return time.Duration(s.random.IntN(9)) * interval / 4
	}
	return time.Duration(s.random.Int64N(int64(2 * interval)))
}

func (s *schedule) change() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value++
	return s.value
}

// Publish is the handler's.
func (s *schedule) Publish(string, string, map[string]any) error {
	s.note()
	s.dispatchExcept(nil)
	return nil
}

func (s *schedule) note() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.published = append(s.published, time.Now())
}

func (s *schedule) dispatchExcept(sender *tab) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, tb := range s.tabs {
		if tb == sender {
			continue
		}
		select {
		case tb.waiting <- struct{}{}:
		default:
		}
	}
}

// subscribe subscribes a new tab, and then reads.
func (s *schedule) subscribe() *tab {
	tb := &tab{schedule: s, idle: make(chan struct{}, 1), waiting: make(chan struct{}, 1)}
	tb.idle <- struct{}{}
	s.mu.Lock()
	s.tabs = append(s.tabs, tb)
	s.mu.Unlock()
	tb.reread()
	return tb
}

func (tb *tab) reread() {
	tb.schedule.mu.Lock()
	defer tb.schedule.mu.Unlock()
	tb.read = tb.schedule.value
}

// loop runs the refreshes that wait; each reads first, and then takes its time.
func (tb *tab) loop(ctx context.Context, slow time.Duration) {
	for {
		select {
		case <-tb.waiting:
			<-tb.idle
			tb.reread()
			time.Sleep(slow)
			tb.idle <- struct{}{}
		case <-ctx.Done():
			return
		}
	}
}

// act changes the value, publishes a while later, and returns another while later.
func (tb *tab) act(beforePublish, beforeReturn time.Duration) {
	<-tb.idle
	defer func() { tb.idle <- struct{}{} }()
	tb.read = tb.schedule.change()
	time.Sleep(beforePublish)
	call := &call{schedule: tb.schedule}
	tb.schedule.refresh.Publish(call)
	time.Sleep(beforeReturn)
	if call.published {
		tb.schedule.dispatchExcept(tb)
	}
}

// call is the context of an action: what it publishes waits for its return.
type call struct {
	schedule  *schedule
	published bool
}

func (c *call) SelfTopic() string { return "all" }

func (c *call) Publish(string, string, map[string]any) error {
	c.published = true
	c.schedule.note()
	return nil
}
