package storm

import (
	"strings"

	"realtime/internal/visitor"
)

// Actions are what no page sends and the framework takes for actions. They change nothing.
var Actions = []string{
	`{"action":"mount"}`, `{"action":"refreshCounter","data":{"counter":9}}`, `{"action":"presenceChanged","data":{"onlinecount":9}}`,
	`{"action":"__navigate__","data":{"counter":"9"}}`, `{"action":"__ping__"}`, `{"action":"onConnect"}`, `{"action":"cancel_upload"}`,
	`{"action":"upload_complete","upload_name":"x","entry_ids":["x"]}`, `{}`, `null`,
}

// NoActions are refused, and their sender goes on.
var NoActions = []string{
	``, `{"action":`, `{"action":7}`, `{"data":"x"}`, `{"action":"increment","data":[]}`, `{"action":"increment"} {}`, `[1,2,3]`, `"\ud800"`,
	`{"data":` + strings.Repeat("[", 20_000), `{"data":` + strings.Repeat(`{"x":`, 10_500) + "1" + strings.Repeat("}", 10_501),
}

// last is what a peer sends before its connection ends. Masks of zeros change nothing.
type last struct {
	bytes   string
	refused string // the reason, where a message is refused
	half    bool   // the server waits for the rest
}

var lasts = []last{
	{bytes: frame(0x81, strings.Repeat("x", visitor.MaxMessage+1)), refused: "too_long"},
	{bytes: frame(0x82, `{"action":"join"}`), refused: "not_text"},
	{bytes: frame(0x81, "{\"action\":\"\xff\"}"), refused: "not_text"},
	{bytes: "\x81\x02{}"},                                       // not masked
	{bytes: "\x83\x80\x00\x00\x00\x00"},                         // an unknown kind of frame
	{bytes: "\xc1\x80\x00\x00\x00\x00"},                         // a bit of an extension that was not agreed on
	{bytes: "\x80\x80\x00\x00\x00\x00"},                         // continues no message
	{bytes: "\x09\x80\x00\x00\x00\x00"},                         // a ping in parts
	{bytes: "\x89\xfe\x00\x7e\x00\x00\x00\x00"},                 // a long ping
	{bytes: "\x88\x82\x00\x00\x00\x00\x03\xe7"},                 // a close code below 1000
	{bytes: "\x81\xfe\xff", half: true},                         // a header
	{bytes: frame(0x81, `{"action":"leave"}`)[:12], half: true}, // a message
}

// frame returns a whole frame as a browser sends it.
func frame(kind byte, payload string) string {
	n, mask := len(payload), "\x00\x00\x00\x00"
	if n > 125 {
		return string([]byte{kind, 0x80 | 127, 0, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) + mask + payload
	}
	return string([]byte{kind, 0x80 | byte(n)}) + mask + payload
}
