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
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const interval = DefaultInterval

// Tests run in a bubble of synctest, in which sleeping takes no time.

// pass lets time pass, and all that is due in it happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// page notes what it publishes, on a machine whose CPU time the test decides.
type page struct {
	connections int
	refreshed   func()
	cores       float64
	used        atomic.Int64 // nanoseconds
	began       time.Time

	mu   sync.Mutex
	sent []sent
}

type sent struct {
	by, topic string
	after     time.Duration
}

// newPage returns a page, and what paces its refreshes.
func newPage(opts Options, connections int) (*page, *Fanout, *Peers) {
	p := &page{cores: 1, connections: connections, began: time.Now()}
	opts.CPUTime, opts.Cores = func() time.Duration { return time.Duration(p.used.Load()) }, func() float64 { return p.cores }
	f := New(opts)
	return p, f, f.Peers(p)
}

func (p *page) Connections() int                                   { return p.connections }
func (p *page) OnRefresh(f func())                                 { p.refreshed = f }
func (p *page) Publish(topic, _ string, data map[string]any) error { return p.note("page", topic) }

func (p *page) note(by, topic string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent = append(p.sent, sent{by, topic, time.Since(p.began)})
	return nil
}

func (p *page) all() []sent {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.sent)
}

// refresh renders a refresh for so many connections, each of which takes so much CPU time.
func (p *page) refresh(connections int, cost time.Duration) {
	for range connections {
		p.used.Add(int64(cost))
		p.refreshed()
	}
}

// action is the context of an action that publishes to a page.
type action struct{ *page }

func (a action) Publish(topic, _ string, _ map[string]any) error { return a.note("action", topic) }

func TestRefresh_FirstGoesOutAtOnceAndOneFollowsTheLastChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, peers := newPage(Options{}, 0)
		for range 1000 {
			require.NoError(t, peers.Publish(action{p}, "all", "Changed"))
		}
		assert.Equal(t, []sent{{"action", "all", 0}}, p.all())
		pass(interval)
		assert.Equal(t, []sent{{"action", "all", 0}, {"page", "all", interval}}, p.all())
		assert.EqualValues(t, 1000, peers.Asked.Load())
		assert.EqualValues(t, 998, peers.Merged.Load())
		pass(10 * interval)
		assert.Len(t, p.all(), 2, "nothing changed")

		peers.PublishTo("all", "Changed")
		require.Len(t, p.all(), 3)
		assert.Equal(t, sent{"page", "all", 11 * interval}, p.all()[2], "after a rest the first goes out at once again")
	})
}

func TestRefresh_SteadyStreamIsOnePerInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, peers := newPage(Options{}, 0)
		for range 500 {
			require.NoError(t, peers.Publish(action{p}, "all", "Changed"))
			pass(2 * time.Millisecond)
		}
		pass(10 * interval)
		require.Len(t, p.all(), 21, "in one second, with the first and the last")
		for i, s := range p.all() {
			assert.Equal(t, time.Duration(i)*interval, s.after)
		}
	})
}

// A tab may have several topics, and a page several actions.
func TestRefresh_OneTopicOrActionDoesNotWaitForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, peers := newPage(Options{}, 0)
		for range 3 {
			peers.PublishTo("one", "Changed")
			peers.PublishTo("one", "Renamed")
			peers.PublishTo("two", "Changed")
		}
		pass(10 * interval)
		assert.ElementsMatch(t, []sent{
			{"page", "one", 0}, {"page", "one", 0}, {"page", "two", 0},
			{"page", "one", interval}, {"page", "one", interval}, {"page", "two", interval},
		}, p.all())
		assert.Empty(t, peers.waiting, "a topic at rest is not kept")
	})
}

func TestFanout_IntervalFollowsWhatARefreshCosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, f, peers := newPage(Options{}, 0)
		learns := func(connections int, cost, want time.Duration) {
			t.Helper()
			p.connections = connections
			for range 60 {
				peers.PublishTo("all", "Changed")
				p.refresh(connections, cost)
				p.used.Add(int64(time.Second)) // of something else
				pass(peers.interval())
			}
			assert.InEpsilon(t, want, peers.interval(), 0.01, "%d connections at %v", connections, cost)
		}
		assert.Equal(t, DefaultInterval, peers.interval(), "nothing is known yet")
		learns(fewest-1, time.Second, DefaultInterval) // too few to tell
		learns(100, 40*time.Microsecond, DefaultInterval)
		learns(1000, 400*time.Microsecond, 800*time.Millisecond) // 400 ms of CPU time, on half of a core
		p.cores = 2
		learns(1000, 1400*time.Microsecond, 1400*time.Millisecond)
		learns(100, 1600*time.Microsecond, 160*time.Millisecond)

		// A single burst does not change much.
		peers.PublishTo("all", "Changed")
		p.refresh(100, 3200*time.Microsecond)
		assert.InEpsilon(t, 180*time.Millisecond, peers.interval(), 0.01)
		learns(100, 1600*time.Microsecond, 160*time.Millisecond)

		// A refresh that is not over at the end of its interval teaches as well. Pages
		// that are being refreshed share the budget.
		pass(time.Minute)
		late := f.Peers(p)
		late.PublishTo("all", "Changed")
		p.refresh(10, 16*time.Millisecond)
		pass(late.interval())
		assert.InEpsilon(t, 1600*time.Millisecond, late.interval(), 0.01)
		peers.PublishTo("all", "Changed")
		assert.InEpsilon(t, (1600+160)*time.Millisecond, late.interval(), 0.01)
	})
}

func TestFanout_BudgetAndIntervalAreOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, peers := newPage(Options{Budget: 1, Interval: time.Minute}, 1000)
		assert.Equal(t, time.Minute, peers.interval())
		peers.PublishTo("all", "Changed")
		p.refresh(1000, time.Second)
		assert.InEpsilon(t, 1000*time.Second, peers.interval(), 0.01)
	})
}

// The first of the changes that are merged counts, and 95 % of the tabs. A refresh that
// never ends is not measured, and does not keep later ones from it.
func TestOnRefreshed_MeasuresFromTheFirstChangeToTheLastWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, peers := newPage(Options{}, 100)
		var all []time.Duration
		peers.OnRefreshed(func(took time.Duration) { all = append(all, took) })
		change := func(wait time.Duration) {
			peers.PublishTo("all", "Changed")
			pass(wait)
		}
		change(3 * time.Millisecond)
		p.refresh(94, 0)
		assert.Empty(t, all)
		pass(4 * time.Millisecond)
		p.refresh(6, 0)
		pass(3 * time.Millisecond)
		change(15 * time.Millisecond) // waits from 10 ms on
		change(interval - 24*time.Millisecond)
		p.refresh(100, 0)
		pass(interval)

		p.connections = 2 // one of which has made the change
		change(interval)
		change(interval)
		p.refresh(1, 0)
		p.connections = 10
		change(time.Millisecond)
		p.refresh(5, 0) // the others close
		pass(giveUp)
		p.refresh(4, 0) // of something else, much later
		change(time.Millisecond)
		p.refresh(5, 0)
		pass(giveUp)
		change(time.Millisecond)
		p.refresh(9, 0)
		assert.Equal(t, []time.Duration{7 * time.Millisecond, interval - 9*time.Millisecond, 2 * interval, time.Millisecond}, all)
	})
}

func TestAvailableCores_AreThoseOfTheLeastQuota(t *testing.T) {
	type files map[string]string // below /sys/fs/cgroup
	for name, row := range map[string]struct {
		groups string
		files  files
		want   float64
	}{
		"version 2":                 {"0::/app\n", files{"/app/cpu.max": "25000 100000\n"}, 0.25},
		"version 2, of a parent":    {"0::/a/b\n", files{"/a/b/cpu.max": "max 100000\n", "/a/cpu.max": "150000 100000\n"}, 1.5},
		"version 2, in a container": {"0::/host/path\n", files{"/cpu.max": "50000 100000\n"}, 0.5},
		"version 1": {"3:cpu,cpuacct:/app\n0::/\n",
			files{"/cpu/app/cpu.cfs_quota_us": "50000\n", "/cpu/app/cpu.cfs_period_us": "100000\n"}, 0.5},
		"version 1, no limit":     {"1:cpu:/\n", files{"/cpu/cpu.cfs_quota_us": "-1\n", "/cpu/cpu.cfs_period_us": "100000\n"}, 8},
		"more than the cores":     {"0::/\n", files{"/cpu.max": "1600000 100000\n"}, 8},
		"another controller":      {"4:cpuset:/\n", files{"/cpu/cpu.cfs_quota_us": "50000\n", "/cpu/cpu.cfs_period_us": "100000\n"}, 8},
		"nothing that is legible": {"hello\n\n1:cpu:/\n", files{"/cpu/cpu.cfs_quota_us": "much\n"}, 8},
	} {
		all := map[string]string{"/proc/self/cgroup": row.groups}
		for name, text := range row.files {
			all["/sys/fs/cgroup"+name] = text
		}
		assert.Equal(t, row.want, availableCores(8, func(name string) ([]byte, error) {
			if text, found := all[name]; found {
				return []byte(text), nil
			}
			return nil, errors.New("no such file")
		}), name)
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
		p, f, _ := newPage(Options{}, 0)
		f.Stop(t.Context())
		assert.Zero(t, time.Since(p.began), "there was nothing to wait for")

		p, f, peers := newPage(Options{}, 0)
		peers.PublishTo("all", "Changed")
		peers.PublishTo("all", "Changed")
		pass(interval / 4)
		f.Stop(t.Context())
		assert.Equal(t, []sent{{"page", "all", 0}, {"page", "all", interval / 4}}, p.all())
		assert.Equal(t, interval+interval/4, time.Since(p.began), "an interval, for what is on its way")
		peers.PublishTo("all", "Changed")
		peers.PublishTo("all", "Changed")
		assert.Len(t, p.all(), 4, "published at once")
		f.Stop(t.Context())

		p, f, peers = newPage(Options{}, 0)
		peers.PublishTo("all", "Changed")
		ctx, cancel := context.WithTimeout(t.Context(), interval/2)
		defer cancel()
		f.Stop(ctx)
		assert.Equal(t, interval/2, time.Since(p.began), "as long as its context allows")
	})
}

type refusing struct{ page }

func (*refusing) Publish(string, string, map[string]any) error { return errors.New("no such topic") }

func TestRefresh_RefusedTopicIsAnErrorAndNeverSilent(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	synctest.Test(t, func(t *testing.T) {
		peers := New(Options{}).Peers(&refusing{})
		assert.Error(t, peers.Publish(&refusing{}, "", "Changed"))
		assert.Empty(t, log.String())
		peers.PublishTo("", "Changed") // merged: tried at the end of the interval
		pass(interval)
		assert.Contains(t, log.String(), `action=Changed error="no such topic"`)
	})
}

// After quiet, every tab has read the shared value after its last change: whenever
// changes, publishes, new tabs and the stop came.
func TestRefresh_NoScheduleLosesTheLastChange(t *testing.T) {
	for seed := range uint64(1000) {
		synctest.Test(t, func(t *testing.T) {
			s := &schedule{seed: seed}
			s.run(t.Context())
			for i, read := range s.read {
				require.Equal(t, s.value, read, "seed %d: tab %d has not read the last value", seed, i)
			}
			for i := 1; i < len(s.published); i++ {
				gap := s.published[i].Sub(s.published[i-1])
				stopped := !s.stopped.IsZero() && !s.published[i].Before(s.stopped)
				require.True(t, gap >= interval || stopped, "seed %d: two refreshes within %v", seed, gap)
			}
		})
	}
}

// schedule is a page with a few tabs. What an action publishes goes out when the action
// is over, to all other tabs.
type schedule struct {
	seed   uint64
	actors uint64
	acting sync.WaitGroup

	mu        sync.Mutex
	value     int    // what is shared
	read      [4]int // the value as each tab has read it last
	published []time.Time
	stopped   time.Time
}

// start runs an actor. Its pauses are up to two intervals long, and often as long as
// somebody else's, divided by by.
func (s *schedule) start(act func(random *rand.Rand, pause func(by time.Duration))) {
	random := rand.New(rand.NewPCG(s.seed, s.actors))
	s.actors++
	s.acting.Go(func() {
		act(random, func(by time.Duration) {
			d := time.Duration(random.Int64N(int64(2 * interval)))
			if random.IntN(2) == 0 {
				d = time.Duration(random.IntN(9)) * interval / 4
			}
			time.Sleep(d / by)
		})
	})
}

func (s *schedule) run(ctx context.Context) {
	f := New(Options{})
	peers := f.Peers(s)
	for i := range s.read {
		s.start(func(random *rand.Rand, pause func(by time.Duration)) {
			pause(1)
			s.locked(func() { s.read[i] = s.value }) // the tab opens
			for range random.IntN(6) {
				pause(1)
				s.locked(func() {
					s.value++
					s.read[i] = s.value
				})
				pause(8)
				c := &call{schedule: s}
				peers.Publish(c, "all", "Changed")
				pause(8)
				if c.published {
					s.refreshAllBut(i)
				}
			}
		})
	}
	s.start(func(_ *rand.Rand, pause func(by time.Duration)) { // a leave that nobody clicked
		pause(1)
		s.locked(func() { s.value++ })
		pause(8)
		peers.PublishTo("all", "Changed")
	})
	if s.seed%2 == 0 {
		s.start(func(_ *rand.Rand, pause func(by time.Duration)) {
			for range 3 {
				pause(1)
			}
			s.locked(func() { s.stopped = time.Now() })
			f.Stop(ctx)
		})
	}
	s.acting.Wait()
	pass(10 * interval)
}

func (s *schedule) locked(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

func (s *schedule) Connections() int { return 0 }
func (s *schedule) OnRefresh(func()) {}

// Publish is the page's. It takes a while.
func (s *schedule) Publish(string, string, map[string]any) error {
	s.locked(func() { s.published = append(s.published, time.Now()) })
	late := time.Duration(s.seed%8) * interval / 32
	time.Sleep(late)
	s.refreshAllBut(-1)
	time.Sleep(late)
	return nil
}

func (s *schedule) refreshAllBut(sender int) {
	s.locked(func() {
		for i := range s.read {
			if i != sender {
				s.read[i] = s.value
			}
		}
	})
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
