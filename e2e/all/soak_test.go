//go:build soak

package all

import (
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"

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
