//go:build all || soak

package all

import (
	"context"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

const rounds = 20 // a server is killed in each

// A server is killed again and again during clicks, and restarts with its -data file. No
// answered click is lost, and none counts twice.
func TestClicks_SurviveAKillWithAFile(t *testing.T) {
	t.Parallel()
	file, b := filepath.Join(t.TempDir(), "counts"), books{t: t}
	random := rand.New(rand.NewPCG(visitor.Seed(t), 0))
	for round := range rounds {
		p := visitor.StartExe(t, visitor.BuildPlain(t), "-data", file)
		b.balance(round, p)
		stop := b.click(p)
		<-time.After(time.Duration(50+random.IntN(100)) * time.Millisecond)
		p.Stop(syscall.SIGKILL)
		stop()
	}
	b.report()
}

// One of three servers is killed again and again during clicks on all of them. No answered
// click is lost.
func TestClicks_SurviveAKillOfOneOfThreeServers(t *testing.T) {
	t.Parallel()
	redis, b := visitor.NewRedis(t), books{t: t}
	random := rand.New(rand.NewPCG(visitor.Seed(t), 0))
	start := func() *visitor.Program { return visitor.StartExe(t, visitor.BuildPlain(t), "-redis", redis.URL) }
	servers := []*visitor.Program{start(), start(), start()}
	for round := range rounds {
		var stops []func()
		for _, s := range servers {
			stops = append(stops, b.click(s))
		}
		<-time.After(time.Duration(50+random.IntN(100)) * time.Millisecond)
		killed := random.IntN(len(servers))
		servers[killed].Stop(syscall.SIGKILL)
		for _, stop := range stops {
			stop()
		}
		servers[killed] = start()
		for _, s := range servers {
			b.balance(round, s)
		}
	}
	b.report()
}

// books counts the clicks that were sent, and those that were answered.
type books struct {
	t              testing.TB
	sent, answered atomic.Int64
}

// click makes eight browsers click on a server until it ends or stop is called.
func (b *books) click(p *visitor.Program) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var clicking sync.WaitGroup
	for range 8 {
		v := visitor.New(b.t, p.URL)
		clicking.Go(func() {
			for ctx.Err() == nil {
				b.sent.Add(1)
				status, err := v.TryClick()
				if err != nil {
					return
				}
				if status == http.StatusSeeOther {
					b.answered.Add(1)
				}
				time.Sleep(25 * time.Millisecond) // just below the rate limit
			}
		})
	}
	return func() { cancel(); clicking.Wait() }
}

func (b *books) report() {
	b.t.Logf("%d clicks were answered, and %d that were not may have counted", b.answered.Load(), b.sent.Load()-b.answered.Load())
}

// balance checks that a server shows every answered click, and none twice.
func (b *books) balance(round int, p *visitor.Program) {
	b.t.Helper()
	tb := visitor.New(b.t, p.URL).Open(visitor.CounterPage)
	defer tb.Close()
	require.Eventually(b.t, func() bool { return int64(tb.Counter()) >= b.answered.Load() }, visitor.Soon, time.Millisecond,
		"round %d: answered %d", round, b.answered.Load())
	require.LessOrEqual(b.t, int64(tb.Counter()), b.sent.Load(), "round %d", round)
}
