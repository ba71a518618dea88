// Package wsconn upgrades requests to WebSocket connections that one bad peer
// cannot turn against the others. Nothing here waits for a peer: what is written
// is queued, within bounds, and a peer who does not take it is closed. Only text
// frames of JSON are messages, a peer who vanished is noticed, an ordinary close is
// not a warning, and a refresh that changes nothing is not sent.
package wsconn

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
)

// By default a vanished peer is found within 7 seconds, and two pings in a row
// may get lost. One who is there and does not read is found within 5.
const (
	DefaultPing    = 3 * time.Second
	DefaultTimeout = 7 * time.Second
	DefaultWrite   = 3 * time.Second
)

// Heartbeat finds peers who vanished without a word, or read no more. A browser
// answers pings by itself, also for a tab that is hidden.
type Heartbeat struct {
	Ping    time.Duration // between two pings; 0 means DefaultPing
	Timeout time.Duration // without a pong or a message for so long, a connection is closed; 0 means DefaultTimeout
	Write   time.Duration // a peer who takes longer to read one frame is closed; 0 means DefaultWrite
}

// Limits of one connection.
const (
	// MaxMessage is the longest message that a peer may send, in bytes. A longer
	// one closes the connection with code 1009.
	MaxMessage = 64 << 10

	// MaxQueued is how much may wait for a peer to read it, in bytes. One more
	// frame closes the connection: its page comes back with a new one, and with
	// the state of then.
	MaxQueued = 256 << 10

	// kernelBuffer is the size of the socket's own send buffer, in bytes. Left to
	// itself it grows to megabytes, and a peer who stalls is noticed much later.
	kernelBuffer = 64 << 10

	// closeWait is how long a peer who was sent a close frame may take to answer it.
	closeWait = time.Second
)

// Stats counts what the connections of an Upgrader have refused.
type Stats struct {
	SlowCloses atomic.Int64 // connections closed because their peer did not read
	TooFast    atomic.Int64 // messages above the framework's rate limit
	TooLong    atomic.Int64 // messages above MaxMessage
	NotText    atomic.Int64 // binary messages, and text that is not UTF-8
	NotAction  atomic.Int64 // text that is not the JSON of an action
}

// Upgrader is a livetemplate.WSUpgrader. Whether a request may be upgraded at
// all, and where it comes from, is not checked here: that is for a handler in
// front of it.
type Upgrader struct {
	// Stats is what was refused so far.
	Stats Stats

	inner     websocket.Upgrader
	heartbeat Heartbeat
	log       *slog.Logger

	mu   sync.Mutex
	open map[*conn]bool
}

// New returns an Upgrader that logs to log.
func New(log *slog.Logger, heartbeat Heartbeat) *Upgrader {
	heartbeat.Ping = cmp.Or(heartbeat.Ping, DefaultPing)
	heartbeat.Timeout = cmp.Or(heartbeat.Timeout, DefaultTimeout)
	heartbeat.Write = cmp.Or(heartbeat.Write, DefaultWrite)
	return &Upgrader{
		inner: websocket.Upgrader{
			// No read buffer of its own: net/http keeps the one it has already.
			WriteBufferSize: 1024,
			WriteBufferPool: &sync.Pool{}, // an idle connection holds no write buffer
			CheckOrigin:     func(*http.Request) bool { return true },
		},
		heartbeat: heartbeat,
		log:       log,
		open:      map[*conn]bool{},
	}
}

// Upgrade implements livetemplate.WSUpgrader. After an error it has already
// answered the request.
func (u *Upgrader) Upgrade(w http.ResponseWriter, r *http.Request, header http.Header) (livetemplate.WSConn, error) {
	ws, err := u.inner.Upgrade(w, r, header)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: ws, upgrader: u, ctx: r.Context(), peer: r.RemoteAddr, unanswered: make(chan struct{}, MaxUnanswered)}
	c.written.L = &c.mu
	if socket, ok := ws.NetConn().(interface{ SetWriteBuffer(bytes int) error }); ok {
		socket.SetWriteBuffer(kernelBuffer) // fails on a socket that is gone
	}
	ws.SetReadLimit(MaxMessage)
	ws.SetPongHandler(func(string) error { c.alive(); return nil })
	c.alive()
	time.AfterFunc(u.heartbeat.Ping, c.ping)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.open[c] = true
	return c, nil
}

// Open is how many connections are open now.
func (u *Upgrader) Open() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.open)
}

// CloseAll sends every open connection a close frame (1001, going away), one
// after the other and evenly spread over a time, so that their pages do not come
// back all at once. When ctx ends, the rest are sent theirs without delay.
func (u *Upgrader) CloseAll(ctx context.Context, over time.Duration) {
	u.mu.Lock()
	var all []*conn
	for c := range u.open {
		all = append(all, c)
	}
	u.mu.Unlock()
	begin := time.Now()
	for i, c := range all {
		select {
		case <-time.After(time.Until(begin.Add(over * time.Duration(i+1) / time.Duration(len(all))))):
		case <-ctx.Done():
		}
		c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, "the server is stopping"))
	}
}

type conn struct {
	*websocket.Conn
	upgrader *Upgrader
	ctx      context.Context // of the request that was upgraded, for the log
	peer     string          // its address, or what a proxy says that is

	unanswered chan struct{} // holds a token for each message without an answer, about

	mu      sync.Mutex
	warned  map[string]bool // what the log has said of this peer
	queue   []frame
	queued  int  // bytes, with the frame that is being written
	writing bool // a goroutine writes the queue
	goodbye bool // the last frame of the queue is a close frame
	closing bool // nothing more is queued; close when the queue is written
	written sync.Cond
}

type frame struct {
	messageType int
	data        []byte
}

// alive puts off the time at which the peer counts as gone.
func (c *conn) alive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.goodbye {
		c.SetReadDeadline(time.Now().Add(c.upgrader.heartbeat.Timeout)) // fails on a closed socket, as the next read does
	}
}

// ping sends a ping, and another after each interval until the socket is closed.
func (c *conn) ping() {
	err := c.WriteControl(websocket.PingMessage, nil, time.Now().Add(c.upgrader.heartbeat.Write))
	switch {
	case err == nil:
		time.AfterFunc(c.upgrader.heartbeat.Ping, c.ping)
	case isTimeout(err):
		c.tooSlow()
	}
}

// ReadMessage returns the next message: a text frame with a JSON object. Whatever
// else a peer sends is refused. The framework would take a binary frame for an
// action as well, and put broken JSON into the log.
//
// An error is final, and closes the socket.
func (c *conn) ReadMessage() (int, []byte, error) {
	for {
		messageType, data, err := c.Conn.ReadMessage()
		if err != nil {
			c.refuseTooLong(err)
			c.cut()
			return messageType, nil, c.goingAway(err)
		}
		c.awaitAnswers()
		switch {
		case c.saidGoodbye():
			// Read on until the peer has answered, or time is up.
		case messageType != websocket.TextMessage:
			c.refuse(&c.upgrader.Stats.NotText, websocket.CloseUnsupportedData, "binary message refused")
		case !utf8.Valid(data):
			c.refuse(&c.upgrader.Stats.NotText, websocket.CloseInvalidFramePayloadData, "text that is not UTF-8 refused")
		case !isAction(data):
			c.upgrader.Stats.NotAction.Add(1)
			c.warnOnce("message that is no action refused")
			c.WriteMessage(websocket.TextMessage, refused)
		default:
			return messageType, data, nil
		}
	}
}

// isAction reports whether data is the JSON that the framework takes for an action.
func isAction(data []byte) bool {
	var action struct {
		Action, Submitter string
		Data              map[string]any
	}
	return json.Unmarshal(data, &action) == nil
}

// refuse closes the connection for a message that no browser sends.
func (c *conn) refuse(count *atomic.Int64, code int, why string) {
	count.Add(1)
	c.warnOnce(why)
	c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(code, why))
}

// refuseTooLong notes that the peer has sent too long a message, if that is what
// err says. It was sent a close frame, and may read that: if the rest of its
// message were left unread, it would find the connection reset.
func (c *conn) refuseTooLong(err error) {
	if !errors.Is(err, websocket.ErrReadLimit) {
		return
	}
	c.upgrader.Stats.TooLong.Add(1)
	c.warnOnce("message that is too long refused")
	c.SetReadDeadline(time.Now().Add(closeWait))
	io.Copy(io.Discard, c.NetConn())
}

// MaxUnanswered is how many messages of a peer may wait for their answers. Then
// nothing more is taken from that peer until one is written. Without this
// back-pressure a flood fills the framework's send queue faster than that is
// written, and the framework cuts off whoever's queue is full: all of 100 tabs
// that each clicked 1,000 times at once, where now every click is answered.
const MaxUnanswered = 64

const (
	// noAnswer is how long to wait for an answer. Some messages never get one.
	noAnswer = time.Second

	// muchQueued is how much may wait for a peer, in bytes, while more is taken
	// from it. The rest of the queue is for what others do. A peer who floods and
	// does not read so waits for its end, and costs nothing until then.
	muchQueued = MaxQueued / 4
)

// awaitAnswers counts a message that was read, as soon as there is room for its
// answer, or the connection has ended.
func (c *conn) awaitAnswers() {
	c.mu.Lock()
	for c.queued > muchQueued && !c.closing {
		c.written.Wait() // not for long: a frame is written in time, or the connection ends
	}
	c.mu.Unlock()
	select {
	case c.unanswered <- struct{}{}:
	default:
		c.awaitRoom()
	}
	c.alive() // it was not the peer who was silent
}

func (c *conn) awaitRoom() {
	for {
		select {
		case c.unanswered <- struct{}{}:
			return
		case <-time.After(noAnswer):
			c.forgive()
		}
	}
}

// forgive stops waiting for the answers of messages that never get one: no answer
// waits to be written.
func (c *conn) forgive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queued > 0 && !c.closing {
		return
	}
	for range MaxUnanswered {
		c.answered()
	}
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
	refused        = []byte(`{"tree":{},"meta":{"success":false,"action":"` + Refused + `"}}`)
	pong           = []byte(`{"pong":true}`)
	audiblePong    = []byte(`{"type":"error","code":"` + Pong + `"}`)
)

const (
	// SlowDown is the action that the answer to a message above the rate limit names.
	SlowDown = "slow-down"
	// Refused is the action that the answer to a message without meaning names.
	Refused = "refused"
	// Pong is the code of the event "lvt:error" that answers a page's ping. It is
	// no error: it is the one event that leaves the page as it is.
	Pong = "pong"
)

// WriteMessage queues a frame and returns at once: the framework calls it with a
// lock held that everybody needs. A refresh that found nothing changed is not
// sent. A peer with too much in its queue is closed.
//
// That a peer has gone or is leaving is no error here: the connection ends with
// the next read, and the framework would warn of every frame that was still on
// its way.
func (c *conn) WriteMessage(messageType int, data []byte) error {
	switch {
	case bytes.Equal(data, nothingChanged):
		c.answered()
		return nil
	case bytes.Equal(data, pong):
		data = audiblePong
	case bytes.Equal(data, tooFast):
		data = slowDown
		c.upgrader.Stats.TooFast.Add(1)
		c.warnOnce("messages above the rate limit refused")
	}
	if !c.enqueue(frame{messageType, data}) {
		c.tooSlow()
	}
	return nil
}

// enqueue adds a frame to the queue, and reports whether there was room.
func (c *conn) enqueue(f frame) (fits bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.goodbye {
		return true
	}
	if c.queued+len(f.data) > MaxQueued {
		return false
	}
	if f.messageType == websocket.CloseMessage {
		c.goodbye = true
		c.SetReadDeadline(time.Now().Add(closeWait))
	}
	c.queue = append(c.queue, f)
	c.queued += len(f.data)
	if !c.writing {
		c.writing = true
		go c.writeQueue() // only while there is something to write: an idle connection needs no stack
	}
	return true
}

// writeQueue writes frames until none is left.
func (c *conn) writeQueue() {
	for {
		f, found := c.next()
		if !found {
			return
		}
		c.SetWriteDeadline(time.Now().Add(c.upgrader.heartbeat.Write))
		err := c.Conn.WriteMessage(f.messageType, f.data)
		c.answered()
		if isTimeout(err) {
			c.tooSlow()
		} else if err != nil {
			c.cut()
		}
		c.mu.Lock()
		c.queued -= len(f.data)
		c.written.Broadcast()
		c.mu.Unlock()
	}
}

// next takes a frame from the queue. Without one, the writing ends.
func (c *conn) next() (f frame, found bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		c.queue, c.writing = nil, false
		if c.closing {
			c.end()
		}
		return f, false
	}
	f, c.queue = c.queue[0], c.queue[1:]
	return f, true
}

// tooSlow closes the connection of a peer who does not read.
func (c *conn) tooSlow() {
	if c.cut() {
		c.upgrader.Stats.SlowCloses.Add(1)
		c.warnOnce("closed: the peer does not read")
	}
}

// warnOnce logs what is wrong with a peer, once for each connection.
func (c *conn) warnOnce(what string) {
	c.mu.Lock()
	before := c.warned[what]
	if c.warned == nil {
		c.warned = map[string]bool{}
	}
	c.warned[what] = true
	c.mu.Unlock()
	if !before {
		c.upgrader.log.WarnContext(c.ctx, what, slog.String("remote_addr", c.peer))
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func (c *conn) saidGoodbye() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.goodbye
}

// Close closes the socket when what is queued is written. The framework calls it
// again after every disconnect, and would log the error of that second call as a
// warning.
func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	if !c.writing {
		c.end()
	}
	return nil
}

// cut closes the socket now, and reports whether it was open.
func (c *conn) cut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing, c.queue = true, nil
	c.written.Broadcast()
	return c.end()
}

// end closes the socket, with c.mu held, and reports whether it was open.
func (c *conn) end() bool {
	if !c.upgrader.forget(c) {
		return false
	}
	c.Conn.Close()
	return true
}

// forget counts a connection as closed, and reports whether it was open.
func (u *Upgrader) forget(c *conn) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	open := u.open[c]
	delete(u.open, c)
	return open
}

// goingAway turns a close by the peer into the framework's error. A normal
// close and one without a code become "going away", the one that the framework
// does not warn about. So does the answer to a close frame of ours.
func (c *conn) goingAway(err error) error {
	var closed *websocket.CloseError
	if !errors.As(err, &closed) {
		return err
	}
	code := closed.Code
	if code == websocket.CloseNormalClosure || code == websocket.CloseNoStatusReceived || c.saidGoodbye() {
		code = websocket.CloseGoingAway
	}
	return &livetemplate.WSCloseError{Code: code, Text: closed.Text}
}
