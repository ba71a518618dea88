package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// What servers agree on is proved in internal/cluster. Here is what only programs show.

// A crowd clicks on three servers at once. Each click is on every server, counts once,
// and survives a restart of all.
func TestServers_CountEveryClickOnce(t *testing.T) {
	t.Parallel()
	redis, servers := visitor.StartServers(t, 3, "-drain", "100ms")
	const each = 1000
	all := len(servers) * each
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.URL)
	}
	c := visitor.OpenCrowd(t, visitor.CounterPage, 20*len(servers), urls...)
	c.Burst(all)
	assert.Eventually(t, func() bool { return c.Count(int64(all)).Unanswered == 0 }, visitor.Soon, time.Millisecond)
	for _, s := range servers {
		assert.Contains(t, visitor.New(t, s.URL).Get(visitor.CounterPage), fmt.Sprintf("Counter: %d ", all))
		assert.EqualValues(t, each, s.Metric("realtime_clicks_total"), "each counts its own")
		assert.Zero(t, s.Stop(syscall.SIGTERM))
	}
	for _, key := range redis.Keys(t.Context(), "*").Val() {
		forGood := key == "realtime:counts" || key == "realtime:servers"
		assert.Equal(t, forGood, redis.TTL(t.Context(), key).Val() == -1, "%s stays behind", key)
	}
	tb := visitor.New(t, visitor.Serve(t, "-redis", redis.URL)).Open(visitor.CounterPage)
	tb.Shows(fmt.Sprintf("Counter: %d ", all))
	tb.Increment()
	tb.Shows(fmt.Sprintf("Counter: %d ", all+1))
}

// Neither a reload on another server nor a stop changes who is online: people come back
// on other servers, under the same names, and who does not come back stays for the grace
// period. It is long here, so that nothing is right only because it has ended. People of a
// server that is killed are gone.
//
// Somebody who is back after the server has left shows in one tab. Who is back in that
// very moment may show in two until the grace period ends.
func TestServers_StopIsNoExodus(t *testing.T) {
	t.Parallel()
	redis, servers := visitor.StartServers(t, 3, "-grace", "1h")
	const everybody = "5 user(s) online"
	joins := func(v *visitor.Visitor, person int) *visitor.Tab {
		tb := v.Open(visitor.PresencePage)
		tb.Join(fmt.Sprint("Person ", person))
		tb.Shows(fmt.Sprint("Logged in as Person ", person))
		return tb
	}
	var tabs, watching []*visitor.Tab
	for i, on := range []int{0, 1, 2, 0, 0} {
		tabs = append(tabs, joins(visitor.New(t, servers[on].URL), i))
	}
	for _, s := range servers[1:] {
		tb := visitor.New(t, s.URL).Open(visitor.PresencePage)
		tb.Shows(everybody)
		tb.StartHistory()
		watching = append(watching, tb)
	}
	for _, key := range redis.Keys(t.Context(), "realtime:server:*").Val() {
		assert.NotContains(t, fmt.Sprint(redis.HGetAll(t.Context(), key).Val()), tabs[0].Visitor.Session(), "Redis knows the cookie")
	}
	tabs[1].Close()
	joins(tabs[1].Visitor.At(servers[2].URL), 1)

	servers[0].Signal(syscall.SIGTERM)
	<-tabs[0].Ended
	joins(tabs[0].Visitor.At(servers[1].URL), 0)
	<-servers[0].Exited
	assert.Zero(t, servers[0].ExitCode())
	for i, s := range servers[1:] { // a click comes after all else that the other has heard
		visitor.New(t, s.URL).Click()
		visitor.New(t, servers[2-i].URL).Open(visitor.CounterPage).Shows(fmt.Sprintf("Counter: %d ", i+1))
	}
	joins(tabs[3].Visitor.At(servers[2].URL), 3) // and Person 4 does not come back
	late := visitor.New(t, visitor.Serve(t, "-grace", "1h", "-redis", redis.URL)).Open(visitor.PresencePage)
	for _, tb := range append(watching, late) {
		tb.Shows("Person 4")
		tb.ShowsNoMore("Person 3 in 2 tabs")
		tb.Shows(everybody)
		for _, text := range tb.HasRead() {
			assert.Contains(t, text, everybody, "not for a moment")
		}
	}
	servers[2].Stop(syscall.SIGKILL)
	watching[0].Shows("2 user(s) online") // Person 0 is here, and Person 4 has time
	watching[0].Never("Person 1")
}

// A program that starts before its Redis waits for it, unless it is stopped.
func TestServers_StartBeforeRedis(t *testing.T) {
	t.Parallel()
	redis, exe := visitor.NewRedis(t), visitor.Build(t)
	redis.Stop()
	for _, comes := range []bool{false, true} {
		socket := filepath.Join(t.TempDir(), "socket")
		waiting := exec.Command(exe, "-drain", "10ms", "-addr", "unix:"+socket)
		waiting.Env = append(os.Environ(), "REDIS_URL="+redis.URL)
		require.NoError(t, waiting.Start())
		defer waiting.Process.Kill()
		require.Eventually(t, func() bool { _, err := os.Stat(socket); return err == nil }, visitor.Soon, time.Millisecond, "it listens")
		if comes {
			redis.Start()
			v := visitor.New(t, "unix:"+socket)
			v.Click() // is answered once Redis is there
			assert.Contains(t, v.Get(visitor.CounterPage), "Counter: 1 ")
		}
		assert.NoError(t, waiting.Process.Signal(syscall.SIGTERM))
		assert.NoError(t, waiting.Wait())
	}
}

// Redis goes away, loses everything, and comes back. Clicks count all the while, people see
// whose are missing, and then all are there. What is known of others stays.
func TestServers_RedisAway(t *testing.T) {
	t.Parallel()
	const missing = "clicks on other servers are missing here"
	redis, servers := visitor.StartServers(t, 2)
	var people, counters []*visitor.Tab
	for i, s := range servers {
		people = append(people, visitor.New(t, s.URL).Open(visitor.PresencePage))
		people[i].Join(fmt.Sprint("early ", i))
		counters = append(counters, visitor.New(t, s.URL).Open(visitor.CounterPage))
	}
	counters[0].Increment()
	for i := range servers {
		people[i].Shows("2 user(s) online")
		counters[i].Shows("Counter: 1 ")
	}

	redis.Stop()
	redis.Erase()
	for i, s := range servers {
		people[i].Shows("last known")
		assert.Contains(t, visitor.New(t, s.URL).Get("/readyz"), "degraded")
		assert.Zero(t, s.Metric("realtime_redis_up"))
		counters[i].Shows(missing)
		counters[i].Increment()
		visitor.New(t, s.URL).Click()
		counters[i].Shows("Counter: 3 ")
		visitor.New(t, s.URL).Open(visitor.PresencePage).Join(fmt.Sprint("late ", i))
		people[i].Shows("3 user(s) online") // as far as it is known here
		people[i].StartHistory()
	}
	redis.Start()
	for i, s := range servers {
		people[i].Shows("4 user(s) online")
		people[i].ShowsNoMore("last known")
		for _, text := range people[i].HasRead() {
			assert.NotContains(t, text, " 2 user(s) online", "nobody is gone for a moment")
		}
		counters[i].Shows("Counter: 5 ")
		counters[i].ShowsNoMore(missing)
		assert.Contains(t, visitor.New(t, s.URL).Get("/readyz"), "ready")
		assert.EqualValues(t, []int{3, 2}[i], s.Metric("realtime_clicks_total"))
	}
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
		status, err := v.TryClick()
		if err != nil {
			break
		}
		require.Equal(t, http.StatusSeeOther, status, "form %d", n)
	}
}
