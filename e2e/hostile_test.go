package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"

	"realtime/internal/visitor"
	"realtime/internal/wsconn"
)

// Five peers send as fast as they can and never read. The framework would write to
// them while it holds a lock that everybody needs.
func TestHostile_PeersThatDoNotReadHarmNobody(t *testing.T) {
	const peers, flood = 5, 10 * time.Second
	program := visitor.StartExe(t, visitor.BuildPlain(t)) // what is measured is time
	server := program.URL
	clicker, poster := visitor.New(t, server).Open(visitor.CounterPage), visitor.New(t, server)
	watching := visitor.New(t, server).Open(visitor.CounterPage)

	clicks := 0
	click := func() time.Duration {
		<-time.After(50 * time.Millisecond) // a person, not a flood
		began := time.Now()
		clicker.Increment()
		clicker.Settle()
		clicks++
		return time.Since(began)
	}
	var usual time.Duration
	for range 20 {
		usual = max(usual, click())
	}

	ctx, stop := context.WithTimeout(t.Context(), flood)
	defer stop()
	var flooding sync.WaitGroup
	var closed atomic.Int64
	for range peers {
		flooding.Go(func() {
			for ctx.Err() == nil {
				assert.Less(t, floodWithoutReading(t, server), 5*time.Second, "until the server closes it")
				closed.Add(1)
			}
		})
	}
	var worst time.Duration
	for i := 0; ctx.Err() == nil; i++ {
		worst = max(worst, click())
		if i%10 == 0 {
			poster.Click()
			clicks++
			visitor.New(t, server).Open(visitor.CounterPage).Close()
		}
	}
	flooding.Wait()
	t.Logf("the worst of %d clicks took %v, before the flood %v; %d peers that did not read were closed", clicks, worst, usual, closed.Load())
	assert.Less(t, worst, max(250*time.Millisecond, 5*usual)) // more only where the machine is busy with something else
	watching.Shows(fmt.Sprintf("Counter: %d ", clicks))
	assert.EventuallyWithT(t, func(check *assert.CollectT) {
		metrics := program.Metrics()
		assert.EqualValues(check, 2, metrics["realtime_connections"])
		assert.EqualValues(check, closed.Load(), metrics["realtime_slow_closes_total"])
	}, visitor.Soon, 10*time.Millisecond)
}

// floodWithoutReading opens a socket that nothing reads, and sends messages with
// long answers as fast as it can. It returns how long the server kept it open.
func floodWithoutReading(t *testing.T, server string) time.Duration {
	ws, err := visitor.DialPage(websocket.Dialer{HandshakeTimeout: visitor.Soon}, server, visitor.CounterPage)
	if !assert.NoError(t, err) {
		return 0
	}
	defer ws.Close()
	began := time.Now()
	message := []byte(`{"action":"` + strings.Repeat("x", 4096) + `","data":{}}`)
	for err == nil {
		err = ws.WriteMessage(websocket.TextMessage, message)
	}
	return time.Since(began)
}

// Ten thousand frames that no browser sends, whole and half-sent.
func TestHostile_FramesChangeNothingAndStopNothing(t *testing.T) {
	t.Parallel()
	const frames = 10_000
	p := visitor.Start(t)
	server := p.URL
	clicker, watching := visitor.New(t, server).Open(visitor.CounterPage), visitor.New(t, server).Open(visitor.CounterPage)
	var sent atomic.Int64
	var senders sync.WaitGroup
	for seed := range 8 {
		senders.Go(func() {
			random := rand.New(rand.NewPCG(uint64(seed), 6))
			v := visitor.New(t, server)
			v.Get(visitor.CounterPage) // for its cookie
			for sent.Load() < frames {
				ws, err := v.Dial(visitor.CounterPage)
				if err != nil { // its last sockets are not gone yet
					<-time.After(time.Millisecond)
					continue
				}
				go func() { // takes the answers
					for err == nil {
						_, _, err = ws.ReadMessage()
					}
				}()
				for range 50 {
					sent.Add(1)
					if !sendHostile(ws, random) {
						break
					}
				}
				ws.Close()
			}
		})
	}
	done := make(chan struct{})
	go func() {
		senders.Wait()
		close(done)
	}()
	clicks := 0
	for sending := true; sending; clicks++ {
		clicker.Increment()
		clicker.Shows(fmt.Sprintf("Counter: %d ", clicks+1))
		select {
		case <-done:
			sending = false
		case <-time.After(20 * time.Millisecond):
		}
	}
	watching.Shows(fmt.Sprintf("Counter: %d ", clicks))
	for _, reason := range []string{"not_text", "too_long", "not_action"} {
		assert.Positive(t, p.Metric(`realtime_messages_refused_total{reason="`+reason+`"}`), reason)
	}
	assert.Eventually(t, func() bool { return p.Connections(visitor.CounterPage) == 2 }, visitor.Soon, 10*time.Millisecond)
}

// sendHostile sends a frame, and reports whether the connection can go on.
func sendHostile(ws *websocket.Conn, random *rand.Rand) bool {
	text := func(message string) bool { return ws.WriteMessage(websocket.TextMessage, []byte(message)) == nil }
	raw := func(bytes ...byte) bool {
		ws.NetConn().Write(bytes)
		return false
	}
	switch random.IntN(100) {
	case 0:
		return text("")
	case 1:
		return text(`[1,2,3]`)
	case 2:
		return text(`{"action":7,"data":"x"}`)
	case 3:
		return text(`{"data":{"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}}`)
	case 4:
		return text(`{"data":` + strings.Repeat(`{"x":`, 5000))
	case 5:
		return text(`{"action":"upload_complete","upload_name":"x","entry_ids":["x"]}`)
	case 6:
		return text(`{"action":"refreshCounter","data":{"counter":99}}`)
	case 7:
		return text(`null`)
	case 8:
		return text(strings.Repeat("x", wsconn.MaxMessage+1)) && false
	case 9:
		return text("{\"action\":\"\xc3\x28\"}") && false
	case 10:
		ws.WriteMessage(websocket.BinaryMessage, []byte(`{"action":"increment"}`))
		return false
	case 11:
		return raw(0x81, 0xfe, 0xff) // half of a header
	case 12:
		return raw(0x81, 0x85, 1, 2, 3, 4, 'h') // a fifth of a message
	case 13:
		return raw(0xf3, 0x80, 0, 0, 0, 0) // an unknown kind of frame
	default:
		return text(`{"action":`)
	}
}
