package browser

import "strings"

// parameters are those of a command of WebDriver, or of WebDriver BiDi.
type parameters map[string]any

// perform performs what a person does with the mouse or the keyboard. Both protocols
// describe that in the same way.
type perform func(actions parameters) error

// click clicks at a point of the window.
func (do perform) click(x, y float64) error {
	return do(parameters{"type": "pointer", "id": "mouse", "actions": []parameters{
		{"type": "pointerMove", "x": int(x), "y": int(y)},
		{"type": "pointerDown", "button": 0},
		{"type": "pointerUp", "button": 0},
	}})
}

// press presses one key after the other.
func (do perform) press(keys string) error {
	var actions []parameters
	for _, key := range strings.ReplaceAll(keys, "\r", "\uE006") { // Enter
		actions = append(actions, parameters{"type": "keyDown", "value": string(key)}, parameters{"type": "keyUp", "value": string(key)})
	}
	return do(parameters{"type": "key", "id": "keyboard", "actions": actions})
}
