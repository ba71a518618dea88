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

// outbox is a page that notes when it published, counted from the first time.
type outbox struct {
	connections int

	mu        sync.Mutex
	first     time.Time
	sent      []sent
	refreshed func()
}

func (o *outbox) Connections() int   { return o.connections }
func (o *outbox) OnRefresh(f func()) { o.refreshed = f }

type sent struct {
	by    string
	topic string
	after time.Duration
}

func (o *outbox) Publish(topic, action string, _ map[string]any) error {
	return o.note("page", topic)
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

func (o *outbox) last() (s sent) {
	for _, s = range o.all() {
	}
	return s
}

// action is the context of an action that publishes to an outbox.
type action struct{ *outbox }

func (a action) Publish(topic, _ string, _ map[string]any) error { return a.note("action", topic) }

func newPeers(opts Options) (*Fanout, *Peers, *outbox) {
	f, o := New(opts), &outbox{}
	return f, f.Peers(o), o
}

func TestRefresh_FirstGoesOutAtOnceAndOneFollowsTheLastChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, r, o := newPeers(Options{})
		for range 3 {
			require.NoError(t, r.Publish(action{o}, "all", "Changed"))
		}
		assert.Equal(t, []sent{{"action", "all", 0}}, o.all())
		pass(interval)
		assert.Equal(t, []sent{{"action", "all", 0}, {"page", "all", interval}}, o.all())
		pass(10 * interval)
		assert.Len(t, o.all(), 2, "nothing changed")

		require.NoError(t, r.Publish(action{o}, "all", "Changed"))
		assert.Equal(t, sent{"action", "all", 11 * interval}, o.last(), "after a rest the first goes out at once again")
		r.PublishTo("all", "Changed")
		pass(interval)
		assert.Equal(t, sent{"page", "all", 12 * interval}, o.last())
		pass(interval)
		r.PublishTo("all", "Changed")
		assert.Equal(t, sent{"page", "all", 13 * interval}, o.last(), "outside an action as well")
	})
}

func TestRefresh_SteadyStreamIsOnePerInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, r, o := newPeers(Options{})
		for range 500 {
			require.NoError(t, r.Publish(action{o}, "all", "Changed"))
			pass(2 * time.Millisecond)
		}
		pass(10 * interval)
		require.Len(t, o.all(), 21, "in one second, with the first and the last")
		for i, s := range o.all() {
			assert.Equal(t, time.Duration(i)*interval, s.after)
		}
	})
}

// A tab may have several topics, and a page several actions.
func TestRefresh_OneTopicOrActionDoesNotWaitForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, r, o := newPeers(Options{})
		for range 3 {
			r.PublishTo("one", "Changed")
			r.PublishTo("one", "Renamed")
			r.PublishTo("two", "Changed")
		}
		pass(10 * interval)
		assert.ElementsMatch(t, []sent{
			{"page", "one", 0}, {"page", "one", 0}, {"page", "two", 0},
			{"page", "one", interval}, {"page", "one", interval}, {"page", "two", interval},
		}, o.all())
		assert.Empty(t, r.waiting, "a topic at rest is not kept")
	})
}

// machine is a page on a machine whose CPU time the test decides.
type machine struct {
	outbox
	cores float64
	used  time.Duration
}

func (m *machine) options() Options {
	return Options{CPUTime: func() time.Duration { return m.used }, Cores: func() float64 { return m.cores }}
}

// refresh renders a refresh for every connection, each of which takes so much CPU time.
func (m *machine) refresh(connections int, cost time.Duration) {
	for range connections {
		m.used += cost
		m.refreshed()
	}
}

// changes publishes a change and lets the page refresh, again and again.
func (m *machine) changes(p *Peers, times int, cost time.Duration) {
	for range times {
		p.PublishTo("all", "Changed")
		m.refresh(m.connections, cost)
		pass(p.interval())
	}
}

func TestFanout_IntervalFollowsWhatARefreshCosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{cores: 2}
		f := New(m.options())
		p := f.Peers(m)
		learns := func(connections int, cost, want time.Duration) {
			t.Helper()
			m.connections = connections
			m.changes(p, 60, cost)
			assert.InEpsilon(t, want, p.interval(), 0.01, "%d connections at %v", connections, cost)
		}
		assert.Equal(t, DefaultInterval, p.interval(), "nothing is known yet")
		learns(1, time.Second, DefaultInterval) // too few to tell
		learns(100, 40*time.Microsecond, DefaultInterval)
		learns(1000, 400*time.Microsecond, 400*time.Millisecond)   // 400 ms of CPU time, on half of two cores
		learns(1000, 1400*time.Microsecond, 1400*time.Millisecond) // the list of names has grown
		m.cores = 0.5                                              // a quarter of the machine
		learns(1000, 1400*time.Microsecond, 4*1400*time.Millisecond)
		learns(100, 400*time.Microsecond, 160*time.Millisecond)

		// On the first refresh of a crowd, what is known is what it costs. Pages that
		// are being refreshed share the budget.
		pass(time.Minute)
		late := f.Peers(m)
		late.PublishTo("all", "Changed")
		m.refresh(m.connections, 4*time.Millisecond)
		assert.InEpsilon(t, 1600*time.Millisecond, late.interval(), 0.01)
		p.PublishTo("all", "Changed")
		assert.InEpsilon(t, (1600+160)*time.Millisecond, late.interval(), 0.01)
	})
}

func TestFanout_BudgetAndIntervalAreOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{cores: 1, outbox: outbox{connections: 1000}}
		opts := m.options()
		opts.Budget = 1
		all := New(opts).Peers(m)
		m.changes(all, 60, time.Millisecond)
		assert.InEpsilon(t, time.Second, all.interval(), 0.01)
		assert.Equal(t, time.Hour, New(Options{Interval: time.Hour}).Peers(m).interval())
	})
}

// What the process does beside a refresh counts in part: a single burst does not
// change much, and what happens after the refresh changes nothing.
func TestFanout_BurstChangesTheIntervalLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{cores: 1, outbox: outbox{connections: 1000}}
		p := New(m.options()).Peers(m)
		m.changes(p, 60, 100*time.Microsecond)
		before := p.interval()
		p.PublishTo("all", "Changed")
		m.used += 100 * time.Millisecond // as much as the refresh itself
		m.refresh(1000, 100*time.Microsecond)
		m.used += time.Hour
		pass(p.interval())
		assert.InEpsilon(t, before+before/8, p.interval(), 0.02)
	})
}

// A refresh that is not over at the end of its interval teaches as well, and so
// does one that a few connections never render.
func TestFanout_UnfinishedRefreshTeaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, rendered := range []int{10, 500, 960} {
			m := &machine{cores: 1, outbox: outbox{connections: 1000}}
			p := New(m.options()).Peers(m)
			p.PublishTo("all", "Changed")
			m.refresh(rendered, time.Millisecond)
			pass(p.interval())
			assert.InEpsilon(t, 2*time.Second, p.interval(), 0.01, "after %d of 1,000", rendered)
		}
	})
}

func TestAvailableCores_AreThoseOfTheLeastQuota(t *testing.T) {
	for name, row := range map[string]struct {
		groups string
		files  map[string]string
		want   float64
	}{
		"no limit":                  {"0::/app\n", map[string]string{"/sys/fs/cgroup/app/cpu.max": "max 100000\n"}, 8},
		"version 2":                 {"0::/app\n", map[string]string{"/sys/fs/cgroup/app/cpu.max": "25000 100000\n"}, 0.25},
		"version 2, of a parent":    {"0::/a/b\n", map[string]string{"/sys/fs/cgroup/a/b/cpu.max": "max 100000", "/sys/fs/cgroup/a/cpu.max": "150000 100000"}, 1.5},
		"version 2, in a container": {"0::/host/path\n", map[string]string{"/sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5},
		"version 1":                 {"3:cpu,cpuacct:/app\n0::/\n", map[string]string{"/sys/fs/cgroup/cpu/app/cpu.cfs_quota_us": "50000\n", "/sys/fs/cgroup/cpu/app/cpu.cfs_period_us": "100000\n"}, 0.5},
		"version 1, no limit":       {"1:cpu:/\n", map[string]string{"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 8},
		"more than the cores":       {"0::/\n", map[string]string{"/sys/fs/cgroup/cpu.max": "1600000 100000"}, 8},
		"another controller":        {"4:cpuset:/app\n", map[string]string{"/sys/fs/cgroup/cpu/app/cpu.cfs_quota_us": "50000", "/sys/fs/cgroup/cpu/app/cpu.cfs_period_us": "100000"}, 8},
		"nothing that is legible":   {"hello\n\n1:cpu:/\n", map[string]string{"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "much"}, 8},
	} {
		read := func(name string) ([]byte, error) {
			text, found := row.files[name]
			if name == "/proc/self/cgroup" {
				text, found = row.groups, true
			}
			if !found {
				return nil, errors.New("no such file")
			}
			return []byte(text), nil
		}
		assert.Equal(t, row.want, availableCores(8, read), name)
	}
	assert.Equal(t, 8.0, availableCores(8, func(string) ([]byte, error) { return nil, errors.New("not on Linux") }))
}

func TestOptions_DefaultsAskTheMachine(t *testing.T) {
	f := New(Options{})
	assert.Positive(t, f.opts.CPUTime())
	assert.Positive(t, f.opts.Cores())
	assert.LessOrEqual(t, f.opts.Cores(), float64(runtime.GOMAXPROCS(0)))
}

func TestStop_SendsWhatWaitsAndHoldsNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		New(Options{}).Stop(t.Context())
		assert.Zero(t, time.Since(begin), "there was nothing to wait for")

		f, r, o := newPeers(Options{})
		r.PublishTo("all", "Changed")
		r.PublishTo("all", "Changed")
		pass(interval / 4)
		f.Stop(t.Context())
		assert.Equal(t, []sent{{"page", "all", 0}, {"page", "all", interval / 4}}, o.all())
		assert.Equal(t, interval+interval/4, time.Since(begin), "an interval, for what is on its way")

		r.PublishTo("all", "Changed")
		r.PublishTo("all", "Changed")
		assert.Len(t, o.all(), 4)
		pass(10 * interval)
		assert.Len(t, o.all(), 4)
		f.Stop(t.Context())

		f, r, _ = newPeers(Options{})
		r.PublishTo("all", "Changed")
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

type refusing struct{ outbox }

func (*refusing) Publish(string, string, map[string]any) error { return errors.New("no such topic") }

func TestRefresh_RefusedTopicIsAnErrorAndNeverSilent(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{}).Peers(&refusing{})
		assert.Error(t, r.Publish(&refusing{}, "", "Changed"))
		assert.Empty(t, log.String())
		r.PublishTo("", "Changed") // merged: tried at the end of the interval
		pass(interval)
		assert.Contains(t, log.String(), "no such topic")
		assert.Contains(t, log.String(), "Changed")
	})
}

// After quiet, every subscriber has read the shared value after its last change:
// whenever changes, publishes, refreshes, new subscribers and the stop came.
func TestRefresh_NoScheduleLosesTheLastChange(t *testing.T) {
	for seed := range uint64(1000) {
		synctest.Test(t, func(t *testing.T) {
			s := &schedule{random: rand.New(rand.NewPCG(seed, 0)), fanout: New(Options{})}
			s.peers = s.fanout.Peers(s)
			s.run(t.Context())
			for i, tb := range s.tabs {
				require.Equal(t, s.value, tb.read, "seed %d: tab %d has not read the last value", seed, i)
			}
			for i := 1; i < len(s.published); i++ {
				gap := s.published[i].Sub(s.published[i-1])
				stopped := !s.stopped.IsZero() && !s.published[i].Before(s.stopped)
				require.True(t, gap >= interval || stopped, "seed %d: two refreshes within %v", seed, gap)
			}
		})
	}
}

// schedule is a page with a crowd of tabs that act as the framework lets them: each does
// one thing at a time, one refresh may wait for it, and more are dropped; what an action
// publishes goes out when the action is over, to all other tabs.
type schedule struct {
	random *rand.Rand
	fanout *Fanout
	peers  *Peers
	late   time.Duration // how long the page takes until it publishes, and afterwards

	mu        sync.Mutex
	value     int // what is shared
	tabs      []*tab
	published []time.Time
	stopped   time.Time
}

type tab struct {
	*schedule
	idle    chan bool // holds a token while the tab does nothing
	waiting chan bool // holds one while a refresh waits
	read    int       // the value as last read
}

// moment is up to two intervals, and often one of a few that others have as well.
func (s *schedule) moment() time.Duration {
	if s.random.IntN(2) == 0 {
		return time.Duration(s.random.IntN(9)) * interval / 4
	}
	return time.Duration(s.random.Int64N(int64(2 * interval)))
}

func (s *schedule) run(ctx context.Context) {
	s.late = s.moment() / 8
	var actors sync.WaitGroup
	at := func(moment time.Duration, act func()) {
		actors.Go(func() {
			time.Sleep(moment)
			act()
		})
	}
	for range 2 + s.random.IntN(3) {
		slow := s.moment() / 2
		var pauses []time.Duration
		for range s.random.IntN(6) {
			pauses = append(pauses, s.moment(), s.moment()/8, s.moment()/8)
		}
		at(s.moment(), func() {
			tb := s.open(ctx, slow)
			for ; len(pauses) > 0; pauses = pauses[3:] {
				time.Sleep(pauses[0])
				tb.act(pauses[1], pauses[2])
			}
		})
	}
	for range s.random.IntN(3) { // a leave that nobody clicked
		late := s.moment() / 8
		at(s.moment(), func() {
			s.locked(func() { s.value++ })
			time.Sleep(late)
			s.peers.PublishTo("all", "Changed")
		})
	}
	if s.random.IntN(2) == 0 {
		at(3*s.moment(), func() {
			s.locked(func() { s.stopped = time.Now() })
			s.fanout.Stop(ctx)
		})
	}
	actors.Wait()
	pass(10 * interval)
}

func (s *schedule) locked(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

func (s *schedule) Connections() int { return 0 }
func (s *schedule) OnRefresh(func()) {}

// Publish is the page's.
func (s *schedule) Publish(string, string, map[string]any) error {
	s.locked(func() { s.published = append(s.published, time.Now()) })
	time.Sleep(s.late)
	s.refreshAllBut(nil)
	time.Sleep(s.late)
	return nil
}

func (s *schedule) refreshAllBut(sender *tab) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, tb := range s.tabs {
		if tb != sender && len(tb.waiting) == 0 {
			tb.waiting <- true
		}
	}
}

// open subscribes a new tab, which then reads. From then on it runs the refreshes that
// wait; each reads first, and then takes its time.
func (s *schedule) open(ctx context.Context, slow time.Duration) *tab {
	tb := &tab{schedule: s, idle: make(chan bool, 1), waiting: make(chan bool, 1)}
	s.locked(func() { s.tabs = append(s.tabs, tb) })
	reread := func() { s.locked(func() { tb.read = s.value }) }
	reread()
	tb.idle <- true
	go func() {
		for {
			select {
			case <-tb.waiting:
				<-tb.idle
				reread()
				time.Sleep(slow)
				tb.idle <- true
			case <-ctx.Done():
				return
			}
		}
	}()
	return tb
}

// act changes the value, publishes a while later, and returns another while later.
func (tb *tab) act(beforePublish, beforeReturn time.Duration) {
	<-tb.idle
	tb.locked(func() {
		tb.value++
		tb.read = tb.value
	})
	time.Sleep(beforePublish)
	call := &call{schedule: tb.schedule}
	tb.peers.Publish(call, "all", "Changed")
	time.Sleep(beforeReturn)
	if call.published {
		tb.refreshAllBut(tb)
	}
	tb.idle <- true
}

// call is the context of an action: what it publishes waits for its return.
type call struct {
	*schedule
	published bool
}

func (c *call) Publish(string, string, map[string]any) error {
	c.published = true
	c.locked(func() { c.schedule.published = append(c.schedule.published, time.Now()) })
	return nil
}
