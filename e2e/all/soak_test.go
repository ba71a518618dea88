//go:build soak

package all

import (
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

// Twice, a server is away. Two of each person's five tabs are hidden. The tabs are not all
// one person's, because Chromium makes the sockets of one process wait, for up to seconds,
// when many of them open at once.
func TestSoak_EverybodyIsBackWithTabsInFrontAndBehind(t *testing.T) {
	exe := visitor.Build(t)
	server := visitor.StartExe(t, exe)
	idle := browser.NewWindowed(t).OpenWindow(visitor.Serve(t) + visitor.CounterPage) // its server stays
	idle.CountConnects()
	var tabs []*browser.Tab
	for range 4 {
		person := browser.NewWindowed(t)
		for i := range 5 {
			open := person.OpenWindow
			if i%2 == 1 {
				open = person.Open // in the same window, before the last tab
			}
			tb := open(server.URL + visitor.CounterPage)
			tb.ExpectServerAway()
			tb.Eval(`void document.addEventListener("live", (event) => { window[event.detail] = Date.now(); })`)
			tabs = append(tabs, tb)
		}
	}
	visitor.New(t, server.URL).Click()
	for _, row := range []struct{ away, backWithin time.Duration }{
		{time.Second, 1500 * time.Millisecond},
		{30 * time.Second, 6 * time.Second},
	} {
		visitor.New(t, server.URL).Click()
		for _, tb := range tabs {
			tb.Shows("Counter: 2")
		}
		server.Stop(syscall.SIGTERM)
		<-time.After(row.away)
		server = visitor.StartExe(t, exe, "-addr", server.Addr())
		back := time.Now()
		visitor.New(t, server.URL).Click()
		var last time.Duration
		for _, tb := range tabs {
			tb.Shows("Counter: 1")
			assert.Greater(t, tb.Number(`up`), tb.Number(`down`))
			last = max(last, time.UnixMilli(int64(tb.Number(`up`))).Sub(back))
			assert.Equal(t, 1, tb.Loads(), "without reload")
		}
		t.Logf("away for %v: the last of %d tabs was live %v after the server was back", row.away, len(tabs), last)
		assert.Less(t, last, row.backWithin)
	}
	assert.Equal(t, "0", idle.Eval(`connects`), "new sockets of a tab that lost none")
}
