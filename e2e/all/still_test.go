//go:build soak

package all

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// Nothing on a page moves while it becomes live, on a first visit and with its files in the
// cache. A browser that has no time draws pages half parsed, and those do move.
func TestSoak_NothingMovesWhileAPageBecomesLive(t *testing.T) {
	server := visitor.Serve(t)
	for _, path := range []string{"/", visitor.CounterPage, visitor.PresencePage} {
		tb := browser.New(t).Load("about:blank")
		tb.InEveryPage(`window.shifts = ""; new PerformanceObserver((list) => {
			for (const { value, sources } of list.getEntries()) {
				// A page that is drawn half parsed moves the word at its end by less than a pixel.
				if (value >= 0.001) shifts += value + ": " + sources.map(({ node }) => node?.outerHTML ?? node?.textContent);
			}
		}).observe({type: "layout-shift", buffered: true})`)
		for _, visit := range []string{"first", "second"} {
			tb.Navigate(server + path)
			tb.WaitUntil(`(frames["counter-left"] ?? window).liveTemplateClient?.isReady()`, "a live page, or frame")
			tb.Eval(`void requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => window.drawn = true)))`)
			tb.WaitUntil(`window.drawn`, "the live page to be drawn")
			assert.Empty(t, tb.Eval(`shifts`), "%s, %s visit: what has moved", path, visit)
		}
	}
}
