package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/presence"
	"realtime/internal/testenv"
)

// Several copies of the built program, on one real Redis server.

// startServers runs so many copies of the program on a Redis server of their own.
func startServers(t testing.TB, n int) (*testenv.Redis, []*program) {
	t.Helper()
	redis, exe := testenv.NewRedis(t), build(t)
	servers := make([]*program, n)
	for i := range servers {
		if i == 0 {
			servers[i] = start(t, exe, "-redis", redis.URL, "-admin-addr", "127.0.0.1:0")
		} else {
			servers[i] = startWith(t, redis.URL, exe, "-admin-addr", "127.0.0.1:0")
		}
	}
	return redis, servers
}

// at is the same browser at another server.
func (v *visitor) at(server string) *visitor {
	return &visitor{t: v.t, base: server, client: v.client}
}

func TestServers_ClickIsOnAnotherAtOnce(t *testing.T) {
	t.Parallel()
	_, servers := startServers(t, 2)
	here := openCrowd(t, servers[0].url, counterPage, 10)
	there := openCrowd(t, servers[1].url, counterPage, 10)
	const clicks = 1000
	here.expect(clicks)
	there.expect(clicks)
	require.Equal(t, clicks, here.clickSteadily(200, 5*time.Second))
	require.True(t, here.awaitNumber(soon) && there.awaitNumber(soon), "all show %d", clicks)

	sameServer, otherServer := percentile(here.delays(here), 99), percentile(there.delays(here), 99)
	t.Logf("from a click to the tabs of its server %v, and of the other %v (p99 of %d)", sameServer, otherServer, clicks)
	assert.Less(t, otherServer, max(100*time.Millisecond, 2*sameServer), "unless the machine stands still: then it does on both")
}

// delays is how long it took until the tabs showed each click of a crowd.
func (c *crowd) delays(clickers *crowd) (delays []time.Duration) {
	for number, clicked := range clickers.clicks() {
		for _, tb := range c.tabs {
			tb.mu.Lock()
			i, found := slices.BinarySearchFunc(tb.seen, number, func(s sight, n int64) int { return int(s.first - n) })
			if !found {
				i-- // it came with the one before
			}
			delays = append(delays, tb.seen[i].at.Sub(clicked))
			tb.mu.Unlock()
		}
	}
	return delays
}

func TestServers_CountEveryClickOnce(t *testing.T) {
	t.Parallel()
	_, servers := startServers(t, 3)
	const tabs, perTab = 20, 50
	all := len(servers) * tabs * perTab
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.url)
	}
	c := openCrowdOn(t, urls, counterPage, len(servers)*tabs)
	c.expect(int64(all))
	c.clickAtOnce(all)
	assert.Zero(t, c.agrees(all).unanswered)
	for _, s := range servers {
		newVisitor(t, s.url).open(counterPage).shows(fmt.Sprintf("Counter: %d ", all))
		assert.EqualValues(t, tabs*perTab, s.metrics(t)["realtime_clicks_total"], "each counts its own")
	}
}

func TestServers_ShareWhoIsOnline(t *testing.T) {
	t.Parallel()
	redis, servers := startServers(t, 2)
	a, b := servers[0], servers[1]
	alice, bob := newVisitor(t, a.url), newVisitor(t, b.url)
	onA, onB := alice.open(presencePage), bob.open(presencePage)
	onA.join("Alice")
	onB.join("Bob")
	for _, tb := range []*tab{onA, onB} {
		tb.shows("2 user(s) online")
		tb.shows("Alice")
		tb.shows("Bob")
	}
	for _, key := range redis.Keys(t.Context(), "{realtime}:server:*").Val() {
		assert.NotContains(t, fmt.Sprint(redis.HGetAll(t.Context(), key).Val()), alice.session(), "Redis knows the cookie")
	}
	late := newVisitor(t, a.url).get(presencePage)
	assert.Contains(t, late, "2 user(s) online")
	assert.Contains(t, late, "Bob")

	second := alice.at(b.url).open(presencePage)
	second.join("Alice")
	onB.shows("in 2 tabs")
	onB.shows("2 user(s) online")
	otherAlice := newVisitor(t, b.url).open(presencePage)
	otherAlice.join("Alice")
	onA.shows("3 user(s) online")
	otherAlice.leave()
	second.close()
	onA.shows("2 user(s) online")
	onA.showsNoMore("in 2 tabs")

	a.cmd.Process.Kill()
	killed := time.Now()
	onB.shows("1 user(s) online")
	onB.never("Alice")
	assert.Less(t, time.Since(killed), 10*time.Second)
	assert.EqualValues(t, 1, b.metrics(t)["realtime_users_online"])
}

// A reload may end up on another server: that is no leave, and nobody is there twice.
func TestServers_ReloadOnAnotherIsNoLeave(t *testing.T) {
	t.Parallel()
	_, servers := startServers(t, 2)
	alice, watching := newVisitor(t, servers[0].url), newVisitor(t, servers[1].url).open(presencePage)
	tb := alice.open(presencePage)
	tb.join("Alice")
	watching.shows("1 user(s) online")
	watching.startHistory()
	tb.close()
	again := alice.at(servers[1].url).open(presencePage)
	again.join("Alice")
	again.shows("Logged in as Alice")
	<-time.After(presence.DefaultGrace)
	watching.settle()
	for _, text := range watching.hasRead() {
		assert.Contains(t, text, "1 user(s) online")
	}
	watching.never("in 2 tabs")
}

// A server that stops gives its people back at once, not when its lease ends.
func TestServers_StopIsNoticedWithinASecond(t *testing.T) {
	t.Parallel()
	redis, servers := startServers(t, 2)
	onA, onB := newVisitor(t, servers[0].url).open(presencePage), newVisitor(t, servers[1].url).open(presencePage)
	newVisitor(t, servers[0].url).click()
	onA.join("Alice")
	onB.join("Bob")
	onB.shows("2 user(s) online")
	stopped := time.Now()
	require.NoError(t, servers[0].cmd.Process.Signal(syscall.SIGTERM))
	onB.shows("1 user(s) online")
	assert.Less(t, time.Since(stopped), time.Second)

	assert.Equal(t, 0, servers[1].stop(t, syscall.SIGTERM))
	<-servers[0].exited
	assert.ElementsMatch(t, []string{"{realtime}:counter", "{realtime}:epoch"}, redis.Keys(t.Context(), "*").Val(), "what is left behind")
}

func TestServers_CounterSurvivesARestartOfAll(t *testing.T) {
	t.Parallel()
	redis, servers := startServers(t, 2)
	for _, s := range servers {
		for range 7 {
			newVisitor(t, s.url).click()
		}
	}
	for _, s := range servers {
		assert.Equal(t, 0, s.stop(t, syscall.SIGTERM))
	}
	again := start(t, build(t), "-redis", redis.URL)
	tb := newVisitor(t, again.url).open(counterPage)
	tb.shows("Counter: 14 ")
	tb.increment()
	tb.shows("Counter: 15 ")
}

func TestServers_LostSubscriptionLeavesNobodyStale(t *testing.T) {
	t.Parallel()
	redis, servers := startServers(t, 2)
	tb, clicker := newVisitor(t, servers[1].url).open(counterPage), newVisitor(t, servers[0].url).open(counterPage)
	var longest time.Duration
	for n := 1; n <= 20; n++ {
		killed, err := redis.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Result()
		require.NoError(t, err)
		assert.Positive(t, killed)
		begin := time.Now()
		clicker.increment()
		tb.shows(fmt.Sprintf("Counter: %d ", n))
		longest = max(longest, time.Since(begin))
	}
	t.Logf("a tab was stale for at most %v", longest)
	assert.Less(t, longest, 2*time.Second)
	assert.NotContains(t, servers[1].log(t), "level=WARN")
}

// Redis is away for 15 seconds, under clicks and joins.
func TestServers_RedisAway(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(*testenv.Redis) (end func()){
		"and back with its data": func(r *testenv.Redis) func() { r.Stop(); return r.Start },
		"and back empty":         func(r *testenv.Redis) func() { r.Stop(); r.Erase(); return r.Start },
		"without a word":         (*testenv.Redis).Freeze,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redis, servers := startServers(t, 2)
			var people, tabs []*tab
			for i, s := range servers {
				tb := newVisitor(t, s.url).open(presencePage)
				tb.join(fmt.Sprint("early ", i))
				people = append(people, tb)
				tabs = append(tabs, newVisitor(t, s.url).open(counterPage))
			}
			everybody := append(slices.Clone(people), tabs...)
			for _, tb := range people {
				tb.shows("2 user(s) online")
			}
			stopClicking := clickOn(t, servers)

			<-time.After(200 * time.Millisecond)
			end := begin(redis)
			over := time.After(15 * time.Second)
			for _, tb := range everybody {
				tb.shows("last known")
			}
			for i, s := range servers {
				assert.Contains(t, newVisitor(t, s.url).get("/readyz"), "degraded")
				assert.EqualValues(t, 0, s.metrics(t)["realtime_redis_up"])
				before := counterOf(tabs[i])
				tabs[i].increment()
				tabs[i].shows("did not count")
				assert.Equal(t, before, counterOf(tabs[i]))
				late := newVisitor(t, s.url).open(presencePage)
				late.shows("last known")
				late.join(fmt.Sprint("late ", i))
				late.shows("Logged in as late")
				late.shows("3 user(s) online") // as far as it is known here
				people, everybody = append(people, late), append(everybody, late)
			}
			for _, tb := range people[:2] {
				tb.shows("3 user(s) online")
				tb.startHistory()
			}
			<-over
			end()
			back := time.Now()
			for _, tb := range everybody {
				tb.showsNoMore("last known")
			}
			for _, s := range servers {
				assert.Contains(t, newVisitor(t, s.url).get("/readyz"), "ready")
			}
			for _, tb := range people {
				tb.shows("4 user(s) online")
			}
			took := time.Since(back)
			for _, tb := range people[:2] {
				for _, text := range tb.hasRead() {
					assert.NotContains(t, text, " 2 user(s) online", "nobody is gone for a moment")
				}
			}
			got := stopClicking()
			final := counterOf(newVisitor(t, servers[0].url).open(counterPage))
			t.Logf("all agreed %v after Redis was back; %+v, and the counter says %d", took, got, final)
			assert.Less(t, took, 5*time.Second)
			assert.GreaterOrEqual(t, final, got.counted, "every click that was acknowledged")
			assert.LessOrEqual(t, final, got.counted+got.unknown, "and none twice")
			assert.Positive(t, got.refused)
			for i, tb := range tabs {
				tb.shows(fmt.Sprintf("Counter: %d ", final+i))
				assert.Contains(t, readable(tb.html()), "did not count", "what became of a click stays")
				tb.increment()
				tb.shows(fmt.Sprintf("Counter: %d ", final+i+1))
				tb.never("did not count")
			}
			for _, s := range servers {
				assert.Equal(t, 1, strings.Count(s.log(t), "redis is away"), "in the log:\n%s", s.log(t))
				assert.Equal(t, 1, strings.Count(s.log(t), "redis is back"))
				assert.NotContains(t, s.log(t), "level=ERROR")
			}
		})
	}
}

// outcome is what became of the clicks of clickOn.
type outcome struct{ counted, refused, unknown int }

// clickOn clicks on every server, by requests, until it is stopped.
func clickOn(t *testing.T, servers []*program) (stop func() outcome) {
	var counted, refused, unknown atomic.Int64
	done := make(chan struct{})
	var clicking sync.WaitGroup
	for _, s := range servers {
		clicking.Go(func() {
			v := newVisitor(t, s.url)
			for {
				select {
				case <-done:
					return
				case <-time.After(2 * time.Millisecond):
				}
				_, body := v.request(http.MethodPost, counterPage, "application/json", "application/json", `{"action":"increment"}`)
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
					assert.Contains(t, problem, "may have counted")
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

// counterOf is the number that a tab shows.
func counterOf(tb *tab) (n int) {
	tb.t.Helper()
	_, text, _ := strings.Cut(readable(tb.html()), "Counter: ")
	_, err := fmt.Sscan(text, &n)
	assert.NoError(tb.t, err)
	return n
}

// balancer sends every request to the next server that says it is ready, and to
// another if it refuses, as a load balancer without sticky sessions does. Sockets
// take turns of their own: every server gets some.
type balancer struct {
	servers           []*program
	requests, sockets atomic.Int64 // turns
}

// newBalancer serves a balancer.
func newBalancer(t *testing.T, servers []*program) (address string) {
	t.Helper()
	server := httptest.NewServer(&httputil.ReverseProxy{
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme = "http"
			r.Out.Host = r.In.Host
		},
		Transport: &balancer{servers: servers},
	})
	t.Cleanup(server.Close)
	return server.URL
}

func (b *balancer) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	turns := &b.requests
	if websocket.IsWebSocketUpgrade(r) {
		turns = &b.sockets
	}
	err = errors.New("no server is ready")
	for range b.servers {
		s := b.servers[int(turns.Add(1))%len(b.servers)]
		if !ready(s) {
			continue
		}
		r.URL.Host = strings.TrimPrefix(s.url, "http://")
		resp, err = http.DefaultTransport.RoundTrip(r)
		if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
			break
		}
	}
	return resp, err
}

func ready(s *program) bool {
	resp, err := http.Get(s.url + "/readyz")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Behind a balancer that sends every request elsewhere, pages work, and people whose
// server stops come back on another one, through the script of the page.
func TestBrowser_PeopleOfAServerThatStopsComeBackOnAnother(t *testing.T) {
	t.Parallel()
	_, servers := startServers(t, 2)
	address := newBalancer(t, servers)
	var tabs []*browserTab
	for i := range 4 {
		tb := newBrowser(t).openWindow(address + presencePage)
		tb.join(fmt.Sprint("Person ", i))
		tabs = append(tabs, tb)
	}
	watching := newVisitor(t, servers[1].url).open(presencePage)
	watching.shows("4 user(s) online")
	require.Positive(t, servers[0].metrics(t)["realtime_connections"], "some are there")
	counters := []*browserTab{newBrowser(t).openWindow(address + counterPage), newBrowser(t).openWindow(address + counterPage)}
	for i, tb := range counters {
		tb.click("increment")
		for _, other := range counters {
			other.shows(fmt.Sprintf("Counter: %d", i+1))
		}
	}

	var below time.Duration // how long the count was too low, at a time
	var since time.Time
	begin := time.Now()
	require.NoError(t, servers[0].cmd.Process.Signal(syscall.SIGTERM))
	for time.Since(begin) < 6*time.Second {
		<-time.After(5 * time.Millisecond)
		switch ok := strings.Contains(readable(watching.html()), "4 user(s) online"); {
		case ok && !since.IsZero():
			below, since = max(below, time.Since(since)), time.Time{}
		case !ok && since.IsZero():
			since = time.Now()
		}
	}
	assert.Zero(t, since, "all are back")
	t.Logf("the count was below the truth for %v", below)
	assert.LessOrEqual(t, below, presence.DefaultGrace)
	for i, tb := range tabs {
		tb.shows(fmt.Sprint("Logged in as Person ", i))
		tb.shows("4 user(s) online")
		assert.Equal(t, 1, tb.loads(), "without reload")
	}
	counters[0].click("increment")
	counters[1].shows("Counter: 3")
}
