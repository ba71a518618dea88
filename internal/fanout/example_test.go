package fanout_test

import (
	"fmt"
	"time"

	"realtime/internal/fanout"
)

// room is a page: in a program, a *site.Page.
type room struct{ published chan string }

func (r room) Publish(topic, action string, _ map[string]any) error {
	r.published <- action + " to " + topic
	return nil
}

func (room) Connections() int { return 3 }
func (room) OnRefresh(func()) {}

// A thousand changes at once are two refreshes: one for the first change, and one
// after the last.
func Example() {
	page := room{make(chan string, 1000)}
	peers := fanout.New(fanout.Options{Interval: time.Second}).Peers(page)
	for range 1000 {
		peers.PublishTo("everyone", "RefreshCounter")
	}
	fmt.Println(<-page.published)
	fmt.Println(<-page.published)
	fmt.Println(peers.Asked.Load(), "asked,", peers.Merged.Load(), "merged")
	// Output:
	// RefreshCounter to everyone
	// RefreshCounter to everyone
	// 1000 asked, 998 merged
}
