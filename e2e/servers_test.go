package e2e

import (
	"fmt"
	"net"
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

// The tests of internal/cluster prove that servers agree. These show what only the built
// program can show.

// A crowd clicks on three servers at once. Every server shows every click once, and the
// number survives a restart of all servers.
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
		assert.EqualValues(t, each, s.Metric("realtime_clicks_total"), "clicks on this server")
		assert.Zero(t, s.Stop(syscall.SIGTERM))
	}
	for _, key := range redis.Keys(t.Context(), "*").Val() {
		forGood := key == "realtime:counts" || key == "realtime:servers"
		assert.Equal(t, forGood, redis.TTL(t.Context(), key).Val() == -1, "the TTL of %s", key)
	}
	tb := visitor.New(t, visitor.Serve(t, "-redis", redis.URL)).Open(visitor.CounterPage)
	tb.Shows(fmt.Sprintf("Counter: %d ", all))
	tb.Increment()
	tb.Shows(fmt.Sprintf("Counter: %d ", all+1))
}

// Neither a reload on another server nor a graceful shutdown changes who is online: people
// return on other servers under the same names, and those who do not stay online for the
// grace period, which is long here. People of a killed server go offline.
//
// Somebody who returns after the shutdown shows in one tab. Somebody who returns during it
// may show in two until the grace period ends.
func TestServers_GracefulShutdownKeepsPeopleOnline(t *testing.T) {
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
		assert.NotContains(t, fmt.Sprint(redis.HGetAll(t.Context(), key).Val()), tabs[0].Visitor.Session(), "the session cookie")
	}
	tabs[1].Close()
	joins(tabs[1].Visitor.At(servers[2].URL), 1)

	servers[0].Signal(syscall.SIGTERM)
	<-tabs[0].Ended
	joins(tabs[0].Visitor.At(servers[1].URL), 0)
	<-servers[0].Exited
	assert.Zero(t, servers[0].ExitCode())
	for i, s := range servers[1:] { // a click arrives after everything that was sent before
		visitor.New(t, s.URL).Click()
		visitor.New(t, servers[2-i].URL).Open(visitor.CounterPage).Shows(fmt.Sprintf("Counter: %d ", i+1))
	}
	joins(tabs[3].Visitor.At(servers[2].URL), 3) // Person 4 does not return
	late := visitor.New(t, visitor.Serve(t, "-grace", "1h", "-redis", redis.URL)).Open(visitor.PresencePage)
	for _, tb := range append(watching, late) {
		tb.Shows("Person 4")
		tb.ShowsNoMore("Person 3 in 2 tabs")
		tb.Shows(everybody)
		for _, text := range tb.HasRead() {
			assert.Contains(t, text, everybody, "at any moment")
		}
	}
	servers[2].Stop(syscall.SIGKILL)
	watching[0].Shows("2 user(s) online") // Person 0, and Person 4 in the grace period
	watching[0].Never("Person 1")
}

// A program that starts before its Redis retries until it is there, and can be stopped
// meanwhile.
func TestServers_StartBeforeRedis(t *testing.T) {
	t.Parallel()
	redis, exe := visitor.NewRedis(t), visitor.Build(t)
	redis.Stop()
	for _, redisStarts := range []bool{false, true} {
		socket := filepath.Join(t.TempDir(), "socket")
		waiting := exec.Command(exe, "-drain", "10ms", "-addr", "unix:"+socket)
		waiting.Env = append(os.Environ(), "REDIS_URL="+redis.URL)
		placeholder, err := net.Listen("tcp", redis.Addr)
		require.NoError(t, err)
		placeholder.(*net.TCPListener).SetDeadline(time.Now().Add(visitor.Soon))
		require.NoError(t, waiting.Start())
		defer waiting.Process.Kill()
		for range 6 { // more than one attempt
			conn, err := placeholder.Accept()
			require.NoError(t, err, "the program has given up")
			conn.Close()
		}
		placeholder.Close()
		if redisStarts {
			redis.Start()
			v := visitor.New(t, "unix:"+socket)
			v.Click()
			assert.Contains(t, v.Get(visitor.CounterPage), "Counter: 1 ")
		}
		assert.NoError(t, waiting.Process.Signal(syscall.SIGTERM))
		assert.NoError(t, waiting.Wait())
	}
}

// Redis goes away, loses its data, and comes back. Clicks count meanwhile, and pages say which
// are missing; afterwards all are there. What a server knows of others stays.
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
		people[i].Shows("3 user(s) online") // as far as this server knows
		people[i].StartHistory()
	}
	redis.Start()
	for i, s := range servers {
		people[i].Shows("4 user(s) online")
		people[i].ShowsNoMore("last known")
		for _, text := range people[i].HasRead() {
			assert.NotContains(t, text, " 2 user(s) online", "nobody goes offline, even for a moment")
		}
		counters[i].Shows("Counter: 5 ")
		counters[i].ShowsNoMore(missing)
		assert.Contains(t, visitor.New(t, s.URL).Get("/readyz"), "ready")
		assert.EqualValues(t, []int{3, 2}[i], s.Metric("realtime_clicks_total"))
	}
}

// During a shutdown every form counts until the server accepts no more requests: nginx, which
// does not check readiness, sends them until then.
func TestServers_FormsCountUntilTheServerHasStopped(t *testing.T) {
	t.Parallel()
	redis := visitor.NewRedis(t)
	far := visitor.NewNetwork(t, redis.Addr)
	far.Delay(25 * time.Millisecond)
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
