//go:build all

package all

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// The shortest walk through both pages in the engines that no other test uses.
// TestSoak_Engines goes further, in all of them.
func TestEngines_TwoPeopleSeeEachOtherAndComeBackAfterARestart(t *testing.T) {
	t.Parallel()
	for _, e := range []browser.Engine{browser.Firefox, browser.WebKit} {
		t.Run(e.Name, func(t *testing.T) {
			exe := visitor.Build(t)
			server := visitor.StartExe(t, exe)
			alice, bob := e.New(t), e.New(t)
			counter, presence := alice.OpenWindow(server.URL+visitor.CounterPage), alice.OpenWindow(server.URL+visitor.PresencePage)
			other := bob.Open(server.URL + visitor.PresencePage)
			for _, tb := range []*browser.Tab{counter, presence, other} {
				tb.ExpectServerAway()
				tb.Eval(`void (window.kept = true)`)
			}
			presence.Join("Alice")
			other.Shows("1 user(s) online")
			other.Join("Bob")
			presence.Shows("2 user(s) online Logged in as Alice Leave Alice (you) Bob Try:")

			server.Stop(syscall.SIGTERM)
			server = visitor.StartExe(t, exe, "-addr", server.Addr())
			visitor.New(t, server.URL).Open(visitor.PresencePage).Shows("2 user(s) online")
			presence.Shows("2 user(s) online Logged in as Alice ")
			other.Shows("2 user(s) online Logged in as Bob ")
			other.Close()
			presence.Shows("1 user(s) online")
			visitor.New(t, server.URL).Click()
			counter.Shows("Counter: 1")
			counter.Click("increment")
			visitor.New(t, server.URL).Open(visitor.CounterPage).Shows("Counter: 2")
			for _, tb := range []*browser.Tab{counter, presence} {
				assert.Equal(t, "true", tb.Eval(`kept`), "without reload")
			}
		})
	}
}
