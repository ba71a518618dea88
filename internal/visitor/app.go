package visitor

import (
	"crypto/rand"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The defaults of the program that tests rely on.
const (
	Grace    = 2 * time.Second       // -grace
	Interval = 50 * time.Millisecond // -refresh-interval
	Drain    = 2 * time.Second       // -drain
)

// MaxForm is the limit of a form, in bytes.
const MaxForm = 16 << 10

// Patient are flags with which a program closes nobody for being silent or slow. On a busy
// machine everybody is.
var Patient = []string{"-ping", "1m", "-ping-timeout", "1h", "-write-timeout", "1h"}

// What people read.
const (
	NoName   = "Please enter a name."
	LongName = "Please use at most 40 characters."
	NotLive  = "Joining needs a live connection: without one, nobody could tell when you leave."
)

// Serve starts the program, and returns its address.
func Serve(t testing.TB, args ...string) (url string) {
	t.Helper()
	return Start(t, args...).URL
}

// ServeBehind starts the program behind a proxy of the test's.
func ServeBehind(t testing.TB, proxy func(app http.Handler) http.Handler) (url string) {
	t.Helper()
	return NewProxy(t, Serve(t), proxy)
}

// MadeUpSession is a session cookie as the server makes them.
func MadeUpSession() string { return rand.Text() + rand.Text()[:17] + "=" }

// Percentile returns the value that so many percent of all do not exceed.
func Percentile(values []time.Duration, percent int) time.Duration {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[(len(values)-1)*percent/100]
}

// StartServers runs so many copies of the program on a Redis server of their own.
func StartServers(t testing.TB, n int, args ...string) (*Redis, []*Program) {
	t.Helper()
	redis, servers := NewRedis(t), make([]*Program, n)
	for i := range servers {
		servers[i] = Start(t, append(args, "-redis", redis.URL)...)
	}
	return redis, servers
}

// ForgetsVisits checks that many visits leave nothing behind: no goroutine, and at most a
// megabyte in all. The first are for what the program keeps for good.
func (p *Program) ForgetsVisits(first, visits int) {
	p.t.Helper()
	var goroutines, heap int
	ComeAndGo(p.t, p.URL, first)
	require.Eventually(p.t, func() bool {
		http.DefaultClient.CloseIdleConnections()
		before := heap
		goroutines, heap = p.Goroutines(), p.Heap()
		return before > 0 && before <= heap
	}, Soon, 200*time.Millisecond, "a heap that shrinks no more")
	ComeAndGo(p.t, p.URL, visits)
	assert.EventuallyWithT(p.t, func(check *assert.CollectT) {
		http.DefaultClient.CloseIdleConnections()
		assert.LessOrEqual(check, p.Goroutines(), goroutines, "goroutines")
		assert.LessOrEqual(check, p.Heap(), heap+1<<20, "bytes on the heap")
	}, Soon, 100*time.Millisecond)
}
