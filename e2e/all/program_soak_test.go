//go:build soak

package all

import (
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// Visitors who have gone, and posts of sessions that are seen once, leave nothing
// behind: no goroutine, no baseline, no limit.
func TestSoak_VisitsAndPostsLeaveNothingBehind(t *testing.T) {
	p := visitor.StartExe(t, visitor.BuildPlain(t), "-grace", "50ms")
	visits := func(n int) { visitor.ComeAndGo(t, p.URL, n) }
	posts := func(n int) {
		var posting sync.WaitGroup
		for range 4 {
			posting.Go(func() {
				for i := range n / 4 {
					req, _ := http.NewRequest(http.MethodPost, p.URL+visitor.CounterPage, strings.NewReader("increment="))
					req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
					if i%2 == 0 {
						req.Header.Set("Cookie", visitor.SessionCookie+"="+visitor.MadeUpSession())
					}
					resp, err := http.DefaultTransport.RoundTrip(req)
					if assert.NoError(t, err) {
						resp.Body.Close()
						assert.Equal(t, http.StatusSeeOther, resp.StatusCode)
					}
				}
			})
		}
		posting.Wait()
	}
	for name, row := range map[string]struct {
		do   func(n int)
		n    int
		each int // bytes
	}{
		"visits": {visits, 10_000, 100},
		"posts":  {posts, 20_000, 50},
	} {
		t.Run(name, func(t *testing.T) {
			row.do(row.n / 10)
			var goroutines, heap int
			require.Eventually(t, func() bool {
				before := heap
				goroutines, heap = p.Goroutines(), p.Heap()
				return before > 0 && before <= heap // nothing is left to collect
			}, visitor.Soon, 200*time.Millisecond)
			row.do(row.n)
			assert.EventuallyWithT(t, func(check *assert.CollectT) {
				http.DefaultClient.CloseIdleConnections()
				assert.LessOrEqual(check, p.Goroutines(), goroutines+4) // of requests for the numbers
				assert.LessOrEqual(check, p.Heap(), heap+row.n*row.each)
			}, visitor.Soon, 200*time.Millisecond)
		})
	}
}

// With the defaults, somebody whose network fails without a word stays online for up to
// 9 seconds.
func TestSoak_SilentPeerIsGoneWithin10Seconds(t *testing.T) {
	server := visitor.Serve(t)
	stays := visitor.New(t, server).Open(visitor.PresencePage)
	silent, err := visitor.New(t, server).Dial(visitor.PresencePage)
	require.NoError(t, err)
	defer silent.Close()
	require.NoError(t, visitor.Act(silent, "join", map[string]any{"username": "silent"}))
	stays.Shows(" 1 user(s) online")
	began := time.Now()
	stays.Shows(" 0 user(s) online")
	assert.Less(t, time.Since(began), 10*time.Second)
}

// The program ends at most 3 seconds after the time for its stop, whoever does not
// answer: a socket, a connection without a request, Redis.
func TestSoak_StopIsBounded(t *testing.T) {
	redis := visitor.NewRedis(t)
	p := visitor.StartExe(t, visitor.BuildPlain(t), "-redis", redis.URL)
	deaf, err := visitor.New(t, p.URL).Dial(visitor.CounterPage)
	require.NoError(t, err)
	defer deaf.Close()
	idle, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	defer idle.Close()
	thaw := redis.Freeze()
	defer thaw()
	began := time.Now()
	p.Signal(syscall.SIGTERM)
	<-p.Exited
	assert.Zero(t, p.ExitCode())
	assert.Less(t, time.Since(began), visitor.Drain+3*time.Second)
}

func TestSoak_ClickIsOnAnotherServerAtOnce(t *testing.T) {
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
	assert.Less(t, otherServer, max(100*time.Millisecond, 2*sameServer))
}
