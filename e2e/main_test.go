// Package e2e tests the built program as people meet it: in browsers, in crowds,
// among hostile peers, on several servers, and when it stops. It starts the program
// with flags, and looks inside it by its metrics and profiles only.
package e2e

import (
	"crypto/rand"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

func TestMain(m *testing.M) {
	code := visitor.Main(m)
	browser.End()
	os.Exit(code)
}

// The defaults of the program that tests rely on.
const (
	grace    = 2 * time.Second       // -grace
	interval = 50 * time.Millisecond // -refresh-interval
	drain    = 2 * time.Second       // -drain
)

// What people read.
const (
	noName   = "Please enter a name."
	longName = "Please use at most 40 characters."
	notLive  = "Joining needs a live connection: without one, nobody could tell when you leave."
)

// The limits of a message and of a form, in bytes.
const (
	maxMessage = 64 << 10
	maxForm    = 16 << 10
)

// madeUp is a session cookie as the server makes them.
func madeUp() string { return rand.Text() + rand.Text()[:17] + "=" }

// newServer starts the program, and returns its address.
func newServer(t testing.TB, args ...string) (url string) {
	t.Helper()
	return visitor.Start(t, args...).URL
}

// newServerBehind starts the program behind a proxy of the test's.
func newServerBehind(t testing.TB, proxy func(app http.Handler) http.Handler) (url string) {
	t.Helper()
	return visitor.NewProxy(t, newServer(t), proxy)
}

// percentile returns the value that so many percent of all do not exceed.
func percentile(values []time.Duration, percent int) time.Duration {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[(len(values)-1)*percent/100]
}
