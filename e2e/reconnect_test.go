package e2e

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// What a page does in each state, and how long it waits, is shown in e2e/scripts, on a
// clock that jumps. Here each kind of break happens once in a browser.

// toldNote waits until a page, of which WatchNotices knows, has told a person something.
// It shows that for four seconds only.
func toldNote(tb *browser.Tab, note string) {
	tb.WaitUntil(`top.name.includes(`+browser.Quote(note)+`)`, note)
}

func TestBrowser_StatusSaysWhatIsSo(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	tb := browser.New(t).Open(network.URL + visitor.CounterPage)
	tb.ExpectErrors("net::ERR_")
	tb.WatchStatus()
	looks := func() string {
		const figure = `document.querySelector(".figure")`
		return tb.Eval(`getComputedStyle(` + figure + `, "::after").content + getComputedStyle(` + figure + `).color`)
	}
	const button = `document.querySelector("[name=increment]")`
	asUsual := looks()

	network.Leave()
	tb.Shows("Reconnecting…")
	visitor.New(t, server).Click()
	assert.Contains(t, looks(), "not current")
	assert.NotEqual(t, asUsual, looks())
	assert.Equal(t, "true", tb.Eval(button+`.disabled`))
	assert.Equal(t, "Reconnecting…", tb.Eval(button+`.title`))
	assert.Equal(t, "status", tb.Eval(`document.getElementById(`+button+`.getAttribute("aria-describedby")).role`))

	network.ComeBack()
	tb.Shows("Counter: 1")
	tb.WaitUntil(browser.Up+` && document.getElementById("connection").textContent === ""`, "silence again")
	require.Len(t, tb.Heard(), 3)
	assert.Equal(t, "Back online", tb.Heard()[1].Text)
	assert.Equal(t, asUsual, looks())
	assert.Equal(t, "false,,", tb.Eval(`[`+button+`.disabled, `+button+`.title, `+button+`.getAttribute("aria-describedby")].join()`))
}

func TestBrowser_WhatIsPressedInAShortDropIsNotLost(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	person := browser.New(t)
	joins, leaves := person.OpenWindow(network.URL+visitor.PresencePage), person.OpenWindow(network.URL+visitor.PresencePage)
	leaves.Join("Bob")
	joins.TypeInto("username", "Alice")
	for tb, button := range map[*browser.Tab]string{joins: "join", leaves: "leave"} {
		tb.ExpectErrors("net::ERR_")
		tb.WatchNotices()
		// Before a second is over, which is when the button is disabled.
		tb.Eval(`void document.addEventListener("live", () => document.querySelector("[name=` + button + `]").click(), {once: true})`)
	}
	network.Leave()
	joins.Shows("Reconnecting…")
	leaves.Shows("Reconnecting…")
	network.ComeBack()
	joins.Shows("Logged in as Alice")
	toldNote(leaves, "What you did last was not sent, because the page has changed meanwhile.")
	leaves.Shows("1 user(s) online Username")
	assert.Empty(t, joins.Notices())
	assert.Equal(t, 1, joins.Loads(), "without reload")

	// A click that was sent, and got no answer.
	counter := person.OpenWindow(network.URL + visitor.CounterPage)
	counter.ExpectErrors("net::ERR_")
	counter.WatchNotices()
	counter.Eval(`void document.addEventListener("lvt:done", () => { window.answered = true; }, true)`)
	release := network.Swallow()
	counter.Click("increment")
	network.Cut()
	release()
	toldNote(counter, "What you did last may not have counted.")
	counter.WaitUntil(browser.Live, "a live page")
	counter.Shows("Counter: 0")
	assert.Equal(t, "", counter.Eval(`window.answered`), "the page is no answer to the click")
}

func TestBrowser_PageForWhichThereIsNoRoomSaysSoAndIsLiveWhenThereIs(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ flag, says string }{
		{"-max-connections", "The server is full: no live updates for now. Buttons work. This page goes on trying."},
		{"-max-per-session", "Too many tabs of this browser are live: this one is not. Buttons work. Close another."},
	} {
		t.Run(row.flag, func(t *testing.T) {
			server := visitor.Serve(t, row.flag, "1")
			person := browser.New(t)
			first, second := person.OpenWindow(server+visitor.CounterPage), person.OpenWindow("about:blank")
			second.ExpectErrors("WebSocket")
			second.InEveryPage(`Math.random = () => 0.1`) // attempts come often
			second.Navigate(server + visitor.CounterPage)
			second.Shows(row.says)
			second.Click("increment")
			second.Shows("Counter: 1")
			first.Shows("Counter: 1")

			first.Close()
			second.WaitUntil(browser.Up, "a live page")
			visitor.New(t, server).Click()
			second.Shows("Counter: 2")
			assert.Equal(t, 2, second.Loads(), "about:blank and the page")
		})
	}
}
