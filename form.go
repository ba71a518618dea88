package main

import (
	"encoding/json"

	"github.com/livetemplate/livetemplate"
)

// formText is the text that was typed into a field, or "" without the field.
//
// The browser client sends text that reads as a number or a boolean as one.
// Go's JSON prints both the way JavaScript does, which gives the text back:
// 1e-7 stays 1e-7. Only an infinity has no JSON form and arrives as null, so
// "-Infinity" loses its sign.
func formText(ctx *livetemplate.Context, field string) string {
	if !ctx.Has(field) {
		return ""
	}
	switch v := ctx.Get(field).(type) {
	case string:
		return v
	case nil:
		return "Infinity"
	default:
		text, _ := json.Marshal(v) // what came out of JSON goes back into it
		return string(text)
	}
}
