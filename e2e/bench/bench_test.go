//go:build bench

// Package bench measures the built program, and writes docs/bench.md.
package bench

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/cluster"
	"realtime/internal/fanout"
	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

func TestMain(m *testing.M) { browser.Main(m) }

// sizes say how much is measured.
type sizes struct {
	Crowds   []int // tabs
	Typical  int   // tabs of the crowd that is put in front of all servers
	People   int   // online before joins are measured: the list of names is full
	Patience time.Duration

	Bursts, BurstClicks int // one burst after the other; the figure is their median
	StreamRate          int // clicks a second, and at most 5 in each tab: below every rate limit
	StreamFor           time.Duration

	IdleTabs int
	IdleFor  time.Duration

	CounterTabs, PresenceTabs int // for each core that the program may use
	ChangeRate                int // a second, so that a refresh always waits
	WarmUpFor, LoadFor        time.Duration

	SharedClicks, SharedPeople int
	Clusters                   []int // servers
}

var size = sizes{
	Crowds: []int{10, 100, 1000, 5000}, Typical: 1000, People: 30, Patience: 20 * time.Second,
	Bursts: 3, BurstClicks: 1000, StreamRate: 500, StreamFor: 10 * time.Second,
	IdleTabs: 10_000, IdleFor: 30 * time.Second,
	CounterTabs: 4000, PresenceTabs: 2000, ChangeRate: 10, WarmUpFor: 5 * time.Second, LoadFor: 30 * time.Second,
	SharedClicks: 2000, SharedPeople: 5000, Clusters: []int{2, 10, 100},
}

// BenchmarkFanout puts the same crowds in front of several servers in turn: a plain
// WebSocket hub, the pattern as it is documented, and this program. It fails where the
// program does not keep what docs/bench.md promises, and writes that page if it was
// asked for all of it. With -short it measures little, and only shows the page.
func BenchmarkFanout(b *testing.B) {
	if testing.Short() {
		size = sizes{
			Crowds: []int{10, 50}, Typical: 50, People: 30, Patience: 5 * time.Second,
			Bursts: 1, BurstClicks: 1000, StreamRate: 100, StreamFor: time.Second,
			IdleTabs: 100, IdleFor: time.Second,
			CounterTabs: 200, PresenceTabs: 160, ChangeRate: 10, WarmUpFor: time.Second, LoadFor: time.Second,
			SharedClicks: 100, SharedPeople: 100, Clusters: []int{2, 3},
		}
	}
	r, parts, asked := report{Size: size}, 0, 0
	part := func(name string, measure func(b *testing.B)) {
		parts++
		b.Run(strings.ReplaceAll(name, " ", "_"), func(b *testing.B) {
			asked++
			measure(b)
		})
	}
	for _, tabs := range size.Crowds {
		for _, server := range []string{hub, documented, wholePage, app, joins, twoServers} {
			if (server == twoServers || server == wholePage) && tabs != size.Typical || server == joins && tabs < size.Typical {
				continue
			}
			part(fmt.Sprintf("tabs=%d/%s", tabs, server), func(b *testing.B) {
				got := measure(b, server, tabs)
				b.Logf("%+v", got)
				r.Results = append(r.Results, got)
				if got.Server == app || got.Server == twoServers {
					assert.Zero(b, got.Lost+got.CutOff+got.Wrong, "clicks lost, tabs cut off, and tabs that show another number")
					assert.LessOrEqual(b, got.Empty, 0.05, "share of the frames that change nothing")
				}
			})
		}
	}
	part("idle", func(b *testing.B) { r.Idle = measureIdle(b) })
	for _, m := range machines {
		part("budget/counter/"+m.name, func(b *testing.B) {
			r.Shares = append(r.Shares, measureShare(b, m, visitor.CounterPage, size.CounterTabs))
		})
		part("budget/presence/"+m.name, func(b *testing.B) {
			r.Shares = append(r.Shares, measureShare(b, m, visitor.PresencePage, size.PresenceTabs))
		})
	}
	part("sharing", func(b *testing.B) {
		r.Sharing = measureSharing(b)
		b.Logf("%+v", r.Sharing)
	})
	for _, servers := range size.Clusters {
		part(fmt.Sprintf("servers=%d", servers), func(b *testing.B) {
			got := measureCluster(b, servers)
			b.Logf("%+v", got)
			r.Clusters = append(r.Clusters, got)
		})
	}
	if asked == parts {
		r.check(b)
		r.write(b)
	}
}

// The servers that are compared.
const (
	hub        = "hub"
	documented = "documented"
	wholePage  = "whole page live"
	app        = "this app"
	joins      = "this app, joins" // its presence page, where a click is a join
	twoServers = "this app, 2 servers"
)

// start starts what is compared. Two servers share a Redis.
func start(b *testing.B, server string) ([]*visitor.Program, *visitor.Redis) {
	switch server {
	case app, joins:
		return []*visitor.Program{visitor.Start(b)}, nil
	case twoServers:
		redis, servers := visitor.StartServers(b, 2)
		redis.OnlyInMemory()
		return servers, redis
	}
	pages, exe := b.TempDir(), filepath.Join(b.TempDir(), "reference")
	out, err := exec.Command("go", "build", "-o", exe, "./reference").CombinedOutput()
	require.NoError(b, err, string(out))
	writePages(b, pages)
	return []*visitor.Program{visitor.StartExe(b, exe, "-kind", server, "-pages", pages)}, nil
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
	page := before + live[:strings.LastIndex(live, "{{end}}")] + after
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
// are the servers'.
type result struct {
	Server string
	Tabs   int

	Idle               float64 // bytes per tab
	ClickP50, ClickP99 time.Duration
	ClickCPU           time.Duration // per tab
	Burst              time.Duration // until every tab shows the last number; patience if never

	// Under a steady stream of clicks:
	StaleP99  time.Duration
	Settled   time.Duration // since the last click
	FrameRate float64       // a second, of one tab
	FrameCPU  time.Duration
	Empty     float64 // share of the frames that change nothing

	Lost, CutOff, Wrong int // clicks that did not count, or not within patience; tabs

	BurstPerCommand, StreamPerCommand int // frames for each command of Redis, with those inside scripts
}

// crowd is tabs in front of a system.
type crowd struct {
	*visitor.Crowd
	servers []*visitor.Program
	redis   *visitor.Redis // of two servers
	clicks  int            // so far
	empty   float64        // bytes that the servers held before
}

// open opens a crowd in front of what it has started.
func open(b *testing.B, server string, tabs int) *crowd {
	c := &crowd{}
	c.servers, c.redis = start(b, server)
	c.empty = held(c.servers...)
	var urls []string
	for _, p := range c.servers {
		urls = append(urls, p.URL)
	}
	page := visitor.CounterPage
	if server == joins {
		page = visitor.PresencePage
	}
	c.Crowd = visitor.OpenCrowd(b, page, tabs, urls...)
	return c
}

// perTab returns the bytes that the servers hold for each tab.
func (c *crowd) perTab() float64 { return (held(c.servers...) - c.empty) / float64(len(c.Tabs)) }

// expectMore is called before so many clicks.
func (c *crowd) expectMore(clicks int) {
	c.clicks += clicks
	c.Expect(int64(c.clicks))
}

func (c *crowd) cpu() (used time.Duration) {
	for _, p := range c.servers {
		used += p.CPUTime()
	}
	return used
}

// held returns the bytes that heaps and stacks of programs hold after a collection.
func held(programs ...*visitor.Program) (bytes float64) {
	for _, p := range programs {
		bytes += float64(p.Heap()) + p.Metric("go_memstats_stack_inuse_bytes")
	}
	return bytes
}

func measure(b *testing.B, server string, tabs int) result {
	r := result{Server: server, Tabs: tabs}
	c := open(b, server, tabs)
	if server == joins {
		c.expectMore(size.People)
		c.ClickAtOnce(size.People)
		require.True(b, c.AwaitNumber(size.Patience))
	}
	r.Idle = c.perTab()
	r.measureClicks(c)
	if server == wholePage || server == joins { // the rest does not depend on the page
		return r
	}
	r.BurstPerCommand = c.framesPerCommand(func() { r.measureBursts(c) })
	if r.CutOff+r.Wrong > 0 { // the stream is for a whole crowd
		c.Close()
		for _, p := range c.servers {
			p.Stop(syscall.SIGKILL)
		}
		c = open(b, server, tabs)
	}
	r.StreamPerCommand = c.framesPerCommand(func() { r.measureStream(c) })
	return r
}

// framesPerCommand returns 0 without a Redis.
func (c *crowd) framesPerCommand(do func()) int {
	if c.redis == nil {
		do()
		return 0
	}
	before := c.Count(0).Frames
	commands := c.redis.Spent(do).Commands
	return (c.Count(0).Frames - before) / commands
}

// measureClicks measures clicks that find everybody at rest.
func (r *result) measureClicks(c *crowd) {
	var latencies []time.Duration
	var busy time.Duration
	for range min(50, r.Tabs-c.clicks) {
		<-time.After(60*time.Millisecond + time.Duration(r.Tabs)*200*time.Microsecond) // longer than an interval
		c.expectMore(1)
		cpu, begin := c.cpu(), time.Now()
		c.Tabs[c.clicks%r.Tabs].Click()
		if !c.AwaitNumber(size.Patience) {
			break
		}
		latencies = append(latencies, time.Since(begin))
		busy += c.cpu() - cpu
	}
	r.ClickP50, r.ClickP99 = visitor.Percentile(latencies, 50), visitor.Percentile(latencies, 99)
	r.ClickCPU = busy / time.Duration(max(1, len(latencies))*r.Tabs)
}

// measureBursts measures bursts of clicks, until one leaves a tab behind.
func (r *result) measureBursts(c *crowd) {
	var took []time.Duration
	for range size.Bursts {
		<-time.After(time.Duration(size.BurstClicks/r.Tabs) * 20 * time.Millisecond) // the rate limit forgets the last one
		c.expectMore(size.BurstClicks)
		begin := time.Now()
		c.ClickAtOnce(size.BurstClicks)
		if !c.AwaitNumber(size.Patience) {
			took = []time.Duration{size.Patience}
			break
		}
		took = append(took, time.Since(begin))
	}
	r.Burst = visitor.Percentile(took, 50)
	r.addFailures(c)
}

func (r *result) measureStream(c *crowd) {
	began, before, cpu := time.Now(), c.Count(0), c.cpu()
	rate := min(size.StreamRate, 5*r.Tabs)
	c.expectMore(rate * int(size.StreamFor/time.Second))
	c.ClickSteadily(rate, size.StreamFor)
	stopped := time.Now()
	c.AwaitNumber(size.Patience)
	r.Settled = time.Since(stopped)
	after := c.Count(0)
	frames := max(1, after.Frames-before.Frames)
	r.FrameCPU = (c.cpu() - cpu) / time.Duration(frames)
	r.FrameRate = float64(after.MostFrames-before.MostFrames) / size.StreamFor.Seconds()
	r.Empty = float64(after.Empty-before.Empty) / float64(frames)
	r.StaleP99 = visitor.Percentile(c.Staleness(began), 99)
	r.addFailures(c)
}

// addFailures adds what went wrong under a load. The clicks that counted are the last
// number that any tab shows.
func (r *result) addFailures(c *crowd) {
	now := c.Count(int64(c.clicks))
	r.CutOff += now.CutOff
	r.Wrong += now.Wrong
	r.Lost += c.clicks - int(now.Highest)
}

// check fails the benchmark where the program is not what the documentation says of it
// beside others.
func (r report) check(b *testing.B) {
	if testing.Short() {
		return
	}
	of := map[string]result{}
	for _, measured := range r.Results {
		of[fmt.Sprint(measured.Server, " ", measured.Tabs)] = measured
	}
	got, two := of[app+" 1000"], of[twoServers+" 1000"]
	// On a fast machine the interval sets the time, and not the work.
	assert.LessOrEqual(b, got.Burst, max(of[hub+" 1000"].Burst/8, 3*visitor.Interval), "a burst, and an eighth of the hub's")
	assert.LessOrEqual(b, of[app+" 5000"].Burst, of[hub+" 5000"].Burst/20, "a burst in 5000 tabs, and a twentieth of the hub's")
	assert.LessOrEqual(b, got.StaleP99, 250*time.Millisecond)
	assert.LessOrEqual(b, got.Settled, 500*time.Millisecond)
	assert.LessOrEqual(b, got.ClickP50, of[documented+" 1000"].ClickP50*3/2, "one click, and that of the documented pattern")
	assert.LessOrEqual(b, got.Idle, of[documented+" 1000"].Idle, "memory of an idle tab, and that of the documented pattern")
	for _, tabs := range []string{" 1000", " 5000"} {
		assert.LessOrEqual(b, of[joins+tabs].ClickCPU, of[app+tabs].ClickCPU*5/2, "CPU time of a join, and of a click")
		assert.LessOrEqual(b, of[joins+tabs].Idle, of[app+tabs].Idle+8000, "memory of a tab while people join, and of one of the counter at rest")
	}
	assert.LessOrEqual(b, two.Burst, 4*got.Burst, "a burst on two servers, and that on one")
	assert.GreaterOrEqual(b, two.BurstPerCommand, 3, "a burst: frames for each Redis command")
	assert.GreaterOrEqual(b, two.StreamPerCommand, 10, "a steady stream: frames for each Redis command")
}

// report is what docs/bench.md and docs/bench.svg show.
type report struct {
	Size     sizes
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
		"budget":   func() float64 { return budget },
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

// idle is what the program spends on a connection in which nothing happens but
// pings.
type idle struct {
	Bytes    float64       // heap and stacks, after a collection
	Resident float64       // bytes, as the system counts them
	CPU      time.Duration // in a minute

	AllMegabytes float64 // resident, of all connections together
	AllCPU       float64 // their share of a core
}

func measureIdle(b *testing.B) idle {
	const resident = "process_resident_memory_bytes"
	p, tabs := visitor.Start(b), float64(size.IdleTabs)
	empty, emptyResident := held(p), p.Metric(resident)
	visitor.OpenCrowd(b, visitor.CounterPage, size.IdleTabs, p.URL)
	<-time.After(5 * time.Second) // what opening them has left
	full, cpu := held(p), p.CPUTime()
	<-time.After(size.IdleFor)
	cpu = p.CPUTime() - cpu
	require.EqualValues(b, size.IdleTabs, p.Connections(visitor.CounterPage))
	grown, perMinute := p.Metric(resident)-emptyResident, cpu*time.Duration(time.Minute/size.IdleFor)
	return idle{(full - empty) / tabs, grown / tabs, perMinute / time.Duration(tabs), grown / 1e6, perMinute.Minutes()}
}

// machine is what the program may use of this machine.
type machine struct {
	name  string
	cores float64
}

var machines = []machine{
	{"the whole machine", float64(runtime.NumCPU())}, {"GOMAXPROCS=1", 1}, {"a quota of half a core", 0.5}, {"a quota of a quarter", 0.25},
}

// quota makes a control group that may use so many cores, and returns the line of
// shell that enters it.
func quota(b *testing.B, cores float64) string {
	const period = 100_000 // microseconds
	limit := fmt.Sprint(int(cores * period))
	root, file := "/sys/fs/cgroup/cpu", "cpu.cfs_quota_us" // version 1
	if _, err := os.Stat(root); err != nil {
		root, file, limit = "/sys/fs/cgroup", "cpu.max", fmt.Sprint(limit, " ", period)
	}
	dir, err := os.MkdirTemp(root, "realtime")
	if err == nil {
		b.Cleanup(func() {
			assert.Eventually(b, func() bool { return os.Remove(dir) == nil }, visitor.Soon, 100*time.Millisecond, "remove the control group")
		})
		err = os.WriteFile(filepath.Join(dir, file), []byte(limit), 0)
	}
	if err != nil {
		b.Skip("no control group: ", err)
	}
	return "echo $$ > " + dir + "/cgroup.procs"
}

// share is how much of a machine refreshes take.
type share struct {
	Machine, Page string
	Tabs          int
	Used          float64 // of the available CPU time, by the whole program
	AtRest        float64 // the same, while nothing changes
	FrameRate     float64 // a second, of one tab
}

const budget = fanout.DefaultBudget

// measureShare lets a crowd that never rests ask for refreshes.
func measureShare(b *testing.B, m machine, page string, tabsPerCore int) share {
	tabs := int(m.cores * float64(tabsPerCore))
	enter := ""
	switch {
	case m.cores == 1:
		enter = "export GOMAXPROCS=1"
	case m.cores < 1:
		enter = quota(b, m.cores)
	}
	script := filepath.Join(b.TempDir(), "realtime")
	require.NoError(b, os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\n%s\nexec %s \"$@\"\n", enter, visitor.Build(b)), 0o755))
	p := visitor.StartExe(b, script)
	defer p.Stop(syscall.SIGKILL)
	people := visitor.OpenCrowd(b, page, tabs, p.URL)
	defer people.Close()

	change := func(i int) { people.Tabs[i%size.ChangeRate].Click() }
	if page == visitor.PresencePage {
		change = guests(b, p.URL, people)
	}
	changes := 0
	load := func(d time.Duration) (used float64) {
		cpu, begin := p.CPUTime(), time.Now()
		for tick := time.NewTicker(time.Second / time.Duration(size.ChangeRate)); time.Since(begin) < d; <-tick.C {
			change(changes)
			changes++
		}
		return (p.CPUTime() - cpu).Seconds() / time.Since(begin).Seconds() / m.cores
	}
	load(size.WarmUpFor)
	<-time.After(5 * time.Second)
	cpu := p.CPUTime()
	<-time.After(5 * time.Second)
	atRest := (p.CPUTime() - cpu).Seconds() / 5 / m.cores
	before := people.Count(0).MostFrames
	used := load(size.LoadFor)
	frames := people.Count(0).MostFrames - before
	s := share{m.name, path.Base(page), tabs, used, atRest, float64(frames) / size.LoadFor.Seconds()}
	b.Logf("%+v", s)
	if !testing.Short() {
		// Above the budget: receiving and answering the changes, and the end of a refresh
		// that is not a whole portion of a quota.
		assert.LessOrEqual(b, s.Used-s.AtRest, budget*1.6, "share of the CPU time")
	}
	return s
}

// guests fills the list of the presence page. It returns what makes a guest join or leave.
func guests(b *testing.B, server string, people *visitor.Crowd) (change func(int)) {
	for _, tb := range people.Tabs[:30] {
		tb.Click()
	}
	var guests []*visitor.Tab
	for range size.ChangeRate {
		guests = append(guests, visitor.New(b, server).Open(visitor.PresencePage))
	}
	return func(i int) {
		if guest := guests[i%len(guests)]; i/len(guests)%2 == 0 {
			guest.Join("guest")
		} else {
			guest.Leave()
		}
	}
}

// sharing is what sharing through Redis costs.
type sharing struct {
	AtRest     float64 // Redis commands a second of a server in which nothing happens
	Click      float64 // Redis commands, when it comes alone
	Person     float64 // bytes in Redis of somebody who is online
	PersonHere float64 // and in each other server
}

// measureSharing lets people click, one after the other, and join, on one of two servers.
func measureSharing(b *testing.B) (s sharing) {
	redis, servers := visitor.StartServers(b, 2)
	redis.OnlyInMemory()
	clicker := visitor.New(b, servers[0].URL)
	clicker.Click() // Redis knows the scripts from here on
	resting := redis.Spent(func() { <-time.After(size.IdleFor) })
	s.AtRest = float64(resting.Commands) / size.IdleFor.Seconds() / float64(len(servers))

	clicking := redis.Spent(func() {
		for i := range size.SharedClicks {
			if i%100 == 0 {
				clicker = visitor.New(b, servers[0].URL) // one browser may not click so fast for so long
			}
			clicker.Click()
		}
	})
	s.Click = float64(clicking.Commands) / float64(size.SharedClicks)

	heap := servers[1].Heap()
	joining := redis.Spent(func() {
		c := visitor.OpenCrowd(b, visitor.PresencePage, size.SharedPeople, servers[0].URL)
		for _, tb := range c.Tabs {
			tb.Click()
			<-time.After(time.Millisecond)
		}
		visitor.New(b, servers[1].URL).Open(visitor.PresencePage).Shows(fmt.Sprintf("%d user(s) online", size.SharedPeople))
	})
	s.Person = float64(joining.Memory) / float64(size.SharedPeople)
	s.PersonHere = float64(servers[1].Heap()-heap) / float64(size.SharedPeople)
	return s
}

// clusterCost is the CPU time of a Redis that so many servers share.
type clusterCost struct {
	Servers int
	AtRest  time.Duration // in a second
	Click   time.Duration // that comes alone
	Join    time.Duration // that comes alone
}

// measureCluster lets so many members of a cluster rest, then click, then join. All are in
// this process.
func measureCluster(b *testing.B, servers int) clusterCost {
	redis := visitor.NewRedis(b)
	redis.OnlyInMemory()
	var last *cluster.Member
	told := joined{seen: make(chan bool, servers)}
	for range servers {
		m, err := cluster.New(cluster.Options{URL: redis.URL})
		require.NoError(b, err)
		require.NoError(b, m.Start(b.Context(), func(int) {}, &told, func() {}))
		b.Cleanup(func() { m.Leave(context.Background()) })
		last = m
	}
	const rest, alone = 10 * time.Second, 500
	resting := redis.Spent(func() { <-time.After(rest) })
	clicking := redis.Spent(func() {
		for n := range alone {
			last.Count(n + 1)
		}
	})
	joining := redis.Spent(func() {
		for range alone {
			last.Set(fmt.Sprint(told.joins.Add(1)), "session name")
			for range servers - 1 {
				<-told.seen
			}
		}
	})
	return clusterCost{servers, resting.CPU / time.Duration(rest/time.Second), clicking.CPU / alone, joining.CPU / alone}
}

// joined hears of the joins on other members.
type joined struct {
	joins atomic.Int64 // so many
	seen  chan bool    // that the last one was heard of
}

func (j *joined) SetElsewhere(id, _ string) {
	if id == fmt.Sprint(j.joins.Load()) {
		j.seen <- true
	}
}
func (*joined) Leave(string) bool         { return true }
func (*joined) Disconnect(string, func()) {}
