package browser

import "github.com/chromedp/chromedp/kb"

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
	named := map[string]string{kb.Enter: "\uE006", kb.Tab: "\uE004"}
	var actions []parameters
	for _, key := range keys {
		value, isNamed := named[string(key)]
		if !isNamed {
			value = string(key)
		}
		actions = append(actions, parameters{"type": "keyDown", "value": value}, parameters{"type": "keyUp", "value": value})
	}
	return do(parameters{"type": "key", "id": "keyboard", "actions": actions})
}
