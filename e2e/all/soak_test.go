//go:build soak

package all

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/stretchr/testify/assert"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// With the program's own intervals, tabs in which nothing happens stay online,
// the one in front and the one behind it.
func TestSoak_IdleAndHiddenTabsStayFor5Minutes(t *testing.T) {
	server := visitor.Serve(t)
	idle, peer := browser.New(t).Open(server+visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	idle.Join("idle")
	person := browser.NewWindowed(t)
	hidden := person.Open(server + visitor.PresencePage)
	hidden.Join("hidden")
	person.Load(server + "/").Run(page.BringToFront())
	hidden.WaitUntil(`document.hidden`, "a hidden tab")
	peer.Shows("2 user(s) online")
	peer.StartHistory()

	<-time.After(5 * time.Minute)
	peer.NoChange(visitor.Grace)
	idle.Shows("2 user(s) online Logged in as idle")
	hidden.Run(page.BringToFront())
	hidden.Shows("Logged in as hidden")
	peer.NoChange(visitor.Grace)
}

func TestSoak_EverybodyIsBackWithTabsInFrontAndBehind(t *testing.T) {
	everybodyIsBack(t, browser.NewWindowed, 4)
}

func TestSoak_EverybodyIsBackAfterASecondAndAfterHalfAMinute(t *testing.T) {
	everybodyIsBack(t, browser.New, 2)
}

// everybodyIsBack stops and starts a server with five tabs of so many people, twice:
// every tab is live and current soon after. In a browser with windows, two of the five
// are hidden. They are not all one person's, because Chromium makes the sockets of one
// process wait, for up to seconds, when many of them open at once.
func everybodyIsBack(t *testing.T, newBrowser func(testing.TB) *browser.Browser, people int) {
	exe := visitor.Build(t)
	server := visitor.StartExe(t, exe)
	idle := newBrowser(t).OpenWindow(visitor.Serve(t) + visitor.CounterPage) // its server stays
	idle.CountConnects()
	var person *browser.Browser
	var tabs []*browser.Tab
	for i := range 5 * people {
		if i%5 == 0 {
			person = newBrowser(t)
		}
		open := person.OpenWindow
		if i%5%2 == 1 {
			open = person.Open // in the same window, before the last tab
		}
		tb := open(server.URL + visitor.CounterPage)
		tb.ExpectErrors("net::ERR_") // what the browser says about a server that is away
		tb.ExpectErrors("503")       // and about one that is stopping
		tb.ExpectErrors("WebSocket") // and about one that goes between the question and the socket
		tb.Eval(`void document.addEventListener("live", (event) => { window[event.detail] = Date.now(); })`)
		tabs = append(tabs, tb)
	}
	visitor.New(t, server.URL).Click()
	server = serverAway(t, exe, server, tabs, time.Second, 1500*time.Millisecond)
	t.Parallel() // what comes is mostly waiting
	serverAway(t, exe, server, tabs, 30*time.Second, 6*time.Second)
	assert.Equal(t, "0", idle.Eval(`connects`), "new sockets of a tab that lost none")
}

// serverAway stops a server that has counted one click, and returns the one that it
// has started in its place, which has counted one as well.
func serverAway(t *testing.T, exe string, server *visitor.Program, tabs []*browser.Tab, away, backWithin time.Duration) *visitor.Program {
	visitor.New(t, server.URL).Click()
	for _, tb := range tabs {
		tb.Shows("Counter: 2")
	}

	server.Stop(syscall.SIGTERM)
	<-time.After(away)
	server = visitor.StartExe(t, exe, "-addr", strings.TrimPrefix(server.URL, "http://"))
	back := time.Now()
	visitor.New(t, server.URL).Click()
	var last time.Duration
	for _, tb := range tabs {
		tb.Shows("Counter: 1")
		assert.Greater(t, tb.Number(`up`), tb.Number(`down`))
		last = max(last, time.UnixMilli(int64(tb.Number(`up`))).Sub(back))
		assert.Equal(t, 1, tb.Loads(), "without reload")
	}
	t.Logf("the last of %d tabs was live %v after the server was back", len(tabs), last)
	assert.Less(t, last, backWithin)
	return server
}
