package fanout_test

import (
	"fmt"
	"time"

	"realtime/internal/fanout"
)

// room is a page: in a program, a *site.Page.
type room struct{}

func (room) Connections() int { return 3 }
func (room) OnRefresh(func()) {}
func (room) Dropped() int     { return 0 }

func (room) Publish(topic, action string, _ map[string]any) error {
	fmt.Println(action, "to", topic)
	return nil
}

// A thousand changes at once are two refreshes: one for the first change, and one
// after the last.
func Example() {
	pages := fanout.New(fanout.Options{})
	peers := pages.Peers(room{})
	for range 1000 {
		peers.PublishTo("everyone", "RefreshCounter")
	}
	time.Sleep(2 * fanout.DefaultInterval)
	fmt.Println(peers.Asked(), "asked,", peers.Merged(), "merged")
	// Output:
	// RefreshCounter to everyone
	// RefreshCounter to everyone
	// 1000 asked, 998 merged
}
