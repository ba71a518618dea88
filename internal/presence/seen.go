package presence

import (
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// seen replaces what looks like a space, and leaves out what cannot be seen: invisible
// characters, unless they change how their neighbours look, and accents on nothing.
func seen(typed string) string {
	runes := []rune(" " + typed + " ")
	kept := runes[:1]
	for i, r := range runes[1 : len(runes)-1] {
		before, after := kept[len(kept)-1], runes[i+2]
		switch {
		case blank(r):
			kept = append(kept, ' ')
		case invisible(r) && !meant(before, r, after), unicode.IsMark(r) && before == ' ':
		default:
			kept = append(kept, r)
		}
	}
	return string(kept)
}

// blank reports white space and what looks like it.
func blank(r rune) bool {
	const fillers = "\u115f\u1160\u3164\uffa0" + // Hangul
		"\u2800\ufffc\U0001d159" + // Braille without a dot, the place of an object, a note without a head
		"\U00013441\U00013442\U00016fe4" // hieroglyphs, Khitan
	return unicode.IsSpace(r) || strings.ContainsRune(fillers, r)
}

// invisible reports characters without a look of their own.
func invisible(r rune) bool {
	return unicode.In(r, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) &&
		!unicode.In(r, unicode.Prepended_Concatenation_Mark) && !controls(r)
}

// meant reports whether an invisible character changes how its neighbours look.
func meant(before, r, after rune) bool {
	const joiner, nonJoiner, keycap = '\u200d', '\u200c', '\u20e3'
	switch {
	case before == ' ':
		return false
	case unicode.Is(unicode.Variation_Selector, r):
		return symbol(before) || unicode.IsDigit(before) && after == keycap || unicode.In(before, unicode.Han, unicode.Mongolian)
	case tag(r): // the flag of Wales
		return before == '🏴' || tag(before)
	case r == joiner: // several emoji as one, and scripts of India
		return virama(before) || virama(after) || symbol(after) && (symbol(before) || unicode.Is(unicode.Variation_Selector, before))
	case r == nonJoiner: // Persian, and scripts of India
		return unicode.IsLetter(after) && (unicode.In(before, unicode.Arabic, unicode.Syriac, unicode.Nko) || virama(before))
	}
	return false
}

// symbol reports emoji, among others.
func symbol(r rune) bool { return r > unicode.MaxLatin1 && unicode.IsSymbol(r) }

// tag reports the invisible letters in the flag of a part of a country.
func tag(r rune) bool { return '\U000e0020' <= r && r <= '\U000e007f' }

// virama reports marks that take a vowel from a letter, which may then join the next.
func virama(r rune) bool { return norm.NFC.PropertiesString(string(r)).CCC() == 9 }
