//go:build bench

package bench

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/cluster"
	"realtime/internal/visitor"
)

// idle is what the program spends on a connection in which nothing happens but
// pings.
type idle struct {
	Bytes    float64       // heap and stacks, after a collection
	Resident float64       // bytes, as the system counts them
	CPU      time.Duration // in a minute
}

// AllMegabytes is what all connections take together.
func (i idle) AllMegabytes() float64 { return i.Resident * float64(size.IdleTabs) / 1e6 }

// AllCPU is the share of a core that all connections take together.
func (i idle) AllCPU() float64 { return i.CPU.Seconds() * float64(size.IdleTabs) / 60 }

func measureIdle(b *testing.B) idle {
	const resident = "process_resident_memory_bytes"
	p, tabs := visitor.Start(b), float64(size.IdleTabs)
	empty, emptyResident := held(p), p.Metric(resident)
	visitor.OpenCrowd(b, p.URL, visitor.CounterPage, size.IdleTabs)
	<-time.After(5 * time.Second) // what opening them has left
	full, cpu := held(p), p.CPUTime()
	<-time.After(size.IdleFor)
	cpu = p.CPUTime() - cpu
	require.EqualValues(b, size.IdleTabs, p.Connections(visitor.CounterPage))
	perMinute := cpu * time.Duration(time.Minute/size.IdleFor)
	return idle{(full - empty) / tabs, (p.Metric(resident) - emptyResident) / tabs, perMinute / time.Duration(tabs)}
}

// machine is what the program may use of this machine.
type machine struct {
	name  string
	cores float64
	enter func(b *testing.B) (shell string) // runs before the program
}

var machines = []machine{
	{"the whole machine", float64(runtime.NumCPU()), func(*testing.B) string { return "" }},
	{"GOMAXPROCS=1", 1, func(*testing.B) string { return "export GOMAXPROCS=1" }},
	{"a quota of half a core", 0.5, func(b *testing.B) string { return quota(b, 0.5) }},
	{"a quota of a quarter", 0.25, func(b *testing.B) string { return quota(b, 0.25) }},
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
	Used          float64 // of the CPU time that there is, by the whole program
	AtRest        float64 // the same, while nothing changes
	FrameRate     float64 // a second, of one tab
}

const budget = 0.5 // share that refreshes may take by default

// measureShare lets a crowd that never rests ask for refreshes.
func measureShare(b *testing.B, m machine, page string, tabsPerCore int) share {
	tabs := int(m.cores * float64(tabsPerCore))
	script := filepath.Join(b.TempDir(), "realtime")
	require.NoError(b, os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\n%s\nexec %s \"$@\"\n", m.enter(b), visitor.Build(b)), 0o755))
	p := visitor.StartExe(b, script)
	defer p.Kill()
	people := visitor.OpenCrowd(b, p.URL, page, tabs)
	defer people.Close()

	change := func(i int) { people.Tabs[i%size.ChangeRate].Click() }
	agree := func(changes int) {
		people.Expect(int64(changes + 1))
		people.Tabs[0].Click()
		people.Agrees(changes + 1)
	}
	if page == visitor.PresencePage {
		change, agree = guests(b, p.URL, people)
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
	load(size.LearnFor) // to learn the cost
	<-time.After(5 * time.Second)
	cpu, rest := p.CPUTime(), 5*time.Second
	<-time.After(rest)
	atRest := (p.CPUTime() - cpu).Seconds() / rest.Seconds() / m.cores
	before := people.Count(0).MostFrames
	used := load(size.LoadFor)
	frames := people.Count(0).MostFrames - before
	agree(changes)
	s := share{m.name, path.Base(page), tabs, used, atRest, float64(frames) / size.LoadFor.Seconds()}
	b.Logf("%+v", s)
	if !testing.Short() {
		// Over the budget of refreshes: what it takes to receive and answer the changes.
		assert.LessOrEqual(b, s.Used-s.AtRest, budget*1.4, "share of the CPU time")
	}
	return s
}

// guests fills the list of the presence page. Of the functions that it returns, change makes
// a guest join or leave, and agree waits until all guests are gone.
func guests(b *testing.B, server string, people *visitor.Crowd) (change, agree func(int)) {
	for _, tb := range people.Tabs[:30] {
		tb.Click()
	}
	var guests []*visitor.Tab
	for range size.ChangeRate {
		guests = append(guests, visitor.New(b, server).Open(visitor.PresencePage))
	}
	change = func(i int) {
		if guest := guests[i%len(guests)]; i/len(guests)%2 == 0 {
			guest.Join("guest")
		} else {
			guest.Leave()
		}
	}
	agree = func(int) {
		for _, guest := range guests {
			guest.Leave()
			guest.Settle()
		}
		visitor.New(b, server).Open(visitor.PresencePage).Shows("30 user(s) online")
	}
	return change, agree
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
		c := visitor.OpenCrowd(b, servers[0].URL, visitor.PresencePage, size.SharedPeople)
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
	return clusterCost{servers, resting.CPU / time.Duration(rest/time.Second), clicking.CPU / alone, joining.CPU / alone}
}
