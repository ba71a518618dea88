//go:build all

package all

import (
	"os"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// axe-core finds no violation on any page, in any look and any state.
func TestBrowser_AccessibleInEveryState(t *testing.T) {
	t.Parallel()
	axe, err := os.ReadFile("../../static/node_modules/axe-core/axe.min.js")
	if err != nil {
		visitor.Missing(t, "axe-core is not fetched: run `make assets`")
	}
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	blocked := visitor.ServeBehind(t, visitor.AnswerUpgrades(visitor.RefuseUpgrade))
	person := browser.New(t)
	listings := "" // what axe leaves out: they are the same in every state, and most of the page
	check := func(tb *browser.Tab, state string) {
		t.Helper()
		if tb.Eval(`typeof axe`) == "undefined" {
			tb.Run(chromedp.Evaluate(string(axe), nil))
		}
		for _, look := range []*struct {
			emulation.MediaFeature
			rules string
		}{
			{emulation.MediaFeature{Name: "prefers-color-scheme", Value: "light"}, `{}`},
			{emulation.MediaFeature{Name: "prefers-color-scheme", Value: "dark"}, `{runOnly: ["color-contrast"]}`}, // all that differs
			{emulation.MediaFeature{Name: "forced-colors", Value: "active"}, `{runOnly: ["color-contrast"]}`},
		} {
			var report struct{ Passes, Violations []string }
			tb.Run(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{&look.MediaFeature}))
			tb.Run(chromedp.Evaluate(`(async () => {
				await Promise.all(document.getAnimations().map((change) => change.finished)); // of colours, from one look to the next
				const {passes, violations} = await axe.run({exclude: [`+listings+`]}, `+look.rules+`);
				return {
					passes: passes.map((rule) => rule.id),
					violations: violations.map((rule) => rule.id + ": " + rule.nodes.map((node) => node.html + " " + node.failureSummary).join()),
				};
			})()`, &report, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
			assert.Empty(t, report.Violations, "%s, %s: %s", state, look.Name, look.Value)
			assert.Contains(t, report.Passes, "color-contrast")
		}
	}

	check(person.LoadWindow(server+"/"), "home")
	for _, page := range []string{visitor.CounterPage, visitor.PresencePage} {
		check(person.OpenWindow(server+page), page+" with its code")
	}
	listings = `[".listing"]`
	notFound := person.OpenWindow("about:blank")
	notFound.ExpectErrors("404")
	notFound.Navigate(server + "/nowhere")
	check(notFound, "not found")
	for _, page := range []string{"/", visitor.CounterPage, visitor.PresencePage} {
		plain := person.OpenWithoutScripts(server + page)
		plain.Run(emulation.SetScriptExecutionDisabled(false)) // axe-core is a script; those of the page did not run
		check(plain, page+" without scripts")
	}
	for _, page := range []string{visitor.CounterPage, visitor.PresencePage} {
		tb := person.OpenWindow("about:blank")
		tb.ExpectErrors("WebSocket")
		tb.Navigate(blocked + page)
		tb.Shows("Live updates are off")
		check(tb, page+" without live updates")
	}

	noRoom := visitor.Serve(t, "-max-connections", "1")
	visitor.New(t, noRoom).Open(visitor.CounterPage)
	late := person.OpenWindow("about:blank")
	late.ExpectErrors("WebSocket")
	late.Navigate(noRoom + visitor.CounterPage)
	late.Shows("The server is full")
	check(late, "full")

	redis := visitor.NewRedis(t)
	shared := visitor.Serve(t, "-redis", redis.URL)
	tabs := []*browser.Tab{person.OpenWindow(shared + visitor.CounterPage), person.OpenWindow(shared + visitor.PresencePage)}
	redis.Stop()
	for _, tb := range tabs {
		tb.Shows("last known")
	}
	tabs[0].Click("increment")
	tabs[0].Shows("did not count")
	for _, tb := range tabs {
		check(tb, "without Redis")
	}

	person = browser.New(t) // the tabs of the first would hide these
	counter, presence := person.OpenWindow(network.URL+visitor.CounterPage), person.OpenWindow(network.URL+visitor.PresencePage)
	check(counter, "counter")
	check(presence, "presence")
	presence.TypeInto("username", "  ")
	presence.Click("join")
	presence.Shows(visitor.NoName)
	check(presence, "refused name")
	presence.Join("Alice")
	check(presence, "joined")
	for _, tb := range []*browser.Tab{counter, presence} {
		tb.ToggleWire(true)
		check(tb, "on the wire, without a frame")
	}
	visitor.New(t, server).Open(visitor.CounterPage).Increment()
	visitor.New(t, server).Open(visitor.PresencePage).Join("Bob")
	for _, tb := range []*browser.Tab{counter, presence} {
		tb.Shows("received")
		check(tb, "on the wire")
	}
	for _, tb := range []*browser.Tab{counter, presence} {
		tb.ExpectErrors("net::ERR_")
	}
	network.Leave()
	for _, tb := range []*browser.Tab{counter, presence} {
		tb.Shows("Reconnecting…")
		check(tb, "disconnected")
	}
	network.ComeBack()
	counter.Shows("Back online")
	check(counter, "back online")
	counter.ToggleWire(false) // drawing every frame would slow the clicks down
	counter.Eval(`for (let i = 0; i < 1000; i++) document.querySelector("[name=increment]").click()`)
	counter.Shows("Slow down")
	check(counter, "too fast")
}
