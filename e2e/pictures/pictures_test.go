//go:build pictures

// Package pictures makes the pictures in docs from the running program.
package pictures

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/gif"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

func TestMain(m *testing.M) { browser.Main(m) }

// Looks, which people choose in the settings of their systems.
const light, dark, forced = "light", "dark", "forced colours"

// docs/pages.png shows both pages in two browsers each, one light and one dark.
func TestPictures_Pages(t *testing.T) {
	server := visitor.Serve(t)
	for range 6 {
		visitor.New(t, server).Click()
	}
	alice, bob := browser.New(t), browser.New(t)
	aliceCounter, bobCounter := alice.OpenWindow(server+visitor.CounterPage), bob.OpenWindow(server+visitor.CounterPage)
	alicePresence, bobPresence := alice.OpenWindow(server+visitor.PresencePage), bob.OpenWindow(server+visitor.PresencePage)
	alicePresence.Join("Alice")
	bobPresence.Join("Bob")
	alicePresence.Shows("2 user(s) online")
	shot := func(tb *browser.Tab, look string) string { return still(tb, look, 440, 600, 1) }
	saveSheet(t, "docs/pages.png", `<div class="row">`+
		shot(aliceCounter, light)+shot(bobCounter, dark)+shot(alicePresence, light)+shot(bobPresence, dark))
}

// docs/looks-counter.png, docs/looks-presence.png and docs/looks-index.png show the pages
// in every state, on four screen sizes, in three looks.
func TestPictures_Looks(t *testing.T) {
	open := func(server, path string) *browser.Tab { return browser.New(t).OpenWindow(server + path) }
	fresh, clicked, crowded, redis := visitor.Serve(t), visitor.Serve(t), visitor.Serve(t), visitor.NewRedis(t)
	shared, network := visitor.Serve(t, "-redis", redis.URL), visitor.NewNetwork(t, clicked)

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

	away, lastPeople := open(shared, visitor.CounterPage), open(shared, visitor.PresencePage)
	lastPeople.Join("Alice")
	redis.Stop()
	lastPeople.Shows("last known")
	away.Click("increment")
	away.Shows("Counter: 1 ")
	away.Shows("clicks on other servers are missing here")

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
		{"Redis is away", 900, away},
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

// static/card.png is what others show beside a link to a page: the top of the home page, in
// the size that they ask for.
func TestPictures_Card(t *testing.T) {
	server := visitor.Serve(t)
	for range 41 {
		visitor.New(t, server).Click()
	}
	tb := browser.New(t).OpenWindow(server + "/")
	still(tb, light, 750, 394, 1.6) // waits for the frames
	saveSmall(t, "static/card.png", decoded(t, tb), 60_000)
}

// static/favicon.ico and static/apple-touch-icon.png are static/favicon.svg for those who do
// not read SVG. The one for phones fills its corners, which phones cut.
func TestPictures_Icons(t *testing.T) {
	svg, err := os.ReadFile(filepath.Join(visitor.Root(), "static/favicon.svg"))
	require.NoError(t, err)
	icon := func(size int, corners string) *image.RGBA {
		tb := browser.New(t).OpenWindow("about:blank")
		tb.Eval(`document.write(` + browser.Quote(fmt.Sprintf(`<!DOCTYPE html><body style="margin: 0; background: %s">
			<img style="display: block" width="%d" src="data:image/svg+xml;base64,%s">`, corners, size, base64.StdEncoding.EncodeToString(svg))) + `)`)
		tb.WaitUntil(complete, "the icon")
		tb.Run(emulation.SetDeviceMetricsOverride(int64(size), int64(size), 1, false),
			emulation.SetDefaultBackgroundColorOverride().WithColor(&cdp.RGBA{}))
		return decoded(t, tb)
	}
	saveSmall(t, "static/apple-touch-icon.png", icon(180, "#0172ad"), 5_000)
	const size = 32
	var small bytes.Buffer
	require.NoError(t, png.Encode(&small, icon(size, "transparent")))
	// A directory of one picture, as binary.Append writes it: 1 picture in 32 bits a pixel, its
	// length, and where it begins.
	ico, err := binary.Append(nil, binary.LittleEndian, struct {
		_, Type, Pictures uint16
		Width, Height     uint8
		_                 uint16
		Planes, Bits      uint16
		Length, Start     uint32
	}{Type: 1, Pictures: 1, Width: size, Height: size, Planes: 1, Bits: 32, Length: uint32(small.Len()), Start: 22})
	require.NoError(t, err)
	save(t, "static/favicon.ico", append(ico, small.Bytes()...), 5_000)
}

// state is a tab in some state, and how many CSS pixels of it are shown.
type state struct {
	name   string
	height int
	tab    *browser.Tab
}

// contactSheet returns HTML with a picture of each state for each screen and look.
func contactSheet(states []state) string {
	widths := []int{360, 768, 1280, 1600}
	html := `<table><tr><td>`
	for _, width := range widths {
		html += fmt.Sprintf(`<th>%d px`, width)
	}
	for _, s := range states {
		html += fmt.Sprintf(`<tr><td><th colspan="%d" class="state">%s`, len(widths), s.name)
		for _, look := range []string{light, dark, forced} {
			html += `<tr><th>` + look
			for _, width := range widths {
				html += `<td>` + still(s.tab, look, width, s.height, 0.4)
			}
		}
	}
	return html
}

// still returns an img element with a screenshot.
func still(tb *browser.Tab, look string, width, height int, scale float64) (img string) {
	scheme, forcedColors := look, "none"
	if look == forced {
		scheme, forcedColors = light, "active"
	}
	tb.Run(emulation.SetDeviceMetricsOverride(int64(width), int64(height), scale, false),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}, {Name: "forced-colors", Value: forcedColors},
			{Name: "prefers-reduced-motion", Value: "reduce"},
		}))
	tb.WaitUntil(framesAreLive+` && document.getAnimations().length === 0`, "live frames, and the end of all animations")
	return fmt.Sprintf(`<img src="%s">`, asURL(capture(tb)))
}

// framesAreLive is true once every frame of which half is in view is live.
const framesAreLive = `[...document.querySelectorAll(".frame")].every((place) => {
	const { top, bottom } = place.getBoundingClientRect();
	const inView = Math.min(bottom, innerHeight) - Math.max(top, 0);
	return inView < (bottom - top) / 2 || place.firstChild?.contentWindow.liveTemplateClient?.isReady();
})`

// capture returns a screenshot of the tab as PNG.
func capture(tb *browser.Tab) (picture []byte) {
	tb.Run(chromedp.CaptureScreenshot(&picture))
	return picture
}

func asURL(picture []byte) string {
	return "data:image/png;base64," + base64.StdEncoding.EncodeToString(picture)
}

// drawHTML returns a tab that shows HTML, in the size of its content.
func drawHTML(t *testing.T, content string) *browser.Tab {
	t.Helper()
	tb := browser.New(t).OpenWindow("about:blank")
	tb.Eval(`document.write(` + browser.Quote(`<!DOCTYPE html><style>
		html { background: #8b9bb4; color: #10151f; font: 14px system-ui, sans-serif; }
		body { margin: 4px; width: max-content; }
		img { display: block; }
		.row { display: flex; gap: 10px; padding: 2px; }
		td, th { padding: 2px; vertical-align: top; text-align: left; }
		.state { padding-top: 12px; font-size: 18px; }
	</style>`+content) + `)`)
	tb.WaitUntil(complete, "all pictures")
	width, height := tb.Number(`document.body.offsetWidth + 8`), tb.Number(`document.body.offsetHeight + 8`)
	tb.Run(emulation.SetDeviceMetricsOverride(int64(width), int64(height), 1, false))
	return tb
}

const complete = `[...document.images].every((image) => image.complete)`

// decoded returns a decoded screenshot.
func decoded(t *testing.T, tb *browser.Tab) *image.RGBA {
	t.Helper()
	decoded, err := png.Decode(bytes.NewReader(capture(tb)))
	require.NoError(t, err)
	rgba := image.NewRGBA(decoded.Bounds())
	draw.Draw(rgba, rgba.Rect, decoded, image.Point{}, draw.Src)
	return rgba
}

// paletteOf returns a palette for pictures. It starts with the most frequent colour, and
// then adds the colour that the palette so far approximates worst.
func paletteOf(most int, pictures ...*image.RGBA) (palette color.Palette) {
	type shade struct{ count, far int } // far is the squared distance to the palette
	shades := map[color.RGBA]*shade{}
	for _, p := range pictures {
		for i := 0; i < len(p.Pix); i += 4 {
			c := color.RGBA{p.Pix[i], p.Pix[i+1], p.Pix[i+2], 0xff}
			if shades[c] == nil {
				shades[c] = &shade{far: math.MaxUint16}
			}
			shades[c].count++
		}
	}
	for range min(most, len(shades)) {
		var next color.RGBA
		worst := -1
		for c, s := range shades {
			if s.count*s.far > worst {
				next, worst = c, s.count*s.far
			}
		}
		palette = append(palette, next)
		for c, s := range shades {
			r, g, b := int(c.R)-int(next.R), int(c.G)-int(next.G), int(c.B)-int(next.B)
			s.far = min(s.far, r*r+g*g+b*b)
		}
	}
	return palette
}

// paletted returns a part of a picture in the colours of a palette.
func paletted(p *image.RGBA, part image.Rectangle, palette color.Palette) *image.Paletted {
	out := image.NewPaletted(part, palette)
	draw.Draw(out, part, p, part.Min, draw.Src)
	return out
}

// saveSheet draws HTML, and saves the picture.
func saveSheet(t *testing.T, name, content string) {
	t.Helper()
	saveSmall(t, name, decoded(t, drawHTML(t, content)), 400_000)
}

// saveSmall saves a picture in few colours.
func saveSmall(t *testing.T, name string, picture *image.RGBA, largest int) {
	t.Helper()
	var out bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	require.NoError(t, encoder.Encode(&out, paletted(picture, picture.Rect, paletteOf(64, picture))))
	save(t, name, out.Bytes(), largest)
}

// save writes a picture of at most so many bytes.
func save(t *testing.T, name string, content []byte, largest int) {
	t.Helper()
	t.Logf("%s: %d kB", name, len(content)/1000)
	require.LessOrEqual(t, len(content), largest, name)
	require.NoError(t, os.WriteFile(filepath.Join(visitor.Root(), name), content, 0o644))
}

// docs/live.gif shows the home page: a press in one tab changes the other, and two people
// join.
func TestPictures_Film(t *testing.T) {
	f := newFilm(t, visitor.Serve(t))
	f.see("counter")
	f.hold(600 * time.Millisecond)
	for i, side := range []string{"left", "right", "left"} {
		f.click("counter-"+side, "increment")
		f.both("counter", fmt.Sprint("Counter: ", i+1))
		f.hold(600 * time.Millisecond)
	}
	f.see("presence")
	f.hold(400 * time.Millisecond)
	for i, person := range []struct{ frame, name string }{{"presence-left", "Alice"}, {"presence-right", "Bob"}} {
		f.click(person.frame, "username")
		for _, key := range person.name {
			f.tab.Press(string(key))
			f.shoot()
		}
		f.click(person.frame, "join")
		f.both("presence", fmt.Sprint(i+1, " user(s) online"))
		f.hold(800 * time.Millisecond)
	}
	f.click("presence-right", "leave")
	f.both("presence", "1 user(s) online")
	f.hold(1500 * time.Millisecond)
	f.save("docs/live.gif")
}

// The size of the film in CSS pixels, and its scale.
const (
	filmWidth, filmHeight = 760, 620
	filmScale             = 1
)

// film is an animation of a tab. A page, the stage, shows the tab with a mouse pointer,
// because the headless shell has none.
type film struct {
	t          *testing.T
	stage, tab *browser.Tab
	mouse      image.Point

	frames []*image.RGBA
	delays []time.Duration
}

var stage = fmt.Sprintf(`<style>
	body { margin: 0 !important; position: relative; }
	img { width: %dpx; height: %dpx; }
	#mouse { position: absolute; margin: -16px; }
	#mouse.pressed { background: radial-gradient(circle, transparent 11px, #e8590c 11px 14px, transparent 14px); }
</style>
<img id="screen">
<svg id="mouse" width="32" height="32" viewBox="-16 -16 32 32">
	<path d="M0 0v16l4-3 3 6 3-1-3-6h5z" stroke="#fff" /></svg>`, filmWidth*filmScale, filmHeight*filmScale)

func newFilm(t *testing.T, server string) *film {
	f := &film{t: t, stage: drawHTML(t, stage), tab: browser.New(t).OpenWindow("about:blank"), mouse: image.Pt(filmWidth-60, filmHeight-40)}
	f.stage.Run(emulation.SetDeviceMetricsOverride(filmWidth*filmScale, filmHeight*filmScale, 1, false))
	f.tab.Run(emulation.SetDeviceMetricsOverride(filmWidth, filmHeight, filmScale, false))
	f.tab.Navigate(server)
	return f
}

// see scrolls to a demo, and waits until its frames are live.
func (f *film) see(demo string) {
	f.t.Helper()
	f.tab.Eval(`void document.querySelector("[data-name=` + demo + `-left]").closest(".pair").scrollIntoView({block: "center"})`)
	f.tab.WaitUntil(framesAreLive, "live frames")
	f.shoot()
}

// both shoots until both frames of a demo show a text, and animations have ended.
func (f *film) both(demo, text string) {
	f.t.Helper()
	for _, side := range []string{"-left", "-right"} {
		page := `frames["` + demo + side + `"].document`
		shows := page + `.body.innerText.replace(/\s+/g, " ").includes(` + browser.Quote(text) + `) && ` + page + `.getAnimations().length === 0`
		for deadline := time.Now().Add(visitor.Soon); f.tab.Eval(shows) != "true"; f.shoot() {
			require.True(f.t, time.Now().Before(deadline), "want %q in %s", text, demo+side)
		}
	}
	f.shoot()
}

// click moves the mouse to an element of a frame and clicks it.
func (f *film) click(frame, name string) {
	f.t.Helper()
	place := `document.querySelector("iframe[name=` + frame + `]").getBoundingClientRect()`
	button := `frames["` + frame + `"].document.querySelector("[name=` + name + `]").getBoundingClientRect()`
	x := f.tab.Number(place+`.x + `+button+`.x`) + min(f.tab.Number(button+`.width`), 180)*0.6
	y := f.tab.Number(place+`.y + `+button+`.y`) + f.tab.Number(button+`.height`)*0.6
	const steps = 6
	from, to := f.mouse, image.Pt(int(x*filmScale), int(y*filmScale))
	for step := range steps {
		f.mouse = from.Add(to.Sub(from).Mul(step + 1).Div(steps))
		f.draw(40 * time.Millisecond)
	}
	f.tab.Run(input.DispatchMouseEvent(input.MouseMoved, x, y))
	const press = `document.getElementById("mouse").classList.toggle("pressed")`
	f.stage.Eval(press)
	f.shoot()
	f.tab.Run(chromedp.MouseClickXY(x, y))
	f.stage.Eval(press)
}

// shoot adds a frame with a screenshot of the tab.
func (f *film) shoot() {
	f.t.Helper()
	f.stage.Eval(fmt.Sprintf(`void (document.getElementById("screen").src = "%s")`, asURL(capture(f.tab))))
	f.stage.WaitUntil(complete, "the picture")
	f.draw(100 * time.Millisecond) // however long the screenshot takes
}

// draw adds a frame of the stage, shown for a time.
func (f *film) draw(length time.Duration) {
	f.t.Helper()
	f.stage.Eval(fmt.Sprintf(`void Object.assign(document.getElementById("mouse").style, {left: "%dpx", top: "%dpx"})`, f.mouse.X, f.mouse.Y))
	next := decoded(f.t, f.stage)
	if last := len(f.frames) - 1; last >= 0 && bytes.Equal(next.Pix, f.frames[last].Pix) {
		f.hold(length)
		return
	}
	f.frames, f.delays = append(f.frames, next), append(f.delays, length)
}

// hold extends the last frame.
func (f *film) hold(length time.Duration) { f.delays[len(f.delays)-1] += length }

// save writes the film as a looping GIF. Frames after the first contain only the part that
// has changed.
func (f *film) save(name string) {
	f.t.Helper()
	palette, part := paletteOf(256, f.frames...), f.frames[0].Rect
	film := &gif.GIF{Config: image.Config{ColorModel: palette, Width: part.Dx(), Height: part.Dy()}}
	for i, frame := range f.frames {
		if i > 0 {
			part = changed(f.frames[i-1], frame)
		}
		film.Image = append(film.Image, paletted(frame, part, palette))
		film.Delay = append(film.Delay, int(f.delays[i]/(10*time.Millisecond)))
	}
	var out bytes.Buffer
	require.NoError(f.t, gif.EncodeAll(&out, film))
	save(f.t, name, out.Bytes(), 1_000_000)
}

// changed returns the smallest rectangle that contains all differences of two frames.
func changed(a, b *image.RGBA) (part image.Rectangle) {
	for y := range a.Rect.Dy() {
		for x := range a.Rect.Dx() {
			if a.RGBAAt(x, y) != b.RGBAAt(x, y) {
				part = part.Union(image.Rect(x, y, x+1, y+1))
			}
		}
	}
	return part
}
