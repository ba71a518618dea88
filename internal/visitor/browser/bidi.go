package browser

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"realtime/internal/visitor"
)

// bidi is a connection with WebDriver BiDi: commands with answers, and events. Events are
// handled during the next command.
type bidi struct {
	ws   *websocket.Conn
	last int                            // command ID
	tabs map[string]func(event message) // event handlers, by tab
}

// message is the answer to a command or an event.
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
	c := &bidi{ws: ws, tabs: map[string]func(message){}}
	if err := c.do(nil, "session.new", parameters{"capabilities": parameters{}}); err != nil {
		return nil, err
	}
	return c, c.do(nil, "session.subscribe", parameters{"events": []string{"log.entryAdded", "browsingContext.userPromptOpened"}})
}

// do sends a command, waits for its answer, and decodes it into result unless that is nil.
func (c *bidi) do(result any, method string, params parameters) error {
	c.last++
	if err := c.ws.WriteJSON(parameters{"id": c.last, "method": method, "params": params}); err != nil {
		return err
	}
	c.ws.SetReadDeadline(time.Now().Add(visitor.Soon))
	for {
		var m message
		if err := c.ws.ReadJSON(&m); err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		handle := c.tabs[m.Params.Context+m.Params.Source.Context]
		switch {
		case m.ID == 0 && handle != nil:
			handle(m)
		case m.ID == c.last && m.Error != "":
			return fmt.Errorf("%s: %s: %s", method, m.Error, m.Message)
		case m.ID == c.last && result != nil:
			return json.Unmarshal(m.Result, result)
		case m.ID == c.last:
			return nil
		}
	}
}

// parameters are the parameters of a WebDriver or WebDriver BiDi command.
type parameters map[string]any

// perform performs input actions. Both protocols describe them in the same way.
type perform func(actions parameters) error

// click clicks at a point of the window.
func (do perform) click(x, y float64) error {
	return do(parameters{"type": "pointer", "id": "mouse", "actions": []parameters{
		{"type": "pointerMove", "x": int(x), "y": int(y)},
		{"type": "pointerDown", "button": 0},
		{"type": "pointerUp", "button": 0},
	}})
}

// press presses keys one after the other.
func (do perform) press(keys string) error {
	var actions []parameters
	for _, key := range strings.ReplaceAll(keys, "\r", "\uE006") { // Enter
		actions = append(actions, parameters{"type": "keyDown", "value": string(key)}, parameters{"type": "keyUp", "value": string(key)})
	}
	return do(parameters{"type": "key", "id": "keyboard", "actions": actions})
}
