//go:build soak

package main

import (
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
)

// With the program's own intervals, tabs in which nothing happens stay online,
// the one in front and the one behind it.
func TestSoak_IdleAndHiddenTabsStayFor5Minutes(t *testing.T) {
	server := newServer(t)
	idle, peer := newBrowser(t).open(server+presencePage), newVisitor(t, server).open(presencePage)
	idle.join("idle")
	browser := newBrowser(t)
	hidden := browser.open(server + presencePage)
	hidden.join("hidden")
	browser.load(server + "/").run(page.BringToFront())
	hidden.waitUntil(`document.hidden`, "a hidden tab")
	peer.shows("2 user(s) online")
	peer.startHistory()

	<-time.After(5 * time.Minute)
	peer.noChange()
	idle.shows("2 user(s) online Logged in as idle")
	hidden.run(page.BringToFront())
	hidden.shows("Logged in as hidden")
	peer.noChange()
}
