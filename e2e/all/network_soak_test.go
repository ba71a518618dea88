//go:build soak

package all

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

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
