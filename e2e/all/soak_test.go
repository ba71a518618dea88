//go:build soak

package all

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// With the default intervals, idle tabs stay online, visible or hidden.
func TestSoak_IdleAndHiddenTabsStayFor5Minutes(t *testing.T) {
	server := visitor.Serve(t)
	idle, peer := browser.New(t).Open(server+visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	idle.Join("idle")
	person := browser.NewWindowed(t)
	hidden := person.Open(server + visitor.PresencePage)
	hidden.Join("hidden")
	person.Load(server + "/").Run(page.BringToFront())
	hidden.WaitUntil(`document.hidden`, "a hidden tab")
	peer.Shows("2 user(s) online")
	peer.StartHistory()

	<-time.After(5 * time.Minute)
	peer.NoChange(visitor.Grace)
	idle.Shows("2 user(s) online Logged in as idle")
	hidden.Run(page.BringToFront())
	hidden.Shows("Logged in as hidden")
	peer.NoChange(visitor.Grace)
}

func TestSoak_SlowNetworksLoseNoClickAndNoSocket(t *testing.T) {
	server := visitor.Serve(t)
	made := 0
	for _, row := range []struct {
		name           string
		delay          time.Duration // each way
		bytesPerSecond int
		stall          time.Duration // every 10 seconds
	}{
		{name: "350 ms each way", delay: 350 * time.Millisecond},
		{name: "50 ms, 3 s stalls", delay: 50 * time.Millisecond, stall: 3 * time.Second},
		{name: "350 ms, 30 kB/s, 3 s stalls", delay: 350 * time.Millisecond, bytesPerSecond: 30_000, stall: 3 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			network := visitor.NewNetwork(t, server)
			network.Delay(row.delay)
			network.Throttle(row.bytesPerSecond)
			go func() {
				for t.Context().Err() == nil {
					release := network.Swallow()
					<-time.After(row.stall)
					release()
					<-time.After(7 * time.Second)
				}
			}()
			person := browser.NewWindowed(t)
			tb := person.Load("about:blank")
			tb.ExpectErrors("")
			tb.Watch()

			begin := time.Now()
			tb.Navigate(network.URL + visitor.CounterPage)
			tb.WaitUntil(browser.Live, "a live page")
			live := time.Since(begin)
			tb.CountConnects()
			for range 5 {
				tb.Hide(person)
				tb.Show()
				tb.Eval(browser.ComesOnline)
				<-time.After(2 * time.Second) // until nothing is in flight
				tb.Click("increment")
				tb.Eval(browser.ComesOnline)
				tb.Click("increment")
				made += 2
				<-time.After(2 * time.Second)
			}
			tb.Becomes(visitor.Soon, `document.querySelector("article strong").innerText == `+strconv.Itoa(made))
			counted := visitor.New(t, server).Open(visitor.CounterPage).Counter()
			t.Logf("live after %.1f s", live.Seconds())
			assert.Equal(t, made, counted, "clicks")
			assert.Empty(t, tb.Said("notice"))
			assert.Equal(t, "0", tb.Eval(`connects`), "new sockets")
			assert.Subset(t, []string{"Connecting… Buttons still work.", ""}, tb.Said("connection"))
			made = counted
		})
	}
}

func TestSoak_VisitsLeaveNothingBehind(t *testing.T) {
	visitor.StartExe(t, visitor.BuildPlain(t), "-grace", "50ms").ForgetsVisits(1000, 10_000)
}

// The program ends at most 3 seconds after its drain time, even if nobody answers: not a
// socket, not a connection without a request, not Redis.
func TestSoak_StopIsBounded(t *testing.T) {
	redis := visitor.NewRedis(t)
	p := visitor.StartExe(t, visitor.BuildPlain(t), "-redis", redis.URL)
	p.OpenSilent()
	thaw := redis.Freeze()
	defer thaw()
	began := time.Now()
	assert.Zero(t, p.Stop(syscall.SIGTERM))
	assert.Less(t, time.Since(began), visitor.Drain+3*time.Second)
}

// Nothing on a page moves while it becomes live, with an empty cache or a full one. A busy
// browser paints half-parsed pages, which do move.
func TestSoak_NothingMovesWhileAPageBecomesLive(t *testing.T) {
	server := visitor.Serve(t)
	for _, path := range []string{"/", visitor.CounterPage, visitor.PresencePage} {
		tb := browser.New(t).Load("about:blank")
		tb.InEveryPage(`window.shifts = ""; new PerformanceObserver((list) => {
			for (const { value, sources } of list.getEntries()) {
				// A page that is painted half parsed moves the word at its end by less than a pixel.
				if (value >= 0.001) shifts += value + ": " + sources.map(({ node }) => node?.outerHTML ?? node?.textContent);
			}
		}).observe({type: "layout-shift", buffered: true})`)
		for _, visit := range []string{"first", "second"} {
			tb.Navigate(server + path)
			tb.WaitUntil(`(frames["counter-left"] ?? window).liveTemplateClient?.isReady()`, "a live page, or frame")
			tb.Eval(`void requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => window.drawn = true)))`)
			tb.WaitUntil(`window.drawn`, "the live page to be painted")
			assert.Empty(t, tb.Eval(`shifts`), "layout shifts of %s, %s visit", path, visit)
		}
	}
}

// go test uses its cache until a source, a template or a script changes.
func TestSoak_TestsAreCachedUntilAFileChanges(t *testing.T) {
	dir := t.TempDir()
	parts := []string{"go.mod", "go.sum", "main.go", "handlers_realtime.go", "state_realtime.go", "templates", "static", "internal", "e2e"}
	copied := exec.Command("cp", append(append([]string{"-r"}, parts...), dir)...)
	copied.Dir = visitor.Root()
	out, err := copied.CombinedOutput()
	require.NoError(t, err, string(out))
	run := func() string {
		cmd := exec.Command("go", "test", "-run", "TestProgram_HelpAndVersion", "./e2e")
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	run()
	require.Contains(t, run(), "(cached)")
	for file, change := range map[string]string{
		"handlers_realtime.go":             "// changed\n",
		"templates/realtime/presence.tmpl": "{{/* changed */}}\n",
		"static/new.js":                    "// changed\n",
	} {
		path := filepath.Join(dir, file)
		before, _ := os.ReadFile(path)
		require.NoError(t, os.WriteFile(path, append(before, change...), 0o644))
		assert.NotContains(t, run(), "(cached)", file)
	}
}

// nginx closes connections that are idle for 60 seconds, and HAProxy for 50; the heartbeat
// keeps 30 tabs of real browsers open. When both servers restart in turn, no click is lost
// and no tab is disconnected for long. After a reload or a restart of the proxy every tab
// reconnects. The grace period is long so that nobody's speed matters.
func TestSoak_TabsSurviveProxyTimeoutsAndRestarts(t *testing.T) {
	for _, proxy := range visitor.Fronts {
		t.Run(proxy, func(t *testing.T) {
			d := deploy(t, proxy, visitor.BuildPlain(t), "-grace", "1m")
			tabs := d.openMany()
			<-time.After(75 * time.Second)
			require.Empty(t, outs(tabs))

			clicked, failed := d.keepClicking(func() {
				for i := range d.servers {
					d.restart(i)
					<-time.After(time.Second) // the least that an operator's script takes
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
			t.Logf("%d tabs were disconnected %d times: median %v, worst %v; meanwhile %d clicks counted, and %d may have: %v",
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

const joined = 18 // tabs of openMany

// openMany opens five tabs for each of six people: two counters, and three presence pages
// in which they join under different names. Each tab records how long it is not live.
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

// outs returns how long the tabs of openMany were not live each time, sorted.
func outs(tabs []*browser.Tab) (times []time.Duration) {
	for _, tb := range tabs {
		for i := range int(tb.Number(`outs.length`)) {
			times = append(times, time.Duration(tb.Number(fmt.Sprintf(`outs[%d]`, i))*float64(time.Millisecond)))
		}
	}
	slices.Sort(times)
	return times
}

// allAgree checks that a click in one tab shows in all of them, and that everybody who
// joined is online.
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

// keepClicking posts 5 clicks a second through the proxy while meanwhile runs. It returns
// how many counted, and the answers to the others.
func (d *deployment) keepClicking(meanwhile func()) (clicked int, failed []string) {
	v := visitor.New(d.t, d.URL)
	var clicking sync.WaitGroup
	var done atomic.Bool
	clicking.Go(func() {
		for ; !done.Load(); <-time.After(200 * time.Millisecond) {
			switch status, err := v.TryClick(); {
			case err != nil:
				failed = append(failed, err.Error())
			case status == http.StatusSeeOther:
				clicked++
			default:
				failed = append(failed, fmt.Sprint(status, " ", http.StatusText(status)))
			}
		}
	})
	meanwhile()
	done.Store(true)
	clicking.Wait()
	return clicked, failed
}

// Everything that can happen to a Redis happens for 40 seconds, while people click on three
// servers. No click is refused, and in the end every server shows all of them.
func TestSoak_ChaosRefusesNoClick(t *testing.T) {
	random := rand.New(rand.NewPCG(visitor.Seed(t), 0))
	redis, b := visitor.NewRedis(t, "--enable-debug-command", "local"), books{t: t}
	ctx := t.Context()
	var servers []*visitor.Program
	var networks []*visitor.Network
	var stops []func()
	for range 3 {
		network := visitor.NewNetwork(t, redis.Addr)
		p := visitor.StartExe(t, visitor.BuildPlain(t), "-redis", "redis://"+network.Addr()+"/0")
		servers, networks, stops = append(servers, p), append(networks, network), append(stops, b.click(p))
	}
	lasts := func(least time.Duration) { <-time.After(least + time.Duration(random.Int64N(int64(2*time.Second)))) }
	faults := map[string]func(){
		"restarted":       func() { redis.Stop(); lasts(0); redis.Start() },
		"restarted empty": func() { redis.Stop(); redis.Erase(); lasts(0); redis.Start() },
		"paused":          func() { thaw := redis.Freeze(); lasts(3 * time.Second); thaw() },
		"emptied":         func() { redis.FlushAll(ctx) },
		"rolled back": func() {
			require.NoError(t, redis.Save(ctx).Err())
			lasts(time.Second)
			require.NoError(t, redis.Do(ctx, "DEBUG", "RELOAD", "NOSAVE").Err())
		},
		"cut off": func() { network := networks[random.IntN(3)]; network.Leave(); lasts(0); network.ComeBack() },
		"slowed": func() {
			network := networks[random.IntN(3)]
			network.Delay(700 * time.Millisecond)
			lasts(0)
			network.Delay(0)
		},
		"filled": func() { redis.ConfigSet(ctx, "maxmemory", "1"); lasts(0); redis.ConfigSet(ctx, "maxmemory", "0") },
	}
	happened := map[string]int{}
	for began := time.Now(); time.Since(began) < 40*time.Second; {
		kinds := slices.Sorted(maps.Keys(faults))
		random.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
		for _, kind := range kinds {
			happened[kind]++
			faults[kind]()
			lasts(0)
		}
	}
	for _, stop := range stops {
		stop()
	}
	ended := time.Now()
	for _, s := range servers {
		visitor.New(t, s.URL).Open(visitor.CounterPage).Shows(fmt.Sprintf("Counter: %d ", b.sent.Load()))
	}
	assert.Equal(t, b.sent.Load(), b.answered.Load(), "clicks that were sent, and those that counted")
	t.Logf("%d clicks, none refused; %.1f s later all servers show all; faults: %v", b.sent.Load(), time.Since(ended).Seconds(), happened)
}
