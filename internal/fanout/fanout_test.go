package fanout

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const shortest = DefaultInterval

// Tests run in a bubble of synctest, in which sleeping takes no time.

// pass lets time pass, and all that is due in it happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// page notes what it publishes. Its connections render a refresh one after the other.
type page struct {
	connections int
	each        time.Duration // to render a refresh; 0: the test calls refresh itself
	render      func()        // called before each render
	stuck       int           // connections that never render
	refreshed   func()
	dropped     atomic.Int64
	began       time.Time

	mu   sync.Mutex
	sent []sent
}

type sent struct {
	by, topic string
	after     time.Duration
}

// newPage returns a page, and what paces its refreshes.
func newPage(opts Options, connections int) (*page, *Peers) {
	p := &page{connections: connections, began: time.Now()}
	return p, New(opts).Peers(p)
}

func (p *page) Connections() int                                   { return p.connections }
func (p *page) OnRefresh(f func())                                 { p.refreshed = f }
func (p *page) Dropped() int                                       { return int(p.dropped.Load()) }
func (p *page) Publish(topic, _ string, data map[string]any) error { return p.note("page", topic) }

func (p *page) note(by, topic string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent = append(p.sent, sent{by, topic, time.Since(p.began)})
	if p.each > 0 || p.render != nil {
		go p.refresh(p.connections-p.stuck, p.each)
	}
	return nil
}

func (p *page) all() []sent {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.sent)
}

// gaps returns the times between refreshes.
func (p *page) gaps() (gaps []time.Duration) {
	all := p.all()
	for i := range all[1:] {
		gaps = append(gaps, all[i+1].after-all[i].after)
	}
	return gaps
}

// refresh renders a refresh for so many connections, each of which takes so long.
func (p *page) refresh(connections int, each time.Duration) {
	for range connections {
		time.Sleep(each)
		if p.render != nil {
			p.render()
		}
		p.refreshed()
	}
}

// action is the context of an action that publishes to a page.
type action struct{ *page }

func (a action) Publish(topic, _ string, _ map[string]any) error { return a.note("action", topic) }

// A steady stream of changes is one refresh per interval.
func TestRefresh_FirstGoesOutAtOnceAndOneFollowsTheLastChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, peers := newPage(Options{}, 0)
		want := []sent{{"action", "all", 0}}
		for range 500 {
			require.NoError(t, peers.Publish(action{p}, "all", "Changed"))
			assert.Equal(t, want[0], p.all()[0])
			pass(2 * time.Millisecond)
		}
		pass(10 * shortest)
		for i := range time.Second / shortest {
			want = append(want, sent{"page", "all", (i + 1) * shortest})
		}
		assert.Equal(t, want, p.all())
		assert.EqualValues(t, 500, peers.Asked())
		assert.EqualValues(t, 500-len(want), peers.Merged())

		rested := time.Since(p.began)
		peers.PublishTo("all", "Changed")
		assert.Equal(t, append(want, sent{"page", "all", rested}), p.all(), "after a rest the first goes out at once again")
	})
}

// A tab may have several topics, and a page several actions.
func TestRefresh_OneTopicOrActionDoesNotWaitForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, peers := newPage(Options{}, 0)
		for range 3 {
			peers.PublishTo("one", "Changed")
			peers.PublishTo("one", "Renamed")
			peers.PublishTo("two", "Changed")
		}
		pass(10 * shortest)
		assert.ElementsMatch(t, []sent{
			{"page", "one", 0}, {"page", "one", 0}, {"page", "two", 0},
			{"page", "one", shortest}, {"page", "one", shortest}, {"page", "two", shortest},
		}, p.all())
		assert.Empty(t, peers.running, "a topic at rest is not kept")
	})
}

// steady makes a change every millisecond.
func steady(d time.Duration, change func()) {
	for began := time.Now(); time.Since(began) < d; pass(time.Millisecond) {
		change()
	}
}

// The time until 95 % of the connections have rendered a refresh, divided by the budget, is
// the time until the next.
func TestRefresh_IntervalIsInProportionToTheRefresh(t *testing.T) {
	for name, row := range map[string]struct {
		budget      float64
		connections int
		each, want  time.Duration
		stuck       int
	}{
		"a fast refresh":               {0.5, 100, time.Microsecond, shortest, 0},
		"half of the time":             {0.5, 100, time.Millisecond, 192 * time.Millisecond, 0},
		"a fifth of the time":          {0.2, 100, time.Millisecond, 480 * time.Millisecond, 0},
		"one after the other":          {1, 100, time.Millisecond, 96 * time.Millisecond, 5},
		"next to no budget":            {1e-300, 100, time.Millisecond, longest, 0},
		"a refresh of seconds":         {0.5, 1000, 5 * time.Millisecond, 9510 * time.Millisecond, 0},
		"a few are stuck":              {0.5, 100, time.Millisecond, 192 * time.Millisecond, 5},
		"a small crowd is not awaited": {0.5, fewest - 1, 30 * time.Millisecond, shortest, 0},
		"a larger one is":              {0.5, fewest, 10 * time.Millisecond, 400 * time.Millisecond, 0},
		"one of a small crowd stuck":   {0.5, 2, time.Millisecond, shortest, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			p, peers := newPage(Options{Budget: row.budget}, row.connections)
			p.each, p.stuck = row.each, row.stuck
			peers.PublishTo("all", "Changed")
			for range 3 {
				peers.PublishTo("all", "Changed")
				pass(row.want + time.Millisecond)
			}
			gaps := p.gaps()
			require.Len(t, gaps, 3, name)
			for _, gap := range gaps {
				assert.InDelta(t, row.want, gap, float64(2*time.Millisecond), name)
			}
			pass(time.Minute)
		})
	}
}

// Many peers that are stuck slow one refresh, and not those that follow.
func TestRefresh_WhoIsStuckIsAwaitedOnce(t *testing.T) {
	for _, row := range []struct {
		stuck int
		gaps  []time.Duration
	}{
		{10, []time.Duration{90*time.Millisecond + stalled, 180 * time.Millisecond, 180 * time.Millisecond}},
		{100, []time.Duration{stalled, shortest, shortest}},
	} {
		synctest.Test(t, func(t *testing.T) {
			p, peers := newPage(Options{Budget: 0.5}, 100)
			p.each = time.Millisecond
			change := func() { peers.PublishTo("all", "Changed") }
			p.stuck = row.stuck
			steady(5*time.Second, change)
			for i, gap := range p.gaps()[:3] {
				assert.InDelta(t, row.gaps[i], gap, float64(2*time.Millisecond), "%d of %d are stuck", row.stuck, p.connections)
			}
			p.stuck = 0 // no more
			before := len(p.all())
			steady(5*time.Second, change)
			assert.InDelta(t, 190*time.Millisecond, p.gaps()[before+5], float64(2*time.Millisecond), "all are awaited again")
			pass(time.Second)
		})
	}
}

func TestRefresh_LongOneSlowsOnlyTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, peers := newPage(Options{Budget: 0.5}, 100)
		p.each = 20 * time.Millisecond
		peers.PublishTo("all", "Changed")
		pass(2 * time.Second)
		p.each = time.Microsecond
		steady(2*time.Second, func() { peers.PublishTo("all", "Changed") })
		assert.Equal(t, []time.Duration{2 * 96 * 20 * time.Millisecond, shortest, shortest}, p.gaps()[:3])
		pass(time.Second)
	})
}

// A quota lets the process render 25 times every 100 ms. Refreshes that take several periods
// stay within half of the quota.
func TestRefresh_StaysWithinItsShareOfAQuota(t *testing.T) {
	const portion, period, lasts = 25, 100 * time.Millisecond, time.Minute
	for _, connections := range []int{30, 50, 70, 100, 300, 1000} {
		synctest.Test(t, func(t *testing.T) {
			p, peers := newPage(Options{Budget: 0.5}, connections)
			var at time.Duration // the period in which it rendered last
			used, rendered, core := 0, atomic.Int64{}, make(chan bool, 1)
			p.render = func() {
				core <- true
				defer func() { <-core }()
				if now := time.Since(p.began).Truncate(period); now > at {
					at, used = now, 0
				} else if used == portion {
					time.Sleep(period - time.Since(p.began)%period)
					at, used = time.Since(p.began).Truncate(period), 0
				}
				used++
				rendered.Add(1)
			}
			steady(lasts, func() { peers.PublishTo("all", "Changed") })
			share := float64(rendered.Load()) / float64(portion*lasts/period)
			assert.LessOrEqual(t, share, 0.55, "%d connections", connections)
			assert.GreaterOrEqual(t, share, 0.25, "%d connections", connections)
			pass(time.Minute)
		})
	}
}

func TestRound_SuspensionOfTheProcessDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, peers := newPage(Options{}, 100)
		peers.PublishTo("all", "Changed")
		p.refresh(50, time.Millisecond)
		time.Sleep(time.Hour)
		p.refresh(50, time.Millisecond)
		taken, _ := peers.round.progress()
		assert.LessOrEqual(t, taken, 95*time.Millisecond+2*stalled)
	})
}

// Two refreshes, of two pages or of one, stay within the budget together and use it. Each
// gets its turn. Another page does not wait for them.
func TestFanout_RefreshesShareOneBudget(t *testing.T) {
	for _, pages := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			const lasts, took = 20 * time.Second, 95 * time.Millisecond
			f := New(Options{})
			newPage := func() (*page, *Peers) {
				p := &page{connections: 100, each: time.Millisecond, began: time.Now()}
				return p, f.Peers(p)
			}
			one, peers := newPage()
			two, others := one, peers
			if pages == 2 {
				two, others = newPage()
			}
			idle, idlers := newPage()
			steady(lasts, func() {
				peers.PublishTo("a", "Changed")
				others.PublishTo("b", "Renamed")
			})
			idlers.PublishTo("c", "Changed")
			assert.Len(t, idle.all(), 1)

			all := one.all()
			if pages == 2 {
				all = append(all, two.all()...)
			}
			var begins []time.Duration
			count := map[string]int{}
			for _, s := range all {
				begins = append(begins, s.after)
				count[s.topic]++
			}
			assert.InDelta(t, DefaultBudget, float64(len(all))*took.Seconds()/lasts.Seconds(), 0.05, "%d pages: their share", pages)
			assert.Greater(t, min(count["a"], count["b"]), len(all)/5, "%d pages: %v", pages, count)
			slices.Sort(begins)
			for i := 2; i < len(begins); i++ { // the first two went out at once
				assert.GreaterOrEqual(t, begins[i]-begins[i-1], took, "%d pages: two at once", pages)
			}
			pass(time.Second)
		})
	}
}

// The first of the changes that are merged counts, and 95 % of the tabs. A refresh that
// never ends is not measured, and does not keep later ones from it.
func TestOnRefreshed_MeasuresFromTheFirstChangeToTheLastWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, peers := newPage(Options{}, 100)
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
		change(shortest - 24*time.Millisecond)
		p.refresh(100, 0)
		pass(shortest)

		p.connections = 2 // one of which has made the change
		change(shortest)
		change(shortest)
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
		assert.Equal(t, []time.Duration{7 * time.Millisecond, shortest - 9*time.Millisecond, 2 * shortest, time.Millisecond}, all)
	})
}

// An action that hangs holds the one place of its connection for as long as it does.
func TestRefresh_IsPublishedAgainLessAndLessOftenWhileSomethingIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, peers := newPage(Options{}, 0)
		peers.PublishTo("all", "Changed")
		peers.PublishTo("all", "Renamed")
		for range 1000 {
			p.dropped.Add(1)
			pass(shortest)
		}
		assert.InDelta(t, 2*(4+1000/16), len(p.all()), 8)
		pass(2000 * shortest)
		assert.Empty(t, peers.running, "nothing is dropped any more")
	})
}

// It stays within the budget, and is not measured as the refresh of a change.
func TestRefresh_PublishedAgainWaitsForTheLastOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, peers := newPage(Options{}, 100)
		p.each = time.Millisecond
		observed := 0
		peers.OnRefreshed(func(time.Duration) { observed++ })
		peers.PublishTo("all", "Changed")
		peers.PublishTo("all", "Renamed")
		for range 100 {
			p.dropped.Add(1)
			pass(shortest)
		}
		gaps := p.gaps()
		require.Greater(t, len(gaps), 4)
		for _, gap := range gaps[1:] { // the first two went out at once
			assert.GreaterOrEqual(t, gap, 95*time.Millisecond)
		}
		assert.Equal(t, 1, observed)
		pass(time.Minute)
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
		pass(shortest)
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
			s := &schedule{t: t, late: upTo(shortest / 4), takes: upTo(shortest / 2), actions: 1 + random.IntN(len(values{})), crowd: random.IntN(20)}
			peers := New(Options{}).Peers(s)
			for range 1 + random.IntN(20) {
				tab, action := random.IntN(len(s.tabs)+1)-1, random.IntN(s.actions) // tab -1: it is a leave that nobody clicked
				thinks, ends := upTo(shortest/4), upTo(shortest/4)
				time.AfterFunc(upTo(8*shortest), func() {
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
				busy, lasts := random.IntN(len(s.tabs)), upTo(2*shortest)
				time.AfterFunc(upTo(8*shortest), func() {
					s.setBusy(busy, 1)
					time.Sleep(lasts)
					s.setBusy(busy, -1)
				})
			}
			pass(40 * (shortest + stalled))
			for tab := range s.tabs {
				require.Equal(t, s.value, s.tabs[tab].read, "seed %d: tab %d has not read the last values", seed, tab)
			}
			for action, published := range s.published {
				for i := 1; i < len(published); i++ {
					gap := published[i].Sub(published[i-1])
					require.GreaterOrEqual(t, gap, shortest, "seed %d: two refreshes %d", seed, action)
				}
			}
			require.Empty(t, peers.running)
		})
	}
}

// schedule is a page with a few tabs, which takes a while to publish. Its actions are
// numbers.
type schedule struct {
	t         *testing.T
	late      time.Duration
	takes     time.Duration // until a tab that is not busy runs an action
	actions   int
	crowd     int // connections that each tab stands for
	refreshed func()

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

func (s *schedule) Connections() int   { return s.crowd * len(s.tabs) }
func (s *schedule) OnRefresh(f func()) { s.refreshed = f }

func (s *schedule) Dropped() int {
	assert.Greater(s.t, s.actions, 1, "Dropped is called only if several actions are refreshes")
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
		for range s.crowd {
			s.refreshed()
		}
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
