package browser

import (
	"slices"

	"github.com/chromedp/chromedp/kb"
)

// WebDriver and WebDriver BiDi describe what a person does with the mouse and the
// keyboard in the same way.

// mouseClick is a click at a point of the window.
func mouseClick(x, y float64) parameters {
	return parameters{"type": "pointer", "id": "mouse", "parameters": parameters{"pointerType": "mouse"}, "actions": []parameters{
		{"type": "pointerMove", "x": int(x), "y": int(y)},
		{"type": "pointerDown", "button": 0},
		{"type": "pointerUp", "button": 0},
	}}
}

// keyPresses presses one key after the other.
func keyPresses(keys string) parameters {
	var actions []parameters
	for _, key := range keys {
		value := string(key)
		switch value {
		case kb.Enter:
			value = "\uE006"
		case kb.Tab:
			value = "\uE004"
		}
		actions = slices.Concat(actions, []parameters{{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}})
	}
	return parameters{"type": "key", "id": "keyboard", "actions": actions}
}
