package presence

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// MaxName is the greatest length of a name, in characters.
const MaxName = 40

// The problems of a name, as sentences for the person who typed it.
const (
	NoName      = "Please enter a name."
	LongName    = "Please use at most 40 characters."
	ControlName = "Please leave out control characters: nobody can see them, and some reverse the text around them."
)

// Name returns the typed text as a name: in Unicode form NFC, with single spaces.
// A name has 1 to MaxName characters, at least one of them visible, and none that
// controls how the text around it is shown. Otherwise Name returns the problem.
func Name(typed string) (name, problem string) {
	name = norm.NFC.String(strings.Join(strings.Fields(typed), " "))
	switch {
	case strings.ContainsFunc(name, controls):
		return "", ControlName
	case !strings.ContainsFunc(name, visible):
		return "", NoName
	case utf8.RuneCountInString(name) > MaxName:
		return "", LongName
	}
	return name, ""
}

// controls reports characters that act on the text around them, such as a bell or
// a right-to-left override.
func controls(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Bidi_Control)
}

// visible reports characters that can be seen on their own.
func visible(r rune) bool {
	return unicode.IsGraphic(r) && !unicode.IsSpace(r) &&
		!unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}
