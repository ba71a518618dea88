package main

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
	"golang.org/x/text/unicode/norm"
)

// A name is refused with a reason, or it is one that can be shown, and stays as
// it is when it is checked again.
func FuzzName(f *testing.F) {
	for _, typed := range []string{
		"", " ", "Alice", "  spaced \t\n\u00a0 out ", "Zoë", "Zoe\u0308", "☕", "👩‍👩‍👧‍👦", "\u202eecilA", "\u200b", "\x00", "\ufeff",
		strings.Repeat("ü", 40), strings.Repeat("u\u0308", 41), "\U000e0041", "a\u0301\u0327\u0323", "<b>", "\xff", "ﷺ", "1e-7", "-Infinity",
	} {
		f.Add(typed)
	}
	f.Fuzz(func(t *testing.T, typed string) {
		name, problem := cleanName(typed)
		if problem != "" {
			assert.Empty(t, name)
			assert.Contains(t, []string{noName, longName, controlName}, problem)
			return
		}
		assert.LessOrEqual(t, utf8.RuneCountInString(name), 40)
		assert.True(t, strings.ContainsFunc(name, visible))
		assert.False(t, strings.ContainsFunc(name, controls))
		assert.True(t, norm.NFC.IsNormalString(name))
		assert.Equal(t, name, strings.Join(strings.Fields(name), " "))
		assert.True(t, utf8.ValidString(name) || !utf8.ValidString(typed))
		again, problem := cleanName(name)
		assert.Equal(t, name, again)
		assert.Empty(t, problem)
	})
}

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
	server := newServer(f)
	sender := newVisitor(f, server)
	f.Fuzz(func(t *testing.T, text, counter bool, frame []byte) {
		healthy := &visitor{t: t, base: server, client: sender.client}
		before := countOf(t, healthy)
		page := presencePage
		if counter {
			page = counterPage
		}
		peer, clicker := healthy.open(page), healthy.open(counterPage)
		defer peer.close()
		defer clicker.close()

		frameType := websocket.BinaryMessage
		if text {
			frameType = websocket.TextMessage
		}
		require.NoError(t, peer.ws.WriteMessage(frameType, frame))
		if text && utf8.Valid(frame) {
			peer.settle() // answered, and goes on
		} else {
			<-peer.ended
		}
		want := before + 1
		if text && counter && isIncrement(frame) {
			want++
		}
		clicker.increment()
		clicker.shows(fmt.Sprintf("Counter: %d ", want))
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

// countOf is the counter of a new page.
func countOf(t *testing.T, v *visitor) (count int) {
	t.Helper()
	shown := shownCount.FindStringSubmatch(v.get(counterPage))
	require.NotNil(t, shown)
	_, err := fmt.Sscan(shown[1], &count)
	require.NoError(t, err)
	return count
}
