package browser

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/gorilla/websocket"
)

// bidi is a connection that speaks WebDriver BiDi: commands with answers, and events.
type bidi struct {
	ws    *websocket.Conn
	ended chan struct{} // closed when the connection has ended

	writing sync.Mutex

	mu      sync.Mutex
	last    int                     // id of a command
	waiting map[int]chan bidiAnswer // commands without an answer
	tabs    map[string]func(event string, params bidiEvent)
}

// bidiAnswer is the answer to a command, or an event.
type bidiAnswer struct {
	ID     int
	Result json.RawMessage
	Method string // of an event
	Params json.RawMessage

	Error   string
	Message string
}

// bidiEvent holds what this package reads of events.
type bidiEvent struct {
	Context string // the tab
	Level   string // of a log entry
	Text    string
	Message string // of a dialog
	Source  struct{ Context string }
	Data    bidiValue // a message of a preload script
}

// dialBidi opens a session. The connection carries no Origin: Firefox refuses one.
func dialBidi(ctx context.Context, url string) (*bidi, error) {
	ws, _, err := websocket.DefaultDialer.DialContext(ctx, url+"/session", nil)
	if err != nil {
		return nil, err
	}
	c := &bidi{ws: ws, ended: make(chan struct{}), waiting: map[int]chan bidiAnswer{}, tabs: map[string]func(string, bidiEvent){}}
	go c.read()
	if err := c.do(ctx, nil, "session.new", parameters{"capabilities": parameters{}}); err != nil {
		return nil, err
	}
	return c, c.do(ctx, nil, "session.subscribe", parameters{"events": []string{
		"log.entryAdded", "browsingContext.load", "browsingContext.userPromptOpened", "script.message",
	}})
}

// parameters are those of a command of either protocol.
type parameters map[string]any

// do sends a command, waits for its answer, and reads it into result unless that is nil.
func (c *bidi) do(ctx context.Context, result any, method string, params parameters) error {
	answered := make(chan bidiAnswer, 1)
	c.mu.Lock()
	c.last++
	id := c.last
	c.waiting[id] = answered
	c.mu.Unlock()
	c.writing.Lock()
	err := c.ws.WriteJSON(parameters{"id": id, "method": method, "params": params})
	c.writing.Unlock()
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
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", method, ctx.Err())
	}
}

// listen has events of a tab handled, one after the other.
func (c *bidi) listen(tab string, handle func(event string, params bidiEvent)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tabs[tab] = handle
}

func (c *bidi) read() {
	defer close(c.ended)
	for {
		var answer bidiAnswer
		if err := c.ws.ReadJSON(&answer); err != nil {
			return
		}
		if answer.Method != "" {
			c.handle(answer)
			continue
		}
		c.mu.Lock()
		answered := c.waiting[answer.ID]
		delete(c.waiting, answer.ID)
		c.mu.Unlock()
		if answered != nil {
			answered <- answer
		}
	}
}

func (c *bidi) handle(event bidiAnswer) {
	var params bidiEvent
	if json.Unmarshal(event.Params, &params) != nil {
		return
	}
	tab := params.Context
	if tab == "" {
		tab = params.Source.Context
	}
	c.mu.Lock()
	handle := c.tabs[tab]
	c.mu.Unlock()
	if handle != nil {
		handle(event.Method, params)
	}
}

// bidiValue is a value of JavaScript as the protocol writes it.
type bidiValue struct {
	Type  string
	Value json.RawMessage
}

// plain returns a text, a number, or a truth; nil for undefined and null; and for
// anything else, the name of its type.
func (v bidiValue) plain() (value any, err error) {
	switch v.Type {
	case "undefined", "null":
		return nil, nil
	case "string", "number", "boolean":
		err = json.Unmarshal(v.Value, &value)
		return value, err
	}
	return v.Type, nil
}
