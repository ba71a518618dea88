package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	cdpnetwork "github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// frames are what Chromium itself saw on the sockets of a tab.
type frames struct {
	mu  sync.Mutex
	all []wireFrame
}

type wireFrame struct{ Direction, Text string }

func (f wireFrame) isHeartbeat() bool {
	return strings.Contains(f.Text, "__ping__") || strings.Contains(f.Text, "pong")
}

// openWithFrames opens a page in a tab whose frames are noted from its first on.
func openWithFrames(b *browser.Browser, url string) (*browser.Tab, *frames) {
	tb, seen := b.Load("about:blank"), &frames{}
	chromedp.ListenTarget(tb.Ctx, seen.listen)
	tb.Run(cdpnetwork.Enable())
	tb.Navigate(url)
	tb.WaitUntil(browser.Live, "a live page")
	return tb, seen
}

func (f *frames) listen(event any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch e := event.(type) {
	case *cdpnetwork.EventWebSocketFrameReceived:
		f.all = append(f.all, wireFrame{"received", e.Response.PayloadData})
	case *cdpnetwork.EventWebSocketFrameSent:
		f.all = append(f.all, wireFrame{"sent", e.Response.PayloadData})
	}
}

// take returns the frames since the last take: heartbeats, and all others.
func (f *frames) take() (heartbeats, others []wireFrame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, frame := range f.all {
		if frame.isHeartbeat() {
			heartbeats = append(heartbeats, frame)
		} else {
			others = append(others, frame)
		}
	}
	f.all = nil
	return heartbeats, others
}

func size(of []wireFrame) (bytes int) {
	for _, frame := range of {
		bytes += len(frame.Text)
	}
	return bytes
}

// wireLine is a line of the panel: its words, its JSON, and what is marked in that.
type wireLine struct {
	Words []string
	JSON  string
	Marks []string
}

// wireLines returns the lines of the panel, the oldest first.
func wireLines(t *testing.T, tb *browser.Tab) (lines []wireLine) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(tb.Eval(`JSON.stringify([...document.querySelectorAll("#wire li")].reverse().map((line) => ({
		Words: [...line.querySelectorAll("span")].map((word) => word.textContent),
		JSON: line.querySelector("code")?.textContent ?? "",
		Marks: [...line.querySelectorAll("mark")].map((mark) => mark.textContent),
	})))`)), &lines))
	return lines
}

// sentSize returns the length of a page as a browser gets it.
func sentSize(t *testing.T, url string) int {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	require.NoError(t, err)
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return len(page)
}

const wireTotals = `[...document.querySelectorAll("#wire tbody tr")].map((row) => row.innerText.replace(/\s+/g, " ")).join(", ")`

func TestBrowser_WireShowsWhatTheBrowserSawWhileItIsOpen(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	peer := visitor.New(t, server).Open(visitor.CounterPage)
	pageSize := sentSize(t, server+visitor.CounterPage)
	tb, seen := openWithFrames(browser.New(t), server+visitor.CounterPage)
	tb.Click("increment")
	tb.Shows("Counter: 1")

	_, before := seen.take()
	require.Len(t, before, 3, "the first update, the click, and its answer: %v", before)
	loads := tb.Loads()
	tb.ToggleWire(true)
	assert.Empty(t, wireLines(t, tb), "what passed before")
	peer.Increment()
	tb.Shows("Counter: 2")
	lines := wireLines(t, tb)
	require.Len(t, lines, 1)
	assert.Equal(t, []string{`"2"`}, lines[0].Marks)
	assert.Regexp(t, `^received \d\d:\d\d:\d\d\.\d{3} 56 bytes socket 1$`, strings.Join(lines[0].Words, " "))

	tb.Click("increment")
	tb.Shows("Counter: 3")
	tb.Eval(`dispatchEvent(new Event("online"))`) // has the page ping
	tb.WaitUntil(`/Heartbeats, not listed: [^0]/.test(document.querySelector("#wire").innerText)`, "heartbeats")
	tb.Click("increment") // is answered after the pings
	tb.Shows("Counter: 4")
	var count, bytes int
	_, err := fmt.Sscanf(tb.Eval(`document.querySelector("#wire .heartbeats").innerText`), "Heartbeats, not listed: %d frames, %d bytes.", &count, &bytes)
	require.NoError(t, err)
	heartbeats, others := seen.take()
	require.LessOrEqual(t, count, len(heartbeats))
	assert.Equal(t, size(heartbeats[:count]), bytes)
	assert.GreaterOrEqual(t, count, 2)

	lines = wireLines(t, tb)
	require.Len(t, others, 5, "nothing was sent because the panel was opened: %v", others)
	require.Len(t, lines, len(others))
	for i, frame := range others {
		assert.Equal(t, frame.Text, lines[i].JSON)
		assert.Equal(t, frame.Direction, lines[i].Words[0])
		assert.Equal(t, fmt.Sprint(len(frame.Text), " bytes"), lines[i].Words[2])
	}
	assert.Empty(t, lines[1].Marks, "what is sent is no update")
	assert.Equal(t, []string{`"3"`}, lines[2].Marks)
	sent, received := []wireFrame{others[1], others[3]}, []wireFrame{others[0], others[2], others[4]}
	pages := tb.Eval(fmt.Sprintf(`(%d).toLocaleString("en")`, 3*pageSize))
	assert.Equal(t, fmt.Sprintf("Received 3 %d, Sent 2 %d, As whole pages 3 %s", size(received), size(sent), pages), tb.Eval(wireTotals))

	tb.ToggleWire(false)
	tb.Click("increment")
	tb.Shows("Counter: 5")
	assert.Equal(t, lines, wireLines(t, tb), "a closed panel stays as it was")
	tb.ToggleWire(true)
	assert.Empty(t, wireLines(t, tb), "and starts afresh when it is opened")
	assert.Equal(t, "Received 0 0, Sent 0 0, As whole pages 0 0", tb.Eval(wireTotals))

	tb.Eval(`for (let i = 0; i < 30; i++) document.querySelector("[name=increment]").click()`)
	tb.WaitUntil(wireTotals+`.startsWith("Received 30 ")`, "an answer to each click")
	lines = wireLines(t, tb)
	require.Len(t, lines, 50)
	_, others = seen.take()
	assert.Equal(t, others[len(others)-1].Text, lines[49].JSON, "the last 50")
	assert.Equal(t, loads, tb.Loads())
}

func TestBrowser_WireTellsSocketsApartAndNamesAreText(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	bob := visitor.New(t, server)
	peer, peerToo, zoe := bob.Open(visitor.PresencePage), bob.Open(visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	tb, seen := openWithFrames(browser.New(t), network.URL+visitor.PresencePage)
	tb.Run(emulation.SetDeviceMetricsOverride(360, 800, 1, false))
	tb.ExpectErrors("net::ERR_")

	// The script of the panel cannot be loaded until the server is back.
	network.Leave()
	tb.Shows("Reconnecting…")
	tb.Eval(`document.querySelector("#wire summary").click()`)
	tb.Shows("The frames of this tab")
	network.ComeBack()
	tb.WaitUntil(`!document.querySelector("#wire [hidden]")`, "the panel, once the server is back")
	tb.Shows("Open now: socket 2, opened ")
	tb.WaitUntil(`document.documentElement.dataset.connection === "up"`, "the first update")
	seen.take()

	tb.Join("<b>x</b>")
	peer.Join("<b>y</b>é")
	tb.Shows("2 user(s) online")
	tb.WaitUntil(`document.querySelectorAll("#wire li").length >= 3`, "their frames")
	_, others := seen.take()
	lines := wireLines(t, tb)
	lines = lines[len(lines)-len(others):]
	for i, frame := range others {
		assert.Equal(t, frame.Text, lines[i].JSON, "a name is text")
		assert.Equal(t, fmt.Sprint(len(frame.Text), " bytes"), strings.ReplaceAll(lines[i].Words[2], ",", ""))
	}
	assert.Contains(t, lines[0].JSON, "<b>x</b>")
	assert.Contains(t, lines[2].Marks, `"\u0026lt;b\u0026gt;y\u0026lt;/b\u0026gt;é "`)
	assert.NotContains(t, strings.Join(lines[2].Marks, " "), "bdi", "the fixed parts are not marked")
	assert.False(t, tb.Has("#wire li b"))
	assert.Equal(t, "360", tb.Eval(`document.scrollingElement.scrollWidth`), "a long frame does not widen the page")

	peerToo.Join("<b>y</b>é")
	tb.Shows("in 2 tabs")
	zoe.Join("Zoe")
	tb.Shows("3 user(s) online")
	network.Cut()
	tb.Shows("Open now: socket 3, opened ")
	tb.WaitUntil(`/^received .* socket 3 /m.test([...document.querySelectorAll("#wire li")].map((line) => line.textContent).join("\n"))`, "its first update")
	assert.Equal(t, "1", tb.Eval(`openSockets.size`), "those that are closed are forgotten")
	zoe.Leave()
	tb.Shows("2 user(s) online Logged in as <b>x</b>")
	lines = wireLines(t, tb)
	var words []string
	for _, line := range lines {
		words = append(words, line.Words[0]+" "+strings.Join(line.Words[2:], " "))
	}
	closed, opened := slices.Index(words, "closed code 1006 socket 2"), slices.Index(words, "opened socket 3")
	require.True(t, 0 <= closed && closed < opened, "%q", words)
	for i, line := range words {
		assert.Equal(t, i >= opened, strings.HasSuffix(line, " socket 3"), "%q", words)
	}
	assert.Contains(t, lines[opened+1].Marks, `"Zoe "`, "the first update brings the whole list")
	assert.Regexp(t, `^received \d+ bytes socket 3$`, words[len(words)-1])

	plain := browser.New(t).OpenWithoutScripts(server + visitor.PresencePage)
	plain.Eval(`document.querySelector("#wire summary").click()`)
	plain.Shows("This panel needs scripts")
}
