package browser

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"realtime/internal/visitor"
)

// bidi is a connection that speaks WebDriver BiDi: commands with answers, and events.
type bidi struct {
	ws    *websocket.Conn
	ended chan struct{} // closed when the connection has ended

	mu      sync.Mutex // also held while a command is written
	last    int        // id of a command
	waiting map[int]chan message
	tabs    map[string]func(event message) // what handles the events of each tab
}

// message is the answer to a command, or an event, with what this package reads of it.
type message struct {
	ID             int // 0: an event
	Result         json.RawMessage
	Error, Message string

	Method string
	Params struct {
		Context string // the tab
		Source  struct{ Context string }
		Level   string // of a log entry
		Text    string
		Message string // of a dialog
	}
}

// dialBidi opens a session. The connection carries no Origin: Firefox refuses one.
func dialBidi(url string) (*bidi, error) {
	ws, _, err := websocket.DefaultDialer.Dial(url+"/session", nil)
	if err != nil {
		return nil, err
	}
	c := &bidi{ws: ws, ended: make(chan struct{}), waiting: map[int]chan message{}, tabs: map[string]func(message){}}
	go c.read()
	if err := c.do(nil, "session.new", parameters{"capabilities": parameters{}}); err != nil {
		return nil, err
	}
	return c, c.do(nil, "session.subscribe", parameters{"events": []string{"log.entryAdded", "browsingContext.userPromptOpened"}})
}

// do sends a command, waits for its answer, and reads it into result unless that is nil.
func (c *bidi) do(result any, method string, params parameters) error {
	answered := make(chan message, 1)
	c.mu.Lock()
	c.last++
	c.waiting[c.last] = answered
	err := c.ws.WriteJSON(parameters{"id": c.last, "method": method, "params": params})
	c.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case answer := <-answered:
		if answer.Error != "" {
			return fmt.Errorf("%s: %s: %s", method, answer.Error, answer.Message)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(answer.Result, result)
	case <-c.ended:
		return errors.New(method + ": the browser has ended")
	case <-time.After(visitor.Soon):
		return errors.New(method + ": no answer")
	}
}

// listen has the events of a tab handled, one after the other.
func (c *bidi) listen(tab string, handle func(event message)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tabs[tab] = handle
}

func (c *bidi) read() {
	defer close(c.ended)
	for {
		var m message
		if c.ws.ReadJSON(&m) != nil {
			return
		}
		c.mu.Lock()
		answered, handle := c.waiting[m.ID], c.tabs[m.Params.Context+m.Params.Source.Context]
		delete(c.waiting, m.ID)
		c.mu.Unlock()
		if answered != nil {
			answered <- m
		} else if handle != nil {
			handle(m)
		}
	}
}
