package e2e

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	cdpnetwork "github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

var (
	listingOf = regexp.MustCompile(`(?s)<figure class="listing"><figcaption>([^<]+):(\d+)-(\d+)</figcaption>(.*?)</figure>`)
	lineOf    = regexp.MustCompile(`(?s)<span class="ln"> *(\d+)</span><span class="cl">(.*?\n)</span></span>`)
	tag       = regexp.MustCompile(`<[^>]*>`)
)

// Every listing of a page is what stands in the repository at the lines it names, and
// all code of the controller is there.
func TestListings_AreTheCodeThatRuns(t *testing.T) {
	t.Parallel()
	v := visitor.New(t, visitor.Serve(t))
	for path, row := range map[string]struct{ template, controller, state string }{
		visitor.CounterPage:  {"templates/realtime/multi-user-sync.tmpl", "MultiUserSyncController", "MultiUserSyncState"},
		visitor.PresencePage: {"templates/realtime/presence.tmpl", "PresenceController", "PresenceState"},
	} {
		t.Run(path, func(t *testing.T) {
			_, page := v.Send(http.MethodGet, path, "", "")
			var shown strings.Builder
			var files []string
			for _, listing := range listingOf.FindAllStringSubmatch(page, -1) {
				file, from, to := listing[1], number(t, listing[2]), number(t, listing[3])
				source, err := os.ReadFile("../" + file)
				require.NoError(t, err)
				var code strings.Builder
				lines := lineOf.FindAllStringSubmatch(listing[4], -1)
				for i, line := range lines {
					assert.Equal(t, from+i, number(t, line[1]))
					code.WriteString(html.UnescapeString(tag.ReplaceAllString(line[2], "")))
				}
				assert.Len(t, lines, to-from+1)
				assert.Equal(t, strings.Join(strings.SplitAfter(string(source), "\n")[from-1:to], ""), code.String(), "%s:%d-%d", file, from, to)
				files = append(files, file)
				shown.WriteString(code.String())
			}
			assert.Equal(t, []string{row.template, "handlers_realtime.go", "state_realtime.go"}, files)

			handlers, err := os.ReadFile("../handlers_realtime.go")
			require.NoError(t, err)
			methods := regexp.MustCompile(`(?m)^func \(c \*`+row.controller+`\) .*$`).FindAllString(string(handlers), -1)
			assert.Greater(t, len(methods), 3)
			for _, method := range methods {
				assert.Contains(t, shown.String(), method)
			}
			assert.Contains(t, shown.String(), "type "+row.controller+" struct")
			assert.Contains(t, shown.String(), "type "+row.state+" struct")
			assert.Contains(t, shown.String(), `{{define "live"}}`)

			at := 0
			for _, heading := range []string{`<h2 id="template">Template</h2>`, `<h2 id="handler">Handler &amp; state</h2>`, `<h2 id="when-to-use">When to use</h2>`} {
				next := strings.Index(page, heading)
				assert.Greater(t, next, at, heading)
				at = next
				assert.Contains(t, page, `href="#`+strings.Split(heading, `"`)[1]+`"`)
			}
		})
	}
}

func number(t testing.TB, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n
}

// Code scrolls in its box and never the page, in any width, and can be copied.
func TestBrowser_ListingScrollsInItsBoxAndIsCopiedWithoutNumbers(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	tb := browser.New(t).Open(server + visitor.CounterPage)
	for _, width := range []int64{360, 768, 1600} {
		tb.Run(emulation.SetDeviceMetricsOverride(width, 800, 1, false))
		assert.LessOrEqual(t, tb.Number(`document.documentElement.scrollWidth`), float64(width), "at %d pixels", width)
		assert.Equal(t, "true", tb.Eval(`[...document.querySelectorAll(".listing pre")].every((box) => box.scrollWidth > box.clientWidth)`))
	}

	tb.Run(chromedp.Click(`[aria-label^="Copy state_realtime.go"]`))
	tb.WaitUntil(`[...document.querySelectorAll("[role=status]")].some((said) => said.textContent === "Copied")`, "to be told")
	tb.Eval(`void document.body.append(Object.assign(document.createElement("textarea"), {id: "pasted"}))`)
	tb.Eval(`void document.getElementById("pasted").focus()`)
	tb.Run(chromedp.KeyEvent("v", chromedp.KeyModifiers(2)))
	source, err := os.ReadFile("../state_realtime.go")
	require.NoError(t, err)
	pasted := tb.Eval(`document.getElementById("pasted").value`)
	assert.True(t, strings.HasPrefix(pasted, "// MultiUserSyncState is"), "%q", pasted)
	assert.Contains(t, string(source), pasted)
}

// The index shows each demo twice. Each frame is a live connection of its own, opens
// when it comes into view, and remembers its own name.
func TestBrowser_IndexShowsEachDemoTwice(t *testing.T) {
	t.Parallel()
	p := visitor.Start(t)
	other := visitor.New(t, p.URL).Open(visitor.CounterPage)
	tb := browser.New(t).Load("about:blank")
	tb.Run(emulation.SetDeviceMetricsOverride(360, 640, 1, false))
	tb.Navigate(p.URL + "/")
	frame := func(name string) string { return fmt.Sprintf("frames[%q].document", name) }
	live := func(name string) {
		t.Helper()
		tb.Eval(`void document.querySelector("[data-name=` + name + `]").scrollIntoView()`)
		tb.WaitUntil(fmt.Sprintf("frames[%q]?.liveTemplateClient?.isReady()", name), name+" to be live")
	}
	assert.Equal(t, 0, p.Connections(visitor.PresencePage), "none in view")
	live("counter-left")
	assert.False(t, tb.Has("iframe[name=presence-right]"), "not in view")
	live("counter-right")
	assert.Equal(t, 3, p.Connections(visitor.CounterPage))
	tb.Eval(`void ` + frame("counter-left") + `.querySelector("[name=increment]").click()`)
	for _, name := range []string{"counter-left", "counter-right"} {
		tb.WaitUntil(frame(name)+`.querySelector(".figure").innerText === "Counter: 1"`, name+" to move")
	}
	other.Shows("Counter: 1")

	names := map[string]string{"presence-left": "Alice", "presence-right": "Bob"}
	joined := func() {
		t.Helper()
		for name, person := range names {
			live(name)
			tb.WaitUntil(fmt.Sprintf(`%s.body.innerText.includes("Logged in as %s")`, frame(name), person), person)
			tb.WaitUntil(frame(name)+`.body.innerText.includes("2 user(s) online")`, "both online")
		}
	}
	for name, person := range names {
		live(name)
		tb.Eval(fmt.Sprintf(`void (%[1]s.querySelector("[name=username]").value = %[2]q, %[1]s.querySelector("[name=join]").click())`, frame(name), person))
	}
	joined()
	tb.Reload()
	joined()
	assert.Equal(t, "4", tb.Eval(`document.querySelectorAll("a[target=_blank]").length`))
}

func TestBrowser_NumberThatChangesStandsOutUnlessMotionIsReduced(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	tb, other := browser.New(t).Load("about:blank"), visitor.New(t, server).Open(visitor.CounterPage)
	tb.InEveryPage(`window.moves = []; Element.prototype.animate = function () { moves.push(this.textContent); }`)
	tb.Navigate(server + visitor.CounterPage)
	tb.WaitUntil(browser.Live, "a live page")
	other.Increment()
	tb.Shows("Counter: 1")
	assert.Equal(t, "1", tb.Eval(`String(moves)`), "and not when the page became live")
	tb.Run(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-reduced-motion", Value: "reduce"}}))
	other.Increment()
	tb.Shows("Counter: 2")
	assert.Equal(t, "1", tb.Eval(`String(moves)`))
}

// The selectors by which the framework's own documentation tests these pages.
func TestBrowser_PagesAreAsTheFrameworkDocumentsThem(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	person := browser.New(t)
	counter, presence := person.OpenWindow(server+visitor.CounterPage), person.OpenWindow(server+visitor.PresencePage)
	for _, tb := range []*browser.Tab{counter, presence, person.LoadWindow(server + "/")} {
		tb.Run(emulation.SetDeviceMetricsOverride(1600, 900, 1, false))
		assert.LessOrEqual(t, tb.Number(`document.querySelector("main.container").getBoundingClientRect().width`), 700.0)
		assert.Equal(t, "0", tb.Eval(`document.querySelectorAll("[style], style").length`), "inline styles")
		assert.Equal(t, "0", tb.Eval(`[...document.querySelectorAll("*")].filter((e) => e.getAttributeNames().some((name) => name.startsWith("on"))).length`), "inline handlers")
		assert.Equal(t, "0", tb.Eval(`document.querySelectorAll("script:not([src])").length`), "inline scripts")
	}
	counter.WaitUntil(`document.querySelector("article").innerText.includes("Counter: 0")`, "the counter")
	counter.Click("increment")
	counter.WaitUntil(`document.querySelector("article strong").innerText === "1"`, "a click")

	presence.WaitUntil(`document.querySelector("mark").innerText === "0 user(s) online"`, "the count")
	assert.True(t, presence.Has(`article form[method=POST] fieldset[role=group] > input[type=text][name=username]`))
	assert.True(t, presence.Has(`article form[method=POST] fieldset[role=group] > button[name=join]`))
	presence.Join("Alice")
	presence.WaitUntil(`document.querySelector("article mark").innerText === "1 user(s) online"`, "the count")
	assert.True(t, presence.Has(`article form button[name=leave]`))
}

// What crosses the network when a page is opened, as Chromium counts it, and nothing
// that moves while it becomes live.
func TestBrowser_FirstVisitIsSmallAndStillAndTheSecondOnlyHTML(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	for _, path := range []string{"/", visitor.CounterPage, visitor.PresencePage} {
		tb := browser.New(t).Load("about:blank")
		tb.Run(cdpnetwork.Enable())
		var wire browser.LoadedFiles
		chromedp.ListenTarget(tb.Ctx, wire.Listen)
		tb.InEveryPage(`window.shifts = ""; new PerformanceObserver((list) => {
			for (const { value, sources } of list.getEntries()) {
				// A page that is drawn half parsed moves the word at its end by less than a pixel.
				if (value >= 0.001) shifts += value + ": " + sources.map(({ node }) => node?.outerHTML ?? node?.textContent);
			}
		}).observe({type: "layout-shift", buffered: true})`)
		load := func() map[string]int {
			tb.Navigate(server + path)
			if path == "/" {
				tb.WaitUntil(`frames["counter-left"]?.liveTemplateClient?.isReady()`, "a live frame")
			} else {
				tb.WaitUntil(browser.Live, "a live page")
			}
			tb.Eval(`void requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => window.drawn = true)))`)
			tb.WaitUntil(`window.drawn`, "the live page to be drawn")
			assert.Empty(t, tb.Eval(`shifts`), "%s: what has moved", path)
			return wire.Take()
		}
		first := load()
		_, page := visitor.New(t, server).Send(http.MethodGet, path, "", "")
		before, after, listed := strings.Cut(page, `<figure class="listing">`)
		all, late := 0, zipped(t, page)-zipped(t, before)
		for url, bytes := range first {
			all += bytes
			if strings.Contains(after, strings.TrimPrefix(url, server)) && url != server+path {
				late += bytes
			}
		}
		t.Logf("%s: %d bytes in %d files, %d before the first listing", path, all, len(first), all-late)
		assert.Less(t, all, 100_000, "%v", first)
		if listed {
			assert.Less(t, all-late, 75_000, "%v", first)
		}
		assert.Greater(t, len(first), 8)

		again := load()
		t.Logf("%s again: %v", path, again)
		for url := range again {
			if !strings.Contains(url, "/favicon-") { // loads when the browser finds the time
				assert.Regexp(t, `^`+regexp.QuoteMeta(server)+`/(realtime/[^/]*)?$`, url)
			}
		}
		assert.Less(t, sum(again), 12_000)
	}
}

func sum(bytes map[string]int) (all int) {
	for n := range maps.Values(bytes) {
		all += n
	}
	return all
}

// zipped returns the length of a text as it is sent.
func zipped(t testing.TB, text string) int {
	t.Helper()
	var sent bytes.Buffer
	z, err := gzip.NewWriterLevel(&sent, 7)
	require.NoError(t, err)
	_, err = io.WriteString(z, text)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return sent.Len()
}
