package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/cluster"
	"realtime/internal/visitor"
)

// The load of BenchmarkFanout.
const (
	bursts          = 3 // one after the other; the figure is their median
	burstClicks     = 1000
	steadyPerSecond = 500 // and at most 5 in each tab, below every rate limit
	steadyFor       = 10 * time.Second
	patience        = 20 * time.Second // then a crowd that does not agree has failed
)

var crowds = []int{10, 100, 1000, 5000}

// BenchmarkFanout puts the same crowd in front of three servers in turn: a plain
// WebSocket hub, the pattern as it is documented, and this program. It writes
// docs/bench.md and docs/bench.svg, and fails where the program does not keep what
// they promise.
func BenchmarkFanout(b *testing.B) {
	var results []result
	all := 0
	for _, tabs := range crowds {
		byName := map[string]result{}
		systems := systemsFor(tabs)
		all += len(systems)
		for _, s := range systems {
			b.Run(fmt.Sprintf("tabs=%d/%s", tabs, strings.NewReplacer(" ", "_", ",", "").Replace(s.name)), func(b *testing.B) {
				r := measure(b, s, tabs)
				r.report(b)
				byName[s.name] = r
				results = append(results, r)
			})
		}
		if len(byName) == len(systems) { // all of them were asked for
			check(b, tabs, byName[hubSystem.name], byName[documentedSystem.name], byName[appSystem.name], byName[clusterSystem.name])
		}
	}
	var atRest idle
	b.Run(fmt.Sprintf("idle=%d", idleTabs), func(b *testing.B) {
		atRest = measureIdle(b)
		atRest.report(b)
	})
	var shares []share
	for _, m := range machines {
		b.Run("budget/"+strings.ReplaceAll(m.name, " ", "_"), func(b *testing.B) { shares = append(shares, measureShares(b, m)...) })
	}
	var redisCost sharing
	b.Run("sharing", func(b *testing.B) {
		redisCost = measureShared(b)
		redisCost.report(b)
	})
	if len(results) == all && atRest.bytes > 0 && len(shares) > 0 && redisCost.person > 0 {
		write(b, results, atRest, shares, redisCost)
	}
}

// Every tab clicks ten times a second, and all of them agree in the end.
func BenchmarkFanout_EveryTabClicks(b *testing.B) {
	const duration = 5 * time.Second
	got, took := visitor.EveryTabClicks(b, 200, 10, duration)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(got.MostFrames)/took.Seconds(), "frames/s/tab")
	b.ReportMetric(float64((took - duration).Milliseconds()), "settled-ms")
}

// 500 people join at once: a handful of refreshes for each of them.
func BenchmarkFanout_EverybodyJoins(b *testing.B) {
	got, took := visitor.ClickAtOnce(b, visitor.PresencePage, 500, 500)
	assert.LessOrEqual(b, got.MostRefreshes, 10)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(got.MostRefreshes), "refreshes/tab")
	b.ReportMetric(float64(took.Milliseconds()), "joined-ms")
}

// system is a server of the counter page, or several.
type system struct {
	name  string
	start func(b *testing.B) (servers []*visitor.Program, redis *visitor.Redis)
	pages bool // only what depends on the page: not the burst, not the steady load
	only  int  // tabs; 0: any number
}

var (
	hubSystem        = system{name: "hub", start: reference("hub")}
	documentedSystem = system{name: "documented", start: reference("documented")}
	wholePageSystem  = system{name: "whole page live", start: reference("whole-page"), pages: true}
	appSystem        = system{name: "this app", start: func(b *testing.B) ([]*visitor.Program, *visitor.Redis) {
		return []*visitor.Program{visitor.Start(b)}, nil
	}}
	clusterSystem = system{name: "this app, 2 servers", start: func(b *testing.B) ([]*visitor.Program, *visitor.Redis) {
		redis, servers := visitor.StartServers(b, 2)
		redis.OnlyInMemory()
		return servers, redis
	}, only: 1000}
)

// systemsFor returns the systems that a crowd of so many tabs is put in front of.
func systemsFor(tabs int) (systems []system) {
	for _, s := range []system{hubSystem, documentedSystem, wholePageSystem, appSystem, clusterSystem} {
		if s.only == 0 || s.only == tabs {
			systems = append(systems, s)
		}
	}
	return systems
}

// reference starts a server of e2e/bench/reference.
func reference(kind string) func(b *testing.B) ([]*visitor.Program, *visitor.Redis) {
	return func(b *testing.B) ([]*visitor.Program, *visitor.Redis) {
		pages, exe := b.TempDir(), filepath.Join(b.TempDir(), "reference")
		build := exec.Command("go", "build", "-o", exe, "./reference")
		out, err := build.CombinedOutput()
		require.NoError(b, err, string(out))
		writePages(b, pages)
		return []*visitor.Program{visitor.StartExe(b, exe, "-kind", kind, "-pages", pages)}, nil
	}
}

// writePages writes the counter page as templates that hold all of it: its fixed
// text as the program serves it, without listings, around the template of its live part.
func writePages(b *testing.B, dir string) {
	_, html := visitor.New(b, visitor.Start(b).URL).Send("GET", visitor.CounterPage, "", "")
	before, after := visitor.Around(b, html)
	file, err := os.ReadFile("../../templates/realtime/multi-user-sync.tmpl")
	require.NoError(b, err)
	_, live, found := strings.Cut(string(file), `{{define "live"}}`)
	require.True(b, found)
	live = live[:strings.LastIndex(live, "{{end}}")]
	page := before + live + after
	for name, content := range map[string]string{
		"page.tmpl":      page,
		"whole.tmpl":     `{{define "content"}}{{template "live" .}}{{end}}{{define "live"}}` + page + `{{end}}`,
		"layout.tmpl":    `{{template "content" .}}`,
		"parts.tmpl":     "",
		"live.tmpl":      `{{template "live" .}}`,
		"index.tmpl":     `{{define "content"}}{{end}}`,
		"not-found.tmpl": `{{define "content"}}{{end}}`,
		"package.json":   `{}`,
	} {
		require.NoError(b, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
}

// result is what was measured of a system with so many tabs. Memory and CPU time
// are the server's.
type result struct {
	system
	tabs int

	idle       int // bytes per tab
	clickP50   time.Duration
	clickP99   time.Duration
	clickCPU   time.Duration // per tab
	burst      time.Duration // until every tab shows the last number; patience if never
	staleP99   time.Duration
	settled    time.Duration // since the last click
	steadyCPU  time.Duration // per frame
	mostFrames int           // of one tab, under the steady load
	emptyShare float64
	lost       int // clicks that did not count, or not within patience
	cutOff     int
	wrong      int

	// With several servers only: Redis commands, with those inside scripts.
	burstFrames, burstCommands   int // in all bursts together
	steadyFrames, steadyCommands int
}

// front is a crowd in front of a system.
type front struct {
	servers []*visitor.Program
	redis   *visitor.Redis
	*visitor.Crowd
}

func (s system) openCrowd(b *testing.B, tabs int) front {
	servers, redis := s.start(b)
	return front{servers, redis, visitor.OpenCrowdOn(b, urls(servers), visitor.CounterPage, tabs)}
}

func urls(servers []*visitor.Program) (urls []string) {
	for _, p := range servers {
		urls = append(urls, p.URL)
	}
	return urls
}

// commands returns how many Redis commands do causes.
func (f front) commands(do func()) int {
	if f.redis == nil {
		do()
		return 0
	}
	return f.redis.Spent(do).Commands
}

// cpu returns the CPU time that the servers have used.
func (f front) cpu() (used time.Duration) {
	for _, p := range f.servers {
		used += p.CPUTime()
	}
	return used
}

// end stops the servers, to make room for others.
func (f front) end() {
	f.Close()
	for _, p := range f.servers {
		p.Kill()
	}
}

func measure(b *testing.B, s system, tabs int) result {
	r := result{system: s, tabs: tabs}
	servers, redis := s.start(b)
	memory := func() (bytes int) {
		for _, p := range servers {
			bytes += held(p)
		}
		return bytes
	}
	empty := memory()
	f := front{servers, redis, visitor.OpenCrowdOn(b, urls(servers), visitor.CounterPage, tabs)}
	r.idle = (memory() - empty) / tabs

	clicks := r.singleClicks(f)
	if s.pages {
		return r
	}
	before := f.Count(int64(clicks))
	r.burstCommands = f.commands(func() { clicks += r.burstsOf(f, clicks) })
	loaded := f.Count(int64(clicks))
	r.burstFrames = loaded.Frames - before.Frames
	if r.add(loaded, f, clicks); loaded.CutOff+loaded.Wrong > 0 {
		f.end() // the steady load is for a whole crowd
		f = s.openCrowd(b, tabs)
		clicks, before, loaded = 0, visitor.Tally{}, visitor.Tally{}
	}
	burst, more := loaded, 0
	r.steadyCommands = f.commands(func() { more, loaded = r.steadyLoad(f, clicks, loaded) })
	r.steadyFrames = loaded.Frames - burst.Frames
	clicks += more
	r.add(loaded, f, clicks)
	r.emptyShare = float64(loaded.Empty-before.Empty) / float64(max(1, loaded.Frames-before.Frames))
	return r
}

// burstsOf measures bursts of clicks, until one leaves a tab behind.
func (r *result) burstsOf(f front, before int) (clicks int) {
	var took []time.Duration
	for range bursts {
		<-time.After(time.Duration(burstClicks/r.tabs) * 20 * time.Millisecond) // the rate limit forgets the last one
		clicks += burstClicks
		f.Expect(int64(before + clicks))
		begin := time.Now()
		f.ClickAtOnce(burstClicks)
		agreed := f.AwaitNumber(patience)
		took = append(took, time.Since(begin))
		if !agreed {
			r.burst = patience
			return clicks
		}
	}
	r.burst = visitor.Percentile(took, 50)
	return clicks
}

// steadyLoad measures a steady stream of clicks, after others before.
func (r *result) steadyLoad(f front, before int, loaded visitor.Tally) (clicks int, after visitor.Tally) {
	f.Forget()
	rate := min(steadyPerSecond, 5*r.tabs)
	cpu := f.cpu()
	f.Expect(int64(before + rate*int(steadyFor/time.Second)))
	clicks = f.ClickSteadily(rate, steadyFor)
	begin := time.Now()
	f.AwaitNumber(patience)
	r.settled = time.Since(begin)
	after = f.Count(int64(before + clicks))
	r.steadyCPU = (f.cpu() - cpu) / time.Duration(max(1, after.Frames-loaded.Frames))
	r.mostFrames = after.MostFrames - loaded.MostFrames
	r.staleP99 = visitor.Percentile(f.Staleness(), 99)
	return clicks, after
}

// singleClicks measures clicks that find everybody at rest.
func (r *result) singleClicks(f front) (clicks int) {
	const measured = 50
	var latencies []time.Duration
	var busy time.Duration
	for clicks < measured {
		<-time.After(60*time.Millisecond + time.Duration(r.tabs)*60*time.Microsecond) // longer than an interval
		clicks++
		f.Expect(int64(clicks))
		cpu, begin := f.cpu(), time.Now()
		f.Tabs[clicks%len(f.Tabs)].Click()
		if !f.AwaitNumber(patience) {
			break
		}
		latencies = append(latencies, time.Since(begin))
		busy += f.cpu() - cpu
	}
	r.clickP50, r.clickP99 = visitor.Percentile(latencies, 50), visitor.Percentile(latencies, 99)
	r.clickCPU = busy / time.Duration(len(latencies)*r.tabs)
	return clicks
}

// add adds what went wrong under a load. The clicks that counted are the last
// number that any tab shows.
func (r *result) add(t visitor.Tally, f front, clicks int) {
	r.cutOff += t.CutOff
	r.wrong += t.Wrong
	var counted int64
	for _, tb := range f.Tabs {
		counted = max(counted, tb.Shown())
	}
	r.lost += clicks - int(counted)
}

// check fails the benchmark where the program is not what the documentation says.
func check(b *testing.B, tabs int, hub, documented, app, two result) {
	assert.Zero(b, app.cutOff, "%d tabs: cut off", tabs)
	assert.Zero(b, app.lost, "%d tabs: clicks lost", tabs)
	assert.Zero(b, app.wrong, "%d tabs: tabs that show another number", tabs)
	assert.LessOrEqual(b, app.emptyShare, 0.05, "%d tabs: share of the frames that change nothing", tabs)
	switch tabs {
	case 1000:
		// On a fast machine the interval sets the time, and not the work.
		assert.LessOrEqual(b, app.burst, max(hub.burst/8, 3*visitor.Interval), "1000 tabs: a burst, and an eighth of the hub's")
		assert.LessOrEqual(b, app.staleP99, 250*time.Millisecond)
		assert.LessOrEqual(b, app.settled, 500*time.Millisecond)
		assert.LessOrEqual(b, app.clickP50, documented.clickP50*3/2, "1000 tabs: one click, and that of the documented pattern")
		assert.Zero(b, two.cutOff+two.lost+two.wrong, "2 servers: cut off, lost, wrong")
		assert.LessOrEqual(b, two.burst, 4*app.burst, "1000 tabs on 2 servers: a burst, and that on one")
		assert.LessOrEqual(b, 3*two.burstCommands, two.burstFrames, "a burst: Redis commands, and frames")
		assert.LessOrEqual(b, 10*two.steadyCommands, two.steadyFrames, "a steady stream: Redis commands, and frames")
	case 5000:
		assert.LessOrEqual(b, app.burst, hub.burst/20, "5000 tabs: a burst, and a twentieth of the hub's")
	}
}

// held returns the bytes that the heap and the stacks of a program hold after a
// collection.
func held(p *visitor.Program) int {
	return p.Heap() + int(p.Metric("go_memstats_stack_inuse_bytes"))
}

// idle is what the program spends on a connection in which nothing happens but
// pings.
type idle struct {
	bytes    float64       // heap and stacks, after a collection
	resident float64       // bytes, as the system counts them
	cpu      time.Duration // in a minute
}

const (
	idleTabs = 10_000
	idleFor  = 30 * time.Second
)

func measureIdle(b *testing.B) idle {
	const resident = "process_resident_memory_bytes"
	p := visitor.Start(b)
	empty, emptyResident := held(p), p.Metric(resident)
	visitor.OpenCrowd(b, p.URL, visitor.CounterPage, idleTabs)
	<-time.After(5 * time.Second) // what opening them has left
	full := held(p)
	cpu := p.CPUTime()
	<-time.After(idleFor)
	cpu = p.CPUTime() - cpu
	require.EqualValues(b, idleTabs, p.Connections(visitor.CounterPage))
	return idle{
		bytes:    float64(full-empty) / idleTabs,
		resident: (p.Metric(resident) - emptyResident) / idleTabs,
		cpu:      cpu * time.Duration(time.Minute/idleFor) / idleTabs,
	}
}

// machine is what the program may use of this machine.
type machine struct {
	name  string
	cores float64
	start func(b *testing.B) *visitor.Program
}

var machines = []machine{
	{"the whole machine", float64(runtime.NumCPU()), func(b *testing.B) *visitor.Program { return visitor.Start(b) }},
	{"GOMAXPROCS=1", 1, func(b *testing.B) *visitor.Program { return wrapped(b, "export GOMAXPROCS=1") }},
	{"a quota of half a core", 0.5, func(b *testing.B) *visitor.Program { return wrapped(b, quota(b, 0.5)) }},
	{"a quota of a quarter", 0.25, func(b *testing.B) *visitor.Program { return wrapped(b, quota(b, 0.25)) }},
}

// wrapped starts the program after a line of shell.
func wrapped(b *testing.B, line string) *visitor.Program {
	script := filepath.Join(b.TempDir(), "realtime")
	require.NoError(b, os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\n%s\nexec %s \"$@\"\n", line, visitor.Build(b)), 0o755))
	return visitor.StartExe(b, script)
}

// quota makes a control group that may use so many cores, and returns the line of
// shell that enters it.
func quota(b *testing.B, cores float64) string {
	const period = 100_000 // microseconds
	version1 := true
	root := "/sys/fs/cgroup/cpu"
	if _, err := os.Stat(root); err != nil {
		root, version1 = "/sys/fs/cgroup", false
	}
	dir, err := os.MkdirTemp(root, "realtime")
	if err != nil {
		b.Skip("no control group: ", err)
	}
	b.Cleanup(func() {
		assert.Eventually(b, func() bool { return os.Remove(dir) == nil }, visitor.Soon, 100*time.Millisecond, "remove the control group")
	})
	file, limit := "/cpu.max", fmt.Sprint(int(cores*period), " ", period)
	if version1 {
		file, limit = "/cpu.cfs_quota_us", fmt.Sprint(int(cores*period))
	}
	if err := os.WriteFile(dir+file, []byte(limit), 0); err != nil {
		b.Skip("no control group: ", err)
	}
	return "echo $$ > " + dir + "/cgroup.procs"
}

// share is how much of a machine refreshes take.
type share struct {
	machine
	page   string
	tabs   int
	used   float64 // of the CPU time that there is, by the whole program
	atRest float64 // the same, while nothing changes
	frames float64 // in a second, of one tab
}

const (
	budget           = 0.5 // share that refreshes may take by default
	changesPerSecond = 10  // so that a refresh always waits
)

// measureShares lets crowds that never rest ask for refreshes.
func measureShares(b *testing.B, m machine) (shares []share) {
	for _, s := range []share{
		{machine: m, page: visitor.CounterPage, tabs: int(4000 * m.cores)},
		{machine: m, page: visitor.PresencePage, tabs: int(600 * m.cores)},
	} {
		s.measure(b)
		shares = append(shares, s)
		b.Logf("%s: %.0f %% of the CPU time, %.0f %% at rest, %.1f refreshes a second", s.page, 100*s.used, 100*s.atRest, s.frames)
		// Over the budget of refreshes: what it takes to receive and answer the changes.
		assert.LessOrEqual(b, s.used-s.atRest, budget*1.4, "%s, %s: share of the CPU time", m.name, s.page)
	}
	return shares
}

func (s *share) measure(b *testing.B) {
	p := s.start(b)
	defer p.Kill()
	people := visitor.OpenCrowd(b, p.URL, s.page, s.tabs)
	defer people.Close()
	var guests []*visitor.Tab // who come and go
	if s.page == visitor.PresencePage {
		for _, tb := range people.Tabs[:30] {
			tb.Click() // fill the list
		}
		for range changesPerSecond {
			guests = append(guests, visitor.New(b, p.URL).Open(s.page))
		}
	}
	changes := 0
	used := func(d time.Duration, change bool) float64 {
		cpu, begin := p.CPUTime(), time.Now()
		for tick := time.NewTicker(time.Second / changesPerSecond); time.Since(begin) < d; <-tick.C {
			if !change {
				continue
			}
			switch guest := changes % changesPerSecond; {
			case s.page == visitor.CounterPage:
				people.Tabs[guest].Click()
			case changes/changesPerSecond%2 == 0:
				guests[guest].Join("guest")
			default:
				guests[guest].Leave()
			}
			changes++
		}
		return (p.CPUTime() - cpu).Seconds() / time.Since(begin).Seconds() / s.cores
	}
	used(20*time.Second, true) // to learn the cost
	<-time.After(5 * time.Second)
	s.atRest = used(5*time.Second, false)
	before := people.Count(0)
	const load = 30 * time.Second
	s.used = used(load, true)
	s.frames = float64(people.Count(0).MostFrames-before.MostFrames) / load.Seconds()
	if s.page == visitor.CounterPage {
		people.Expect(int64(changes + 1))
		people.Tabs[0].Click()
		people.Agrees(changes + 1)
		return
	}
	for _, guest := range guests {
		guest.Leave()
		guest.Settle()
	}
	visitor.New(b, p.URL).Open(s.page).Shows("30 user(s) online")
}

// sharing is what sharing through Redis costs.
type sharing struct {
	atRest float64 // Redis commands a second of a server in which nothing happens

	clickCommands float64 // when it comes alone

	person     float64 // bytes in Redis of somebody who is online
	personHere float64 // and in each other server

	bySize []sizeCost
}

// sizeCost is what Redis spends when so many servers share it.
type sizeCost struct {
	servers  int
	atRest   time.Duration // of CPU in a second
	perClick time.Duration // of CPU, for one that comes alone
	perJoin  time.Duration // the same
}

const (
	sharedClicks = 2000
	sharedPeople = 5000
)

// measureShared lets people click, one after the other, and join, on one of two
// servers.
func measureShared(b *testing.B) (s sharing) {
	redis, servers := visitor.StartServers(b, 2)
	redis.OnlyInMemory()
	clicker := visitor.New(b, servers[0].URL)
	clicker.Click() // Redis knows the scripts from here on
	const rest = 20 * time.Second
	atRest := redis.Spent(func() { <-time.After(rest) })
	s.atRest = float64(atRest.Commands) / rest.Seconds() / float64(len(servers))

	clicking := redis.Spent(func() {
		for i := range sharedClicks {
			if i%100 == 0 {
				clicker = visitor.New(b, servers[0].URL) // one browser may not click so fast for so long
			}
			clicker.Click()
		}
	})
	s.clickCommands = float64(clicking.Commands) / sharedClicks

	heap := servers[1].Heap()
	joining := redis.Spent(func() {
		c := visitor.OpenCrowd(b, servers[0].URL, visitor.PresencePage, sharedPeople)
		for _, tb := range c.Tabs {
			tb.Click()
			<-time.After(time.Millisecond)
		}
		visitor.New(b, servers[1].URL).Open(visitor.PresencePage).Shows(fmt.Sprintf("%d user(s) online", sharedPeople))
	})
	s.person = float64(joining.Memory) / sharedPeople
	s.personHere = float64(servers[1].Heap()-heap) / sharedPeople
	for _, servers := range []int{2, 10, 100} {
		s.bySize = append(s.bySize, measureSize(b, servers))
	}
	return s
}

// measureSize lets so many members of a cluster rest, then click. All are in this process.
func measureSize(b *testing.B, servers int) sizeCost {
	redis := visitor.NewRedis(b)
	redis.OnlyInMemory()
	var last *cluster.Member
	var joins atomic.Int64
	told := make(chan bool, servers) // of the last join
	for range servers {
		m, err := cluster.New(cluster.Options{URL: redis.URL})
		require.NoError(b, err)
		m.OnCounter(func(int) {})
		m.OnEntries(func(id, _ string) {
			if id == fmt.Sprint(joins.Load()) {
				told <- true
			}
		}, func(string) {}, func() {})
		require.NoError(b, m.Start(b.Context()))
		b.Cleanup(func() {
			m.Leave(context.Background())
			m.Close()
		})
		last = m
	}
	const rest, alone = 10 * time.Second, 500
	resting := redis.Spent(func() { <-time.After(rest) })
	clicking := redis.Spent(func() {
		for range alone {
			_, err := last.Increment()
			require.NoError(b, err)
		}
	})
	joining := redis.Spent(func() {
		for range alone {
			last.Set(fmt.Sprint(joins.Add(1)), "session name")
			for range servers - 1 {
				<-told
			}
		}
	})
	return sizeCost{servers, resting.CPU / time.Duration(rest/time.Second), clicking.CPU / alone, joining.CPU / alone}
}
