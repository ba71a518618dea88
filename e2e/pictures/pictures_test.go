//go:build pictures

package pictures

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// look is how a person has set up their system.
type look struct{ name, scheme, forced string }

var (
	light = look{"light", "light", "none"}
	dark  = look{"dark", "dark", "none"}
	looks = []look{light, dark, {"forced colours", "light", "active"}}
)

// docs/pages.png shows both pages in two browsers each, one light and one dark.
func TestPictures_Pages(t *testing.T) {
	server := pictured(t)
	open := func(path string) *browser.Tab { return browser.New(t).OpenWindow(server + path) }
	counters := [2]*browser.Tab{open(visitor.CounterPage), open(visitor.CounterPage)}
	people := [2]*browser.Tab{open(visitor.PresencePage), open(visitor.PresencePage)}
	for range 6 {
		visitor.New(t, server).Click()
	}
	people[0].Join("Alice")
	people[1].Join("Bob")
	row := `<div class="row">`
	for _, pair := range [][2]*browser.Tab{counters, people} {
		for i, l := range []look{light, dark} {
			pair[i].WaitUntil(`/Counter: 6|2 user/.test(document.body.innerText)`, "the last change")
			row += still(pair[i], l, 440, 600, 1)
		}
	}
	saveSheet(t, "docs/pages.png", row)
}

// docs/looks-counter.png, docs/looks-presence.png and docs/looks-index.png show the pages
// in every state, on three screens, in three looks.
func TestPictures_Looks(t *testing.T) {
	open := func(server, path string) *browser.Tab { return browser.New(t).OpenWindow(server + path) }

	clicked, crowded := pictured(t), pictured(t)
	for range 41 {
		visitor.New(t, clicked).Click()
	}
	joined, refused := open(pictured(t), visitor.PresencePage), open(pictured(t), visitor.PresencePage)
	joined.Join("Alice")
	refused.TypeInto("username", "  ")
	refused.Click("join")
	refused.Shows(visitor.NoName)
	for _, name := range strings.Fields("Bob Carol Dave Erin Frank Grace Heidi Ivan Judy Mallory Niaj Olivia Peggy Quentin Rupert Sybil Trent Uma Victor Walter Xenia Yusuf Zoë") {
		visitor.New(t, crowded).Open(visitor.PresencePage).Join(name)
	}
	full := open(crowded, visitor.PresencePage)
	full.Join("Alice")
	full.Shows("24 user(s) online")

	redis := visitor.NewRedis(t)
	shared := pictured(t, "-redis", redis.URL)
	lastNumber, uncounted, lastPeople := open(shared, visitor.CounterPage), open(shared, visitor.CounterPage), open(shared, visitor.PresencePage)
	lastNumber.Click("increment")
	uncounted.Shows("Counter: 1")
	lastPeople.Join("Alice")
	redis.Stop()
	for _, tb := range []*browser.Tab{lastNumber, uncounted, lastPeople} {
		tb.Shows("last known")
	}
	uncounted.Click("increment")
	uncounted.Shows("did not count")

	network := visitor.NewNetwork(t, clicked)
	lostCounter, lostPresence := open(network.URL, visitor.CounterPage), open(network.URL, visitor.PresencePage)
	lostPresence.Join("Alice")
	network.Leave()
	for _, tb := range []*browser.Tab{lostCounter, lostPresence} {
		tb.ExpectErrors("net::ERR_")
		tb.Shows("Reconnecting…")
	}
	notFound := browser.New(t).OpenWindow("about:blank")
	notFound.ExpectErrors("404")
	notFound.Navigate(clicked + "/nowhere")

	saveSheet(t, "docs/looks-counter.png", contactSheet([]state{
		{"first visit", 700, open(pictured(t), visitor.CounterPage)},
		{"after clicks", 700, open(clicked, visitor.CounterPage)},
		{"Redis is away", 800, lastNumber},
		{"a click that did not count", 900, uncounted},
		{"the server is away", 700, lostCounter},
	}))
	saveSheet(t, "docs/looks-presence.png", contactSheet([]state{
		{"nobody online", 680, open(pictured(t), visitor.PresencePage)},
		{"joined", 680, joined},
		{"more people than the list shows", 1200, full},
		{"a refused name", 680, refused},
		{"Redis is away", 780, lastPeople},
		{"the server is away", 680, lostPresence},
	}))
	saveSheet(t, "docs/looks-index.png", contactSheet([]state{{"home", 1500, open(clicked, "/")}, {"not found", 600, notFound}}))
}

// pictured returns the address of a program of its own.
func pictured(t *testing.T, args ...string) (url string) {
	t.Helper()
	return visitor.StartExe(t, visitor.BuildPlain(t), args...).URL
}

// state is what a tab shows at some moment, in so many pixels of CSS from the top.
type state struct {
	name   string
	height int
	tab    *browser.Tab
}

// contactSheet returns HTML with a picture of each state for each screen and look.
func contactSheet(states []state) string {
	widths := []int{360, 768, 1600}
	var out strings.Builder
	out.WriteString(`<table><tr><td>`)
	for _, width := range widths {
		fmt.Fprintf(&out, `<th>%d px`, width)
	}
	for _, s := range states {
		fmt.Fprintf(&out, `<tr><td><th colspan="%d" class="state">%s`, len(widths), s.name)
		for _, l := range looks {
			fmt.Fprintf(&out, `<tr><th>%s`, l.name)
			for _, width := range widths {
				fmt.Fprintf(&out, `<td>%s`, still(s.tab, l, width, s.height, 0.4))
			}
		}
	}
	return out.String()
}

// still returns an element that shows what is on the screen.
func still(tb *browser.Tab, l look, width, height int, scale float64) (img string) {
	tb.Run(emulation.SetDeviceMetricsOverride(int64(width), int64(height), scale, false),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: l.scheme}, {Name: "forced-colors", Value: l.forced},
			{Name: "prefers-reduced-motion", Value: "reduce"}, // from one look to the next
		}))
	tb.WaitUntil(framesAreLive, "live frames")
	tb.WaitUntil(`document.getAnimations().length === 0`, "the end of all motion")
	return fmt.Sprintf(`<img src="%s">`, asURL(capture(tb)))
}

// Frames load when half of them is in view.
const framesAreLive = `[...document.querySelectorAll(".frame")].every((place) => {
	const { top, bottom } = place.getBoundingClientRect();
	const inView = Math.min(bottom, innerHeight) - Math.max(top, 0);
	return inView < (bottom - top) / 2 || place.firstChild?.contentWindow.liveTemplateClient?.isReady();
})`

// capture returns a picture of the tab as PNG.
func capture(tb *browser.Tab) (picture []byte) {
	tb.Run(chromedp.CaptureScreenshot(&picture))
	return picture
}

func asURL(picture []byte) string {
	return "data:image/png;base64," + base64.StdEncoding.EncodeToString(picture)
}
