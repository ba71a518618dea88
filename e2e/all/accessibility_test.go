//go:build all

package all

import (
	"os"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// axe-core finds no violation on any page, in any look and state. The states of the status
// line are set with the events of live.js, and some states are checked together.
func TestBrowser_AccessibleInEveryState(t *testing.T) {
	t.Parallel()
	axe, err := os.ReadFile("../../static/node_modules/axe-core/axe.min.js")
	if err != nil {
		visitor.Missing(t, "axe-core is not fetched: run `make assets`")
	}
	server := visitor.Serve(t)
	person := browser.New(t)
	listings := "" // excluded from all but one check: they are large, and always the same
	check := func(tb *browser.Tab, state string) {
		t.Helper()
		if tb.Eval(`typeof axe`) == "undefined" {
			tb.Run(chromedp.Evaluate(string(axe), nil))
		}
		for _, look := range []struct{ feature, value, rules string }{
			{"prefers-color-scheme", "light", `{}`},
			{"prefers-color-scheme", "dark", `{runOnly: ["color-contrast"]}`}, // all that can differ
			{"forced-colors", "active", `{runOnly: ["color-contrast"]}`},
		} {
			var report struct{ Passes, Violations []string }
			tb.Run(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: look.feature, Value: look.value}}))
			tb.Run(chromedp.Evaluate(`(async () => {
				await Promise.all(document.getAnimations().map((change) => change.finished)); // transitions of colours
				const {passes, violations} = await axe.run({exclude: [`+listings+`]}, `+look.rules+`);
				return {
					passes: passes.map((rule) => rule.id),
					violations: violations.map((rule) => rule.id + ": " + rule.nodes.map((node) => node.html + " " + node.failureSummary).join()),
				};
			})()`, &report, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
			assert.Empty(t, report.Violations, "%s, %s: %s", state, look.feature, look.value)
			assert.Contains(t, report.Passes, "color-contrast")
		}
	}
	says := func(tb *browser.Tab, event, detail, want string) {
		t.Helper()
		tb.Eval(`document.dispatchEvent(new CustomEvent(` + browser.Quote(event) + `, {detail: ` + browser.Quote(detail) + `}))`)
		tb.Shows(want)
	}

	home := person.OpenWindow(server + "/")
	home.Press(kb.Tab)
	for _, scheme := range []string{"light", "dark"} {
		home.Run(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}))
		assert.GreaterOrEqual(t, home.Number(contrastOfRing), 3.0, "the ring around what has the focus, %s", scheme)
	}
	check(home, "home")
	counter, presence := person.OpenWindow(server+visitor.CounterPage), browser.New(t).OpenWindow(server+visitor.PresencePage)
	counter.Press(kb.Tab)
	counter.Eval(`document.querySelector("#wire summary").focus()`)
	assert.GreaterOrEqual(t, counter.Number(contrastOfRing), 3.0, "the ring around On the wire")
	for _, tb := range []*browser.Tab{counter, presence} { // keeps notices, and code lit, until axe has finished
		tb.Eval(`void (() => {
			const timer = setTimeout;
			window.setTimeout = (what, after) => after < 1500 ? timer(what, after) : 0;
		})()`)
	}
	counter.ToggleWire(true)
	visitor.New(t, server).Open(visitor.CounterPage).Increment()
	counter.Shows("received RefreshCounter")
	check(counter, "counter with its code, lit up")
	check(presence, "presence with its code")

	listings = `[".listing"]`
	says(counter, "uncounted", "too fast", "Too fast")
	says(counter, "live", "full", "The server is full")
	check(counter, "too fast, full, on the wire")
	says(counter, "live", "down", "Reconnecting…")
	check(counter, "disconnected, on the wire")
	says(counter, "live", "up", "Back online")
	check(counter, "back online")

	presence.TypeInto("username", "  ")
	presence.Click("join")
	presence.Shows(visitor.NoName)
	says(presence, "live", "off", "Live updates are off")
	check(presence, "refused name, without live updates")
	presence.Join("Alice")
	presence.Eval(`dispatchEvent(new Event("keydown")), document.dispatchEvent(new CustomEvent("outdated", {detail: true}))`)
	presence.Shows("There is a new version of this page.")
	check(presence, "joined, a new version")
	presence.ToggleWire(true)
	visitor.New(t, server).Open(visitor.PresencePage).Join("Bob")
	presence.Shows("received PresenceChanged")
	says(presence, "live", "down", "Reconnecting…")
	check(presence, "joined, on the wire, disconnected")

	notFound := person.OpenWindow("about:blank")
	notFound.ExpectErrors("404")
	notFound.Navigate(server + "/nowhere")
	check(notFound, "not found")
	for _, page := range []string{"/", visitor.CounterPage, visitor.PresencePage} {
		plain := person.OpenWithoutScripts(server + page)
		plain.Run(emulation.SetScriptExecutionDisabled(false)) // for axe-core; the page's own scripts have not run
		check(plain, page+" without scripts")
	}

	redis := visitor.NewRedis(t)
	shared := visitor.Serve(t, "-redis", redis.URL)
	counter, presence = person.OpenWindow(shared+visitor.CounterPage), person.OpenWindow(shared+visitor.PresencePage)
	redis.Stop()
	counter.Shows("clicks on other servers are missing here")
	presence.Shows("last known")
	check(counter, "counter without Redis")
	check(presence, "presence without Redis")
}

// contrastOfRing is that of the ring around the element with the focus, to the page; 1 if
// there is none.
const contrastOfRing = `(() => {
	const ring = getComputedStyle(document.activeElement), page = getComputedStyle(document.documentElement).backgroundColor;
	const light = (colour) => {
		const [r, g, b] = colour.match(/[\d.]+/g).map((part) => part / 255).map((part) => part <= 0.04 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
		return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
	};
	const both = [page, ring.outlineStyle === "solid" && parseInt(ring.outlineWidth) > 1 ? ring.outlineColor : page].map(light);
	return Math.max(...both) / Math.min(...both);
})()`
