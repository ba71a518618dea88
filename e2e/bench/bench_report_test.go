package bench

import (
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

func (r result) report(b *testing.B) {
	milliseconds := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(0, "ns/op") // says nothing here
	b.ReportMetric(milliseconds(r.clickP50), "click-p50-ms")
	b.ReportMetric(milliseconds(r.clickP99), "click-p99-ms")
	b.ReportMetric(float64(r.clickCPU.Nanoseconds())/1000, "click-cpu-us/tab")
	b.ReportMetric(float64(r.idle), "idle-B/tab")
	if r.pages {
		return
	}
	b.ReportMetric(milliseconds(r.burst), "burst-ms")
	b.ReportMetric(milliseconds(r.staleP99), "stale-p99-ms")
	b.ReportMetric(milliseconds(r.settled), "settled-ms")
	b.ReportMetric(float64(r.steadyCPU.Nanoseconds())/1000, "cpu-us/frame")
	b.ReportMetric(float64(r.mostFrames)/steadyFor.Seconds(), "frames/s/tab")
	b.ReportMetric(r.emptyShare, "empty-share")
	b.ReportMetric(float64(r.lost), "lost")
	b.ReportMetric(float64(r.cutOff), "cut-off")
	b.ReportMetric(float64(r.wrong), "wrong")
	if r.burstCommands > 0 {
		b.ReportMetric(float64(r.burstFrames)/float64(r.burstCommands), "burst-frames/redis-command")
		b.ReportMetric(float64(r.steadyFrames)/float64(r.steadyCommands), "steady-frames/redis-command")
	}
}

// table returns what was measured, as Markdown.
func table(results []result) string {
	var out strings.Builder
	fmt.Fprintf(&out, `# Fan-out, measured

![Time until all tabs agree: this app, a plain hub, the pattern as documented](bench.svg)

`+"`make bench`"+` has written this page in one run, on %d cores, with %s on %s/%s. It puts the same crowd in front of
each server. Each tab is a real socket on loopback. Each server is a process of its own, and CPU time and memory are those
of that process; the clients share the machine. [measurements.md](measurements.md#why-refreshes-are-merged) says why this
app merges refreshes.

Servers:

- **hub**: a plain WebSocket hub that writes every change to every socket. It renders nothing.
- **documented**: the pattern as documented: one publish for each click, and the default of every framework option.
- **whole page live**: this app, but with the fixed text and the layout inside the live part of the page.

Columns:

- **one click**: the time from a click, while all tabs are idle, until the last tab shows it.
- **burst**: the time from 1,000 clicks at once until all tabs show the last number; the median of %d. "> %.0f s" means
  that they did not agree within that time.
- **not counted / cut off**: clicks of the burst and of the steady stream that did not count in that time, and tabs that
  the server disconnected.
- **staleness**: under a steady stream of %d clicks a second, at most 5 in each tab, for %.0f s: whenever a tab shows a new
  number, the age of the oldest change that it had not shown.
- **settled**: the time from the last click of that stream until all tabs agree.
- **frames a second, CPU a frame, frames that change nothing**: during that stream.

| tabs | server | one click p50 / p99 | CPU for it, a tab | memory of an idle tab | burst | not counted / cut off | staleness p99 | settled | frames a second, busiest tab | CPU a frame | frames that change nothing |
|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
`, runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH, bursts, patience.Seconds(), steadyPerSecond, steadyFor.Seconds())
	for _, r := range results {
		fmt.Fprintf(&out, "| %d | %s | %s / %s | %d µs | %.1f kB |", r.tabs, r.name, short(r.clickP50), short(r.clickP99),
			r.clickCPU.Microseconds(), float64(r.idle)/1000)
		if r.pages {
			fmt.Fprintln(&out, " | | | | | | |")
			continue
		}
		fmt.Fprintf(&out, " %s | %d / %d | %s | %s | %.0f | %d µs | %.0f %% |\n", orTooLong(r.burst), r.lost, r.cutOff,
			short(r.staleP99), orTooLong(r.settled), float64(r.mostFrames)/steadyFor.Seconds(), r.steadyCPU.Microseconds(), 100*r.emptyShare)
	}
	return out.String()
}

func (i idle) report(b *testing.B) {
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(i.bytes, "B/conn")
	b.ReportMetric(i.resident, "resident-B/conn")
	b.ReportMetric(float64(i.cpu.Microseconds()), "cpu-us/min/conn")
}

func (i idle) table() string {
	return fmt.Sprintf(`
## Connections at rest

%d tabs of the counter are open and idle. The program pings each of them every 3 seconds.

| a connection | |
|---|--:|
| heap and stacks, after a collection | %.1f kB |
| resident memory | %.1f kB |
| CPU time in a minute | %.1f ms |
| all of them: resident memory | %.0f MB |
| all of them: CPU | %.0f %% of one core |
`, idleTabs, i.bytes/1000, i.resident/1000, float64(i.cpu.Microseconds())/1000,
		i.resident*idleTabs/1e6, 100*idleTabs*i.cpu.Seconds()/60)
}

func (s sharing) report(b *testing.B) {
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(s.atRest, "redis-commands/s/server")
	b.ReportMetric(s.clickCommands, "redis-commands/click")
	b.ReportMetric(s.person, "redis-B/person")
	b.ReportMetric(s.personHere, "server-B/person")
	for _, size := range s.bySize {
		b.ReportMetric(float64(size.atRest.Microseconds()), fmt.Sprintf("redis-cpu-us/s/%d-servers", size.servers))
		b.ReportMetric(float64(size.perClick.Microseconds()), fmt.Sprintf("redis-cpu-us/click/%d-servers", size.servers))
		b.ReportMetric(float64(size.perJoin.Microseconds()), fmt.Sprintf("redis-cpu-us/join/%d-servers", size.servers))
	}
}

func (s sharing) table(results []result) string {
	var out strings.Builder
	fmt.Fprintf(&out, `
## Two servers on one Redis

The same crowd, half of it on each server. Both servers, Redis and all clients share the machine. Redis counts the
commands, including those inside scripts.

| %d tabs | frames for each Redis command |
|---|--:|
`, clusterSystem.only)
	for _, r := range results {
		if r.burstCommands > 0 {
			fmt.Fprintf(&out, "| %d bursts of %d clicks | %d |\n", bursts, burstClicks, r.burstFrames/r.burstCommands)
			fmt.Fprintf(&out, "| %d clicks a second for %.0f s | %d |\n", steadyPerSecond, steadyFor.Seconds(), r.steadyFrames/r.steadyCommands)
		}
	}
	fmt.Fprintf(&out, `
What sharing costs, with %d clicks one after the other and then %d people who join, all on one of two servers:

| | |
|---|--:|
| a server at rest | %.1f commands a second |
| a click that comes alone | %.1f commands |
| a person online | %.0f bytes in Redis, %.0f in each server they are not on |
`, sharedClicks, sharedPeople, s.atRest, s.clickCommands, s.person, s.personHere)
	fmt.Fprint(&out, `
CPU time of Redis, by the number of servers that share it:

| servers | at rest, in a second | a click that comes alone | a join that comes alone |
|--:|--:|--:|--:|
`)
	for _, size := range s.bySize {
		fmt.Fprintf(&out, "| %d | %d µs | %d µs | %d µs |\n", size.servers, size.atRest.Microseconds(), size.perClick.Microseconds(), size.perJoin.Microseconds())
	}
	return out.String()
}

func orTooLong(d time.Duration) string {
	if d >= patience {
		return fmt.Sprintf("> %.0f s", patience.Seconds())
	}
	return short(d)
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

// panel is one diagram of the plot: a time for each number of tabs, both on a
// logarithmic scale.
type panel struct {
	title string
	value func(result) time.Duration
}

var panels = []panel{
	{"One click, until the last tab shows it", func(r result) time.Duration { return r.clickP50 }},
	{"1,000 clicks at once, until all tabs agree", func(r result) time.Duration { return r.burst }},
	{"500 clicks a second: staleness, p99", func(r result) time.Duration { return r.staleP99 }},
}

// plot returns what was measured, as SVG.
func plot(results []result) string {
	const width, height, left, top = 300, 220, 50, 60
	const shortest, longest = 100 * time.Microsecond, 20 * time.Second
	x := func(tabs int) float64 {
		first, last := math.Log(float64(crowds[0])), math.Log(float64(crowds[len(crowds)-1]))
		return (math.Log(float64(tabs)) - first) / (last - first) * (width - 20)
	}
	y := func(d time.Duration) float64 {
		d = max(shortest, min(longest, d))
		return height - math.Log(float64(d/shortest))/math.Log(float64(longest/shortest))*height
	}
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="Time until all tabs agree, for three servers">
<style>
  svg { font: 12px system-ui, sans-serif; background: #fff; color: #222; }
  text { fill: currentColor; }
  .grid { stroke: currentColor; stroke-opacity: .15; }
  .hub { stroke: #3572d6; fill: #3572d6; }
  .documented { stroke: #c2410c; fill: #c2410c; }
  .this-app { stroke: #15803d; fill: #15803d; }
  @media (prefers-color-scheme: dark) {
    svg { background: #16181d; color: #ddd; }
    .hub { stroke: #7aa7ff; fill: #7aa7ff; }
    .documented { stroke: #fb923c; fill: #fb923c; }
    .this-app { stroke: #4ade80; fill: #4ade80; }
  }
  path.line { fill: none; stroke-width: 2.5; }
</style>
`, len(panels)*(width+left)+10, height+top+60)
	for i, p := range panels {
		fmt.Fprintf(&out, `<g transform="translate(%d %d)"><text y="-15" font-weight="bold">%s</text>`+"\n", left+i*(width+left), top, p.title)
		for d := time.Millisecond; d <= 10*time.Second; d *= 10 {
			fmt.Fprintf(&out, `<path class="grid" d="M0 %.1fH%d"/><text x="-8" y="%.1f" text-anchor="end">%v</text>`+"\n", y(d), width-20, y(d)+4, d)
		}
		for _, tabs := range crowds {
			fmt.Fprintf(&out, `<text x="%.1f" y="%d" text-anchor="middle">%d</text>`+"\n", x(tabs), height+18, tabs)
		}
		fmt.Fprintf(&out, `<text x="%d" y="%d" text-anchor="middle">tabs</text>`+"\n", (width-20)/2, height+36)
		for _, name := range []string{hubSystem.name, documentedSystem.name, appSystem.name} {
			class := strings.ReplaceAll(name, " ", "-")
			path := "M"
			for _, r := range results {
				if r.name == name {
					path += fmt.Sprintf(" %.1f %.1f", x(r.tabs), y(p.value(r)))
					fmt.Fprintf(&out, `<circle class="%s" cx="%.1f" cy="%.1f" r="3.5"/>`, class, x(r.tabs), y(p.value(r)))
				}
			}
			fmt.Fprintf(&out, `<path class="line %s" d="%s"/>`+"\n", class, path)
		}
		fmt.Fprintln(&out, "</g>")
	}
	at := left
	for _, label := range []struct{ class, text string }{
		{"this-app", "this app"},
		{"hub", "a plain hub that writes every change"},
		{"documented", "the pattern as documented (at 20 s: not by then)"},
	} {
		fmt.Fprintf(&out, `<circle class="%s" cx="%d" cy="16" r="5"/><text x="%d" y="20">%s</text>`+"\n", label.class, at, at+12, label.text)
		at += 40 + 7*len(label.text)
	}
	fmt.Fprintln(&out, "</svg>")
	return out.String()
}

// sharesTable returns the shares of the CPU time that refreshes take, as Markdown.
func sharesTable(shares []share) string {
	var out strings.Builder
	fmt.Fprintf(&out, `
## The budget of refreshes

With %d clicks, or joins and leaves, a second, a refresh is always waiting. Refreshes may take %.0f %% of the CPU time that
the program may use. The share in the table is that of the whole program, refreshes and everything else.

| machine | page | tabs | share | at rest | refreshes a second |
|---|---|--:|--:|--:|--:|
`, changesPerSecond, 100*budget)
	for _, s := range shares {
		fmt.Fprintf(&out, "| %s | %s | %d | %.0f %% | %.0f %% | %.1f |\n", s.name, path.Base(s.page), s.tabs, 100*s.used, 100*s.atRest, s.frames)
	}
	return out.String()
}

// write writes what was measured into docs.
func write(b *testing.B, results []result, atRest idle, shares []share, redisCost sharing) {
	save := func(name, content string) {
		require.NoError(b, os.WriteFile(filepath.Join(visitor.Root(), name), []byte(content), 0o644))
	}
	save("docs/bench.md", table(results)+atRest.table()+sharesTable(shares)+redisCost.table(results))
	save("docs/bench.svg", plot(results))
}
