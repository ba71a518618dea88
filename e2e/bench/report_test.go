//go:build bench

package bench

import (
	"bytes"
	"embed"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// report is what docs/bench.md and docs/bench.svg show.
type report struct {
	Size     sizes
	Budget   float64
	Results  []result
	Idle     idle
	Shares   []share
	Sharing  sharing
	Clusters []clusterCost
}

//go:embed *.tmpl
var templates embed.FS

// write writes the report into docs. What is short, it prints.
func (r report) write(b *testing.B) {
	parsed, err := template.New("").Funcs(template.FuncMap{
		"kB":      func(bytes float64) string { return fmt.Sprintf("%.1f kB", bytes/1000) },
		"percent": func(share float64) string { return fmt.Sprintf("%.0f %%", 100*share) },
		"short":   short,
		"machine": func() string {
			return fmt.Sprintf("%d cores, with %s on %s/%s", runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
		"list":     func(items ...any) []any { return items },
		"duration": time.ParseDuration,
		"x":        x,
		"y":        y,
		"left":     func(panel int) int { return 50 + 350*panel },
		"class":    func(server string) string { return strings.ReplaceAll(server, " ", "-") },
		"time": func(d time.Duration) string { // until something happens, if it did
			if d >= r.Size.Patience {
				return fmt.Sprintf("> %.0f s", r.Size.Patience.Seconds())
			}
			return short(d)
		},
	}).ParseFS(templates, "*.tmpl")
	require.NoError(b, err)
	for _, name := range []string{"bench.md", "bench.svg"} {
		var out bytes.Buffer
		require.NoError(b, parsed.ExecuteTemplate(&out, name+".tmpl", r))
		if testing.Short() {
			fmt.Println(out.String())
			continue
		}
		require.NoError(b, os.WriteFile(filepath.Join(visitor.Root(), "docs", name), out.Bytes(), 0o644))
	}
}

// short returns a duration with two or three digits.
func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// Times returns what the panels of the plot show of a result.
func (r result) Times() []time.Duration { return []time.Duration{r.ClickP50, r.Burst, r.StaleP99} }

// x and y are where the plot has a number of tabs and a time, both on a logarithmic scale.
func x(tabs int) string {
	first, last := float64(size.Crowds[0]), float64(size.Crowds[len(size.Crowds)-1])
	return fmt.Sprintf("%.1f", 280*math.Log(float64(tabs)/first)/math.Log(last/first))
}

func y(d time.Duration) string {
	const shortest, longest = 100 * time.Microsecond, 20 * time.Second
	d = max(shortest, min(longest, d))
	return fmt.Sprintf("%.1f", 220*(1-math.Log(float64(d)/float64(shortest))/math.Log(float64(longest)/float64(shortest))))
}
