package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// noPageSends is text that is answered, and mostly changes nothing.
var noPageSends = []string{
	`{"action":"mount"}`, `{"action":"refreshCounter","data":{"counter":9}}`, `{"action":"presenceChanged","data":{"onlinecount":9}}`,
	`{"action":"__navigate__","data":{"counter":"9"}}`, `{"action":"__ping__"}`, `{"action":"onConnect"}`, `{"action":"cancel_upload"}`,
	`{"action":"upload_complete","upload_name":"x","entry_ids":["x"]}`, `{}`, `null`,
	``, `{"action":`, `{"action":7}`, `{"data":"x"}`, `{"action":"increment","data":[]}`, `{"action":"increment"} {}`, `[1,2,3]`, `"\ud800"`,
	`{"data":` + strings.Repeat("[", 20_000), `{"data":` + strings.Repeat(`{"x":`, 10_500) + "1" + strings.Repeat("}", 10_501),
	`{"action":"increment","data":{}}`, `{"submitter":"increment"}`, `{"action":"Increment"}`, `{"ACTION":"increment"}`,
	`{"action":"increment","action":"x"}`, `{"action":"join","data":{"username":"x"}}`, `{"action":"join","data":{"username":[{}]}}`, "\xff",
}

// Whatever a peer sends to a live page: it is answered or its connection is
// closed, only an increment counts, and everybody else goes on.
func FuzzFrames(f *testing.F) {
	for _, frame := range noPageSends {
		f.Add(true, true, []byte(frame))
		f.Add(true, false, []byte(frame))
	}
	f.Add(false, true, []byte(`{"action":"increment","data":{}}`))
	server := visitor.Serve(f)
	sender := visitor.New(f, server)
	f.Fuzz(func(t *testing.T, text, counter bool, frame []byte) {
		healthy := sender.With(t)
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
			peer.Settle() // answered, and goes on
		} else {
			<-peer.Ended
		}
		clicker.Increment()
		shown := fmt.Sprintf("Counter: %d ", want)
		clicker.Shows(shown)
		assert.Contains(t, healthy.Get(visitor.CounterPage), shown)
	})
}

// isIncrement reports whether a frame means a click.
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
