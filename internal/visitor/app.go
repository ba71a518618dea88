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

// The limits of a message and of a form, in bytes.
const (
	MaxMessage = 64 << 10
	MaxForm    = 16 << 10
)

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

// ClickAtOnce lets a crowd click at once. Every click counts, and all tabs agree.
func ClickAtOnce(t testing.TB, path string, tabs, clicks int) (got Tally, took time.Duration) {
	t.Helper()
	return OpenCrowd(t, Serve(t), path, tabs).Burst(clicks)
}

// EveryTabClicks lets every tab of a crowd click at a rate. Every click counts,
// all tabs agree, and none is flooded.
func EveryTabClicks(t testing.TB, tabs, perSecond int, duration time.Duration) (got Tally, took time.Duration) {
	t.Helper()
	c := OpenCrowd(t, Serve(t), CounterPage, tabs)
	clicks := tabs * perSecond * int(duration/time.Second)
	begin := time.Now()
	c.Expect(int64(clicks))
	require.Equal(t, clicks, c.ClickSteadily(tabs*perSecond, duration))
	c.Agrees(clicks)
	took = time.Since(begin)

	<-time.After(2 * Interval) // the last refresh may be an empty one
	got = c.Agreed(clicks)
	got.wasNotFlooded(t, took+2*Interval)
	assert.LessOrEqual(t, got.Empty, got.Frames/20)
	return got, took
}

// StartServers runs so many copies of the program on a Redis server of their own.
func StartServers(t testing.TB, n int, args ...string) (*Redis, []*Program) {
	t.Helper()
	redis, exe := NewRedis(t), Build(t)
	servers := make([]*Program, n)
	for i := range servers {
		if i == 0 {
			servers[i] = StartExe(t, exe, append(args, "-redis", redis.URL)...)
		} else {
			servers[i] = StartWithRedisURL(t, redis.URL, exe, args...)
		}
	}
	return redis, servers
}
