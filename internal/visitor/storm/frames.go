package storm

import (
	"strings"

	"github.com/gorilla/websocket"

	"realtime/internal/visitor"
)

// Message is text that no page sends.
type Message struct {
	Text   string
	Action bool // the framework takes it for an action
}

// Messages change nothing, and their sender goes on.
var Messages = []Message{
	{`{"action":"mount"}`, true},
	{`{"action":"refreshCounter","data":{"counter":9}}`, true},
	{`{"action":"presenceChanged","data":{"onlinecount":9}}`, true},
	{`{"action":"__navigate__","data":{"counter":"9"}}`, true},
	{`{"action":"__ping__"}`, true},
	{`{"action":"onConnect"}`, true},
	{`{"action":"upload_complete","upload_name":"x","entry_ids":["x"]}`, true},
	{`{"action":"cancel_upload"}`, true},
	{`{"action":"join","data":{"username":[{}]}}`, true},
	{`{}`, true},
	{`null`, true},
	{``, false},
	{`{"action":`, false},
	{`{"action":7}`, false},
	{`{"data":"x"}`, false},
	{`{"action":"increment","data":[]}`, false},
	{`{"action":"increment"} {}`, false},
	{`[1,2,3]`, false},
	{`"\ud800"`, false},
	{`{"data":` + strings.Repeat("[", 20_000), false},
	{`{"data":` + strings.Repeat(`{"x":`, 10_500) + "1" + strings.Repeat("}", 10_501), false},
}

// broken are bytes that end the connection of their sender, with a code unless it has to
// go by itself. Masks of zeros change nothing.
var broken = []struct {
	bytes   []byte
	code    int
	refused string // the reason, if the message and not the protocol is broken
}{
	{frame(0x81, strings.Repeat("x", visitor.MaxMessage+1)), websocket.CloseMessageTooBig, "too_long"},
	{frame(0x82, `{"action":"join"}`), websocket.CloseUnsupportedData, "not_text"},
	{frame(0x81, "{\"action\":\"\xff\"}"), websocket.CloseInvalidFramePayloadData, "not_text"},
	{[]byte{0x81, 0x02, '{', '}'}, websocket.CloseProtocolError, ""},              // not masked
	{[]byte{0x83, 0x80, 0, 0, 0, 0}, websocket.CloseProtocolError, ""},            // an unknown kind of frame
	{[]byte{0xc1, 0x80, 0, 0, 0, 0}, websocket.CloseProtocolError, ""},            // a bit of an extension that was not agreed on
	{[]byte{0x80, 0x80, 0, 0, 0, 0}, websocket.CloseProtocolError, ""},            // continues no message
	{[]byte{0x09, 0x80, 0, 0, 0, 0}, websocket.CloseProtocolError, ""},            // a ping in parts
	{[]byte{0x89, 0xfe, 0, 126, 0, 0, 0, 0}, websocket.CloseProtocolError, ""},    // a long ping
	{[]byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 231}, websocket.CloseProtocolError, ""}, // a close code below 1000
	{[]byte{0x81, 0xfe, 0xff}, 0, ""},                                             // half of a header
	{frame(0x81, `{"action":"leave"}`)[:12], 0, ""},                               // half of a message
}

// frame returns a whole frame as a browser sends it.
func frame(kind byte, payload string) []byte {
	n := len(payload)
	header := []byte{kind, 0x80 | byte(n)}
	if n > 125 {
		header = []byte{kind, 0x80 | 127, 0, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	}
	return append(append(header, 0, 0, 0, 0), payload...)
}
