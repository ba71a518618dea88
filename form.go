package main

import (
	"encoding/json"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/livetemplate/livetemplate"
	"golang.org/x/text/unicode/norm"
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

// What a person reads when Join refuses.
const (
	noName      = "Please enter a name."
	longName    = "Please use at most 40 characters."
	controlName = "Please leave out control characters: nobody can see them, and some turn the text around."
	notLive     = "Joining needs a live connection: without one, nobody could tell when you leave."
)

// What a person reads whose click failed.
const (
	unreachable = "The counter that all servers share could not be reached: your last click did not count."
	unknown     = "The counter that all servers share did not answer: your last click may have counted or not."
)

// cleanName is the typed name as it is shown to others, or the problem with it:
// NFC, with single spaces, 1 to 40 characters, something to see, and nothing
// that controls how the text around it is shown.
func cleanName(typed string) (name, problem string) {
	name = norm.NFC.String(strings.Join(strings.Fields(typed), " "))
	switch {
	case strings.ContainsFunc(name, controls):
		return "", controlName
	case !strings.ContainsFunc(name, visible):
		return "", noName
	case utf8.RuneCountInString(name) > 40:
		return "", longName
	}
	return name, ""
}

// controls reports characters that are commands, such as a bell or "from here
// on, right to left".
func controls(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Bidi_Control)
}

// visible reports characters that leave a mark by themselves.
func visible(r rune) bool {
	return unicode.IsGraphic(r) && !unicode.IsSpace(r) &&
		!unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}
