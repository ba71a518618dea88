package site

import (
	"encoding/json"

	"github.com/livetemplate/livetemplate"
)

// Text returns the text that was typed into a field, or nothing if there is no such
// field.
//
// The browser client sends text that looks like a number or a boolean as one. Go's
// JSON prints both as JavaScript does, which restores the text: 1e-7 stays 1e-7.
// Only infinity has no JSON form. It arrives as null, so "-Infinity" loses its sign.
func Text(ctx *livetemplate.Context, field string) string {
	if !ctx.Has(field) {
		return ""
	}
	switch v := ctx.Get(field).(type) {
	case string:
		return v
	case nil:
		return "Infinity"
	default:
		text, _ := json.Marshal(v) // it came out of JSON, so this cannot fail
		return string(text)
	}
}

// Refuse returns the error of an action that refuses what a person has asked for. The
// action returns it together with its state, which tells the person why, and keeps what
// they have typed.
//
// On a socket it returns nil, because the framework drops a state that comes with an
// error. A plain request gets the error, and Refuse makes the page answer with the state.
func Refuse(ctx *livetemplate.Context, state any, why string) error {
	sent := postOf(ctx)
	if sent == nil {
		return nil
	}
	sent.refused = state
	return livetemplate.FieldError{Field: ctx.Action(), Message: why}
}
