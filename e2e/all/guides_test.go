//go:build all

package all

import (
	"fmt"
	"go/format"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// What a guide says to do, in this order: a program that it starts from; commands; and files
// to create or to change, as a block of code below a sentence that says which.
var (
	madeFrom = regexp.MustCompile(`make new (MODULE=\S+) DIR=`)
	command  = regexp.MustCompile(`(?m)^\$ (go get .+)$`)
	step     = regexp.MustCompile("(?ms)^(Create|In) `([^`]+)`:\n\n```\\w+\n(.*?)^```$")
	blocks   = regexp.MustCompile("(?m)^```(go|html|diff)$")
)

// followed makes a program with make new, does what a guide says, and returns the executable.
// The program passes vet and its tests, and the guide knows how many lines it has.
func followed(t *testing.T, guide string) (exe string) {
	t.Helper()
	content, err := os.ReadFile("../../" + guide)
	require.NoError(t, err)
	text, dir, lines := string(content), filepath.Join(t.TempDir(), "made"), 0
	from := madeFrom.FindStringSubmatch(text)
	require.NotNil(t, from, "a program to start from")
	visitor.Run(t, visitor.Root(), "make", "-s", "new", from[1], "DIR="+dir)
	for _, line := range command.FindAllStringSubmatch(text, -1) {
		visitor.Run(t, dir, "sh", "-c", line[1])
	}
	steps := step.FindAllStringSubmatch(text, -1)
	require.Len(t, steps, len(blocks.FindAllString(text, -1)), "every block of code says where it goes")
	for _, s := range steps {
		file, code := filepath.Join(dir, s[2]), s[3]
		added := `(?m)\S.*$`
		if s[1] == "In" {
			added = `(?m)^\+.*\S.*$`
		}
		lines += len(regexp.MustCompile(added).FindAllString(code, -1))
		if s[1] == "In" {
			code = patched(t, file, code)
		} else {
			require.NoFileExists(t, file)
		}
		if filepath.Ext(file) == ".go" {
			formatted, err := format.Source([]byte(code))
			require.NoError(t, err)
			assert.Equal(t, string(formatted), code, "gofmt of %s", file)
		}
		require.NoError(t, os.WriteFile(file, []byte(code), 0o644))
	}
	assert.True(t, strings.Contains(text, fmt.Sprintf("%d lines", lines)), "%s has %d lines", guide, lines)
	visitor.Run(t, dir, "go", "vet", "./...")
	visitor.Run(t, dir, "go", "test", "./...")
	return visitor.BuildCopy(t, dir)
}

// patched returns a file with changes applied: parts of a diff, each of which is there once.
func patched(t *testing.T, file, changes string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	text := string(content)
	for part := range strings.SplitSeq(changes, "@@\n") {
		var before, after strings.Builder
		for line := range strings.Lines(part) {
			kind, rest := line[0], line[1:]
			if line == "\n" { // editors remove the space of an empty line
				rest = line
			}
			if kind != '+' {
				before.WriteString(rest)
			}
			if kind != '-' {
				after.WriteString(rest)
			}
		}
		require.Equal(t, 1, strings.Count(text, before.String()), "once in %s:\n%s", file, before.String())
		text = strings.Replace(text, before.String(), after.String(), 1)
	}
	return text
}
