// Package wsconn upgrades requests to WebSocket connections that are stricter
// and quieter than the framework's own: only text frames are messages, and an
// ordinary close is not a warning.
package wsconn

import (
	"errors"
	"log/slog"
	"net/http"
	"sync"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
)

// Upgrader is a livetemplate.WSUpgrader. It refuses a handshake from another
// site: where a request names its Origin, the host must be the request's own.
// (The framework checks origins only for its own upgrader.)
type Upgrader struct {
	inner websocket.Upgrader
	log   *slog.Logger
}

// New returns an Upgrader that logs to log.
func New(log *slog.Logger) *Upgrader {
	return &Upgrader{
		inner: websocket.Upgrader{
			ReadBufferSize:  1024, // most frames are a few hundred bytes
			WriteBufferSize: 1024,
			WriteBufferPool: &sync.Pool{}, // an idle connection holds no write buffer
		},
		log: log,
	}
}

// Upgrade implements livetemplate.WSUpgrader. After an error it has already
// answered the request, with 403 for a foreign Origin.
func (u *Upgrader) Upgrade(w http.ResponseWriter, r *http.Request, header http.Header) (livetemplate.WSConn, error) {
	ws, err := u.inner.Upgrade(w, r, header)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: ws, log: u.log}, nil
}

type conn struct {
	*websocket.Conn
	log    *slog.Logger
	warned bool // of a binary frame; only ReadMessage uses it
	closed sync.Once
}

// ReadMessage returns the next text frame. The framework would take a binary
// one for an action as well. The log gets one line for each connection that
// sends some.
func (c *conn) ReadMessage() (int, []byte, error) {
	for {
		messageType, data, err := c.Conn.ReadMessage()
		if err != nil || messageType == websocket.TextMessage {
			return messageType, data, goingAway(err)
		}
		if !c.warned {
			c.warned = true
			c.log.Warn("binary frames ignored", slog.Any("remote_addr", c.RemoteAddr()))
		}
	}
}

// Close closes the socket. The framework calls it again after every
// disconnect, and would log the error of that second call as a warning.
func (c *conn) Close() (err error) {
	c.closed.Do(func() { err = c.Conn.Close() })
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
