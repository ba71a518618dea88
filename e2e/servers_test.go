package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// startServers runs so many copies of the program on a Redis server of their own.
func startServers(t testing.TB, n int) (*visitor.Redis, []*visitor.Program) {
	t.Helper()
	redis, exe := visitor.NewRedis(t), visitor.Build(t)
	servers := make([]*visitor.Program, n)
	for i := range servers {
		if i == 0 {
			servers[i] = visitor.StartExe(t, exe, "-redis", redis.URL)
		} else {
			servers[i] = visitor.StartWithRedisURL(t, redis.URL, exe)
		}
	}
	return redis, servers
}

func TestServers_ClickIsOnAnotherAtOnce(t *testing.T) {
	t.Parallel()
	_, servers := startServers(t, 2)
	here := visitor.OpenCrowd(t, servers[0].URL, visitor.CounterPage, 10)
	there := visitor.OpenCrowd(t, servers[1].URL, visitor.CounterPage, 10)
	const clicks = 1000
	here.Expect(clicks)
	there.Expect(clicks)
	require.Equal(t, clicks, here.ClickSteadily(200, 5*time.Second))
	require.True(t, here.AwaitNumber(visitor.Soon) && there.AwaitNumber(visitor.Soon), "all show %d", clicks)

	sameServer, otherServer := percentile(here.Delays(here), 99), percentile(there.Delays(here), 99)
	t.Logf("from a click to the tabs of its server %v, and of the other %v (p99 of %d)", sameServer, otherServer, clicks)
	assert.Less(t, otherServer, max(100*time.Millisecond, 2*sameServer), "unless the machine stands still: then it does on both")
}

// A click is announced once on its own server, and not again when the server hears of
// it from Redis.
func TestServers_AnnounceEveryClickOnce(t *testing.T) {
	t.Parallel()
	_, servers := startServers(t, 2)
	clicker := visitor.New(t, servers[0].URL)
	there := visitor.New(t, servers[1].URL).Open(visitor.CounterPage)
	const clicks, asked = 50, `realtime_refreshes_asked_total{action="RefreshCounter"}`
	for range clicks {
		clicker.Click()
	}
	there.Shows(fmt.Sprintf("Counter: %d ", clicks))
	visitor.New(t, servers[1].URL).Click() // heard of after all others
	visitor.New(t, servers[0].URL).Open(visitor.CounterPage).Shows(fmt.Sprintf("Counter: %d ", clicks+1))
	assert.EqualValues(t, clicks+1, servers[0].Metric(asked))
}

func TestServers_CountEveryClickOnce(t *testing.T) {
	t.Parallel()
	_, servers := startServers(t, 3)
	const tabs, perTab = 20, 50
	all := len(servers) * tabs * perTab
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.URL)
	}
	c := visitor.OpenCrowdOn(t, urls, visitor.CounterPage, len(servers)*tabs)
	c.Expect(int64(all))
	c.ClickAtOnce(all)
	assert.Zero(t, c.Agrees(all).Unanswered)
	for _, s := range servers {
		visitor.New(t, s.URL).Open(visitor.CounterPage).Shows(fmt.Sprintf("Counter: %d ", all))
		assert.EqualValues(t, tabs*perTab, s.Metrics()["realtime_clicks_total"], "each counts its own")
	}
}

func TestServers_ShareWhoIsOnline(t *testing.T) {
	t.Parallel()
	redis, servers := startServers(t, 2)
	a, b := servers[0], servers[1]
	alice, bob := visitor.New(t, a.URL), visitor.New(t, b.URL)
	onA, onB := alice.Open(visitor.PresencePage), bob.Open(visitor.PresencePage)
	onA.Join("Alice")
	onB.Join("Bob")
	for _, tb := range []*visitor.Tab{onA, onB} {
		tb.Shows("2 user(s) online")
		tb.Shows("Alice")
		tb.Shows("Bob")
	}
	for _, key := range redis.Keys(t.Context(), "{realtime}:server:*").Val() {
		assert.NotContains(t, fmt.Sprint(redis.HGetAll(t.Context(), key).Val()), alice.Session(), "Redis knows the cookie")
	}
	late := visitor.New(t, a.URL).Get(visitor.PresencePage)
	assert.Contains(t, late, "2 user(s) online")
	assert.Contains(t, late, "Bob")

	second := alice.At(b.URL).Open(visitor.PresencePage)
	second.Join("Alice")
	onB.Shows("in 2 tabs")
	onB.Shows("2 user(s) online")
	otherAlice := visitor.New(t, b.URL).Open(visitor.PresencePage)
	otherAlice.Join("Alice")
	onA.Shows("3 user(s) online")
	otherAlice.Leave()
	second.Close()
	onA.Shows("2 user(s) online")
	onA.ShowsNoMore("in 2 tabs")

	a.Kill()
	killed := time.Now()
	onB.Shows("1 user(s) online")
	onB.Never("Alice")
	assert.Less(t, time.Since(killed), 10*time.Second)
	assert.EqualValues(t, 1, b.Metrics()["realtime_users_online"])
}

// A reload may reach another server. It is not a leave, and nobody is counted twice.
func TestServers_ReloadOnAnotherIsNoLeave(t *testing.T) {
	t.Parallel()
	_, servers := startServers(t, 2)
	alice, watching := visitor.New(t, servers[0].URL), visitor.New(t, servers[1].URL).Open(visitor.PresencePage)
	tb := alice.Open(visitor.PresencePage)
	tb.Join("Alice")
	watching.Shows("1 user(s) online")
	watching.StartHistory()
	tb.Close()
	again := alice.At(servers[1].URL).Open(visitor.PresencePage)
	again.Join("Alice")
	again.Shows("Logged in as Alice")
	<-time.After(grace)
	watching.Settle()
	for _, text := range watching.HasRead() {
		assert.Contains(t, text, "1 user(s) online")
	}
	watching.Never("in 2 tabs")
}

// A server that stops gives its people back at once, not when its lease ends.
func TestServers_StopIsNoticedWithinASecond(t *testing.T) {
	t.Parallel()
	redis, servers := startServers(t, 2)
	onA, onB := visitor.New(t, servers[0].URL).Open(visitor.PresencePage), visitor.New(t, servers[1].URL).Open(visitor.PresencePage)
	visitor.New(t, servers[0].URL).Click()
	onA.Join("Alice")
	onB.Join("Bob")
	onB.Shows("2 user(s) online")
	stopped := time.Now()
	servers[0].Signal(syscall.SIGTERM)
	onB.Shows("1 user(s) online")
	assert.Less(t, time.Since(stopped), time.Second)

	assert.Equal(t, 0, servers[1].Stop(syscall.SIGTERM))
	<-servers[0].Exited
	assert.ElementsMatch(t, []string{"{realtime}:counter", "{realtime}:epoch"}, redis.Keys(t.Context(), "*").Val(), "what is left behind")
}

func TestServers_CounterSurvivesARestartOfAll(t *testing.T) {
	t.Parallel()
	redis, servers := startServers(t, 2)
	for _, s := range servers {
		for range 7 {
			visitor.New(t, s.URL).Click()
		}
	}
	for _, s := range servers {
		assert.Equal(t, 0, s.Stop(syscall.SIGTERM))
	}
	again := visitor.Start(t, "-redis", redis.URL)
	tb := visitor.New(t, again.URL).Open(visitor.CounterPage)
	tb.Shows("Counter: 14 ")
	tb.Increment()
	tb.Shows("Counter: 15 ")
}

func TestServers_LostSubscriptionLeavesNobodyStale(t *testing.T) {
	t.Parallel()
	redis, servers := startServers(t, 2)
	tb, clicker := visitor.New(t, servers[1].URL).Open(visitor.CounterPage), visitor.New(t, servers[0].URL).Open(visitor.CounterPage)
	var longest time.Duration
	for n := 1; n <= 20; n++ {
		killed, err := redis.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Result()
		require.NoError(t, err)
		assert.Positive(t, killed)
		begin := time.Now()
		clicker.Increment()
		tb.Shows(fmt.Sprintf("Counter: %d ", n))
		longest = max(longest, time.Since(begin))
	}
	t.Logf("a tab was stale for at most %v", longest)
	assert.Less(t, longest, 2*time.Second)
	assert.NotContains(t, servers[1].Log(), "level=WARN")
}

// Redis is away for 15 seconds, while people click and join.
func TestServers_RedisAway(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(*visitor.Redis) (end func()){
		"and back with its data": func(r *visitor.Redis) func() { r.Stop(); return r.Start },
		"and back empty":         func(r *visitor.Redis) func() { r.Stop(); r.Erase(); return r.Start },
		"without a word":         (*visitor.Redis).Freeze,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redis, servers := startServers(t, 2)
			var people, tabs []*visitor.Tab
			for i, s := range servers {
				tb := visitor.New(t, s.URL).Open(visitor.PresencePage)
				tb.Join(fmt.Sprint("early ", i))
				people = append(people, tb)
				tabs = append(tabs, visitor.New(t, s.URL).Open(visitor.CounterPage))
			}
			everybody := append(slices.Clone(people), tabs...)
			for _, tb := range people {
				tb.Shows("2 user(s) online")
			}
			stopClicking := clickOn(t, servers)

			<-time.After(200 * time.Millisecond)
			end := begin(redis)
			over := time.After(15 * time.Second)
			for _, tb := range everybody {
				tb.Shows("last known")
			}
			for i, s := range servers {
				assert.Contains(t, visitor.New(t, s.URL).Get("/readyz"), "degraded")
				assert.EqualValues(t, 0, s.Metrics()["realtime_redis_up"])
				before := tabs[i].Counter()
				tabs[i].Increment()
				tabs[i].Shows("did not count")
				assert.Equal(t, before, tabs[i].Counter())
				late := visitor.New(t, s.URL).Open(visitor.PresencePage)
				late.Shows("last known")
				late.Join(fmt.Sprint("late ", i))
				late.Shows("Logged in as late")
				late.Shows("3 user(s) online") // as far as it is known here
				people, everybody = append(people, late), append(everybody, late)
			}
			for _, tb := range people[:2] {
				tb.Shows("3 user(s) online")
				tb.StartHistory()
			}
			<-over
			end()
			back := time.Now()
			for _, tb := range everybody {
				tb.ShowsNoMore("last known")
			}
			for _, s := range servers {
				assert.Contains(t, visitor.New(t, s.URL).Get("/readyz"), "ready")
			}
			for _, tb := range people {
				tb.Shows("4 user(s) online")
			}
			took := time.Since(back)
			for _, tb := range people[:2] {
				for _, text := range tb.HasRead() {
					assert.NotContains(t, text, " 2 user(s) online", "nobody is gone for a moment")
				}
			}
			got := stopClicking()
			final := visitor.New(t, servers[0].URL).Open(visitor.CounterPage).Counter()
			t.Logf("all agreed %v after Redis was back; %+v, and the counter says %d", took, got, final)
			assert.Less(t, took, 5*time.Second)
			assert.GreaterOrEqual(t, final, got.counted, "every click that was acknowledged")
			assert.LessOrEqual(t, final, got.counted+got.unknown, "and none twice")
			assert.Positive(t, got.refused)
			for i, tb := range tabs {
				tb.Shows(fmt.Sprintf("Counter: %d ", final+i))
				assert.Contains(t, visitor.Readable(tb.HTML()), "did not count", "what became of a click stays")
				tb.Increment()
				tb.Shows(fmt.Sprintf("Counter: %d ", final+i+1))
				tb.Never("did not count")
			}
			for _, s := range servers {
				assert.Equal(t, 1, strings.Count(s.Log(), "redis is away"), "in the log:\n%s", s.Log())
				assert.Equal(t, 1, strings.Count(s.Log(), "redis is back"))
				assert.NotContains(t, s.Log(), "level=ERROR")
			}
		})
	}
}

// outcome counts the clicks of clickOn by what became of them.
type outcome struct{ counted, refused, unknown int }

// clickOn clicks on every server, by requests, until it is stopped.
func clickOn(t *testing.T, servers []*visitor.Program) (stop func() outcome) {
	var counted, refused, unknown atomic.Int64
	done := make(chan struct{})
	var clicking sync.WaitGroup
	for _, s := range servers {
		clicking.Go(func() {
			v := visitor.New(t, s.URL)
			for {
				select {
				case <-done:
					return
				case <-time.After(20 * time.Millisecond):
				}
				_, body := v.Request(http.MethodPost, visitor.CounterPage, "application/json", "application/json", `{"action":"increment"}`)
				var answer struct {
					Meta struct {
						Success bool
						Errors  map[string]string
					}
				}
				assert.NoError(t, json.Unmarshal([]byte(body), &answer))
				switch problem := answer.Meta.Errors["increment"]; {
				case answer.Meta.Success:
					counted.Add(1)
				case strings.Contains(problem, "did not count"):
					refused.Add(1)
				default:
					assert.Contains(t, problem, "may or may not have counted")
					unknown.Add(1)
				}
			}
		})
	}
	return func() outcome {
		close(done)
		clicking.Wait()
		return outcome{int(counted.Load()), int(refused.Load()), int(unknown.Load())}
	}
}

// Behind a balancer that sends every request elsewhere, pages work, and people whose
// server stops come back on another one, through the script of the page.
func TestBrowser_PeopleOfAServerThatStopsComeBackOnAnother(t *testing.T) {
	t.Parallel()
	_, servers := startServers(t, 2)
	address := visitor.NewBalancer(t, servers)
	var tabs []*browser.Tab
	for i := range 4 {
		tb := browser.New(t).OpenWindow(address + visitor.PresencePage)
		tb.Join(fmt.Sprint("Person ", i))
		tabs = append(tabs, tb)
	}
	watching := visitor.New(t, servers[1].URL).Open(visitor.PresencePage)
	watching.Shows("4 user(s) online")
	require.Positive(t, servers[0].Metrics()["realtime_connections"], "some are there")
	counters := []*browser.Tab{browser.New(t).OpenWindow(address + visitor.CounterPage), browser.New(t).OpenWindow(address + visitor.CounterPage)}
	for i, tb := range counters {
		tb.Click("increment")
		for _, other := range counters {
			other.Shows(fmt.Sprintf("Counter: %d", i+1))
		}
	}

	var below time.Duration // how long the count was too low, at a time
	var since time.Time
	begin := time.Now()
	servers[0].Signal(syscall.SIGTERM)
	for time.Since(begin) < 6*time.Second {
		<-time.After(5 * time.Millisecond)
		switch ok := strings.Contains(visitor.Readable(watching.HTML()), "4 user(s) online"); {
		case ok && !since.IsZero():
			below, since = max(below, time.Since(since)), time.Time{}
		case !ok && since.IsZero():
			since = time.Now()
		}
	}
	assert.Zero(t, since, "all are back")
	t.Logf("the count was below the truth for %v", below)
	assert.LessOrEqual(t, below, grace)
	for i, tb := range tabs {
		tb.Shows(fmt.Sprint("Logged in as Person ", i))
		tb.Shows("4 user(s) online")
		assert.Equal(t, 1, tb.Loads(), "without reload")
	}
	counters[0].Click("increment")
	counters[1].Shows("Counter: 3")
}
