package wsconn

// The framework hands over the bytes of a frame and does not say what it is. These are
// the kinds that are recognised, by how they end: the rest of a frame is up to the page.

// kind is a kind of text frame that the framework sends.
type kind struct {
	name    string
	end     string // how the frame ends; it may be all of it
	answers bool   // a message of the peer; the framework answers a message once
	refresh bool   // the page has changed, and no message has asked for it
	drop    bool   // it is not sent
	instead string // what is sent in its place, if anything
}

// kinds has the most specific first. A frame of no kind is sent as it is: the page itself,
// for one.
var kinds = []kind{
	// Sending it would change nothing.
	{name: "nothingChanged", end: `{"tree":{},"meta":{"success":true,"errors":null}}`, refresh: true, drop: true},

	// An answer names its action, and a peer cannot choose a name that ends like this,
	// because its quotation marks are escaped.
	{name: "noAction", end: `"errors":null}}`, refresh: true},
	{name: "action", end: `"}}`, answers: true},

	// The browser client tells the page nothing about a pong, but tells it the code of
	// an error. It has no other event that leaves the page as it is.
	{name: "pong", end: `{"pong":true}`, answers: true, instead: audiblePong},

	// The client throws an exception at a frame without a tree, but tells the page the
	// action of a frame with one.
	{name: "tooFast", end: `{"tree":null,"meta":{"success":false,"errors":{"_rate_limit":"Too many requests. Please slow down."}}}`,
		answers: true, instead: slowDown},
}

const (
	audiblePong = `{"type":"error","code":"pong"}`
	slowDown    = `{"tree":{},"meta":{"success":false,"action":"slow-down"}}`
	// refused answers a message that is not an action. The framework never sees one.
	refused = `{"tree":{},"meta":{"success":false,"action":"refused"}}`
)

// kindOf returns the kind of a frame.
func kindOf(data []byte) kind {
	for _, k := range kinds {
		if len(data) >= len(k.end) && string(data[len(data)-len(k.end):]) == k.end {
			return k
		}
	}
	return kind{}
}
