//go:build soak

package all

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// nginx closes what is silent for 60 seconds, and HAProxy for 50: 30 tabs of real browsers
// are not silent for so long. A proxy that reloads its file, or starts again, gets every
// tab back. While both servers restart one after the other, no click is lost and no tab is
// out for long. The grace period is long, so that nobody is online only because they were
// quick enough.
func TestSoak_ProxiesKeepTabsAndGetThemBack(t *testing.T) {
	for _, proxy := range visitor.Fronts {
		t.Run(proxy, func(t *testing.T) {
			d := deploy(t, proxy, visitor.BuildPlain(t), "-grace", "1m")
			tabs := d.openMany()
			<-time.After(75 * time.Second) // Chromium has built its windows by then
			require.Empty(t, outs(tabs))

			clicked, failed := d.keepClicking(func() {
				for i := range d.servers {
					d.restart(i)
					<-time.After(time.Second) // as long as an operator's script takes at least
				}
			})
			for _, tb := range tabs {
				tb.WaitUntil(browser.Live, "a live page")
			}
			counter := visitor.New(t, d.URL).Open(visitor.CounterPage).Counter()
			assert.GreaterOrEqual(t, counter, clicked)
			assert.LessOrEqual(t, counter, clicked+len(failed))
			d.allAgree(tabs)
			out := outs(tabs)
			t.Logf("%d tabs were out %d times: median %v, worst %v; meanwhile %d clicks counted, and %d may have: %v",
				len(tabs), len(out), visitor.Percentile(out, 50), out[len(out)-1], clicked, len(failed), failed)
			assert.GreaterOrEqual(t, len(out), len(tabs), "every tab was on a server that restarted")
			assert.Less(t, out[len(out)-1], 1500*time.Millisecond)

			for name, do := range map[string]func(){"reload": d.Reload, "restart": d.Restart} {
				before := len(outs(tabs))
				do()
				require.Eventually(t, func() bool { return len(outs(tabs)) >= before+len(tabs) }, visitor.Soon, 100*time.Millisecond,
					"every tab has a new socket after a %s", name)
				d.allAgree(tabs)
			}
		})
	}
}

const joined = 18 // of the tabs of openMany

// openMany opens five tabs for each of six people: two of the counter, and three in which
// they join under names of their own. A tab notes for how long it is not live.
func (d *deployment) openMany() (tabs []*browser.Tab) {
	d.t.Helper()
	for i := range 6 {
		person := browser.New(d.t)
		tabs = append(tabs, d.open(person, visitor.CounterPage), d.open(person, visitor.CounterPage))
		for n := range 3 {
			tb := d.open(person, visitor.PresencePage)
			tb.Join(fmt.Sprintf("Person %d-%d", i, n))
			tabs = append(tabs, tb)
		}
	}
	for _, tb := range tabs {
		tb.Eval(`void (() => {
			let down = 0;
			window.outs = [];
			document.addEventListener("live", (event) => {
				if (event.detail !== "up") down ||= performance.now();
				else if (down) { outs.push(performance.now() - down); down = 0; }
			});
		})()`)
	}
	return tabs
}

// outs returns for how long the tabs of openMany were not live, each time, the shortest
// first.
func outs(tabs []*browser.Tab) (times []time.Duration) {
	for _, tb := range tabs {
		for i := range int(tb.Number(`outs.length`)) {
			times = append(times, time.Duration(tb.Number(fmt.Sprintf(`outs[%d]`, i))*float64(time.Millisecond)))
		}
	}
	slices.Sort(times)
	return times
}

// allAgree checks that a click in a tab shows in all, and that everybody who has joined is
// online and knows it.
func (d *deployment) allAgree(tabs []*browser.Tab) {
	d.t.Helper()
	counter := visitor.New(d.t, d.URL).Open(visitor.CounterPage).Counter() + 1
	tabs[0].Click("increment")
	for _, tb := range tabs {
		if tb.Has("[name=increment]") {
			tb.Shows(fmt.Sprintf("Counter: %d ", counter))
		} else {
			tb.Shows(fmt.Sprintf("%d user(s) online Logged in as Person", joined))
		}
	}
}

// keepClicking posts 5 clicks a second through the proxy while something is done. It
// returns how many counted, and what the others were answered.
func (d *deployment) keepClicking(meanwhile func()) (clicked int, failed []string) {
	v := visitor.New(d.t, d.URL)
	var clicking sync.WaitGroup
	var done atomic.Bool
	clicking.Go(func() {
		for ; !done.Load(); <-time.After(200 * time.Millisecond) {
			resp, err := v.Client.PostForm(d.URL+visitor.CounterPage, url.Values{"increment": {""}})
			switch {
			case err != nil:
				failed = append(failed, err.Error())
				continue
			case resp.StatusCode == http.StatusSeeOther:
				clicked++
			default:
				failed = append(failed, resp.Status)
			}
			resp.Body.Close()
		}
	})
	meanwhile()
	done.Store(true)
	clicking.Wait()
	return clicked, failed
}
