//go:build pictures

package pictures

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"image"
	"image/color"
	imagedraw "image/draw"
	"image/png"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

const (
	largestSheet = 400_000 // bytes
	sheetScale   = 0.4     // of the pictures on a sheet
	leastHeight  = 640     // of a still, in CSS pixels
	mostHeight   = 1500
)

// look is how a person has set up their system.
type look struct{ name, scheme, forced string }

var (
	light  = look{"light", "light", "none"}
	dark   = look{"dark", "dark", "none"}
	forced = look{"forced colours", "light", "active"}
)

// state is what a tab shows at some moment.
type state struct {
	name string
	tab  *browser.Tab
}

// docs/pages.png shows both pages in two browsers each, one light and one dark.
func TestPictures_Pages(t *testing.T) {
	server := pictured(t)
	var row strings.Builder
	for _, p := range []string{visitor.CounterPage, visitor.PresencePage} {
		alice, bob := browser.New(t).OpenWindow(server+p), browser.New(t).OpenWindow(server+p)
		if p == visitor.CounterPage {
			for range 6 {
				visitor.New(t, server).Click()
			}
			alice.Shows("Counter: 6")
			bob.Shows("Counter: 6")
		} else {
			alice.Join("Alice")
			bob.Join("Bob")
			alice.Shows("2 user(s) online")
		}
		row.WriteString(img(still(alice, light, 440, 600, 1)) + img(still(bob, dark, 440, 600, 1)))
	}
	saveSheet(t, "docs/pages.png", `<div class="row">`+row.String()+`</div>`)
}

// docs/looks-counter.png, docs/looks-presence.png and docs/looks-index.png show the pages
// in every state, on three screens, in three looks.
func TestPictures_Looks(t *testing.T) {
	redis := visitor.NewRedis(t)
	shared := visitor.StartExe(t, visitor.BuildPlain(t), "-redis", redis.URL).URL
	open := func(server, path string) *browser.Tab { return browser.New(t).OpenWindow(server + path) }

	clicked, crowded := pictured(t), pictured(t)
	for range 41 {
		visitor.New(t, clicked).Click()
	}
	first, counted := open(pictured(t), visitor.CounterPage), open(clicked, visitor.CounterPage)

	nobody, joined, refused := open(pictured(t), visitor.PresencePage), open(pictured(t), visitor.PresencePage), open(pictured(t), visitor.PresencePage)
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

	index := open(clicked, "/")
	notFound := browser.New(t).OpenWindow("about:blank")
	notFound.ExpectErrors("404")
	notFound.Navigate(clicked + "/nowhere")

	saveSheet(t, "docs/looks-counter.png", contactSheet([]state{
		{"first visit", first}, {"after clicks", counted}, {"Redis is away", lastNumber}, {"a click that did not count", uncounted},
		{"the server is away", lostCounter},
	}))
	saveSheet(t, "docs/looks-presence.png", contactSheet([]state{
		{"nobody online", nobody}, {"joined", joined}, {"more people than the list shows", full}, {"a refused name", refused},
		{"Redis is away", lastPeople}, {"the server is away", lostPresence},
	}))
	saveSheet(t, "docs/looks-index.png", contactSheet([]state{{"home", index}, {"not found", notFound}}))
}

// pictured returns the address of a program of its own.
func pictured(t *testing.T) (url string) {
	t.Helper()
	return visitor.StartExe(t, visitor.BuildPlain(t)).URL
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
		height := leastHeight
		for _, width := range widths {
			still(s.tab, light, width, leastHeight, sheetScale)
			height = min(max(height, int(s.tab.Number(endOfDemo))+80), mostHeight)
		}
		for _, l := range []look{light, dark, forced} {
			fmt.Fprintf(&out, `<tr><th>%s`, l.name)
			for _, width := range widths {
				out.WriteString(`<td>` + img(still(s.tab, l, width, height, sheetScale)))
			}
		}
	}
	return out.String() + `</table>`
}

// still returns a picture of what is on the screen, as PNG.
func still(tb *browser.Tab, l look, width, height int, scale float64) (picture []byte) {
	tb.Run(
		emulation.SetDeviceMetricsOverride(int64(width), int64(height), scale, false),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: l.scheme}, {Name: "forced-colors", Value: l.forced},
		}))
	tb.WaitUntil(framesAreLive, "live frames")
	tb.Run(chromedp.Evaluate(settled, nil, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }),
		chromedp.CaptureScreenshot(&picture))
	return picture
}

const (
	// The foot of the demo, or of the frames that show demos.
	endOfDemo = `Math.max(0, ...[...document.querySelectorAll("[name=increment], [name=join], [name=leave], .frame")].map(
		(part) => (part.closest("article") ?? part).getBoundingClientRect().bottom + scrollY))`

	// Frames load when half of them is in view.
	framesAreLive = `[...document.querySelectorAll(".frame")].every((place) => {
		const { top, bottom } = place.getBoundingClientRect();
		const inView = Math.min(bottom, innerHeight) - Math.max(top, 0);
		return inView < (bottom - top) / 2 || place.firstChild?.contentWindow.liveTemplateClient?.isReady();
	})`

	// Transitions from one look to the next have ended, and the result is drawn.
	settled = `(async () => {
		const drawn = () => new Promise(requestAnimationFrame);
		await drawn();
		await Promise.all(document.getAnimations().map((change) => change.finished.catch(() => {})));
		await drawn();
	})()`
)

// img returns an element that shows a PNG at its size.
func img(picture []byte) string {
	return `<img src="data:image/png;base64,` + base64.StdEncoding.EncodeToString(picture) + `">`
}

// saveSheet draws HTML in a browser, and saves the picture with as many colours as it
// has room for.
func saveSheet(t *testing.T, name, content string) {
	t.Helper()
	sheet := drawHTML(t, content)
	var out bytes.Buffer
	for colours := 256; out.Len() == 0 || out.Len() > largestSheet && colours >= 16; colours /= 2 {
		out.Reset()
		encoder := png.Encoder{CompressionLevel: png.BestCompression}
		require.NoError(t, encoder.Encode(&out, paletted(sheet, sheet.Bounds(), paletteOf(colours, sheet))))
		t.Logf("%s: %v, %d colours, %d kB", name, sheet.Rect.Size(), colours, out.Len()/1000)
	}
	save(t, name, out.Bytes(), largestSheet)
}

// drawHTML returns a picture of HTML, as large as its content.
func drawHTML(t *testing.T, content string) *image.RGBA {
	t.Helper()
	tb := browser.New(t).OpenWindow("about:blank")
	tb.Run(chromedp.ActionFunc(func(ctx context.Context) error {
		tree, err := page.GetFrameTree().Do(ctx)
		if err != nil {
			return err
		}
		return page.SetDocumentContent(tree.Frame.ID, `<!DOCTYPE html><style>
			html { background: #8b9bb4; color: #10151f; font: 14px system-ui, sans-serif; }
			body { margin: 4px; width: max-content; }
			img { display: block; }
			.row { display: flex; gap: 10px; padding: 2px; }
			td, th { padding: 2px; vertical-align: top; text-align: left; }
			.state { padding-top: 12px; font-size: 18px; }
		</style>`+content).Do(ctx)
	}))
	tb.WaitUntil(`[...document.images].every((image) => image.complete)`, "all pictures")
	width, height := tb.Number(`document.body.offsetWidth + 8`), tb.Number(`document.body.offsetHeight + 8`)
	var picture []byte
	tb.Run(emulation.SetDeviceMetricsOverride(int64(width), int64(height), 1, false), chromedp.CaptureScreenshot(&picture))
	return decode(t, picture)
}

func decode(t *testing.T, picture []byte) *image.RGBA {
	t.Helper()
	decoded, err := png.Decode(bytes.NewReader(picture))
	require.NoError(t, err)
	rgba := image.NewRGBA(decoded.Bounds())
	imagedraw.Draw(rgba, rgba.Bounds(), decoded, decoded.Bounds().Min, imagedraw.Src)
	return rgba
}

// paletteOf returns so many colours for pictures: first the one that is there most often,
// and then always the one that those before it show worst. The same pictures get the same.
func paletteOf(most int, pictures ...*image.RGBA) (palette color.Palette) {
	counts := map[color.RGBA]int{}
	for _, p := range pictures {
		for i := 0; i < len(p.Pix); i += 4 {
			counts[color.RGBA{p.Pix[i], p.Pix[i+1], p.Pix[i+2], 0xff}]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(counts), func(a, b color.RGBA) int {
		return cmp.Or(cmp.Compare(a.R, b.R), cmp.Compare(a.G, b.G), cmp.Compare(a.B, b.B))
	})
	distances := slices.Repeat([]int{math.MaxUint16}, len(colours)) // squared, to the nearest of the palette
	for range min(most, len(colours)) {
		worst, worstError := 0, -1
		for i, c := range colours {
			if e := counts[c] * distances[i]; e > worstError {
				worst, worstError = i, e
			}
		}
		next := colours[worst]
		palette = append(palette, next)
		for i, c := range colours {
			r, g, b := int(c.R)-int(next.R), int(c.G)-int(next.G), int(c.B)-int(next.B)
			distances[i] = min(distances[i], r*r+g*g+b*b)
		}
	}
	return palette
}

// paletted returns a part of a picture in the colours of a palette.
func paletted(p *image.RGBA, part image.Rectangle, palette color.Palette) *image.Paletted {
	out := image.NewPaletted(part, palette)
	nearest := map[color.RGBA]uint8{}
	for y := part.Min.Y; y < part.Max.Y; y++ {
		for x := part.Min.X; x < part.Max.X; x++ {
			c := p.RGBAAt(x, y)
			index, known := nearest[c]
			if !known {
				index = uint8(palette.Index(c))
				nearest[c] = index
			}
			out.SetColorIndex(x, y, index)
		}
	}
	return out
}

// save writes a picture, which may have so many bytes.
func save(t *testing.T, name string, content []byte, largest int) {
	t.Helper()
	t.Logf("%s: %d kB", name, len(content)/1000)
	require.LessOrEqual(t, len(content), largest, name)
	require.NoError(t, os.WriteFile(filepath.Join(visitor.Root(), name), content, 0o644))
}
