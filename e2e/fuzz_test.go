package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// Whatever a peer sends to a live page: it is answered or its connection is
// closed, only an increment counts, and everybody else goes on.
func FuzzFrames(f *testing.F) {
	for _, frame := range []string{
		`{"action":"increment","data":{}}`, `{"submitter":"increment"}`, `{"action":"Increment"}`, `{"ACTION":"increment"}`,
		`{"action":"increment","action":"x"}`, `{"action":"join","data":{"username":"x"}}`, `{"action":"join","data":{"username":[{}]}}`,
		`{"action":"mount"}`, `{"action":"__navigate__","data":{"counter":"9"}}`, `{"action":"__ping__"}`,
		`{"action":"upload_complete","upload_name":"x","entry_ids":["x"]}`, `{"action":"cancel_upload"}`, `{"action":"onConnect"}`,
		`{"action":"refreshCounter","data":{"counter":9}}`, `{"action":7}`, `{"data":"x"}`, `{"action":`, `[]`, `null`, ``, "\xff", `"\ud800"`,
		`{"action":"x","data":` + strings.Repeat(`{"a":`, 50) + `1` + strings.Repeat(`}`, 51),
	} {
		f.Add(true, true, []byte(frame))
		f.Add(true, false, []byte(frame))
	}
	f.Add(false, true, []byte(`{"action":"increment"}`))
	server := visitor.Serve(f)
	sender := visitor.New(f, server)
	f.Fuzz(func(t *testing.T, text, counter bool, frame []byte) {
		healthy := sender.With(t)
		before := countOf(t, healthy)
		page := visitor.PresencePage
		if counter {
			page = visitor.CounterPage
		}
		peer, clicker := healthy.Open(page), healthy.Open(visitor.CounterPage)
		defer peer.Close()
		defer clicker.Close()

		frameType := websocket.BinaryMessage
		if text {
			frameType = websocket.TextMessage
		}
		require.NoError(t, peer.WS.WriteMessage(frameType, frame))
		if text && utf8.Valid(frame) {
			peer.Settle() // answered, and goes on
		} else {
			<-peer.Ended
		}
		want := before + 1
		if text && counter && isIncrement(frame) {
			want++
		}
		clicker.Increment()
		clicker.Shows(fmt.Sprintf("Counter: %d ", want))
		assert.Equal(t, want, countOf(t, healthy))
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
	if message.Action == "" {
		message.Action = message.Submitter
	}
	return message.Action == "increment" || message.Action == "Increment"
}

var shownCount = regexp.MustCompile(`Counter: (\d+)`)

// countOf returns the counter as a new page shows it.
func countOf(t *testing.T, v *visitor.Visitor) (count int) {
	t.Helper()
	shown := shownCount.FindStringSubmatch(v.Get(visitor.CounterPage))
	require.NotNil(t, shown)
	_, err := fmt.Sscan(shown[1], &count)
	require.NoError(t, err)
	return count
}
