package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
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

// wireLine is a line of the panel: its words without the time, its JSON, and the marked
// parts of that.
type wireLine struct {
	Words, JSON string
	Marks       []string
}

// wireLines returns the lines of the panel, the oldest first.
func wireLines(t *testing.T, tb *browser.Tab) (lines []wireLine) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(tb.Eval(`JSON.stringify([...document.querySelectorAll("#wire li")].reverse().map((line) => ({
		Words: [...line.querySelectorAll("span")].map((word) => word.textContent).join(" ").replace(/ \d\d:\d\d:\d\d\.\d{3}/, ""),
		JSON: line.querySelector("code")?.textContent ?? "",
		Marks: [...line.querySelectorAll("mark")].map((mark) => mark.textContent),
	})))`)), &lines))
	return lines
}

// assertLines checks that the panel lists these frames of a socket.
func assertLines(t *testing.T, lines []wireLine, frames []wireFrame, socket int) {
	t.Helper()
	require.Len(t, lines, len(frames))
	for i, frame := range frames {
		assert.Equal(t, frame.text, lines[i].JSON)
		words := fmt.Sprintf("%s %d bytes socket %d", frame.direction, len(frame.text), socket)
		assert.Equal(t, words, strings.ReplaceAll(lines[i].Words, ",", ""))
	}
}

const wireTotals = `[...document.querySelectorAll("#wire tbody tr")].map((row) => row.innerText.replace(/,/g, "").replace(/\s+/g, " ")).join(", ")`

func TestBrowser_WireShowsWhatTheBrowserSawWhileItIsOpen(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	peer := visitor.New(t, server).Open(visitor.CounterPage)
	tb, seen := openWithFrames(browser.New(t), server+visitor.CounterPage)
	tb.Click("increment")
	tb.Shows("Counter: 1")
	before := seen.take()
	require.Len(t, before, 3, "the first update, the click, and its answer: %v", before)
	loads := tb.Loads()
	tb.ToggleWire(true)
	assert.Empty(t, wireLines(t, tb), "what passed before")

	peer.Increment()
	tb.Shows("Counter: 2")
	tb.Click("increment")
	tb.Shows("Counter: 3")
	tb.Eval(browser.ComesOnline) // has the page ping
	tb.WaitUntil(`/not listed: (2 frames, 51|4 frames, 102|6 frames, 153) bytes/.test(document.querySelector("#wire").innerText)`, "pings and their answers")
	others := seen.take()
	require.Len(t, others, 3, "nothing was sent because the panel was opened: %v", others)
	lines := wireLines(t, tb)
	assertLines(t, lines, others, 1)
	assert.Equal(t, [][]string{{`"2"`}, {}, {`"3"`}}, [][]string{lines[0].Marks, lines[1].Marks, lines[2].Marks}, "what is sent is no update")
	asDelivered := int(tb.Number(`performance.getEntriesByType("navigation")[0].encodedBodySize`))
	assert.Equal(t, fmt.Sprintf("Received 2 %d, Sent 1 %d, As whole pages 2 %d",
		len(others[0].text)+len(others[2].text), len(others[1].text), 2*asDelivered), tb.Eval(wireTotals))

	tb.ToggleWire(false)
	tb.Click("increment")
	tb.Shows("Counter: 4")
	assert.Equal(t, lines, wireLines(t, tb), "a closed panel stays as it was")
	tb.ToggleWire(true)
	assert.Empty(t, wireLines(t, tb), "and starts afresh when it is opened")
	assert.Equal(t, "Received 0 0, Sent 0 0, As whole pages 0 0", tb.Eval(wireTotals))

	tb.Eval(`for (let i = 0; i < 30; i++) document.querySelector("[name=increment]").click()`)
	tb.WaitUntil(wireTotals+`.startsWith("Received 30 ")`, "an answer to each click")
	others = seen.take()
	assertLines(t, wireLines(t, tb), others[len(others)-50:], 1)
	assert.Equal(t, loads, tb.Loads())
}

func TestBrowser_WireTellsSocketsApartAndNamesAreText(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	peer := visitor.New(t, server).Open(visitor.PresencePage)
	tb, seen := openWithFrames(browser.New(t), network.URL+visitor.PresencePage)
	tb.Run(emulation.SetDeviceMetricsOverride(360, 800, 1, false))
	tb.ExpectErrors("net::ERR_")

	// The script of the panel cannot be loaded until the server is back.
	network.Leave()
	tb.Shows("Reconnecting…")
	tb.Eval(`document.querySelector("#wire summary").click()`)
	tb.Shows("The WebSocket frames of this tab")
	network.ComeBack()
	tb.WaitUntil(`!document.querySelector("#wire [hidden]")`, "the panel, once the server is back")
	tb.Shows("Open now: socket 2, opened ")
	tb.WaitUntil(`document.documentElement.dataset.connection === "up"`, "the first update")
	seen.take()

	tb.Join("<b>x</b>")
	peer.Join("<b>y</b>é")
	tb.Shows("2 user(s) online")
	tb.WaitUntil(`document.querySelectorAll("#wire li").length >= 3`, "their frames")
	others := seen.take()
	lines := wireLines(t, tb)
	lines = lines[len(lines)-len(others):]
	assertLines(t, lines, others, 2)
	assert.Contains(t, lines[0].JSON, "<b>x</b>")
	assert.Equal(t, `"2"`, lines[2].Marks[0])
	assert.Contains(t, lines[2].Marks[1], `\u0026lt;b\u0026gt;y\u0026lt;/b\u0026gt;é `)
	assert.False(t, tb.Has("#wire li b"))
	assert.Equal(t, "360", tb.Eval(`document.scrollingElement.scrollWidth`), "a long frame does not widen the page")

	network.Cut()
	tb.Shows("Open now: socket 3, opened ")
	tb.WaitUntil(`document.querySelector("#wire li").textContent.startsWith("received ")`, "its first update")
	assert.Equal(t, "1", tb.Eval(`openSockets.size`), "those that are closed are forgotten")
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
