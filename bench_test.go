package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/cluster"
	"realtime/internal/fanout"
	"realtime/internal/testenv"
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

// BenchmarkFanout puts the same crowd before three servers in turn, on real
// sockets in this process: a plain WebSocket hub, the pattern as it is
// documented, and this app. It writes docs/bench.md, docs/bench.svg and the table
// of the README, and fails where this app does not keep what that promises.
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
	var redisCost sharing
	b.Run("sharing", func(b *testing.B) {
		redisCost = measureShared(b)
		redisCost.report(b)
	})
	if len(results) == all && atRest.bytes > 0 && redisCost.person > 0 {
		require.NoError(b, os.WriteFile("docs/bench.md", []byte(table(results)+atRest.table()+redisCost.table(results)), 0o644))
		require.NoError(b, os.WriteFile("docs/bench.svg", []byte(plot(results)), 0o644))
		readme, err := os.ReadFile("README.md")
		require.NoError(b, err)
		quoted := inReadme.ReplaceAllLiteral(readme, []byte(inReadmeAfter+summary(results)+atRest.summary()+inReadmeBefore))
		require.NoError(b, os.WriteFile("README.md", quoted, 0o644))
	}
}

// Every tab clicks ten times a second, and all of them agree in the end.
func BenchmarkFanout_EveryTabClicks(b *testing.B) {
	const duration = 5 * time.Second
	got, took := everyTabClicks(b, 200, 10, duration)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(got.mostFrames)/took.Seconds(), "frames/s/tab")
	b.ReportMetric(float64((took - duration).Milliseconds()), "settled-ms")
}

// 500 people join at once: a handful of refreshes for each of them.
func BenchmarkFanout_EverybodyJoins(b *testing.B) {
	got, took := atOnce(b, presencePage, 500, 500)
	assert.LessOrEqual(b, got.mostRefreshes, 10)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(got.mostRefreshes), "refreshes/tab")
	b.ReportMetric(float64(took.Milliseconds()), "joined-ms")
}

// system is a server of the counter page, or several.
type system struct {
	name  string
	serve func(b *testing.B) (urls []string, redis *testenv.Redis)
	pages bool // only what depends on the page: not the burst, not the steady load
	only  int  // tabs; 0: any number
}

var (
	hubSystem        = system{name: "hub", serve: alone(serveHub)}
	documentedSystem = system{name: "documented", serve: alone(func(b *testing.B) string { return serveWholePage(b, false) })}
	wholePageSystem  = system{name: "whole page live", serve: alone(func(b *testing.B) string { return serveWholePage(b, true) }), pages: true}
	appSystem        = system{name: "this app", serve: alone(func(b *testing.B) string { return newServer(b) })}
	clusterSystem    = system{name: "this app, 2 servers", serve: serveTwo, only: 1000}
)

// systemsFor is the systems that so many tabs are put before.
func systemsFor(tabs int) (systems []system) {
	for _, s := range []system{hubSystem, documentedSystem, wholePageSystem, appSystem, clusterSystem} {
		if s.only == 0 || s.only == tabs {
			systems = append(systems, s)
		}
	}
	return systems
}

func alone(serve func(b *testing.B) string) func(b *testing.B) ([]string, *testenv.Redis) {
	return func(b *testing.B) ([]string, *testenv.Redis) { return []string{serve(b)}, nil }
}

// serveTwo serves this app twice, on one Redis. Both share this machine.
func serveTwo(b *testing.B) ([]string, *testenv.Redis) {
	redis := testenv.NewRedis(b)
	redis.OnlyInMemory()
	return []string{newServerWith(b, Config{Redis: redis.URL}), newServerWith(b, Config{Redis: redis.URL})}, redis
}

// result is what was measured of a system with so many tabs.
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

func measure(b *testing.B, s system, tabs int) result {
	r := result{system: s, tabs: tabs}
	urls, redis := s.serve(b)
	commands := func(do func()) int {
		if redis == nil {
			do()
			return 0
		}
		return redis.Spent(do).Commands
	}
	empty := memory()
	c := openCrowdOn(b, urls, counterPage, tabs)
	r.idle = (memory() - empty) / tabs

	clicks := r.singleClicks(c)
	if s.pages {
		return r
	}
	before := c.count(int64(clicks))
	r.burstCommands = commands(func() { clicks += r.burstsOf(c, clicks) })
	loaded := c.count(int64(clicks))
	r.burstFrames = loaded.frames - before.frames
	if r.add(loaded, c, clicks); loaded.cutOff+loaded.wrong > 0 {
		c.close() // the steady load is for a whole crowd
		urls, redis = s.serve(b)
		c = openCrowdOn(b, urls, counterPage, tabs)
		clicks, before, loaded = 0, tally{}, tally{}
	}
	burst, more := loaded, 0
	r.steadyCommands = commands(func() { more, loaded = r.steadyLoad(c, clicks, loaded) })
	r.steadyFrames = loaded.frames - burst.frames
	clicks += more
	r.add(loaded, c, clicks)
	r.emptyShare = float64(loaded.empty-before.empty) / float64(max(1, loaded.frames-before.frames))
	return r
}

// burstsOf measures bursts of clicks, until one leaves a tab behind.
func (r *result) burstsOf(c *crowd, before int) (clicks int) {
	var took []time.Duration
	for range bursts {
		<-time.After(time.Duration(burstClicks/r.tabs) * 20 * time.Millisecond) // the rate limit forgets the last one
		clicks += burstClicks
		c.expect(int64(before + clicks))
		begin := time.Now()
		c.clickAtOnce(burstClicks)
		agreed := c.awaitNumber(patience)
		took = append(took, time.Since(begin))
		if !agreed {
			r.burst = patience
			return clicks
		}
	}
	r.burst = percentile(took, 50)
	return clicks
}

// steadyLoad measures a steady stream of clicks, after others before.
func (r *result) steadyLoad(c *crowd, before int, loaded tally) (clicks int, after tally) {
	for _, tb := range c.tabs {
		tb.mu.Lock()
		tb.seen = nil
		tb.mu.Unlock()
	}
	rate := min(steadyPerSecond, 5*r.tabs)
	cpu := cpuTime()
	c.expect(int64(before + rate*int(steadyFor/time.Second)))
	clicks = c.clickSteadily(rate, steadyFor)
	begin := time.Now()
	c.awaitNumber(patience)
	r.settled = time.Since(begin)
	after = c.count(int64(before + clicks))
	r.steadyCPU = (cpuTime() - cpu) / time.Duration(max(1, after.frames-loaded.frames))
	r.mostFrames = after.mostFrames - loaded.mostFrames
	r.staleP99 = percentile(c.staleness(), 99)
	return clicks, after
}

// singleClicks measures clicks that find everybody at rest.
func (r *result) singleClicks(c *crowd) (clicks int) {
	const measured = 50
	var latencies []time.Duration
	var busy time.Duration
	for clicks < measured {
		<-time.After(60*time.Millisecond + time.Duration(r.tabs)*60*time.Microsecond) // longer than an interval
		clicks++
		c.expect(int64(clicks))
		cpu, begin := cpuTime(), time.Now()
		c.tabs[clicks%len(c.tabs)].click()
		if !c.awaitNumber(patience) {
			break
		}
		latencies = append(latencies, time.Since(begin))
		busy += cpuTime() - cpu
	}
	r.clickP50, r.clickP99 = percentile(latencies, 50), percentile(latencies, 99)
	r.clickCPU = busy / time.Duration(len(latencies)*r.tabs)
	return clicks
}

// add adds what went wrong under a load. The clicks that counted are the last
// number that any tab shows.
func (r *result) add(t tally, c *crowd, clicks int) {
	r.cutOff += t.cutOff
	r.wrong += t.wrong
	var counted int64
	for _, tb := range c.tabs {
		counted = max(counted, tb.shown.Load())
	}
	r.lost += clicks - int(counted)
}

// staleness is, for every time that a tab showed a new number, how old the oldest
// change was that it had not shown. A change is as old as its click.
func (c *crowd) staleness() (ages []time.Duration) {
	made := c.clicks()
	for _, tb := range c.tabs {
		tb.mu.Lock()
		for _, s := range tb.seen {
			if sent, known := made[s.first]; known {
				ages = append(ages, s.at.Sub(sent))
			}
		}
		tb.mu.Unlock()
	}
	return ages
}

// check fails the benchmark where this app is not what the README says.
func check(b *testing.B, tabs int, hub, documented, app, two result) {
	assert.Zero(b, app.cutOff, "%d tabs: cut off", tabs)
	assert.Zero(b, app.lost, "%d tabs: clicks lost", tabs)
	assert.Zero(b, app.wrong, "%d tabs: tabs that show another number", tabs)
	assert.LessOrEqual(b, app.emptyShare, 0.05, "%d tabs: share of the frames that change nothing", tabs)
	switch tabs {
	case 1000:
		// On a fast machine the interval sets the time, and not the work.
		assert.LessOrEqual(b, app.burst, max(hub.burst/8, 3*fanout.DefaultInterval), "1000 tabs: a burst, and an eighth of the hub's")
		assert.LessOrEqual(b, app.staleP99, 250*time.Millisecond)
		assert.LessOrEqual(b, app.settled, 500*time.Millisecond)
		assert.LessOrEqual(b, app.clickP50, documented.clickP50, "1000 tabs: one click, and that of the documented pattern")
		assert.Zero(b, two.cutOff+two.lost+two.wrong, "2 servers: cut off, lost, wrong")
		assert.LessOrEqual(b, two.burst, 4*app.burst, "1000 tabs on 2 servers: a burst, and that on one")
		assert.LessOrEqual(b, 3*two.burstCommands, two.burstFrames, "a burst: Redis commands, and frames")
		assert.LessOrEqual(b, 10*two.steadyCommands, two.steadyFrames, "a steady stream: Redis commands, and frames")
	case 5000:
		assert.LessOrEqual(b, app.burst, hub.burst/20, "5000 tabs: a burst, and a twentieth of the hub's")
	}
}

// serveHub serves a plain hub: every click is written to every socket.
func serveHub(b *testing.B) string {
	h := &hub{sockets: map[chan []byte]bool{}}
	server := httptest.NewServer(h)
	b.Cleanup(server.Close)
	return server.URL
}

type hub struct {
	upgrader websocket.Upgrader

	mu      sync.Mutex
	number  int
	sockets map[chan []byte]bool // what to write to each
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := h.upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer ws.Close()
	out := make(chan []byte, 256)
	h.mu.Lock()
	h.sockets[out] = true
	out <- h.frame("")
	h.mu.Unlock()
	go func() {
		for frame := range out {
			ws.WriteMessage(websocket.TextMessage, frame)
		}
	}()
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			break
		}
		h.increment(out)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sockets, out)
	close(out)
}

func (h *hub) increment(clicker chan []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.number++
	frame := h.frame("")
	for out := range h.sockets {
		if out != clicker {
			out <- frame
		}
	}
	clicker <- h.frame(`,"action":"increment"`)
}

func (h *hub) frame(action string) []byte {
	return fmt.Appendf(nil, `{"tree":{"0":"%d"},"meta":{"success":true,"errors":null%s}}`, h.number, action)
}

// serveWholePage serves the counter page with all of it in the live part, the
// fixed text and the layout too: merged as this app does it, or as documented,
// with one publish for each click and every option left alone.
func serveWholePage(b *testing.B, merged bool) string {
	app, err := NewApp(Config{})
	require.NoError(b, err)
	p := app.pages
	opts := []livetemplate.Option{livetemplate.WithAuthenticator(everyone{&livetemplate.AnonymousAuthenticator{}})}
	if merged {
		opts = slices.Clone(p.live)
	}
	opts = append(opts,
		livetemplate.WithComponentTemplates(&livetemplate.TemplateSet{
			FS: embedded, Pattern: "templates/assets.tmpl", Funcs: p.funcs,
		}),
		livetemplate.WithParseFS(embedded, "templates/layout.tmpl", "templates/realtime/multi-user-sync.tmpl"))
	t, err := livetemplate.New("multi-user-sync", opts...)
	require.NoError(b, err)
	c := &MultiUserSyncController{}
	var controller any = c
	if !merged {
		controller = &documentedController{c}
	}
	handler := t.Handle(controller, livetemplate.AsState(&MultiUserSyncState{Title: "Multi-User Refresh", Category: category}))
	c.refreshCounter = p.fanout.Refresh(handler, "RefreshCounter", counterCost)
	server := httptest.NewServer(handler)
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		handler.Shutdown(ctx)
		app.Shutdown(ctx)
		server.Close()
	})
	return server.URL
}

// documentedController publishes once for each click.
type documentedController struct {
	*MultiUserSyncController
}

func (c *documentedController) Increment(s MultiUserSyncState, ctx *livetemplate.Context) (MultiUserSyncState, error) {
	c.add()
	return c.read(s), ctx.Publish(ctx.SelfTopic(), "RefreshCounter", nil)
}

// idle is what the built program, in a process of its own, spends on a connection
// in which nothing happens but pings.
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
	p := start(b, build(b), "-admin-addr", "127.0.0.1:0")
	used := func() map[string]float64 {
		p.admin(b, "/debug/pprof/heap?gc=1")
		return p.metrics(b)
	}
	empty := used()
	openCrowd(b, p.url, counterPage, idleTabs)
	<-time.After(5 * time.Second) // what opening them has left
	before := used()
	<-time.After(idleFor)
	after := used()
	require.EqualValues(b, idleTabs, after["realtime_connections"])
	held := func(used map[string]float64) float64 {
		return used["go_memstats_heap_alloc_bytes"] + used["go_memstats_stack_inuse_bytes"]
	}
	const resident, cpu = "process_resident_memory_bytes", "process_cpu_seconds_total"
	return idle{
		bytes:    (held(after) - held(empty)) / idleTabs,
		resident: (after[resident] - empty[resident]) / idleTabs,
		cpu:      time.Duration((after[cpu] - before[cpu]) / idleTabs * float64(time.Second) * float64(time.Minute) / float64(idleFor)),
	}
}

// sharing is what sharing through Redis costs.
type sharing struct {
	atRest float64 // Redis commands a second of a server in which nothing happens

	clickCommands float64 // when it comes alone
	clickCPU      time.Duration

	joinCommands float64
	joinCPU      time.Duration
	person       float64 // bytes in Redis of somebody who is online
	personHere   float64 // and in each other server

	bySize []sizeCost
}

// sizeCost is what Redis spends when so many servers share it.
type sizeCost struct {
	servers  int
	atRest   time.Duration // of CPU in a second
	perClick time.Duration // of CPU, for one that comes alone
}

const (
	sharedClicks = 2000
	sharedPeople = 5000
)

// measureShared lets people click, one after the other, and join, on one of two
// copies of the built program.
func measureShared(b *testing.B) (s sharing) {
	redis, servers := startServers(b, 2)
	redis.OnlyInMemory()
	used := func() float64 {
		servers[1].admin(b, "/debug/pprof/heap?gc=1")
		return servers[1].metrics(b)["go_memstats_heap_alloc_bytes"]
	}
	clicker := newVisitor(b, servers[0].url)
	clicker.click() // Redis knows the scripts from here on
	const rest = 20 * time.Second
	atRest := redis.Spent(func() { <-time.After(rest) })
	s.atRest = float64(atRest.Commands) / rest.Seconds() / float64(len(servers))

	clicking := redis.Spent(func() {
		for range sharedClicks {
			clicker.click()
		}
	})
	s.clickCommands = float64(clicking.Commands) / sharedClicks
	s.clickCPU = clicking.CPU / sharedClicks

	heap := used()
	joining := redis.Spent(func() {
		c := openCrowd(b, servers[0].url, presencePage, sharedPeople)
		for _, tb := range c.tabs {
			tb.click()
			<-time.After(time.Millisecond)
		}
		newVisitor(b, servers[1].url).open(presencePage).shows(fmt.Sprintf("%d user(s) online", sharedPeople))
	})
	s.joinCommands = float64(joining.Commands) / sharedPeople
	s.joinCPU = joining.CPU / sharedPeople
	s.person = float64(joining.Memory) / sharedPeople
	s.personHere = (used() - heap) / sharedPeople
	for _, servers := range []int{2, 10, 100} {
		s.bySize = append(s.bySize, measureSize(b, servers))
	}
	return s
}

// measureSize lets so many members of a cluster rest, then click. All are in this process.
func measureSize(b *testing.B, servers int) sizeCost {
	redis := testenv.NewRedis(b)
	redis.OnlyInMemory()
	var last *cluster.Member
	for range servers {
		m, err := cluster.New(cluster.Options{URL: redis.URL})
		require.NoError(b, err)
		m.OnCounter(func(int) {})
		m.OnEntries(func(_, _ string) {}, func(string) {}, func() {})
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
	return sizeCost{servers: servers, atRest: resting.CPU / time.Duration(rest/time.Second), perClick: clicking.CPU / alone}
}

// memory is what the heap and the stacks hold.
func memory() int {
	stats := collected()
	return int(stats.HeapAlloc + stats.StackInuse)
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// percentile is the value that so many percent of all do not exceed.
func percentile(values []time.Duration, percent int) time.Duration {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[(len(values)-1)*percent/100]
}
