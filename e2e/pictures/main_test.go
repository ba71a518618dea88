//go:build pictures

// Package pictures makes the pictures in docs from the running program.
package pictures

import (
	"bytes"
	"context"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

func TestMain(m *testing.M) { browser.Main(m) }

// drawHTML returns a tab that shows HTML, and is as large as its content.
func drawHTML(t *testing.T, content string) *browser.Tab {
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
	tb.Run(emulation.SetDeviceMetricsOverride(int64(width), int64(height), 1, false))
	return tb
}

// decode returns a picture that was captured.
func decode(t *testing.T, picture []byte) *image.RGBA {
	t.Helper()
	decoded, err := png.Decode(bytes.NewReader(picture))
	require.NoError(t, err)
	rgba := image.NewRGBA(decoded.Bounds())
	draw.Draw(rgba, rgba.Rect, decoded, image.Point{}, draw.Src)
	return rgba
}

// paletteOf returns so many colours for pictures: first the one that is there most often,
// and then always the one that those before it show worst.
func paletteOf(most int, pictures ...*image.RGBA) (palette color.Palette) {
	counts := map[color.RGBA]int{}
	for _, p := range pictures {
		for i := 0; i < len(p.Pix); i += 4 {
			counts[color.RGBA{p.Pix[i], p.Pix[i+1], p.Pix[i+2], 0xff}]++
		}
	}
	far := map[color.RGBA]int{} // the square of how far a colour is from those before
	for range min(most, len(counts)) {
		var next color.RGBA
		worst := -1
		for c, count := range counts {
			distance, known := far[c]
			if !known {
				distance = math.MaxUint16
			}
			if count*distance > worst {
				next, worst = c, count*distance
			}
		}
		palette = append(palette, next)
		for c := range counts {
			r, g, b := int(c.R)-int(next.R), int(c.G)-int(next.G), int(c.B)-int(next.B)
			distance := r*r + g*g + b*b
			if before, known := far[c]; !known || distance < before {
				far[c] = distance
			}
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
	sheet := decode(t, capture(drawHTML(t, content)))
	var out bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	require.NoError(t, encoder.Encode(&out, paletted(sheet, sheet.Rect, paletteOf(64, sheet))))
	save(t, name, out.Bytes(), 400_000)
}

// save writes a picture, which may have so many bytes.
func save(t *testing.T, name string, content []byte, largest int) {
	t.Helper()
	t.Logf("%s: %d kB", name, len(content)/1000)
	require.LessOrEqual(t, len(content), largest, name)
	require.NoError(t, os.WriteFile(filepath.Join(visitor.Root(), name), content, 0o644))
}
