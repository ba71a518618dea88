//go:build soak

package all

import (
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// With the program's own intervals, tabs in which nothing happens stay online,
// the one in front and the one behind it.
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
			tb.WatchNotices()
			tb.WatchStatus()
			begin := time.Now()
			tb.Navigate(network.URL + visitor.CounterPage)
			tb.WaitUntil(browser.Live, "a live page")
			live := time.Since(begin)
			tb.CountConnects()
			for range 5 {
				tb.Hide(person)
				tb.Show()
				tb.Eval(browser.ComesOnline)
				<-time.After(2 * time.Second) // nothing else is under way
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
			assert.Empty(t, tb.Notices())
			assert.Equal(t, "0", tb.Eval(`connects`), "new sockets")
			for _, said := range tb.Heard() {
				assert.Contains(t, []string{"Connecting… Buttons work.", ""}, said.Text)
			}
			made = counted
		})
	}
}

func TestSoak_VisitsLeaveNothingBehind(t *testing.T) {
	p := visitor.StartExe(t, visitor.BuildPlain(t), "-grace", "50ms")
	p.ForgetsVisits(1000, 10_000)
}

// The program ends at most 3 seconds after the time for its stop, whoever does not
// answer: a socket, a connection without a request, Redis.
func TestSoak_StopIsBounded(t *testing.T) {
	redis := visitor.NewRedis(t)
	p := visitor.StartExe(t, visitor.BuildPlain(t), "-redis", redis.URL)
	deaf, err := visitor.New(t, p.URL).Dial(visitor.CounterPage)
	require.NoError(t, err)
	defer deaf.Close()
	idle, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	defer idle.Close()
	thaw := redis.Freeze()
	defer thaw()
	began := time.Now()
	assert.Zero(t, p.Stop(syscall.SIGTERM))
	assert.Less(t, time.Since(began), visitor.Drain+3*time.Second)
}
