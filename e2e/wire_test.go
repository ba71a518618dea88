package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
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

// frames are those that Chromium itself saw on the sockets of a tab, without heartbeats.
type frames chan wireFrame

type wireFrame struct{ direction, text string }

// openWithFrames opens a page in a tab, and records all of its frames.
func openWithFrames(b *browser.Browser, url string) (*browser.Tab, frames) {
	tb, seen := b.Load("about:blank"), make(frames, 1000)
	chromedp.ListenTarget(tb.Ctx, func(event any) {
		var frame wireFrame
		switch e := event.(type) {
		case *cdpnetwork.EventWebSocketFrameReceived:
			frame = wireFrame{"received", e.Response.PayloadData}
		case *cdpnetwork.EventWebSocketFrameSent:
			frame = wireFrame{"sent", e.Response.PayloadData}
		}
		if frame.text != "" && !strings.Contains(frame.text, "__ping__") && !strings.Contains(frame.text, "pong") {
			seen <- frame
		}
	})
	tb.Run(cdpnetwork.Enable())
	tb.Navigate(url)
	tb.WaitUntil(browser.Live, "a live page")
	return tb, seen
}

// take returns the frames since the last take.
func (f frames) take() (taken []wireFrame) {
	for len(f) > 0 {
		taken = append(taken, <-f)
	}
	return taken
}

// wireLine is a line of the panel: its words without times, the milliseconds to an answer,
// its JSON, and the marked parts of that.
type wireLine struct {
	Words, Took, JSON string
	Marks             []string
}

// wireLines returns the lines of the panel, the oldest first.
func wireLines(t *testing.T, tb *browser.Tab) (lines []wireLine) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(tb.Eval(`JSON.stringify([...document.querySelectorAll("#wire li")].reverse().map((line) => {
		const [words, json] = [line.cloneNode(true), line.querySelector("code")];
		words.querySelector("code")?.remove();
		return {
			Words: words.textContent.replace(/ (answered in \d+ ms|\d\d:\d\d:\d\d\.\d{3})/g, "").trim(),
			Took: words.textContent.match(/ answered in (\d+) ms/)?.[1] ?? "",
			JSON: json?.textContent ?? "",
			Marks: [...line.querySelectorAll("mark")].map((mark) => mark.textContent),
		};
	}))`)), &lines))
	return lines
}

var actionOf = regexp.MustCompile(`"action":"(.)([^"]*)"`)

// assertLines checks that the panel lists these frames of a socket, each with its method,
// and tells the time of each answer. The method of a frame without an action is refresh, or
// Mount if it is the first.
func assertLines(t *testing.T, lines []wireLine, frames []wireFrame, refresh string, socket int) {
	t.Helper()
	require.Len(t, lines, len(frames))
	for i, frame := range frames {
		method, action := refresh, actionOf.FindStringSubmatch(frame.text)
		switch {
		case action != nil:
			method = strings.ToUpper(action[1]) + action[2]
		case strings.Contains(frame.text, "capabilities"):
			method = "Mount"
		}
		words := fmt.Sprintf("%s %s %d bytes socket %d", frame.direction, method, len(frame.text), socket)
		assert.Equal(t, words, strings.ReplaceAll(lines[i].Words, ",", ""))
		assert.Equal(t, frame.text, lines[i].JSON)
		assert.Equal(t, action != nil && frame.direction == "received", lines[i].Took != "", "an answer: %v", lines[i])
	}
}

// wireTotals is what the panel says when it lists these received frames.
func wireTotals(tb *browser.Tab, received ...string) string {
	bytes, page := 0, int(tb.Number(`performance.getEntriesByType("navigation")[0].encodedBodySize`))
	for _, text := range received {
		bytes += len(text)
	}
	return fmt.Sprintf("Received %d frames, %d bytes. Whole pages would have taken %d bytes.", len(received), bytes, len(received)*page)
}

const saidTotals = `document.querySelector("#wire .totals").textContent.replace(/,\b/g, "")`

func TestBrowser_WireShowsWhatTheBrowserSaw(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	peer := visitor.New(t, server).Open(visitor.CounterPage)
	tb, seen := openWithFrames(browser.New(t), server+visitor.CounterPage)
	tb.Run(emulation.SetDeviceMetricsOverride(1280, 800, 1, false))
	tb.Click("increment")
	tb.Shows("Counter: 1")
	tb.Click("increment")
	tb.Shows("Counter: 2")
	tb.Eval(`void document.addEventListener("lvt:error", () => { window.ponged = true; }, true)`)
	tb.Eval(browser.ComesOnline) // has the page ping
	tb.WaitUntil(`window.ponged`, "the answer to a ping")
	loads := tb.Loads()

	tb.ToggleWire(true)
	frames := seen.take()
	assertLines(t, wireLines(t, tb), frames, "", 1)
	peer.Increment()
	tb.Shows("Counter: 3")
	tb.Click("increment")
	tb.Shows("Counter: 4")
	frames = append(frames, seen.take()...)
	lines := wireLines(t, tb)
	assertLines(t, lines, frames, "RefreshCounter", 1)
	require.Len(t, lines, 8, "nothing was sent because the panel was opened")
	assert.Equal(t, [][]string{{`"3"`}, {}, {`"4"`}}, [][]string{lines[5].Marks, lines[6].Marks, lines[7].Marks}, "what is sent is no update")
	assert.Equal(t, wireTotals(tb, frames[0].text, frames[2].text, frames[4].text, frames[5].text, frames[7].text), tb.Eval(saidTotals))
	assert.Equal(t, "true", tb.Eval(`["[name=increment]", "#wire li"].every((part) => {
		const {top, bottom} = document.querySelector(part).getBoundingClientRect();
		return top >= 0 && bottom <= innerHeight;
	})`), "the button and the newest frame are in view together")

	tb.ToggleWire(false)
	tb.Click("increment")
	tb.Shows("Counter: 5")
	assert.Equal(t, lines, wireLines(t, tb), "a closed panel stays as it was")
	tb.ToggleWire(true)
	frames = append(frames, seen.take()...)
	frames = frames[len(frames)-5:]
	assertLines(t, wireLines(t, tb), frames, "RefreshCounter", 1)
	assert.Equal(t, wireTotals(tb, frames[0].text, frames[2].text, frames[4].text), tb.Eval(saidTotals), "of the lines that are listed")

	tb.Eval(`for (let i = 0; i < 30; i++) document.querySelector("[name=increment]").click()`)
	tb.WaitUntil(saidTotals+`.startsWith("Received 33 ")`, "an answer to each click")
	frames = seen.take()
	assertLines(t, wireLines(t, tb), frames[len(frames)-50:], "RefreshCounter", 1)
	assert.Equal(t, loads, tb.Loads())
}

// lit is the code that is lit up in the listings.
const lit = `[...document.querySelectorAll(".lit")].map((line) => line.textContent).join("")`

// holdLight keeps code lit until "unlight()".
const holdLight = `
	const held = new Set(), timer = setTimeout, clear = clearTimeout;
	window.setTimeout = (call, after, ...args) => {
		if (after !== 1500) return timer(call, after, ...args);
		const waiting = () => call(...args);
		held.add(waiting);
		return waiting;
	};
	window.clearTimeout = (waiting) => held.delete(waiting) || clear(waiting);
	window.unlight = () => held.forEach((waiting) => waiting());`

// What lights up is the code of the method behind a frame, and only while the panel is open.
// The time of an answer is that of the press that it answers.
func TestBrowser_WireLightsUpTheCodeThatRuns(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	method := func(name string) string {
		code := regexp.MustCompile(`(?ms)^func \(c \*MultiUserSyncController\) ` + name + `\(.*?^}\n`).FindString(readFile(t, "handlers_realtime.go"))
		require.NotEmpty(t, code, name)
		return code
	}
	peer := visitor.New(t, server).Open(visitor.CounterPage)
	tb := browser.New(t).Load("about:blank")
	tb.Run(emulation.SetDeviceMetricsOverride(360, 800, 1, false))
	tb.InEveryPage(holdLight + `document.addEventListener("socket", (event) => { window.socket = event.detail; })`)
	tb.Navigate(server + visitor.CounterPage)
	tb.WaitUntil(browser.Live, "a live page")
	peer.Increment()
	tb.Shows("Counter: 1")
	tb.ToggleWire(true)
	assert.Empty(t, tb.Eval(lit), "what was before")

	scrolled := tb.Eval(`scrollY`)
	peer.Increment()
	tb.Shows("Counter: 2")
	assert.Equal(t, method("RefreshCounter"), tb.Eval(lit))
	assert.Equal(t, scrolled, tb.Eval(`scrollY`))
	tb.Eval(`unlight()`)
	tb.Click("increment")
	tb.Shows("Counter: 3")
	assert.Equal(t, method("Increment"), tb.Eval(lit))
	tb.ToggleWire(false)
	assert.Empty(t, tb.Eval(lit), "off with the panel")
	tb.Click("increment")
	tb.Shows("Counter: 4")
	assert.Empty(t, tb.Eval(lit), "a closed panel")

	fade := `getComputedStyle(document.querySelector("[data-line]")).transitionDuration`
	assert.Equal(t, "0.5s", tb.Eval(fade))
	tb.Run(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-reduced-motion", Value: "reduce"}}))
	assert.Equal(t, "0s", tb.Eval(fade))
	tb.ToggleWire(true)
	tb.Eval(`document.querySelector("#wire a").click()`)
	assert.Equal(t, method("Increment"), tb.Eval(lit))
	tb.WaitUntil(`(({top, bottom}) => top >= 0 && bottom <= innerHeight)(document.querySelector(".lit").getBoundingClientRect())`, "the code in view")
	tb.Eval(`unlight()`)
	assert.Empty(t, tb.Eval(lit))

	// Two presses at once. Between them, other frames arrive, and a minute passes.
	tb.Eval(`(() => {
		const press = document.querySelector("[name=increment]"), now = performance.now;
		const receive = (frame) => socket.dispatchEvent(new MessageEvent("message", {data: JSON.stringify(frame)}));
		press.click();
		receive({tree: {0: "-1"}, meta: {}});
		receive({tree: {}, meta: {action: "refresh-counter"}});
		performance.now = () => now.call(performance) + 60000;
		press.click();
		receive({tree: {}, meta: {action: "slow-down"}});
	})()`)
	tb.WaitUntil(`document.querySelectorAll("#wire li").length === 12`, "5 lines of before, and 7")
	var words []string
	for _, line := range wireLines(t, tb)[5:] {
		took, _ := strconv.Atoi(line.Took)
		what, _, _ := strings.Cut(line.Words, " bytes")
		words = append(words, fmt.Sprintf("%s %t %t", regexp.MustCompile(` \d+$`).ReplaceAllString(what, ""), line.Took != "", took >= 60_000))
	}
	assert.Equal(t, []string{"sent Increment false false", "received RefreshCounter false false", "received RefreshCounter false false",
		"sent Increment false false", "received true true", "received Increment true false", "received Increment false false"}, words)

	// A frame of a refresh does not tell its name. Where there are two, none is named.
	tb.ToggleWire(false)
	tb.Eval(`document.querySelector("[data-line]").append('.Publish(ctx, topic, "Another")')`)
	tb.ToggleWire(true)
	peer.Increment()
	tb.Shows("Counter: 7")
	assert.Empty(t, tb.Eval(lit))
}

func TestBrowser_WireTellsSocketsApartAndNamesAreText(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	peer := visitor.New(t, server).Open(visitor.PresencePage)
	tb, seen := openWithFrames(browser.New(t), network.URL+visitor.PresencePage)
	tb.Run(emulation.SetDeviceMetricsOverride(360, 800, 1, false))
	tb.ExpectErrors("net::ERR_")

	network.Leave()
	tb.Shows("Reconnecting…")
	tb.ToggleWire(true)
	tb.Shows("No socket is open.")
	network.ComeBack()
	tb.Shows("Socket 2 has been open since ")
	tb.WaitUntil(`document.documentElement.dataset.connection === "up"`, "the first update")
	seen.take()

	tb.Join("<b>x</b>")
	peer.Join("<b>y</b>é")
	tb.Shows("2 user(s) online")
	others := seen.take()
	lines := wireLines(t, tb)
	lines = lines[len(lines)-len(others):]
	assertLines(t, lines, others, "PresenceChanged", 2)
	assert.Contains(t, lines[0].JSON, "<b>x</b>")
	assert.Equal(t, `"2"`, lines[2].Marks[0])
	assert.Contains(t, lines[2].Marks[1], `\u0026lt;b\u0026gt;y\u0026lt;/b\u0026gt;é `)
	assert.False(t, tb.Has("#wire code b"))
	assert.Equal(t, "360", tb.Eval(`document.scrollingElement.scrollWidth`), "a long frame does not widen the page")

	network.Cut()
	tb.Shows("Socket 3 has been open since ")
	tb.WaitUntil(`document.querySelector("#wire li").textContent.startsWith("received ")`, "its first update")
	assert.NotContains(t, tb.Text(), "Socket 2", "those that are closed are forgotten")
	lines = wireLines(t, tb)
	opened := slices.IndexFunc(lines, func(line wireLine) bool { return line.Words == "opened socket 3" })
	require.Positive(t, opened, "%v", lines)
	assert.Equal(t, "closed code 1006 socket 2", lines[opened-1].Words)
	for i, line := range lines {
		assert.Equal(t, i >= opened, strings.HasSuffix(line.Words, " socket 3"), "line %d: %s", i, line.Words)
	}
	first := strings.Join(lines[opened+1].Marks, " ")
	assert.Contains(t, first, `\u0026lt;b\u0026gt;x\u0026lt;/b\u0026gt; `, "the first update brings the whole list")
	assert.NotContains(t, first, "autocomplete", "the fixed parts are not marked")

	plain := browser.New(t).OpenWithoutScripts(server + visitor.PresencePage)
	plain.Eval(`document.querySelector("#wire summary").click()`)
	plain.Shows("This panel needs scripts")
}
