package presence

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"golang.org/x/text/unicode/norm"
)

func TestName_IsRefusedOrCanBeShown(t *testing.T) {
	for name, row := range map[string]struct{ typed, want, wantProblem string }{
		"40 characters":              {strings.Repeat("ü", 40), strings.Repeat("ü", 40), ""},
		"41 characters":              {strings.Repeat("ü", 41), "", LongName},
		"40 composed from 80":        {strings.Repeat("u\u0308", 40), strings.Repeat("ü", 40), ""},
		"inner white space":          {" Ann \t\r\n\u00a0\u2003 Lee\u3000", "Ann Lee", ""},
		"NFC":                        {"Zoe\u0308", "Zoë", ""},
		"empty":                      {"", "", NoName},
		"zero-width space alone":     {"\u200b", "", NoName},
		"variation selector alone":   {"\ufe0f", "", NoName},
		"joined emoji":               {"👩\u200d🚀", "👩\u200d🚀", ""},
		"right to left":              {"עומר", "עומר", ""},
		"NUL":                        {"Al\x00ice", "", ControlName},
		"C1 control":                 {"Al\u009bice", "", ControlName},
		"right-to-left override":     {"Alice\u202e", "", ControlName},
		"direction isolate":          {"\u2067Alice\u2069", "", ControlName},
		"control in a name too long": {strings.Repeat("a", 41) + "\x00", "", ControlName},
		"markup":                     {"<b>Alice</b>", "<b>Alice</b>", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, problem := Name(row.typed)
			assert.Equal(t, row.want, got)
			assert.Equal(t, row.wantProblem, problem)
		})
	}
}

// A typed text is either refused with a reason, or becomes a name that can be shown
// and that does not change when it is checked again.
func FuzzName(f *testing.F) {
	for _, typed := range []string{
		"", " ", "Alice", "  spaced \t\n\u00a0 out ", "Zoë", "Zoe\u0308", "☕", "👩‍👩‍👧‍👦", "\u202eecilA", "\u200b", "\x00", "\ufeff",
		strings.Repeat("ü", 40), strings.Repeat("u\u0308", 41), "\U000e0041", "a\u0301\u0327\u0323", "<b>", "\xff", "ﷺ", "1e-7", "-Infinity",
	} {
		f.Add(typed)
	}
	f.Fuzz(func(t *testing.T, typed string) {
		name, problem := Name(typed)
		if problem != "" {
			assert.Empty(t, name)
			assert.Contains(t, []string{NoName, LongName, ControlName}, problem)
			return
		}
		assert.LessOrEqual(t, utf8.RuneCountInString(name), 40)
		assert.True(t, strings.ContainsFunc(name, visible))
		assert.False(t, strings.ContainsFunc(name, controls))
		assert.True(t, norm.NFC.IsNormalString(name))
		assert.Equal(t, name, strings.Join(strings.Fields(name), " "))
		assert.True(t, utf8.ValidString(name) || !utf8.ValidString(typed))
		again, problem := Name(name)
		assert.Equal(t, name, again)
		assert.Empty(t, problem)
	})
}
