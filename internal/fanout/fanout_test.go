package fanout

import (
	"bytes"
	"cmp"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
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
	dropped     atomic.Int64
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
func (p *page) Merges(string)                                      {}
func (p *page) Dropped() int                                       { return int(p.dropped.Load()) }
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

// A steady stream of changes is one refresh per interval.
func TestRefresh_FirstGoesOutAtOnceAndOneFollowsTheLastChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, peers := newPage(Options{}, 0)
		want := []sent{{"action", "all", 0}}
		for range 500 {
			require.NoError(t, peers.Publish(action{p}, "all", "Changed"))
			assert.Equal(t, want[0], p.all()[0])
			pass(2 * time.Millisecond)
		}
		pass(10 * interval)
		for i := range time.Second / interval {
			want = append(want, sent{"page", "all", (i + 1) * interval})
		}
		assert.Equal(t, want, p.all())
		assert.EqualValues(t, 500, peers.Asked.Load())
		assert.EqualValues(t, 500-len(want), peers.Merged.Load())

		rested := time.Since(p.began)
		peers.PublishTo("all", "Changed")
		assert.Equal(t, append(want, sent{"page", "all", rested}), p.all(), "after a rest the first goes out at once again")
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

		peers.fanout.opts.Budget = 1e-300
		assert.Equal(t, longest, peers.interval())
		peers.fanout.opts.Budget = DefaultBudget

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
	const v1Quota, v1Period = "/cpu/cpu.cfs_quota_us", "/cpu/cpu.cfs_period_us"
	for name, row := range map[string]struct {
		groups string
		files  map[string]string // below /sys/fs/cgroup
		want   float64
	}{
		"version 2":                 {"0::/app\n", map[string]string{"/app/cpu.max": "25000 100000\n"}, 0.25},
		"version 2, of a parent":    {"0::/a/b\n", map[string]string{"/a/b/cpu.max": "max 100000\n", "/a/cpu.max": "150000 100000\n"}, 1.5},
		"version 2, in a container": {"0::/host/path\n", map[string]string{"/cpu.max": "50000 100000\n"}, 0.5},
		"version 1": {"3:cpu,cpuacct:/app\n0::/\n",
			map[string]string{"/cpu/app/cpu.cfs_quota_us": "50000\n", "/cpu/app/cpu.cfs_period_us": "100000\n"}, 0.5},
		"version 1, no limit":     {"1:cpu:/\n", map[string]string{v1Quota: "-1\n", v1Period: "100000\n"}, 8},
		"more than the cores":     {"0::/\n", map[string]string{"/cpu.max": "1600000 100000\n"}, 8},
		"another controller":      {"4:cpuset:/\n", map[string]string{v1Quota: "50000\n", v1Period: "100000\n"}, 8},
		"nothing that is legible": {"hello\n\n1:cpu:/\n", map[string]string{v1Quota: "much\n"}, 8},
		"not on Linux":            {},
	} {
		assert.Equal(t, cmp.Or(row.want, 8), availableCores(8, func(name string) ([]byte, error) {
			if name == "/proc/self/cgroup" && row.groups != "" {
				return []byte(row.groups), nil
			}
			if text, found := row.files[strings.TrimPrefix(name, "/sys/fs/cgroup")]; found {
				return []byte(text), nil
			}
			return nil, fs.ErrNotExist
		}), name)
	}
	f := New(Options{}) // asks this machine
	assert.Positive(t, f.opts.CPUTime())
	assert.Positive(t, f.opts.Cores())
	assert.LessOrEqual(t, f.opts.Cores(), float64(runtime.GOMAXPROCS(0)))
}

// An action that hangs holds the one place of its connection for as long as it does.
func TestRefresh_IsPublishedAgainLessAndLessOftenWhileSomethingIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, peers := newPage(Options{}, 0)
		peers.PublishTo("all", "Changed")
		peers.PublishTo("all", "Renamed")
		for range 1000 {
			p.dropped.Add(1)
			pass(interval)
		}
		assert.InDelta(t, 2*(4+1000/16), len(p.all()), 8)
		pass(2000 * interval)
		assert.Empty(t, peers.waiting, "nothing is dropped any more")
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

// Whenever changes and publishes come, and whenever a tab is busy: after quiet, every tab
// has read what is shared after its last change.
func TestRefresh_NoScheduleLosesTheLastChange(t *testing.T) {
	for seed := range uint64(1000) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			upTo := func(most time.Duration) time.Duration {
				if random.IntN(2) == 0 {
					return time.Duration(random.IntN(9)) * most / 8 // at the same time as others
				}
				return time.Duration(random.Int64N(int64(most)))
			}
			s := &schedule{t: t, late: upTo(interval / 4), takes: upTo(interval / 2), actions: 1 + random.IntN(len(values{}))}
			peers := New(Options{}).Peers(s)
			for range 1 + random.IntN(20) {
				tab, action := random.IntN(len(s.tabs)+1)-1, random.IntN(s.actions) // tab -1: it is a leave that nobody clicked
				thinks, ends := upTo(interval/4), upTo(interval/4)
				time.AfterFunc(upTo(8*interval), func() {
					s.change(tab, action)
					time.Sleep(thinks)
					if tab < 0 {
						peers.PublishTo("all", strconv.Itoa(action))
						return
					}
					c := &call{schedule: s}
					peers.Publish(c, "all", strconv.Itoa(action))
					time.Sleep(ends)
					if c.published {
						s.refreshAllBut(tab, action)
					}
				})
				busy, lasts := random.IntN(len(s.tabs)), upTo(2*interval)
				time.AfterFunc(upTo(8*interval), func() {
					s.setBusy(busy, 1)
					time.Sleep(lasts)
					s.setBusy(busy, -1)
				})
			}
			pass(40 * interval)
			for tab := range s.tabs {
				require.Equal(t, s.value, s.tabs[tab].read, "seed %d: tab %d has not read the last values", seed, tab)
			}
			for action, published := range s.published {
				for i := 1; i < len(published); i++ {
					gap := published[i].Sub(published[i-1])
					require.GreaterOrEqual(t, gap, interval, "seed %d: two refreshes %d", seed, action)
				}
			}
			require.Empty(t, peers.waiting)
		})
	}
}

// schedule is a page with a few tabs, which takes a while to publish. Its actions are
// numbers.
type schedule struct {
	t       *testing.T
	late    time.Duration
	takes   time.Duration // until a tab that is not busy runs an action
	actions int

	mu        sync.Mutex
	value     values // what is shared, and each action reads
	tabs      [4]tab
	dropped   int
	published [len(values{})][]time.Time
}

type values [3]int

type tab struct {
	read  values // what was shared when it has read that last
	busy  int
	waits []int // the action that waits, if any
}

func (s *schedule) Connections() int { return 0 }
func (s *schedule) OnRefresh(func()) {}
func (s *schedule) Merges(string)    {}

func (s *schedule) Dropped() int {
	assert.Greater(s.t, s.actions, 1, "asked in vain")
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

func (s *schedule) Publish(_, name string, _ map[string]any) error {
	action := s.note(name)
	time.Sleep(s.late)
	s.refreshAllBut(-1, action)
	time.Sleep(s.late)
	return nil
}

func (s *schedule) note(name string) (action int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	action, _ = strconv.Atoi(name)
	s.published[action] = append(s.published[action], time.Now())
	return action
}

// change changes a value, in an action of a tab or without one.
func (s *schedule) change(tab, action int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value[action]++
	if tab >= 0 {
		s.tabs[tab].read[action] = s.value[action]
	}
}

func (s *schedule) refreshAllBut(sender, action int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.tabs {
		switch tab := &s.tabs[i]; {
		case i == sender:
		case len(tab.waits) > 0:
			s.dropped++
		default:
			tab.waits = []int{action}
			time.AfterFunc(s.takes, func() { s.setBusy(i, 0) })
		}
	}
}

// setBusy makes a tab busy, or lets it go on. If it is not busy it runs the action that waits.
func (s *schedule) setBusy(i, more int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tab := &s.tabs[i]
	tab.busy += more
	if tab.busy > 0 {
		return
	}
	for _, action := range tab.waits {
		tab.read[action] = s.value[action]
	}
	tab.waits = nil
}

// call is the context of an action: what it publishes waits for its return.
type call struct {
	*schedule
	published bool
}

func (c *call) Publish(_, name string, _ map[string]any) error {
	c.published = true
	c.note(name)
	return nil
}
