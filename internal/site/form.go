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

// Refuse returns the error of an action that refuses what a person has done, to be
// shown as the template's .lvt.Error of name.
//
// On a socket there is no error: the state has to keep the reason, because the
// framework removes an error at the next update from a peer. A plain request has no
// state that lasts. There the error carries the reason, and the text of the given
// fields is kept as .lvt.Flash, so that nobody has to type it again.
func Refuse(ctx *livetemplate.Context, name, why string, fields ...string) error {
	if !ctx.IsHTTP() {
		return nil
	}
	for _, field := range fields {
		ctx.SetFlash(field, Text(ctx, field))
	}
	return livetemplate.FieldError{Field: name, Message: why}
}
