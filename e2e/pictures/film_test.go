//go:build pictures

package pictures

import (
	"bytes"
	"fmt"
	"image"
	"image/gif"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// docs/live.gif shows two browsers, with cookies of their own, that move together.
func TestPictures_Film(t *testing.T) {
	server := pictured(t)
	f := newFilm(t, server+visitor.CounterPage)
	f.hold(400 * time.Millisecond)
	for i, who := range []int{alice, bob, bob} {
		f.click(who, "increment")
		f.both(fmt.Sprint("Counter: ", i+1))
		f.hold(500 * time.Millisecond)
	}

	f.open(server + visitor.PresencePage)
	f.both("0 user(s) online")
	f.hold(400 * time.Millisecond)
	for who, name := range []string{"Alice", "Bob"} {
		f.click(who, "username")
		for _, key := range name {
			f.tabs[who].Press(string(key))
			f.shoot()
		}
		f.click(who, "join")
		f.both(fmt.Sprint(who+1, " user(s) online"))
		f.hold(800 * time.Millisecond)
	}
	f.tabs[bob].Close()
	f.stage.Eval(`void document.getElementById("screen1").remove()`)
	f.tabs = f.tabs[:bob]
	f.shoot()
	f.tabs[alice].Shows("1 user(s) online")
	f.hold(visitor.Grace) // the film shows how long somebody who has closed a tab stays
	f.shoot()
	f.hold(1200 * time.Millisecond)
	f.save("docs/live.gif")
}

const (
	filmScale = 0.9
	shot      = 100 * time.Millisecond // in the film, however long it takes
)

// The tabs of a film.
const (
	alice = iota
	bob
)

// film is a moving picture of two tabs. A page, the stage, shows them beside each other,
// and the mouse: Chromium without windows shows none.
type film struct {
	t     *testing.T
	stage *browser.Tab
	tabs  []*browser.Tab
	mouse image.Point
	over  *browser.Tab // the tab that has the mouse

	frames []*image.RGBA
	delays []time.Duration
}

const stage = `<style>
	body { margin: 0 !important; display: flex; position: relative; }
	figure { margin: 0 0 0 8px; }
	figcaption { height: 34px; line-height: 34px; text-align: center; font-size: 16px; font-weight: 600; }
	figure div { width: 468px; height: 480px; line-height: 480px; text-align: center; background: #a3b1c6; }
	img { position: absolute; width: 468px; height: 480px; }
	#mouse { position: absolute; margin: -16px; }
	#mouse.pressed { background: radial-gradient(circle, transparent 11px, #e8590c 11px 14px, transparent 14px); }
</style>
<figure><figcaption>Alice’s browser</figcaption><div><img id="screen0">The tab is closed.</div></figure>
<figure><figcaption>Bob’s browser</figcaption><div><img id="screen1">The tab is closed.</div></figure>
<svg id="mouse" width="32" height="32" viewBox="-16 -16 32 32">
	<path d="M0 0v16l4-3 3 6 3-1-3-6h5z" stroke="#fff" /></svg>`

func newFilm(t *testing.T, url string) *film {
	f := &film{t: t, stage: drawHTML(t, stage), mouse: image.Pt(480, 460)}
	for range []int{alice, bob} {
		tb := browser.New(t).OpenWindow("about:blank")
		tb.Run(emulation.SetDeviceMetricsOverride(468/filmScale, 533, filmScale, false),
			emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "light"}}))
		f.tabs = append(f.tabs, tb)
	}
	f.over = f.tabs[alice]
	f.open(url)
	return f
}

// open opens a page in both tabs, and scrolls to its demo.
func (f *film) open(url string) {
	f.t.Helper()
	for _, tb := range f.tabs {
		tb.Navigate(url)
		tb.WaitUntil(browser.Live, "a live page")
		tb.Eval(`document.querySelector("article").scrollIntoView({block: "nearest", behavior: "instant"})`)
	}
	f.shoot()
}

// both shoots until both tabs show a text, and its motion is over.
func (f *film) both(text string) {
	f.t.Helper()
	for _, tb := range f.tabs {
		shows := `document.body.innerText.replace(/\s+/g, " ").includes(` + browser.Quote(text) + `) && document.getAnimations().length === 0`
		for deadline := time.Now().Add(visitor.Soon); tb.Eval(shows) != "true"; f.shoot() {
			require.True(f.t, time.Now().Before(deadline), "want %q, the page reads:\n%s", text, tb.Text())
		}
	}
	f.shoot()
}

// click moves the mouse to an element and clicks it.
func (f *film) click(who int, name string) {
	f.t.Helper()
	tb, at := f.tabs[who], `document.querySelector("[name=`+name+`]").getBoundingClientRect()`
	x, y := tb.Number(at+`.x`)+min(tb.Number(at+`.width`), 180)*0.6, tb.Number(at+`.y`)+tb.Number(at+`.height`)*0.6
	const steps = 6
	from, to := f.mouse, image.Pt(8+who*(468+8)+int(x*filmScale), 34+int(y*filmScale))
	for step := 1; from != to && step <= steps; step++ {
		f.mouse = from.Add(to.Sub(from).Mul(step).Div(steps))
		f.draw(40 * time.Millisecond)
	}
	f.over.Run(input.DispatchMouseEvent(input.MouseMoved, 0, 0))
	f.over = tb
	tb.Run(input.DispatchMouseEvent(input.MouseMoved, x, y))
	const press = `document.getElementById("mouse").classList.toggle("pressed")`
	f.stage.Eval(press)
	f.shoot()
	tb.Run(chromedp.MouseClickXY(x, y))
	f.stage.Eval(press)
}

// shoot takes what the tabs show.
func (f *film) shoot() {
	f.t.Helper()
	for i, tb := range f.tabs {
		f.stage.Eval(fmt.Sprintf(`void (document.getElementById("screen%d").src = "%s")`, i, asURL(capture(tb))))
	}
	f.stage.WaitUntil(`[...document.images].every((image) => image.complete)`, "the pictures")
	f.draw(shot)
}

// draw adds what the stage shows, for a time.
func (f *film) draw(length time.Duration) {
	f.t.Helper()
	f.stage.Eval(fmt.Sprintf(`void Object.assign(document.getElementById("mouse").style, {left: "%dpx", top: "%dpx"})`, f.mouse.X, f.mouse.Y))
	next := decode(f.t, capture(f.stage))
	if last := len(f.frames) - 1; last >= 0 && bytes.Equal(next.Pix, f.frames[last].Pix) {
		f.hold(length)
		return
	}
	f.frames, f.delays = append(f.frames, next), append(f.delays, length)
}

// hold shows the last frame for longer.
func (f *film) hold(length time.Duration) { f.delays[len(f.delays)-1] += length }

// save writes the film as a GIF that repeats. After the first, a frame holds only the
// part that has changed.
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

// changed returns the rectangle outside which two frames are the same.
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
