package main

import (
	"os"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"

	"realtime/internal/testenv"
)

// axe-core finds nothing to complain about on any page, however it looks and
// whatever state it is in.
func TestBrowser_AccessibleInEveryState(t *testing.T) {
	t.Parallel()
	axe, err := os.ReadFile("node_modules/axe-core/axe.min.js")
	if err != nil {
		testenv.Missing(t, "axe-core is not fetched: run `make assets`")
	}
	server := newServer(t)
	network := newNetwork(t, server)
	blocked := newServerBehind(t, answerUpgrades(refuseUpgrade))
	browser := newBrowser(t)
	check := func(tb *browserTab, state string) {
		t.Helper()
		tb.run(chromedp.Evaluate(string(axe), nil))
		for _, look := range []*struct {
			emulation.MediaFeature
			rules string
		}{
			{emulation.MediaFeature{Name: "prefers-color-scheme", Value: "light"}, `{}`},
			{emulation.MediaFeature{Name: "prefers-color-scheme", Value: "dark"}, `{runOnly: ["color-contrast"]}`}, // all that differs
			{emulation.MediaFeature{Name: "forced-colors", Value: "active"}, `{runOnly: ["color-contrast"]}`},
		} {
			var report struct{ Passes, Violations []string }
			tb.run(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{&look.MediaFeature}))
			tb.run(chromedp.Evaluate(`(async () => {
				await Promise.all(document.getAnimations().map((change) => change.finished)); // of colours, as one look follows another
				const {passes, violations} = await axe.run(`+look.rules+`);
				return {
					passes: passes.map((rule) => rule.id),
					violations: violations.map((rule) => rule.id + ": " + rule.nodes.map((node) => node.html + " " + node.failureSummary).join()),
				};
			})()`, &report, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
			assert.Empty(t, report.Violations, "%s, %s: %s", state, look.Name, look.Value)
			assert.Contains(t, report.Passes, "color-contrast")
		}
	}

	check(browser.openWindow(server+"/"), "home")
	notFound := browser.openWindow("about:blank")
	notFound.expectErrors("404")
	notFound.navigate(server + "/nowhere")
	check(notFound, "not found")
	for _, page := range []string{"/", counterPage, presencePage} {
		plain := browser.openWithoutScripts(server + page)
		plain.run(emulation.SetScriptExecutionDisabled(false)) // axe-core is one; the page's have had their chance
		check(plain, page+" without scripts")
	}
	for _, page := range []string{counterPage, presencePage} {
		tb := browser.openWindow("about:blank")
		tb.expectErrors("WebSocket")
		tb.navigate(blocked + page)
		tb.shows("Live updates are off")
		check(tb, page+" without live updates")
	}

	noRoom := newServerWith(t, Config{MaxConnections: 1})
	newVisitor(t, noRoom).open(counterPage)
	late := browser.openWindow("about:blank")
	late.expectErrors("WebSocket")
	late.navigate(noRoom + counterPage)
	late.shows("The server is full")
	check(late, "full")

	redis := testenv.NewRedis(t)
	shared := newServerWith(t, Config{Redis: redis.URL})
	tabs := []*browserTab{browser.openWindow(shared + counterPage), browser.openWindow(shared + presencePage)}
	redis.Stop()
	for _, tb := range tabs {
		tb.shows("last known")
	}
	tabs[0].click("increment")
	tabs[0].shows("did not count")
	for _, tb := range tabs {
		check(tb, "without Redis")
	}

	browser = newBrowser(t) // the tabs of the first would hide these
	counter, presence := browser.openWindow(network.url+counterPage), browser.openWindow(network.url+presencePage)
	check(counter, "counter")
	check(presence, "presence")
	presence.typeInto("username", "  ")
	presence.click("join")
	presence.shows(noName)
	check(presence, "refused name")
	presence.join("Alice")
	check(presence, "joined")
	for _, tb := range []*browserTab{counter, presence} {
		tb.expectErrors("net::ERR_")
	}
	network.leave()
	for _, tb := range []*browserTab{counter, presence} {
		tb.shows("Reconnecting…")
		check(tb, "disconnected")
	}
	network.comeBack()
	counter.shows("Back online")
	check(counter, "back online")
	counter.eval(`for (let i = 0; i < 300; i++) document.querySelector("[name=increment]").click()`)
	counter.shows("Slow down")
	check(counter, "too fast")
}
