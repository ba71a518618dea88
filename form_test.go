package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestCleanName(t *testing.T) {
	for name, row := range map[string]struct{ typed, want, wantProblem string }{
		"plain":                      {"Alice", "Alice", ""},
		"one character":              {"A", "A", ""},
		"40 characters":              {strings.Repeat("ü", 40), strings.Repeat("ü", 40), ""},
		"41 characters":              {strings.Repeat("ü", 41), "", longName},
		"40 composed from 80":        {strings.Repeat("u\u0308", 40), strings.Repeat("ü", 40), ""},
		"40 with space around":       {" " + strings.Repeat("a", 40) + " ", strings.Repeat("a", 40), ""},
		"inner white space":          {" Ann \t\r\n\u00a0\u2003 Lee\u3000", "Ann Lee", ""},
		"NFC":                        {"Zoe\u0308", "Zoë", ""},
		"empty":                      {"", "", noName},
		"spaces":                     {" \t\u3000", "", noName},
		"zero-width space alone":     {"\u200b", "", noName},
		"Hangul filler alone":        {"\u3164", "", noName},
		"variation selector alone":   {"\ufe0f", "", noName},
		"joined emoji":               {"👩\u200d🚀", "👩\u200d🚀", ""},
		"right to left":              {"עומר", "עומר", ""},
		"bell":                       {"Al\aice", "", controlName},
		"NUL":                        {"Al\x00ice", "", controlName},
		"escape":                     {"\x1b[31mAlice", "", controlName},
		"C1 control":                 {"Al\u009bice", "", controlName},
		"delete":                     {"Alice\x7f", "", controlName},
		"right-to-left override":     {"Alice\u202e", "", controlName},
		"left-to-right override":     {"\u202dAlice", "", controlName},
		"direction isolate":          {"\u2067Alice\u2069", "", controlName},
		"control in a name too long": {strings.Repeat("a", 41) + "\x00", "", controlName},
		"markup":                     {"<b>Alice</b>", "<b>Alice</b>", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, problem := cleanName(row.typed)
			assert.Equal(t, row.want, got)
			assert.Equal(t, row.wantProblem, problem)
			again, _ := cleanName(got)
			assert.Equal(t, got, again, "a clean name stays as it is")
		})
	}
}
