package presence

import (
	"regexp"
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
	ControlName = "Please remove invisible control characters."
	UnknownName = "Please remove characters that some devices cannot show."
	MarkedName  = "Please use at most 4 accents on a letter: more would cover other lines."
)

// Name returns the typed text as a name: in Unicode form NFC, with single spaces, and
// without what nobody can see. A name has 1 to MaxName characters, none that controls
// how the text around it is shown, and at most 4 accents in a row. Otherwise Name
// returns the problem.
func Name(typed string) (name, problem string) {
	name = norm.NFC.String(strings.Join(strings.Fields(seen(typed)), " "))
	switch {
	case strings.ContainsFunc(name, controls):
		return "", ControlName
	case strings.ContainsFunc(name, unknown):
		return "", UnknownName
	case name == "":
		return "", NoName
	case utf8.RuneCountInString(name) > MaxName:
		return "", LongName
	case pile.MatchString(name):
		return "", MarkedName
	case name != typed:
		return Name(name) // what was left out may have kept others apart
	}
	return name, ""
}

// controls reports characters that act on the text around them, such as a bell or
// a right-to-left override.
func controls(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Bidi_Control)
}

// unknown reports what is no character, or one that only some devices can show: it is
// private, or newer than the Unicode tables of Go.
func unknown(r rune) bool {
	return r == utf8.RuneError || unicode.In(r, unicode.Cn, unicode.Co)
}

// pile is more accents in a row than UTS 39, Unicode's rules of security, allows. A
// joiner between them keeps them on the same letter.
var pile = regexp.MustCompile(`[\p{Mn}\p{Me}\x{200d}]{5}`)
