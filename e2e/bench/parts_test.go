//go:build bench

package bench

import (
	"context"
	"fmt"
	"strconv"
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

// share is how much of a machine refreshes take.
type share struct {
	Cores     int
	Tabs      int
	Used      float64 // of the CPU time that there is, by the whole program
	AtRest    float64 // the same, while nothing changes
	FrameRate float64 // a second, of one tab
}

const budget = 0.5 // share that refreshes may take by default

// measureShare lets a crowd that never rests ask for refreshes of a program that may use
// so many cores.
func measureShare(b *testing.B, cores int) share {
	b.Setenv("GOMAXPROCS", strconv.Itoa(cores))
	p, tabs := visitor.Start(b), cores*size.TabsPerCore
	people := visitor.OpenCrowd(b, p.URL, visitor.CounterPage, tabs)
	clicks := 0
	load := func(d time.Duration) (used float64) {
		cpu, begin := p.CPUTime(), time.Now()
		for tick := time.NewTicker(time.Second / time.Duration(size.ChangeRate)); time.Since(begin) < d; <-tick.C {
			people.Tabs[clicks%size.ChangeRate].Click()
			clicks++
		}
		return (p.CPUTime() - cpu).Seconds() / time.Since(begin).Seconds() / float64(cores)
	}
	load(size.LearnFor) // to learn the cost
	<-time.After(5 * time.Second)
	cpu, rest := p.CPUTime(), 5*time.Second
	<-time.After(rest)
	atRest := (p.CPUTime() - cpu).Seconds() / rest.Seconds() / float64(cores)
	before := people.Count(0).MostFrames
	used := load(size.LoadFor)
	frames := people.Count(0).MostFrames - before
	people.Expect(int64(clicks + 1))
	people.Tabs[0].Click()
	people.Agrees(clicks + 1)
	s := share{cores, tabs, used, atRest, float64(frames) / size.LoadFor.Seconds()}
	b.Logf("%+v", s)
	if !testing.Short() {
		// Over the budget of refreshes: what it takes to receive and answer the changes.
		assert.LessOrEqual(b, s.Used-s.AtRest, budget*1.4, "share of the CPU time")
	}
	return s
}

// sharing is the bytes that somebody who is online takes.
type sharing struct {
	InRedis  float64
	InServer float64 // in each server that they are not on
}

func measureSharing(b *testing.B) sharing {
	redis, servers := visitor.StartServers(b, 2)
	redis.OnlyInMemory()
	heap := servers[1].Heap()
	joining := redis.Spent(func() {
		c := visitor.OpenCrowd(b, servers[0].URL, visitor.PresencePage, size.SharedPeople)
		for _, tb := range c.Tabs {
			tb.Click()
			<-time.After(time.Millisecond)
		}
		visitor.New(b, servers[1].URL).Open(visitor.PresencePage).Shows(fmt.Sprintf("%d user(s) online", size.SharedPeople))
	})
	people := float64(size.SharedPeople)
	return sharing{float64(joining.Memory) / people, float64(servers[1].Heap()-heap) / people}
}

// clusterCost is the CPU time of a Redis that so many servers share.
type clusterCost struct {
	Servers  int
	Commands float64       // of a server at rest, in a second
	AtRest   time.Duration // in a second
	Click    time.Duration // that comes alone
	Join     time.Duration // that comes alone
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
	commands := float64(resting.Commands) / rest.Seconds() / float64(servers)
	return clusterCost{servers, commands, resting.CPU / time.Duration(rest/time.Second), clicking.CPU / alone, joining.CPU / alone}
}
