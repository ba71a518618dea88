// Package wsconn upgrades requests to WebSocket connections on which one bad peer
// cannot harm the others. Writing never waits for a peer: frames are queued, within
// limits, and a peer that does not read them is disconnected. Only text frames that hold
// a JSON object are messages. A heartbeat finds peers that have vanished, an ordinary
// close is not logged as a warning, and a refresh that changes nothing is not sent.
//
// It does not decide who may connect: a handler in front of it does.
package wsconn

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
)

// Limits of one connection.
const (
	// MaxMessage is the longest message that a peer may send, in bytes. A longer
	// one closes the connection with code 1009 (message too big).
	MaxMessage = 64 << 10

	// MaxQueued is how much may wait behind the frame that is being written to a peer,
	// in bytes. One more frame closes the connection; its page reconnects and gets the
	// current state. A single frame may be longer: its limit is Heartbeat.Write.
	MaxQueued = 256 << 10

	// kernelBuffer is the size of the socket's send buffer, in bytes. By default
	// it grows to megabytes, and a stalled peer goes unnoticed for long.
	kernelBuffer = 64 << 10

	// closeWait is how long a peer may take to answer a close frame.
	closeWait = time.Second
)

// Stats counts refused messages and slow peers.
type Stats struct {
	SlowCloses atomic.Int64 // connections closed because their peer did not read
	TooFast    atomic.Int64 // messages above the framework's rate limit
	TooLong    atomic.Int64 // messages above MaxMessage
	NotText    atomic.Int64 // binary messages, and text that is not UTF-8
	NotAction  atomic.Int64 // text that is not the JSON of an action
}

// Options configure an Upgrader. The zero value is ready to use.
type Options struct {
	Log       *slog.Logger // default: slog.Default()
	Heartbeat Heartbeat
	Stats     *Stats // may be shared by several Upgraders; default: new ones

	// Protocols are the supported subprotocols, in order of preference. Default: none.
	Protocols []string
}

// Upgrader is a livetemplate.WSUpgrader.
type Upgrader struct {
	// Stats counts refused messages and slow peers so far.
	Stats *Stats

	inner     websocket.Upgrader
	heartbeat Heartbeat
	log       *slog.Logger
	onRefresh func()

	tick  time.Duration
	ticks atomic.Int64 // the clock of all timeouts

	mu       sync.Mutex
	counting bool // ticks are being counted
	open     map[*conn]bool
	opened   int
}

// New returns an Upgrader.
func New(opts Options) *Upgrader {
	heartbeat := opts.Heartbeat
	heartbeat.Ping = cmp.Or(heartbeat.Ping, DefaultPing)
	heartbeat.Timeout = cmp.Or(heartbeat.Timeout, DefaultTimeout)
	heartbeat.Write = cmp.Or(heartbeat.Write, DefaultWrite)
	return &Upgrader{
		Stats: cmp.Or(opts.Stats, &Stats{}),
		inner: websocket.Upgrader{
			// It has no read buffer of its own: it reuses the one of net/http.
			WriteBufferSize: 1024,
			WriteBufferPool: &sync.Pool{}, // an idle connection holds no write buffer
			CheckOrigin:     func(*http.Request) bool { return true },
			Subprotocols:    opts.Protocols,
		},
		heartbeat: heartbeat,
		tick:      max(min(heartbeat.Ping, heartbeat.Timeout, heartbeat.Write, closeWait)/10, 10*time.Millisecond),
		log:       cmp.Or(opts.Log, slog.Default()),
		onRefresh: func() {},
		open:      map[*conn]bool{},
	}
}

// OnRefresh sets a function to call whenever a refresh has been rendered for a
// connection, and written if it changes anything. A refresh is an update that no message
// of the peer has asked for. OnRefresh must be called before the first Upgrade, and f
// must not block.
func (u *Upgrader) OnRefresh(f func()) { u.onRefresh = f }

// Upgrade implements livetemplate.WSUpgrader. The response has the headers that are set
// on w and those in header. If Upgrade returns an error, it has sent a response. If the
// peer has gone, or has sent frames too early and is cut off, it panics with
// http.ErrAbortHandler, because the framework would log an error.
func (u *Upgrader) Upgrade(w http.ResponseWriter, r *http.Request, header http.Header) (livetemplate.WSConn, error) {
	all := w.Header().Clone()
	maps.Copy(all, header)
	ws, err := u.inner.Upgrade(w, r, all)
	if err != nil {
		if !errors.As(err, &websocket.HandshakeError{}) {
			u.log.InfoContext(r.Context(), "handshake failed", slog.String("remote_addr", r.RemoteAddr), slog.Any("error", err))
			panic(http.ErrAbortHandler)
		}
		return nil, err
	}
	c := &conn{Conn: ws, upgrader: u, ctx: r.Context(), peer: r.RemoteAddr,
		hearBy: never, writeBy: never, answerBy: never, pingAt: u.after(u.heartbeat.Ping)}
	c.room.L = &c.mu
	if socket, ok := ws.NetConn().(interface{ SetWriteBuffer(bytes int) error }); ok {
		socket.SetWriteBuffer(kernelBuffer) // fails on a socket that is gone
	}
	ws.SetReadLimit(MaxMessage)
	ws.SetPongHandler(func(string) error { c.expect(u.heardBy()); return nil })
	ws.SetPingHandler(func(data string) error {
		ws.WriteControl(websocket.PongMessage, []byte(data), time.Time{}) // the queue finds out if it fails
		return nil
	})
	u.mu.Lock()
	defer u.mu.Unlock()
	u.open[c] = true
	u.opened++
	if !u.counting {
		u.counting = true
		u.countFrom(time.Now())
	}
	return c, nil
}

// Open returns the number of open connections.
func (u *Upgrader) Open() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.open)
}

// Opened returns the number of connections opened so far.
func (u *Upgrader) Opened() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.opened
}

// CloseAll sends every open connection a close frame with code 1001 (going away),
// spread evenly over a time so that the pages do not all reconnect at once. When ctx
// ends, it sends the remaining frames without delay.
func (u *Upgrader) CloseAll(ctx context.Context, over time.Duration) {
	u.mu.Lock()
	all := slices.Collect(maps.Keys(u.open))
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
	peer     string          // address of the peer

	warned sync.Map // warnings that were logged about this peer

	mu      sync.Mutex
	queue   []frame
	queued  int  // bytes in the queue
	writing bool // a goroutine is writing the queue
	goodbye bool // the last frame of the queue is a close frame
	closing bool // accept no more frames; close once the queue is written

	unanswered int       // messages that were read and are not answered yet
	room       sync.Cond // for one more answer

	// The ticks at which the peer must have been heard, a frame written and a message
	// answered, and at which the next ping is due.
	hearBy, writeBy, answerBy, pingAt int64
}

type frame struct {
	messageType int
	data        []byte
	refresh     bool
}

// ReadMessage returns the next message, a text frame with a JSON object, and refuses
// everything else: the framework accepts a binary frame as an action and logs invalid
// JSON. After an error the socket is closed.
func (c *conn) ReadMessage() (int, []byte, error) {
	for {
		c.expect(c.upgrader.heardBy())
		messageType, data, err := c.Conn.ReadMessage()
		c.expect(never) // while we do not read, silence proves nothing
		if err != nil {
			c.refuseTooLong(err)
			c.cut()
			return messageType, nil, c.goingAway(err)
		}
		c.awaitRoom()
		switch {
		case c.saidGoodbye():
			// Read on until the peer has answered the close frame, or time is up.
		case messageType != websocket.TextMessage:
			c.refuse(&c.upgrader.Stats.NotText, websocket.CloseUnsupportedData, "message refused: binary")
		case !utf8.Valid(data):
			c.refuse(&c.upgrader.Stats.NotText, websocket.CloseInvalidFramePayloadData, "message refused: not UTF-8")
		case !isAction(data):
			c.upgrader.Stats.NotAction.Add(1)
			c.warnOnce("message refused: not an action")
			c.WriteMessage(websocket.TextMessage, []byte(refused))
		default:
			return messageType, data, nil
		}
	}
}

// isAction reports whether the framework accepts data as an action.
func isAction(data []byte) bool {
	var action struct {
		Action, Submitter string
		Data              map[string]any
	}
	return json.Unmarshal(data, &action) == nil
}

// refuse closes the connection because of a message that no browser sends.
func (c *conn) refuse(count *atomic.Int64, code int, why string) {
	count.Add(1)
	c.warnOnce(why)
	c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(code, why))
}

// refuseTooLong handles the error of a message that is too long. The peer has been sent
// a close frame. If the rest of its message stayed unread, the connection would be reset
// before the peer could read that frame.
func (c *conn) refuseTooLong(err error) {
	if !errors.Is(err, websocket.ErrReadLimit) {
		return
	}
	c.upgrader.Stats.TooLong.Add(1)
	c.warnOnce("message refused: too long")
	c.SetReadDeadline(time.Now().Add(closeWait))
	io.Copy(io.Discard, c.NetConn())
}

// MaxUnanswered is how many messages of a peer may wait for the framework to answer them.
// Without this limit a flood fills the framework's send queue, and the framework closes
// connections whose queue is full.
const MaxUnanswered = 64

const (
	// noAnswer is how long to wait for an answer before giving up on all of them. The
	// framework answers every action and ping once, but may not answer a message about an
	// upload, or an action after which the template fails.
	noAnswer = time.Second

	// muchQueued is how much may wait to be written to a peer, in bytes, while
	// messages are read from it. The rest of the queue is for refreshes. A peer
	// that floods and does not read therefore costs little until it is disconnected.
	muchQueued = MaxQueued / 4
)

// awaitRoom counts a message that was read, once there is room for its answer or the
// connection has ended.
func (c *conn) awaitRoom() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answerBy = c.upgrader.after(noAnswer)
	for !c.closing && (c.queued > muchQueued || c.unanswered >= MaxUnanswered) {
		c.room.Wait()
	}
	c.answerBy = never
	c.unanswered++
}

// answered counts an answer.
func (c *conn) answered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unanswered = max(c.unanswered-1, 0) // 0: it came after noAnswer
	c.room.Signal()
}

// WriteMessage queues a frame and returns at once, because the framework calls it
// while it holds a lock that every connection needs. It drops or replaces some frames,
// see kinds, and closes the connection of a peer whose queue is full.
//
// It never returns an error. If the peer has gone, the connection ends with the next read;
// the framework would log a warning for every frame that is still on its way.
func (c *conn) WriteMessage(messageType int, data []byte) error {
	k := kindOf(data)
	if k.answers {
		c.answered()
	}
	if k.drop {
		c.upgrader.onRefresh()
		return nil
	}
	if k.instead == slowDown {
		c.upgrader.Stats.TooFast.Add(1)
		c.warnOnce("messages refused: above the rate limit")
	}
	if k.instead != "" {
		data = []byte(k.instead)
	}
	if !c.enqueue(frame{messageType, data, k.refresh}) {
		c.tooSlow()
	}
	return nil
}

// enqueue queues a frame for writing, and reports whether there was room for it. For a
// ping or a close frame there always is. A ping goes first: a peer with much to read must
// not look as if it had vanished.
func (c *conn) enqueue(f frame) (fits bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.goodbye {
		return true
	}
	if f.messageType == websocket.TextMessage && c.queued > 0 && c.queued+len(f.data) > MaxQueued {
		return false
	}
	if f.messageType == websocket.CloseMessage {
		c.goodbye, c.hearBy = true, c.upgrader.after(closeWait)
	}
	switch {
	case !c.writing:
		c.begin()
		go c.writeQueue(f) // an idle connection pays for no goroutine
		return true
	case f.messageType == websocket.PingMessage:
		c.queue = slices.Insert(c.queue, 0, f)
	default:
		c.queue = append(c.queue, f)
	}
	c.queued += len(f.data)
	return true
}

// begin starts the time for writing a frame, with c.mu held.
func (c *conn) begin() {
	c.writing, c.writeBy = true, c.upgrader.after(c.upgrader.heartbeat.Write)
}

// writeQueue writes a frame, then the queue until it is empty.
func (c *conn) writeQueue(f frame) {
	for more := true; more; f, more = c.next() {
		err := c.Conn.WriteMessage(f.messageType, f.data)
		if f.refresh {
			c.upgrader.onRefresh()
		}
		if err != nil {
			c.cut()
		}
	}
}

// next takes a frame from the queue. If it is empty, writing ends.
func (c *conn) next() (f frame, found bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		c.queue, c.writing, c.writeBy = nil, false, never
		if c.closing {
			c.end()
		}
		return f, false
	}
	f, c.queue = c.queue[0], c.queue[1:]
	c.queued -= len(f.data)
	c.begin()
	c.room.Signal()
	return f, true
}

// tooSlow closes the connection of a peer that does not read.
func (c *conn) tooSlow() {
	if c.cut() {
		c.upgrader.Stats.SlowCloses.Add(1)
		c.warnOnce("connection closed: the peer does not read")
	}
}

// warnOnce logs a warning about a peer, once for each connection.
func (c *conn) warnOnce(what string) {
	if _, before := c.warned.LoadOrStore(what, true); !before {
		c.upgrader.log.WarnContext(c.ctx, what, slog.String("remote_addr", c.peer))
	}
}

func (c *conn) saidGoodbye() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.goodbye
}

// Close closes the socket once the queue is written. It never returns an error: the
// framework calls it twice for every connection, and would log one.
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
	return c.end()
}

// end closes the socket, with c.mu held, and reports whether it was open.
func (c *conn) end() bool {
	c.room.Signal()
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

// goingAway turns a close by the peer into the framework's error. A normal close, a
// close without a code and the answer to our close frame become "going away", about
// which the framework logs no warning.
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
