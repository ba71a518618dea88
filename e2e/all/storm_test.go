//go:build all

package all

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// storm is a load test: many visitors at once join, click, flood, stop reading, break the
// protocol and vanish.
type storm struct {
	t       testing.TB
	program *visitor.Program
	seed    uint64

	mu    sync.Mutex
	want  map[string]int // metrics
	tabs  []*visitor.Tab // that stay open
	flood *visitor.Crowd
}

// Metrics of the program.
const (
	clicksTotal   = "clicks_total"
	usersOnline   = "users_online"
	connectionsOf = `connections{page="%s"}`
)

// stormTabs is the approximate number of tabs for each kind of load.
const stormTabs = 24

// After a storm every number is exact in every tab, and nothing is left of those who have
// disconnected.
func TestStress(t *testing.T) {
	t.Parallel()
	program := visitor.Start(t, append(visitor.Patient, "-grace", "50ms")...)
	s := &storm{t: t, program: program, seed: visitor.Seed(t), want: map[string]int{}}
	clicking, watching := s.open(s.visitor(), visitor.CounterPage), s.open(s.visitor(), visitor.PresencePage)
	watching.Join("watching")
	watching.Settle()
	s.add(usersOnline, 1)
	before, goroutines := len(s.tabs), program.Goroutines()

	var all sync.WaitGroup
	all.Go(s.joinLeaveAndReload)
	all.Go(s.clickWithoutSocket)
	all.Go(s.clickAndGo)
	all.Go(s.floodWithClicks)
	all.Go(func() { visitor.ComeAndGo(t, program.URL, 8*stormTabs) }) // some disconnect before their join is answered
	all.Go(func() {
		s.each(1+stormTabs/4, func(int, *rand.Rand) { visitor.StopReading(t, program.URL).Close() })
	})
	all.Wait()
	if t.Failed() {
		t.FailNow() // some counts were not added
	}
	s.agree()
	clicking.Increment()
	clicking.Settle()
	s.add(clicksTotal, 1)
	s.agree()

	s.flood.Close()
	for _, tb := range s.tabs[before:] {
		tb.Close()
	}
	watching.Shows(" 1 user(s) online")
	assert.EventuallyWithT(t, func(check *assert.CollectT) {
		http.DefaultClient.CloseIdleConnections()
		assert.LessOrEqual(check, program.Goroutines(), goroutines+3) // for requests to the admin address
	}, visitor.Soon, 20*time.Millisecond, "goroutines")
	assert.Zero(t, program.Stop(syscall.SIGTERM))
}

// add adds n to the wanted value of a metric.
func (s *storm) add(what string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > 0 {
		s.want[what] += n
	}
}

func (s *storm) visitor() *visitor.Visitor { return visitor.New(s.t, s.program.URL) }

// open opens a page in a tab that stays open.
func (s *storm) open(v *visitor.Visitor, page string) *visitor.Tab {
	s.t.Helper()
	tb := v.Open(page)
	s.add(fmt.Sprintf(connectionsOf, path.Base(page)), 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tabs = append(s.tabs, tb)
	return tb
}

var (
	// counted matches a metric with at most one label: not those of requests and the build.
	counted = regexp.MustCompile(`(?m)^realtime_(\w+(?:\{\w+="[^"]*"\})?) ([1-9]\d*)$`)
	// unchecked matches metrics that depend on time, or never decrease.
	unchecked = regexp.MustCompile(`^(refresh|dispatch|connections_(limit|opened))`)
)

// agree waits until the metrics of the program are exactly as wanted, and every tab shows
// the same.
func (s *storm) agree() {
	s.t.Helper()
	require.EventuallyWithT(s.t, func(check *assert.CollectT) {
		got := map[string]int{}
		for _, line := range counted.FindAllStringSubmatch(s.program.Admin("/metrics"), -1) {
			if !unchecked.MatchString(line[1]) {
				got[line[1]], _ = strconv.Atoi(line[2])
			}
		}
		assert.Equal(check, s.want, got)
		flood := s.flood.Count(int64(s.want[clicksTotal]))
		assert.Zero(check, flood.Wrong+flood.CutOff, "the flood: %+v", flood)
	}, visitor.Soon, 20*time.Millisecond, "metrics")
	shown := map[string]string{
		visitor.CounterPage:  fmt.Sprintf("Counter: %d ", s.want[clicksTotal]),
		visitor.PresencePage: fmt.Sprintf(" %d user(s) online", s.want[usersOnline]),
	}
	for _, tb := range s.tabs {
		tb.Shows(shown[tb.Path])
	}
}

// each runs do n times, eight at a time, each with its own random numbers. Eight, because
// the framework closes connections one after the other.
func (s *storm) each(n int, do func(i int, r *rand.Rand)) {
	var workers sync.WaitGroup
	for first := range min(8, n) {
		workers.Go(func() {
			for i := first; i < n; i += 8 {
				do(i, rand.New(rand.NewPCG(s.seed, uint64(i))))
			}
		})
	}
	workers.Wait()
}

// Tabs of one browser under one name are one user.
func (s *storm) joinLeaveAndReload() {
	const perBrowser, names, leave, reload = 4, 3, 3, 4
	browsers := make([]*visitor.Visitor, stormTabs/perBrowser+1)
	for i := range browsers {
		browsers[i] = s.visitor()
		browsers[i].Get(visitor.PresencePage) // for its cookie
	}
	online := map[string]bool{} // by browser and name
	s.each(stormTabs, func(i int, r *rand.Rand) {
		tb, last := s.open(browsers[i/perBrowser], visitor.PresencePage), leave
		for range 1 + r.IntN(12) {
			switch last = r.IntN(names + 2); last {
			case leave:
				tb.Leave()
			case reload:
				tb.Close()
				tb.Connect()
			default:
				tb.Join(fmt.Sprint("name ", last))
			}
		}
		tb.Settle()
		s.mu.Lock()
		defer s.mu.Unlock()
		if last < names {
			online[fmt.Sprint(i/perBrowser, " ", last)] = true
		}
	})
	s.add(usersOnline, len(online))
}

// clickWithoutSocket clicks with forms, as without scripts, and with requests.
func (s *storm) clickWithoutSocket() {
	s.each(stormTabs, func(_ int, r *rand.Rand) {
		v, times := s.visitor(), 1+r.IntN(8)
		page := v.OpenWithoutSocket(visitor.CounterPage)
		for range times {
			v.Click()
			page.Act("increment", nil)
		}
		s.add(clicksTotal, 2*times)
	})
}

// clickAndGo disconnects tabs in every way. Clicks sent before that count, even if nobody
// waits for the answer.
func (s *storm) clickAndGo() {
	s.each(3*stormTabs, func(i int, r *rand.Rand) {
		tb, times := s.visitor().Open(visitor.CounterPage), 1+r.IntN(20)
		for range times {
			tb.Increment()
		}
		s.add(clicksTotal, times)
		if i%3 == 0 {
			assert.NoError(s.t, tb.WS.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, "")))
			<-tb.Ended
			return
		}
		tb.Settle() // unread clicks may be lost with the connection
		if i%3 == 1 {
			_, err := tb.WS.NetConn().Write([]byte("\x81\x83\x00\x00\x00\x00{")) // half a message
			assert.NoError(s.t, err)
			tb.WS.NetConn().(*net.TCPConn).SetLinger(0) // a reset
		}
		tb.Close()
	})
}

// floodWithClicks clicks above the rate limit. Every click is answered; those that are too
// fast do not count.
func (s *storm) floodWithClicks() {
	const perTab, burst = 500, 200 // the rate limit lets a burst through
	tabs := 1 + stormTabs/6
	s.flood = visitor.OpenCrowd(s.t, visitor.CounterPage, tabs, s.program.URL)
	s.flood.ClickAtOnce(tabs * perTab)
	var got visitor.Tally
	require.EventuallyWithT(s.t, func(check *assert.CollectT) {
		got = s.flood.Count(0)
		assert.Zero(check, got.Unanswered)
	}, visitor.Soon, 20*time.Millisecond)
	assert.Equal(s.t, tabs*perTab, got.Clicks)
	assert.GreaterOrEqual(s.t, got.Clicks-got.Refused, tabs*burst)
	s.add(fmt.Sprintf(connectionsOf, path.Base(visitor.CounterPage)), tabs)
	s.add(clicksTotal, got.Clicks-got.Refused)
	s.add(`messages_refused_total{reason="too_fast"}`, got.Refused)
}
