package e2e

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

var (
	listingOf = regexp.MustCompile(`(?s)<figure class="listing"><figcaption[^>]*><a href="` + visitor.SourceURL + `/([^"#]+)#L\d+-L\d+">[^<]+</a></figcaption>(.*?)</figure>`)
	lineOf    = regexp.MustCompile(`(?s)<span data-line="(\d+)">(.*?\n)</span>`)
	tags      = regexp.MustCompile(`<[^>]*>`)
	sections  = regexp.MustCompile(`(?s)<h2 id="how">How it works</h2>.*<h2 id="template">Template</h2>.*<h2 id="handler">Handler &amp; state</h2>.*<h2 id="when-to-use">When to use</h2>`)
)

// Every line of a listing is the line of the repository that its number names, and all
// methods of the controller are listed.
func TestListings_ShowTheRealCode(t *testing.T) {
	t.Parallel()
	v := visitor.New(t, visitor.Serve(t))
	for address, name := range map[string]string{visitor.CounterPage: "MultiUserSync", visitor.PresencePage: "Presence"} {
		_, page := v.Send(http.MethodGet, address, "", "")
		shown := map[string]string{} // by file
		for _, listing := range listingOf.FindAllStringSubmatch(page, -1) {
			file := listing[1]
			source := strings.SplitAfter(readFile(t, file), "\n")
			for _, line := range lineOf.FindAllStringSubmatch(listing[2], -1) {
				number, _ := strconv.Atoi(line[1])
				code := html.UnescapeString(tags.ReplaceAllString(line[2], ""))
				assert.Equal(t, source[number-1], code, "%s: %s:%d", address, file, number)
				shown[file] += code
			}
		}
		assert.Len(t, shown, 3, address)
		assert.Contains(t, shown["templates"+address+".tmpl"], `{{define "live"}}`)
		assert.Contains(t, shown["state_realtime.go"], "type "+name+"State struct")
		handlers := shown["handlers_realtime.go"]
		assert.Contains(t, handlers, "type "+name+"Controller struct")
		method := "\nfunc (c *" + name + "Controller)"
		assert.Equal(t, strings.Count(readFile(t, "handlers_realtime.go"), method), strings.Count(handlers, method), "methods of %s", name)

		assert.Regexp(t, sections, page)
		before, _, _ := strings.Cut(page, `<figure class="listing">`)
		assert.NotContains(t, before, "/static/listing", "the script of the listings loads after them")
	}
}

// On a wide screen and on paper all code is in sight. Elsewhere it scrolls in its box, beside the
// numbers of its lines, and the page does not scroll sideways.
func TestBrowser_ListingIsInSightOrScrollsInItsBox(t *testing.T) {
	t.Parallel()
	const cut = `[...document.querySelectorAll(".listing pre")].some((box) => box.scrollWidth > box.clientWidth)`
	tb := browser.New(t).Load("about:blank")
	server := visitor.Serve(t)
	for _, page := range []string{visitor.CounterPage, visitor.PresencePage} {
		tb.Navigate(server + page)
		for width, scrolls := range map[int64]string{360: "true", 768: "true", 1280: "false", 1600: "false"} {
			tb.Run(emulation.SetDeviceMetricsOverride(width, 800, 1, false))
			assert.LessOrEqual(t, tb.Number(`document.documentElement.scrollWidth`), float64(width), "%s at %d pixels", page, width)
			assert.Equal(t, scrolls, tb.Eval(cut), "%s at %d pixels", page, width)
			assert.LessOrEqual(t, tb.Number(`document.querySelector("main.container").getBoundingClientRect().width`), 700.0)
		}
	}
	tb.Run(emulation.SetDeviceMetricsOverride(360, 800, 1, false))
	assert.Equal(t, "sticky true", tb.Eval(`(() => {
		const line = document.querySelector("[data-line]"), box = line.closest("pre");
		box.scrollLeft = box.scrollWidth;
		return getComputedStyle(line, "::before").position + " " + (line.getBoundingClientRect().right > box.clientWidth / 2);
	})()`), "a number stays for as long as its line is in the box")
	tb.Run(emulation.SetEmulatedMedia().WithMedia("print"))
	assert.Equal(t, "false", tb.Eval(cut+` || [...document.querySelectorAll("button, #wire, .notices")].some((part) => part.checkVisibility())`), "on paper")
}

func TestBrowser_ListingIsCopiedWithoutLineNumbersAndWithItsFile(t *testing.T) {
	t.Parallel()
	tb := browser.New(t).Open(visitor.Serve(t) + visitor.CounterPage)
	assert.Regexp(t, `^"\d+" / ""$`, tb.Eval(`getComputedStyle(document.querySelector("[data-line]"), "::before").content`), "the number, which is not read out")
	tb.Eval(`void document.body.appendChild(Object.assign(document.createElement("textarea"), {id: "pasted"}))`)
	tb.Eval(`void (() => { // what is said stays until the test has read it
		const timer = setTimeout;
		window.later = [];
		window.setTimeout = (what, after) => after === 2000 ? later.push(what) * 0 : timer(what, after);
	})()`)
	press := func(button, want string) (pasted string) {
		t.Helper()
		tb.Run(chromedp.Click(`[aria-label^=` + browser.Quote(button) + `]`))
		tb.WaitUntil(`document.activeElement.textContent === `+browser.Quote(want)+
			` && document.activeElement.closest("figure").querySelector("[role=status]").textContent === `+browser.Quote(want), want)
		tb.Eval(`void (pasted.value = "", pasted.focus())`)
		tb.Run(chromedp.KeyEvent("v", chromedp.KeyModifiers(2))) // Ctrl+V
		return tb.Eval(`pasted.value`)
	}
	source := readFile(t, "state_realtime.go")
	code := press("Copy state_realtime.go", "Copied")
	assert.True(t, strings.HasPrefix(code, "// MultiUserSyncState is"), "%q", code)
	assert.Contains(t, source, code)
	assert.Equal(t, source, press("Copy file state_realtime.go", "Copied"))

	tb.ExpectErrors("404")
	tb.Eval(`document.querySelector("figcaption").dataset.file = "/static/nothing"`)
	press("Copy file templates", "Not copied: no answer")
	assert.Equal(t, "Copy Copy file", tb.Eval(`later.forEach((what) => what()), [...new Set([...document.querySelectorAll(".listing button")].map((button) => button.textContent))].join(" ")`))
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
	assert.Equal(t, "1", tb.Eval(`String(moves)`), "one animation, and none when the page became live")
	tb.Run(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-reduced-motion", Value: "reduce"}}))
	other.Increment()
	tb.Shows("Counter: 2")
	assert.Equal(t, "1", tb.Eval(`String(moves)`))
}

// The index shows each demo twice. Each frame has its own live connection, opens when it
// comes into view, and remembers its own name.
func TestBrowser_IndexShowsEachDemoTwice(t *testing.T) {
	t.Parallel()
	tb := browser.New(t).Load("about:blank")
	size := func(width, height int64) { tb.Run(emulation.SetDeviceMetricsOverride(width, height, 1, false)) }
	size(360, 440)
	tb.Navigate(visitor.Serve(t) + "/")
	assert.Equal(t, "4", tb.Eval(`document.querySelectorAll("a[target=_blank]").length`), "links to the demos")
	size(1280, 800)
	assert.Less(t, tb.Number(`[...document.querySelectorAll("[data-line]")].find((line) => line.textContent === "}\n").getBoundingClientRect().bottom`), 800.0,
		"the end of the first function is in the first screen")
	size(360, 740)
	assert.Equal(t, "true", tb.Eval(`(([left, right]) => left.top === right.top && right.bottom < innerHeight)(
		[...document.querySelectorAll(".frame")].map((frame) => frame.getBoundingClientRect()))`), "both tabs are, on a phone")
	size(360, 440)
	frame := func(name string) string { return fmt.Sprintf("frames[%q].document", name) }
	live := func(name string) {
		tb.Eval(`void document.querySelector("[data-name=` + name + `]").scrollIntoView()`)
		tb.WaitUntil(fmt.Sprintf("frames[%q]?.liveTemplateClient?.isReady()", name), name+" to be live")
	}
	for _, name := range []string{"counter-left", "counter-right", "presence-left"} {
		live(name)
	}
	tb.Eval(`void ` + frame("counter-left") + `.querySelector("[name=increment]").click()`)
	tb.WaitUntil(frame("counter-right")+`.querySelector(".figure").innerText === "Counter: 1"`, "the update of the other frame")
	assert.False(t, tb.Has("iframe[name=presence-right]"), "a frame that is not in view")

	for state, says := range map[string]string{"off": "Live updates are off", "full": "The server is full", "crowded": "Too many tabs", "down": "Reconnecting…"} {
		tb.Eval(`void ` + frame("counter-left") + `.dispatchEvent(new CustomEvent("live", {detail: ` + browser.Quote(state) + `}))`)
		tb.WaitUntil(frame("counter-left")+`.getElementById("connection").textContent === `+browser.Quote(says), says)
		assert.Equal(t, "true", tb.Eval(`(() => {
			const page = `+frame("counter-left")+`, box = (selector) => page.querySelector(selector).getBoundingClientRect();
			return box(".figure").bottom <= box("button").top && box("button").bottom <= box("#connection").top &&
				box("#connection").bottom <= page.defaultView.innerHeight && page.documentElement.scrollHeight <= page.defaultView.innerHeight;
		})()`), "the number, the button and %q are below each other, and fit", says)
	}
	tb.Eval(`void ` + frame("counter-left") + `.dispatchEvent(new CustomEvent("live", {detail: "up"}))`)

	people := map[string]string{"presence-left": "Alice", "presence-right": "Bob"}
	for name, person := range people {
		live(name)
		tb.Eval(fmt.Sprintf(`void (%[1]s.querySelector("[name=username]").value = %[2]q, %[1]s.querySelector("[name=join]").click())`, frame(name), person))
	}
	for _, when := range []string{"after they join", "after a reload"} {
		for name := range people { // both first: frames go offline while they are out of view
			live(name)
		}
		for name, person := range people {
			tb.WaitUntil(fmt.Sprintf(`/2 user\(s\) online\s+Logged in as %s/.test(%s.body.innerText)`, person, frame(name)), person+" "+when)
		}
		tb.Reload()
	}
}

// The selectors with which the framework's documentation tests these pages.
func TestBrowser_PagesHaveTheDocumentedSelectors(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	tb := browser.New(t).Open(server + visitor.CounterPage)
	tb.Click("increment")
	tb.WaitUntil(`document.querySelector("article strong").innerText === "1"`, "the number")
	tb.Navigate(server + visitor.PresencePage)
	assert.True(t, tb.Has(`article form[method=POST] fieldset[role=group] > input[type=text][name=username] ~ button[name=join]`))
	tb.Join("Alice")
	tb.WaitUntil(`document.querySelector("article mark").innerText === "1 user(s) online"`, "the number of people")
	assert.True(t, tb.Has(`article form button[name=leave]`))
}

// transferred are the bytes transferred for a page and its frames, by URL.
const transferred = `JSON.stringify(Object.fromEntries([window, ...Array.from(frames)].
	flatMap((page) => page.performance.getEntries()).filter((entry) => entry.transferSize > 0).
	map((entry) => [entry.name, entry.transferSize])))`

// As Chromium counts transferred bytes.
func TestBrowser_FirstVisitIsSmallAndTheSecondOnlyHTML(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	// The index includes the frames that have begun to load.
	for path, limit := range map[string]int{"/": 100_000, visitor.CounterPage: 90_000, visitor.PresencePage: 90_000} {
		tb := browser.New(t).Load("about:blank")
		load := func(limit int) (files map[string]int) {
			tb.Navigate(server + path)
			tb.WaitUntil(`(frames["counter-left"] ?? window).liveTemplateClient?.isReady()`, "a live page, or frame")
			require.NoError(t, json.Unmarshal([]byte(tb.Eval(transferred)), &files))
			all := 0
			for _, bytes := range files {
				all += bytes
			}
			assert.Less(t, all, limit, "%s: %v", path, files)
			return files
		}
		assert.Greater(t, len(load(limit)), 8, "files of %s", path)
		for file := range load(12_000) {
			isFavicon := strings.Contains(file, "/favicon-") // loads at any time
			assert.True(t, isFavicon || !strings.Contains(file, "/static/"), "%s again: %s", path, file)
		}
	}
}
