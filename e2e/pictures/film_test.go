//go:build pictures

package pictures

import (
	"bytes"
	"image"
	"image/color"
	imagedraw "image/draw"
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

const (
	largestFilm = 1_000_000 // bytes
	shortBreak  = 100 * time.Millisecond
	gap         = 8  // pixels around the two panes
	captionRow  = 34 // pixels
	filmScale   = 0.9
)

var paneSize = image.Pt(468, 480)

// docs/live.gif shows two browsers, with cookies of their own, that move together.
func TestPictures_Film(t *testing.T) {
	server := pictured(t)
	alice, bob := browser.New(t).OpenWindow(server+visitor.CounterPage), browser.New(t).OpenWindow(server+visitor.CounterPage)
	f := newFilm(t, alice, bob)
	both := func(text string) {
		t.Helper()
		f.until(alice, text)
		f.until(bob, text)
	}

	f.roll(400 * time.Millisecond)
	f.click(alice, "increment")
	both("Counter: 1")
	f.roll(600 * time.Millisecond)
	for _, want := range []string{"Counter: 2", "Counter: 3"} {
		f.click(bob, "increment")
		both(want)
		f.roll(300 * time.Millisecond)
	}
	f.roll(400 * time.Millisecond)

	for _, tb := range []*browser.Tab{alice, bob} {
		tb.Navigate(server + visitor.PresencePage)
		tb.WaitUntil(browser.Live, "a live page")
	}
	both("0 user(s) online")
	f.frame("username")
	f.roll(400 * time.Millisecond)
	f.join(alice, "Alice")
	both("1 user(s) online")
	f.roll(300 * time.Millisecond)
	f.join(bob, "Bob")
	both("2 user(s) online")
	f.roll(1000 * time.Millisecond)
	f.longestShot = visitor.Grace // the film shows how long somebody who has closed a tab stays
	f.close(bob)
	f.until(alice, "1 user(s) online")
	f.longestShot = shortBreak
	f.roll(1200 * time.Millisecond)
	f.save("docs/live.gif")
}

// film is a moving picture of two tabs beside each other. It takes a frame whenever
// something has changed. The mouse is drawn where the tab has it, since Chromium
// without windows shows none.
type film struct {
	t        *testing.T
	tabs     []*browser.Tab // nil when closed
	panes    []image.Image
	backdrop *image.RGBA
	mouse    image.Point
	pressed  bool

	frames []*image.RGBA
	delays []time.Duration
	last   time.Time // when the last shot was taken

	longestShot time.Duration // in the film
}

func newFilm(t *testing.T, left, right *browser.Tab) *film {
	f := &film{t: t, tabs: []*browser.Tab{left, right}, panes: make([]image.Image, 2), mouse: image.Pt(480, 460), longestShot: shortBreak}
	pane := func(caption string) string {
		return `<figure><figcaption>` + caption + `</figcaption><div>The tab is closed.</div></figure>`
	}
	f.backdrop = drawHTML(t, `<style>
		body { margin: 0; display: flex; }
		figure { margin: 0 0 0 8px; width: 468px; }
		figcaption { height: 34px; line-height: 34px; text-align: center; font-size: 16px; font-weight: 600; }
		div { height: 480px; line-height: 480px; text-align: center; background: #a3b1c6; }
	</style>`+pane("Alice’s browser")+pane("Bob’s browser"))
	for _, tb := range f.tabs {
		tb.Run(
			emulation.SetDeviceMetricsOverride(int64(float64(paneSize.X)/filmScale), int64(float64(paneSize.Y)/filmScale), filmScale, false),
			emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "light"}}))
	}
	f.frame("increment")
	f.last = time.Now()
	return f
}

// frame scrolls the demo around an element into view.
func (f *film) frame(name string) {
	f.t.Helper()
	for _, tb := range f.tabs {
		tb.Eval(`document.querySelector("[name=` + name + `]").closest("article").scrollIntoView({block: "nearest", behavior: "instant"})`)
	}
}

// roll takes the film further by a time.
func (f *film) roll(length time.Duration) {
	f.t.Helper()
	for end := f.length() + length; f.length() < end; {
		f.shoot()
	}
}

// until rolls until a tab shows a text.
func (f *film) until(tb *browser.Tab, text string) {
	f.t.Helper()
	deadline := time.Now().Add(visitor.Soon)
	for shows := false; !shows; {
		require.True(f.t, time.Now().Before(deadline), "want %q, the page reads:\n%s", text, tb.Text())
		shows = tb.Eval(`document.body.innerText.replace(/\s+/g, " ").includes(`+browser.Quote(text)+`)`) == "true"
		f.shoot()
	}
}

// click moves the mouse to an element and clicks it.
func (f *film) click(tb *browser.Tab, name string) {
	f.t.Helper()
	at := `document.querySelector("[name=` + name + `]").getBoundingClientRect()`
	x := tb.Number(at+`.x`) + min(tb.Number(at+`.width`), 180)*0.6
	y := tb.Number(at+`.y`) + tb.Number(at+`.height`)*0.6
	from, to := f.mouse, f.place(tb).Min.Add(image.Pt(int(x*filmScale), int(y*filmScale)))
	if from != to {
		for step := range 8 {
			f.mouse = from.Add(to.Sub(from).Mul(step + 1).Div(8))
			f.add(40 * time.Millisecond)
		}
	}
	for _, other := range f.tabs {
		if other != nil && other != tb {
			other.Run(input.DispatchMouseEvent(input.MouseMoved, 0, 0)) // the mouse has left it
		}
	}
	tb.Run(input.DispatchMouseEvent(input.MouseMoved, x, y))
	f.roll(100 * time.Millisecond)
	press := func(kind input.MouseType) {
		tb.Run(input.DispatchMouseEvent(kind, x, y).WithButton(input.Left).WithClickCount(1))
	}
	f.pressed = true
	press(input.MousePressed)
	f.roll(150 * time.Millisecond)
	f.pressed = false
	press(input.MouseReleased)
}

// join types a name and joins.
func (f *film) join(tb *browser.Tab, name string) {
	f.t.Helper()
	f.click(tb, "username")
	for _, key := range name {
		tb.Press(string(key))
		f.roll(90 * time.Millisecond)
	}
	f.click(tb, "join")
	f.until(tb, "Logged in as "+name)
}

// close closes a tab.
func (f *film) close(tb *browser.Tab) {
	i := f.index(tb)
	tb.Close()
	f.tabs[i], f.panes[i] = nil, nil
}

func (f *film) index(tb *browser.Tab) int {
	if tb == f.tabs[0] {
		return 0
	}
	return 1
}

// place returns where a tab is in the picture.
func (f *film) place(tb *browser.Tab) image.Rectangle {
	corner := image.Pt(gap+f.index(tb)*(paneSize.X+gap), captionRow)
	return image.Rectangle{corner, corner.Add(paneSize)}
}

func (f *film) length() (sum time.Duration) {
	for _, d := range f.delays {
		sum += d
	}
	return sum
}

// shoot takes both tabs. A machine that is slow to do so makes the film no slower.
func (f *film) shoot() {
	f.t.Helper()
	for i, tb := range f.tabs {
		if tb == nil {
			continue
		}
		var picture []byte
		tb.Run(chromedp.CaptureScreenshot(&picture))
		f.panes[i] = decode(f.t, picture)
	}
	now := time.Now()
	f.add(min(now.Sub(f.last), f.longestShot))
	f.last = now
}

// add shows the last frame for a time, and then what is there now.
func (f *film) add(passed time.Duration) {
	next := image.NewRGBA(f.backdrop.Bounds())
	imagedraw.Draw(next, next.Bounds(), f.backdrop, image.Point{}, imagedraw.Src)
	for i, tb := range f.tabs {
		if tb != nil {
			imagedraw.Draw(next, f.place(tb), f.panes[i], image.Point{}, imagedraw.Src)
		}
	}
	f.drawMouse(next)
	if last := len(f.frames) - 1; last >= 0 {
		f.delays[last] += passed
		if bytes.Equal(next.Pix, f.frames[last].Pix) {
			return
		}
	}
	f.frames, f.delays = append(f.frames, next), append(f.delays, 0)
}

// arrow is the mouse: o is its outline, # its inside.
var arrow = []string{
	"o",
	"oo",
	"o#o",
	"o##o",
	"o###o",
	"o####o",
	"o#####o",
	"o######o",
	"o#######o",
	"o########o",
	"o#########o",
	"o######ooooo",
	"o###o##o",
	"o##oo##o",
	"o#o  o##o",
	"oo   o##o",
	"      o##o",
	"       oo",
}

func (f *film) drawMouse(frame *image.RGBA) {
	const ring = 14 // radius around a pressed button of the mouse, in pixels
	for y := -ring; f.pressed && y <= ring; y++ {
		for x := -ring; x <= ring; x++ {
			if square := x*x + y*y; square <= ring*ring && square > (ring-3)*(ring-3) {
				frame.Set(f.mouse.X+x, f.mouse.Y+y, color.RGBA{0xe8, 0x59, 0x0c, 0xff})
			}
		}
	}
	for y, line := range arrow {
		for x, dot := range line {
			switch dot {
			case 'o':
				frame.Set(f.mouse.X+x, f.mouse.Y+y, color.White)
			case '#':
				frame.Set(f.mouse.X+x, f.mouse.Y+y, color.Black)
			}
		}
	}
}

// save writes the film as a GIF that repeats. After the first, a frame holds only the
// part that has changed.
func (f *film) save(name string) {
	f.t.Helper()
	f.delays[len(f.delays)-1] += shortBreak
	palette := paletteOf(256, f.frames...)
	film := &gif.GIF{Config: image.Config{ColorModel: palette, Width: f.backdrop.Rect.Dx(), Height: f.backdrop.Rect.Dy()}}
	var shown time.Duration
	part := f.backdrop.Bounds()
	for i, frame := range f.frames {
		if i > 0 {
			part = changed(f.frames[i-1], frame)
		}
		film.Image = append(film.Image, paletted(frame, part, palette))
		before := shown
		shown += f.delays[i]
		film.Delay = append(film.Delay, hundredths(shown)-hundredths(before))
	}
	var out bytes.Buffer
	require.NoError(f.t, gif.EncodeAll(&out, film))
	f.t.Logf("%d frames, %.1f s, %v", len(f.frames), shown.Seconds(), f.backdrop.Rect.Size())
	save(f.t, name, out.Bytes(), largestFilm)
}

func hundredths(d time.Duration) int { return int(d / (10 * time.Millisecond)) }

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
