//go:build all

package all

import (
	"strconv"
	"testing"
	"time"

	cdpnetwork "github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/stretchr/testify/assert"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// What only a browser with windows does: it hides tabs, and keeps pages whole that were
// left. And what only slow and dead networks do.

func TestBrowser_HiddenTabKeepsItsSocket(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	person, peer := browser.NewWindowed(t), visitor.New(t, server).Open(visitor.PresencePage)
	alice := person.Open(server + visitor.PresencePage)
	alice.Join("Alice")
	alice.WatchForm()
	peer.Shows("1 user(s) online")
	peer.StartHistory()
	alice.CountConnects()
	alice.Hide(person)
	<-time.After(3200 * time.Millisecond) // then the client alone would open another
	alice.Show()
	alice.WaitUntil(`!document.hidden`, "the tab to be shown")
	<-time.After(700 * time.Millisecond) // it waits for 500 ms before that
	assert.Equal(t, "0", alice.Eval(`connects`), "new sockets")
	alice.Shows("1 user(s) online Logged in as Alice Leave Alice (you) Try:")
	peer.NoChange(visitor.Grace)
	assert.False(t, alice.SawForm())
	alice.Click("leave")
	peer.Shows("0 user(s) online")
}

// No attempt comes by itself here, for hours.
func TestBrowser_PageIsCurrentOnReturnWithoutWaiting(t *testing.T) {
	t.Parallel()
	type way func(person *browser.Browser, tb *browser.Tab, network *visitor.Network)
	offline := func(is bool) way {
		return func(_ *browser.Browser, tb *browser.Tab, _ *visitor.Network) {
			tb.Run(cdpnetwork.Enable(), cdpnetwork.EmulateNetworkConditions(is, 0, -1, -1))
			if is {
				tb.Shows("Reconnecting…") // though no socket has been closed
			}
		}
	}
	lifecycle := func(state page.SetWebLifecycleStateState) way {
		return func(_ *browser.Browser, tb *browser.Tab, _ *visitor.Network) {
			tb.Run(page.SetWebLifecycleState(state))
		}
	}
	hidden := func(person *browser.Browser, tb *browser.Tab, network *visitor.Network) {
		tb.Hide(person)
		network.Cut()
		tb.WaitUntil(`!liveTemplateClient.isReady()`, "a lost socket")
	}
	for _, row := range []struct {
		name            string
		leave, comeBack way
	}{
		{"offline", offline(true), offline(false)},
		{"frozen", lifecycle(page.SetWebLifecycleStateStateFrozen), lifecycle(page.SetWebLifecycleStateStateActive)},
		{"kept whole for the Back button",
			func(_ *browser.Browser, tb *browser.Tab, _ *visitor.Network) { tb.Navigate("about:blank") },
			func(_ *browser.Browser, tb *browser.Tab, _ *visitor.Network) {
				tb.Eval(`void setTimeout(() => history.back())`)
			}},
		{"hidden and shown", hidden, func(_ *browser.Browser, tb *browser.Tab, _ *visitor.Network) { tb.Show() }},
		{"hidden, and hears of another tab", hidden, func(person *browser.Browser, tb *browser.Tab, network *visitor.Network) {
			person.Open(network.URL + visitor.CounterPage)
			tb.WaitUntil(`document.hidden && liveTemplateClient.isReady()`, "a live page that is hidden")
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			server := visitor.ServeBehind(t, visitor.KeptWhole)
			network := visitor.NewNetwork(t, server)
			person := browser.NewWindowed(t)
			tb := person.Open(network.URL + visitor.PresencePage)
			tb.ExpectErrors("net::ERR_")
			tb.Join("Alice")
			tb.Eval(`void (window.kept = true, Math.random = () => 1e5)`)
			row.leave(person, tb, network)
			peer := visitor.New(t, server).Open(visitor.PresencePage)
			peer.Join("Bob")
			row.comeBack(person, tb, network)
			tb.Shows("2 user(s) online Logged in as Alice ")
			assert.Equal(t, "true", tb.Eval(`window.kept`), "without reload")
			peer.Shows("2 user(s) online")
		})
	}
}

func TestBrowser_SlowNetworkKeepsItsSocketAndCountsEachClickOnce(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	network.Delay(350 * time.Millisecond)
	person := browser.NewWindowed(t)
	tb := person.Open(network.URL + visitor.CounterPage)
	tb.WatchStatus()
	tb.WatchNotices()
	tb.CountConnects()
	for i := range 2 {
		tb.Hide(person)
		tb.Show()
		tb.Eval(browser.ComesOnline)
		tb.Click("increment")
		tb.Shows("Counter: " + strconv.Itoa(i+1))
	}
	assert.Equal(t, "0", tb.Eval(`connects`), "new sockets")
	assert.Empty(t, tb.Heard())
	visitor.New(t, server).Open(visitor.CounterPage).Shows("Counter: 2")
}

// A ping waits for the click before it, and the click for 2 seconds for Redis: its
// answer takes 6 seconds here, longer than a ping alone may take.
func TestBrowser_ClickThatWaitsForRedisKeepsItsSocket(t *testing.T) {
	t.Parallel()
	redis := visitor.NewRedis(t)
	network := visitor.NewNetwork(t, visitor.Serve(t, "-redis", redis.URL, "-ping-timeout", "30s"))
	tb := browser.New(t).Open(network.URL + visitor.CounterPage)
	tb.WatchNotices()
	tb.CountConnects()
	thaw := redis.Freeze()
	defer thaw()
	network.Delay(2 * time.Second)
	tb.Click("increment")
	tb.Eval(browser.ComesOnline)
	tb.WaitUntil(`document.querySelector(".note")?.textContent`, "what the server says about the click")
	assert.Equal(t, "0", tb.Eval(`connects`), "new sockets")
	assert.Empty(t, tb.Notices())
}

// In such a network neither a socket nor a request ends.
func TestBrowser_NetworkThatSwallowsEverythingIsNoticedAndSurvived(t *testing.T) {
	t.Parallel()
	sockets := &visitor.SocketCount{}
	server := visitor.ServeBehind(t, sockets.Count)
	network := visitor.NewNetwork(t, server)
	tb := browser.New(t).Open(network.URL + visitor.CounterPage)
	tb.ExpectErrors("net::ERR_")
	tb.CountConnects()
	release := network.Swallow()
	visitor.New(t, server).Click()
	tb.Shows("Reconnecting…")
	release()
	tb.WaitUntil(`connects === 1`, "a new socket")
	tb.Shows("Counter: 1")
	network.Cut()
	tb.WaitUntil(`connects === 2`, "another socket")
	sockets.WaitFor(t, map[string]int{visitor.CounterPage: 1})
}
