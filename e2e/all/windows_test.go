//go:build all

package all

import (
	"testing"
	"time"

	cdpnetwork "github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/stretchr/testify/assert"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// These need a browser with windows, which hides tabs and has a back/forward cache.

func TestBrowser_HiddenTabKeepsItsSocket(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	person := browser.NewWindowed(t)
	tb := person.Open(server + visitor.CounterPage)
	tb.CountConnects()
	tb.Hide(person)
	<-time.After(3200 * time.Millisecond) // the client alone would then open a new socket
	tb.Show()
	tb.WaitUntil(`!document.hidden`, "the tab to be shown")
	<-time.After(700 * time.Millisecond) // the client alone would do so after 500 ms
	assert.Equal(t, "0", tb.Eval(`connects`), "new sockets")
	tb.Click("increment")
	tb.Shows("Counter: 1")
}

// A page that was left closes its socket, and reconnects at once on return: its next attempt
// would be hours away.
func TestBrowser_PageIsCurrentAtOnceOnReturn(t *testing.T) {
	t.Parallel()
	type person struct {
		*browser.Browser
		*browser.Tab
		network *visitor.Network
	}
	offline := func(p person, is bool) {
		p.Run(cdpnetwork.Enable(), cdpnetwork.EmulateNetworkConditions(is, 0, -1, -1))
	}
	hide := func(p person) {
		p.Hide(p.Browser)
		p.network.Cut()
		p.WaitUntil(`!liveTemplateClient.isReady()`, "a lost socket")
	}
	for _, row := range []struct {
		name, meanwhile string
		leave, comeBack func(person)
	}{
		{"offline", "1 user(s) online", // the server does not notice
			func(p person) { offline(p, true); p.Shows("Reconnecting…") },
			func(p person) { offline(p, false) }},
		{"frozen", "0 user(s) online",
			func(p person) { p.Run(page.SetWebLifecycleState(page.SetWebLifecycleStateStateFrozen)) },
			func(p person) { p.Run(page.SetWebLifecycleState(page.SetWebLifecycleStateStateActive)) }},
		{"in the back/forward cache", "0 user(s) online",
			func(p person) { p.Navigate("about:blank") },
			func(p person) { p.Eval(`void setTimeout(() => history.back())`) }},
		{"hidden and shown", "0 user(s) online", hide, func(p person) { p.Show() }},
		{"hidden, and another tab is live", "0 user(s) online", hide, func(p person) {
			p.Browser.Open(p.network.URL + visitor.CounterPage)
			p.WaitUntil(`document.hidden && liveTemplateClient.isReady()`, "a live page that is hidden")
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			server := visitor.NewProxy(t, visitor.Serve(t), visitor.KeptWhole)
			p := person{Browser: browser.NewWindowed(t), network: visitor.NewNetwork(t, server)}
			p.Tab = p.Open(p.network.URL + visitor.PresencePage)
			p.ExpectErrors("net::ERR_")
			p.Join("Alice")
			p.Eval(`void (window.kept = true, Math.random = () => 1e5)`)
			row.leave(p)
			peer := visitor.New(t, server).Open(visitor.PresencePage)
			peer.Shows(row.meanwhile)
			peer.Join("Bob")
			row.comeBack(p)
			p.Shows("2 user(s) online Logged in as Alice ")
			assert.Equal(t, "true", p.Eval(`window.kept`), "without reload")
			peer.Shows("2 user(s) online")
		})
	}
}
