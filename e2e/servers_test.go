package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
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

func TestServers_ClickIsOnAnotherAtOnce(t *testing.T) {
	t.Parallel()
	_, servers := visitor.StartServers(t, 2)
	here := visitor.OpenCrowd(t, servers[0].URL, visitor.CounterPage, 10)
	there := visitor.OpenCrowd(t, servers[1].URL, visitor.CounterPage, 10)
	const clicks = 1000
	here.Expect(clicks)
	there.Expect(clicks)
	require.Equal(t, clicks, here.ClickSteadily(200, 5*time.Second))
	require.True(t, here.AwaitNumber(visitor.Soon) && there.AwaitNumber(visitor.Soon), "all show %d", clicks)

	sameServer, otherServer := visitor.Percentile(here.Delays(here), 99), visitor.Percentile(there.Delays(here), 99)
	t.Logf("from a click to the tabs of its server %v, and of the other %v (p99 of %d)", sameServer, otherServer, clicks)
	assert.Less(t, otherServer, max(100*time.Millisecond, 2*sameServer), "unless the machine stands still: then it does on both")
}

// A click is announced once on its own server, and not again when the server hears of
// it from Redis.
func TestServers_AnnounceEveryClickOnce(t *testing.T) {
	t.Parallel()
	_, servers := visitor.StartServers(t, 2)
	clicker := visitor.New(t, servers[0].URL)
	there := visitor.New(t, servers[1].URL).Open(visitor.CounterPage)
	const clicks, asked = 50, `realtime_refreshes_asked_total{action="RefreshCounter"}`
	for range clicks {
		clicker.Click()
	}
	there.Shows(fmt.Sprintf("Counter: %d ", clicks))
	visitor.New(t, servers[1].URL).Click() // heard of after all others
	visitor.New(t, servers[0].URL).Open(visitor.CounterPage).Shows(fmt.Sprintf("Counter: %d ", clicks+1))
	// The renewal of a lease may hear of a click before its answer comes.
	assert.GreaterOrEqual(t, servers[0].Metric(asked), clicks+1.0)
	assert.Less(t, servers[0].Metric(asked), 1.5*clicks)
}

func TestServers_CountEveryClickOnce(t *testing.T) {
	t.Parallel()
	_, servers := visitor.StartServers(t, 3)
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
	redis, servers := visitor.StartServers(t, 2)
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
	_, servers := visitor.StartServers(t, 2)
	alice, watching := visitor.New(t, servers[0].URL), visitor.New(t, servers[1].URL).Open(visitor.PresencePage)
	tb := alice.Open(visitor.PresencePage)
	tb.Join("Alice")
	watching.Shows("1 user(s) online")
	watching.StartHistory()
	tb.Close()
	again := alice.At(servers[1].URL).Open(visitor.PresencePage)
	again.Join("Alice")
	again.Shows("Logged in as Alice")
	<-time.After(visitor.Grace)
	watching.Settle()
	for _, text := range watching.HasRead() {
		assert.Contains(t, text, "1 user(s) online")
	}
	watching.ShowsNoMore("in 2 tabs")
}

// People of a server that stops come back on other servers, under the same names.
// Nobody's count changes. Somebody who is back after the server has left shows in one
// tab; who is back in that very moment may show in two until the grace period ends. It
// is long here, so that nothing is right only because it has ended.
func TestServers_StopIsNoExodus(t *testing.T) {
	t.Parallel()
	const people = 15
	redis, servers := visitor.StartServers(t, 3, "-grace", "1m")
	var tabs []*visitor.Tab
	for i := range people {
		tb := visitor.New(t, servers[i%len(servers)].URL).Open(visitor.PresencePage)
		tb.Join(fmt.Sprint("Person ", i))
		tabs = append(tabs, tb)
	}
	var watching []*visitor.Tab
	for _, s := range servers[1:] {
		tb := visitor.New(t, s.URL).Open(visitor.PresencePage)
		tb.Shows(fmt.Sprint(people, " user(s) online"))
		tb.StartHistory()
		watching = append(watching, tb)
	}
	servers[0].Signal(syscall.SIGTERM)
	back := func(i int) {
		<-tabs[i].Ended
		again := tabs[i].Visitor.At(servers[1+i%2].URL).Open(visitor.PresencePage)
		again.Join(fmt.Sprint("Person ", i))
		again.Shows(fmt.Sprint("Logged in as Person ", i))
	}
	for i := 0; i < people-len(servers); i += len(servers) {
		back(i)
	}
	<-servers[0].Exited
	<-time.After(time.Second) // the last one is late: by then the others have heard that the server has left
	lastOne := people - len(servers)
	back(lastOne)
	assert.Zero(t, servers[0].ExitCode())
	late := visitor.New(t, visitor.Start(t, "-grace", "1m", "-redis", redis.URL).URL).Open(visitor.PresencePage)
	for _, tb := range append(watching, late) {
		tb.ShowsNoMore(fmt.Sprintf("Person %d in 2 tabs", lastOne))
		tb.Shows(fmt.Sprint(people, " user(s) online"))
		for _, text := range tb.HasRead() {
			assert.Contains(t, text, fmt.Sprint(people, " user(s) online"))
		}
	}
}

// People of a server that stops, and do not come back, are online for the grace
// period: on every other server, and on one that starts meanwhile.
func TestServers_StopKeepsPeopleForTheGracePeriod(t *testing.T) {
	t.Parallel()
	redis, servers := visitor.StartServers(t, 3)
	visitor.New(t, servers[0].URL).Click()
	alice, bob := visitor.New(t, servers[0].URL).Open(visitor.PresencePage), visitor.New(t, servers[1].URL).Open(visitor.PresencePage)
	watching := visitor.New(t, servers[2].URL).Open(visitor.PresencePage)
	alice.Join("Alice")
	bob.Join("Bob")
	watching.Shows("2 user(s) online")
	servers[0].Signal(syscall.SIGTERM)
	<-alice.Ended
	ended := time.Now()
	<-servers[0].Exited
	exited := time.Now()
	for _, tb := range []*visitor.Tab{bob, watching} {
		tb.Shows("1 user(s) online")
		tb.Never("Alice")
	}
	assert.Greater(t, time.Since(ended), visitor.Grace-200*time.Millisecond, "a socket ends on its server first")
	assert.Less(t, time.Since(exited), visitor.Grace+time.Second, "it is not the next renewal that tells")

	for _, s := range servers[1:] {
		s.Signal(syscall.SIGTERM)
	}
	<-servers[1].Exited
	<-servers[2].Exited
	assert.Eventually(t, func() bool { return len(redis.Keys(t.Context(), "{realtime}:server:*").Val()) == 0 }, visitor.Soon, 10*time.Millisecond)
	assert.ElementsMatch(t, []string{"{realtime}:clicks", "{realtime}:servers"}, lasting(t, redis), "what stays behind")
}

// lasting are the keys that do not expire.
func lasting(t *testing.T, redis *visitor.Redis) (keys []string) {
	for _, key := range redis.Keys(t.Context(), "*").Val() {
		if redis.TTL(t.Context(), key).Val() < 0 {
			keys = append(keys, key)
		}
	}
	return keys
}

// A program that starts before its Redis waits for it.
func TestServers_StartBeforeRedis(t *testing.T) {
	t.Parallel()
	redis, exe := visitor.NewRedis(t), visitor.Build(t)
	t.Run("which comes", func(t *testing.T) {
		redis.Stop()
		time.AfterFunc(2*time.Second, redis.Start)
		s := visitor.StartExe(t, exe, "-redis", redis.URL)
		visitor.New(t, s.URL).Click()
		visitor.New(t, s.URL).Open(visitor.CounterPage).Shows("Counter: 1 ")
	})
	t.Run("which does not come", func(t *testing.T) {
		redis.Stop()
		cmd := exec.Command(exe, "-addr", "127.0.0.1:0", "-log-level", "warn", "-redis", redis.URL)
		var output bytes.Buffer
		cmd.Stdout, cmd.Stderr = &output, &output
		began := time.Now()
		cmd.Run()
		assert.Equal(t, 1, cmd.ProcessState.ExitCode())
		assert.Equal(t, fmt.Sprintf("realtime: redis at %s: dial tcp %[1]s: connect: connection refused\n", redis.Addr), output.String())
		assert.Greater(t, time.Since(began), 3*time.Second)
		assert.Less(t, time.Since(began), 10*time.Second)
	})
	t.Run("which does not come before the program is stopped", func(t *testing.T) {
		redis.Stop()
		socket := filepath.Join(t.TempDir(), "socket")
		cmd := exec.Command(visitor.BuildPlain(t), "-addr", "unix:"+socket, "-redis", redis.URL) // what is measured is time
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool {
			conn, err := net.Dial("unix", socket)
			if err == nil {
				conn.Close()
			}
			return err == nil
		}, visitor.Soon, time.Millisecond)
		stopped := time.Now()
		assert.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		assert.NoError(t, cmd.Wait())
		assert.Less(t, time.Since(stopped), 2*time.Second)
	})
}

func TestServers_CounterSurvivesARestartOfAll(t *testing.T) {
	t.Parallel()
	redis, servers := visitor.StartServers(t, 2)
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
	redis, servers := visitor.StartServers(t, 2)
	tb, clicker := visitor.New(t, servers[1].URL).Open(visitor.CounterPage), visitor.New(t, servers[0].URL).Open(visitor.CounterPage)
	var longest time.Duration
	for n := 1; n <= 20; n++ {
		require.Eventually(t, func() bool {
			killed, err := redis.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Result()
			return err == nil && killed > 0
		}, visitor.Soon, time.Millisecond, "a subscription to lose")
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
			redis, servers := visitor.StartServers(t, 2)
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
	_, servers := visitor.StartServers(t, 2, "-grace", "10s")
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

	watching.StartHistory()
	servers[0].Signal(syscall.SIGTERM)
	<-servers[0].Exited
	for i, tb := range tabs {
		tb.Shows(fmt.Sprint("Logged in as Person ", i))
		tb.Shows("4 user(s) online")
		assert.Equal(t, 1, tb.Loads(), "without reload")
	}
	watching.ShowsNoMore("in 2 tabs")
	for _, text := range watching.HasRead() {
		assert.Contains(t, text, "4 user(s) online", "nobody is gone for a moment")
	}
	counters[0].Click("increment")
	counters[1].Shows("Counter: 3")
}

// A server that stops tells the others only once it takes no more requests. Behind
// nginx, which does not ask whether a server is ready, forms arrive until then, and
// each of them counts.
func TestServers_FormsCountUntilTheServerIsGone(t *testing.T) {
	t.Parallel()
	redis := visitor.NewRedis(t)
	far := visitor.NewNetwork(t, redis.Addr)
	far.Delay(25 * time.Millisecond) // telling takes time
	s := visitor.Start(t, "-redis", "redis://"+far.Addr()+"/0", "-drain", "200ms")
	v := visitor.New(t, s.URL)
	v.Click()
	s.Signal(syscall.SIGTERM)
	for n := 0; ; n++ {
		resp, err := v.Client.PostForm(s.URL+visitor.CounterPage, url.Values{"increment": {""}})
		if err != nil {
			t.Logf("%d forms counted", n)
			break
		}
		resp.Body.Close()
		require.Equal(t, http.StatusSeeOther, resp.StatusCode, "form %d", n)
	}
}
