package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

func TestFanout_BurstOfACrowdLosesNothing(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t, visitor.Patient...)
	visitor.OpenCrowd(t, visitor.CounterPage, 100, server).Burst(1000)
	visitor.OpenCrowd(t, visitor.PresencePage, 100, server).Burst(100)
}

// With almost no budget, hours pass between refreshes once the cost of one is known.
func TestFanout_BudgetHoldsForTheTabsThatAreOpen(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t, append(visitor.Patient, "-refresh-budget", "1e-9")...)
	visitor.OpenCrowd(t, visitor.CounterPage, 30, server) // a small crowd is not awaited
	tb, peer := visitor.New(t, server).Open(visitor.CounterPage), visitor.New(t, server).Open(visitor.CounterPage)
	assert.Eventually(t, func() bool {
		tb.Increment()
		tb.Settle()
		<-time.After(20 * visitor.Interval)
		return peer.Counter() < tb.Counter()
	}, visitor.Soon, time.Millisecond, "a tab that is behind")
}

// connectDeaf connects peers that do not read the answers to their messages, and returns
// when the server has stopped reading from them or has closed them.
func connectDeaf(t *testing.T, server string, peers int) {
	var connecting sync.WaitGroup
	for range peers {
		connecting.Go(func() {
			ws := visitor.StopReading(t, server)
			t.Cleanup(func() { ws.Close() })
		})
	}
	connecting.Wait()
}

// Without internal/wsconn, the framework would write to them while it holds a lock that
// everybody needs.
func TestHostile_PeersThatDoNotReadHarmNobody(t *testing.T) {
	t.Parallel()
	const deaf, clicks = 5, 10
	p := visitor.Start(t, visitor.Patient...) // deaf peers stay connected
	clicker, watching := visitor.New(t, p.URL).Open(visitor.CounterPage), visitor.New(t, p.URL).Open(visitor.CounterPage)
	poster := visitor.New(t, p.URL)
	connectDeaf(t, p.URL, deaf)
	for range clicks {
		clicker.Increment()
		clicker.Settle()
		poster.Click()
		visitor.New(t, p.URL).Open(visitor.CounterPage).Close()
	}
	watching.Shows(fmt.Sprintf("Counter: %d ", 2*clicks))
	assert.Eventually(t, func() bool { return p.Connections(visitor.CounterPage) == deaf+2 }, visitor.Soon, 10*time.Millisecond)
	assert.Zero(t, p.Metric("realtime_slow_closes_total"))
}

func TestHostile_PeersThatDoNotReadAreClosed(t *testing.T) {
	t.Parallel()
	p := visitor.Start(t)
	connectDeaf(t, p.URL, 5)
	closed := func() bool {
		return p.Metric("realtime_slow_closes_total") == 5 && p.Connections(visitor.CounterPage) == 0
	}
	assert.Eventually(t, closed, visitor.Soon, 10*time.Millisecond)
}

// oddFrames are messages that no page sends. Most change nothing.
var oddFrames = []string{
	`{"action":"mount"}`, `{"action":"refreshCounter","data":{"counter":9}}`, `{"action":"presenceChanged","data":{"onlinecount":9}}`,
	`{"action":"__navigate__","data":{"counter":"9"}}`, `{"action":"__ping__"}`, `{"action":"onConnect"}`, `{"action":"cancel_upload"}`,
	`{"action":"upload_complete","upload_name":"x","entry_ids":["x"]}`, `{}`, `null`,
	``, `{"action":`, `{"action":7}`, `{"data":"x"}`, `{"action":"increment","data":[]}`, `{"action":"increment"} {}`, `[1,2,3]`, `"\ud800"`,
	`{"data":` + strings.Repeat("[", 20_000), `{"data":` + strings.Repeat(`{"x":`, 10_500) + "1" + strings.Repeat("}", 10_501),
	`{"action":"increment","data":{}}`, `{"submitter":"increment"}`, `{"action":"Increment"}`, `{"ACTION":"increment"}`,
	`{"action":"increment","action":"x"}`, `{"action":"join","data":{"username":"x"}}`, `{"action":"join","data":{"username":[{}]}}`, "\xff",
}

// Whatever a peer sends, it is answered or disconnected, only an increment counts, and
// nobody else is affected.
func FuzzFrames(f *testing.F) {
	for _, frame := range oddFrames {
		f.Add(true, true, []byte(frame))
		f.Add(true, false, []byte(frame))
	}
	f.Add(false, true, []byte(`{"action":"increment","data":{}}`))
	server := visitor.Serve(f)
	f.Fuzz(func(t *testing.T, text, counter bool, frame []byte) {
		healthy := visitor.New(t, server)
		page := map[bool]string{true: visitor.CounterPage, false: visitor.PresencePage}[counter]
		peer, clicker := healthy.Open(page), healthy.Open(visitor.CounterPage)
		defer peer.Close()
		defer clicker.Close()
		want := clicker.Counter() + 1
		if text && counter && isIncrement(frame) {
			want++
		}

		frameType := map[bool]int{true: websocket.TextMessage, false: websocket.BinaryMessage}[text]
		require.NoError(t, peer.WS.WriteMessage(frameType, frame))
		if text && utf8.Valid(frame) {
			peer.Settle()
		} else {
			<-peer.Ended
		}
		clicker.Increment()
		shown := fmt.Sprintf("Counter: %d ", want)
		clicker.Shows(shown)
		assert.Contains(t, healthy.Get(visitor.CounterPage), shown)
	})
}

// isIncrement reports whether a frame is a click.
func isIncrement(frame []byte) bool {
	var message struct {
		Action, Submitter string
		Data              map[string]any
	}
	if !utf8.Valid(frame) || json.Unmarshal(frame, &message) != nil {
		return false
	}
	return slices.Contains([]string{"increment", "Increment"}, cmp.Or(message.Action, message.Submitter))
}
