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
	for range 6 {
		visitor.New(t, server).Click()
	}
	alice, bob := browser.New(t), browser.New(t)
	aliceCounter, bobCounter := alice.OpenWindow(server+visitor.CounterPage), bob.OpenWindow(server+visitor.CounterPage)
	alicePresence, bobPresence := alice.OpenWindow(server+visitor.PresencePage), bob.OpenWindow(server+visitor.PresencePage)
	alicePresence.Join("Alice")
	bobPresence.Join("Bob")
	alicePresence.Shows("2 user(s) online")
	saveSheet(t, "docs/pages.png", `<div class="row">`+
		still(aliceCounter, light, 440, 600, 1)+still(bobCounter, dark, 440, 600, 1)+
		still(alicePresence, light, 440, 600, 1)+still(bobPresence, dark, 440, 600, 1))
}

// docs/looks-counter.png, docs/looks-presence.png and docs/looks-index.png show the pages
// in every state, on three screens, in three looks.
func TestPictures_Looks(t *testing.T) {
	open := func(server, path string) *browser.Tab { return browser.New(t).OpenWindow(server + path) }
	fresh, clicked, crowded, redis := pictured(t), pictured(t), pictured(t), visitor.NewRedis(t)
	shared, network := pictured(t, "-redis", redis.URL), visitor.NewNetwork(t, clicked)

	for range 41 {
		visitor.New(t, clicked).Click()
	}
	for i := range 23 {
		visitor.New(t, crowded).Open(visitor.PresencePage).Join(fmt.Sprint("Guest ", i+1))
	}
	full := open(crowded, visitor.PresencePage)
	full.Join("Alice")
	full.Shows("24 user(s) online")
	first, nobody := open(fresh, visitor.CounterPage), open(fresh, visitor.PresencePage)
	joined, refused := open(clicked, visitor.PresencePage), open(fresh, visitor.PresencePage)
	refused.TypeInto("username", "  ")
	refused.Click("join")
	refused.Shows(visitor.NoName)

	uncounted, lastPeople := open(shared, visitor.CounterPage), open(shared, visitor.PresencePage)
	lastPeople.Join("Alice")
	redis.Stop()
	for _, tb := range []*browser.Tab{uncounted, lastPeople} {
		tb.Shows("last known")
	}
	uncounted.Click("increment")
	uncounted.Shows("did not count")

	lostCounter, lostPresence := open(network.URL, visitor.CounterPage), open(network.URL, visitor.PresencePage)
	network.Leave()
	for _, tb := range []*browser.Tab{lostCounter, lostPresence} {
		tb.ExpectErrors("net::ERR_")
		tb.Shows("Reconnecting…")
	}
	joined.Join("Alice")
	notFound := browser.New(t).OpenWindow("about:blank")
	notFound.ExpectErrors("404")
	notFound.Navigate(clicked + "/nowhere")

	saveSheet(t, "docs/looks-counter.png", contactSheet([]state{
		{"first visit", 700, first},
		{"after clicks", 700, open(clicked, visitor.CounterPage)},
		{"Redis is away, and a click did not count", 900, uncounted},
		{"the server is away", 700, lostCounter},
	}))
	saveSheet(t, "docs/looks-presence.png", contactSheet([]state{
		{"nobody online", 680, nobody},
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
