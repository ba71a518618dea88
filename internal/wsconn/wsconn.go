// Package wsconn upgrades requests to WebSocket connections that are stricter
// and quieter than the framework's own: only text frames are messages, a peer
// who vanished is noticed, an ordinary close is not a warning, and a refresh that
// changes nothing is not sent.
package wsconn

import (
	"bytes"
	"cmp"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
)

// By default a vanished peer is found within 7 seconds, and two pings in a row
// may get lost.
const (
	DefaultPing    = 3 * time.Second
	DefaultTimeout = 7 * time.Second
)

// Heartbeat finds peers who vanished without a word. A browser answers pings by
// itself, also for a tab that is hidden.
type Heartbeat struct {
	Ping    time.Duration // between two pings; 0 means DefaultPing
	Timeout time.Duration // without a pong or a message for so long, a connection is closed; 0 means DefaultTimeout
}

// Upgrader is a livetemplate.WSUpgrader. It refuses a handshake from another
// site: where a request names its Origin, the host must be the request's own.
// (The framework checks origins only for its own upgrader.)
type Upgrader struct {
	inner     websocket.Upgrader
	heartbeat Heartbeat
	log       *slog.Logger
	open      atomic.Int64
}

// New returns an Upgrader that logs to log.
func New(log *slog.Logger, heartbeat Heartbeat) *Upgrader {
	heartbeat.Ping = cmp.Or(heartbeat.Ping, DefaultPing)
	heartbeat.Timeout = cmp.Or(heartbeat.Timeout, DefaultTimeout)
	return &Upgrader{
		inner: websocket.Upgrader{
			// No read buffer of its own: net/http keeps the one it has already.
			WriteBufferSize: 1024,
			WriteBufferPool: &sync.Pool{}, // an idle connection holds no write buffer
		},
		heartbeat: heartbeat,
		log:       log,
	}
}

// Upgrade implements livetemplate.WSUpgrader. After an error it has already
// answered the request, with 403 for a foreign Origin.
func (u *Upgrader) Upgrade(w http.ResponseWriter, r *http.Request, header http.Header) (livetemplate.WSConn, error) {
	ws, err := u.inner.Upgrade(w, r, header)
	if err != nil {
		return nil, err
	}
	u.open.Add(1)
	c := &conn{Conn: ws, upgrader: u, unanswered: make(chan struct{}, MaxUnanswered)}
	ws.SetPongHandler(func(string) error { c.alive(); return nil })
	c.alive()
	time.AfterFunc(u.heartbeat.Ping, c.ping)
	return c, nil
}

// Open is how many connections are open now.
func (u *Upgrader) Open() int { return int(u.open.Load()) }

type conn struct {
	*websocket.Conn
	upgrader *Upgrader
	binary   bool // warned of; only ReadMessage uses it
	tooFast  bool // warned of; only WriteMessage uses it
	closed   sync.Once

	unanswered chan struct{} // holds a token for each message without an answer, about
}

// alive puts off the time at which the peer counts as gone.
func (c *conn) alive() {
	c.SetReadDeadline(time.Now().Add(c.upgrader.heartbeat.Timeout)) // fails on a closed socket, as the next read does
}

// ping sends a ping, and another after each interval until the socket is closed.
func (c *conn) ping() {
	if c.WriteControl(websocket.PingMessage, nil, time.Now().Add(c.upgrader.heartbeat.Timeout)) == nil {
		time.AfterFunc(c.upgrader.heartbeat.Ping, c.ping)
	}
}

// ReadMessage returns the next text frame. The framework would take a binary
// one for an action as well. The log gets one line for each connection that
// sends some.
//
// An error is final, and closes the socket: a write that a vanished peer holds
// up ends with it.
func (c *conn) ReadMessage() (int, []byte, error) {
	for {
		messageType, data, err := c.Conn.ReadMessage()
		if err != nil {
			c.Close()
			return messageType, data, goingAway(err)
		}
		c.alive()
		if messageType == websocket.TextMessage {
			c.awaitAnswers()
			return messageType, data, nil
		}
		c.warnOnce(&c.binary, "binary frames ignored")
	}
}

// MaxUnanswered is how many messages of a peer may wait for their answers. Then
// nothing more is taken from that peer until one is written. Without this
// back-pressure a flood fills the framework's send queue faster than that is
// written, and the framework cuts off whoever's queue is full: all of 100 tabs
// that each clicked 1,000 times at once, where now every click is answered.
const MaxUnanswered = 64

// noAnswer is how long to wait for an answer. Some messages never get one.
const noAnswer = time.Second

// awaitAnswers counts a message that was read, as soon as there is room for it.
func (c *conn) awaitAnswers() {
	select {
	case c.unanswered <- struct{}{}:
		return
	default:
	}
	select {
	case c.unanswered <- struct{}{}:
	case <-time.After(noAnswer):
		for range MaxUnanswered {
			c.answered()
		}
		c.unanswered <- struct{}{}
	}
	c.alive() // it was not the peer who was silent
}

// answered counts a frame that was written. It may have been a refresh: then the
// count is too low by one, and a little room in the send queue makes up for it.
func (c *conn) answered() {
	select {
	case <-c.unanswered:
	default:
	}
}

// Frames of the framework that its browser client has no good use for, and what
// takes the place of two of them. Without a tree the client throws an error, and
// with one it tells the page the action. The answer to a ping it keeps to itself,
// and the code of an error it tells the page.
var (
	nothingChanged = []byte(`{"tree":{},"meta":{"success":true,"errors":null}}`)
	tooFast        = []byte(`{"tree":null,"meta":{"success":false,"errors":{"_rate_limit":"Too many requests. Please slow down."}}}`)
	slowDown       = []byte(`{"tree":{},"meta":{"success":false,"action":"` + SlowDown + `"}}`)
	pong           = []byte(`{"pong":true}`)
	audiblePong    = []byte(`{"type":"error","code":"` + Pong + `"}`)
)

const (
	// SlowDown is the action that the answer to a message above the rate limit names.
	SlowDown = "slow-down"
	// Pong is the code of the event "lvt:error" that answers a page's ping. It is
	// no error: it is the one event that leaves the page as it is.
	Pong = "pong"
)

// WriteMessage sends a frame. A refresh that found nothing changed is not sent.
//
// That a peer has gone or is leaving is no error here: the connection ends with
// the next read, and the framework would warn of every frame that was still on
// its way.
func (c *conn) WriteMessage(messageType int, data []byte) error {
	defer c.answered()
	if bytes.Equal(data, nothingChanged) {
		return nil
	}
	if bytes.Equal(data, pong) {
		data = audiblePong
	}
	if bytes.Equal(data, tooFast) {
		data = slowDown
		c.warnOnce(&c.tooFast, "messages above the rate limit refused")
	}
	c.Conn.WriteMessage(messageType, data)
	return nil
}

// warnOnce logs that a peer does what it should not, once for each connection.
func (c *conn) warnOnce(warned *bool, what string) {
	if !*warned {
		*warned = true
		c.upgrader.log.Warn(what, slog.Any("remote_addr", c.RemoteAddr()))
	}
}

// Close closes the socket. The framework calls it again after every
// disconnect, and would log the error of that second call as a warning.
func (c *conn) Close() (err error) {
	c.closed.Do(func() {
		c.upgrader.open.Add(-1)
		err = c.Conn.Close()
	})
	return err
}

// goingAway turns a close by the peer into the framework's error. A normal
// close and one without a code become "going away", the one that the framework
// does not warn about.
func goingAway(err error) error {
	var closed *websocket.CloseError
	if !errors.As(err, &closed) {
		return err
	}
	code := closed.Code
	if code == websocket.CloseNormalClosure || code == websocket.CloseNoStatusReceived {
		code = websocket.CloseGoingAway
	}
	return &livetemplate.WSCloseError{Code: code, Text: closed.Text}
}
