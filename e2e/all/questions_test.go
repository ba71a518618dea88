//go:build all

package all

import (
	"go/format"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

var changes = regexp.MustCompile("(?ms)^(Create|In) `([^`]+)`:\n\n```\\w+\n(.*?)^```$")

var commands = regexp.MustCompile("(?m)^\\$ (go get .*)$")

// answered makes a program with make new, applies a page of docs to it, and starts it.
func answered(t *testing.T, page string) *visitor.Program {
	t.Helper()
	guide, err := os.ReadFile("../../docs/" + page)
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "likes")
	run(t, visitor.Root(), "make", "-s", "new", "MODULE=example.com/likes", "DIR="+dir)
	lines := 0
	for _, change := range changes.FindAllStringSubmatch(string(guide), -1) {
		file, text := filepath.Join(dir, change[2]), change[3]
		if change[1] == "In" {
			before, err := os.ReadFile(file)
			require.NoError(t, err)
			added := regexp.MustCompile(`(?m)^\+.*\S`).FindAllString(text, -1)
			lines += len(added)
			text = patched(t, string(before), text)
		} else {
			lines += len(regexp.MustCompile(`(?m)\S.*$`).FindAllString(text, -1))
		}
		if strings.HasSuffix(file, ".go") {
			formatted, err := format.Source([]byte(text))
			require.NoError(t, err)
			assert.Equal(t, string(formatted), text, "gofmt of %s", file)
		}
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	}
	t.Log(page, lines, "lines")
	for _, command := range commands.FindAllStringSubmatch(string(guide), -1) {
		run(t, dir, "sh", "-c", command[1])
	}

	run(t, dir, "go", "test", "-race", "-vet=off", "./...")
	return started(t, visitor.BuildCopy(t, dir))
}

func patched(t *testing.T, text, changes string) string {
	t.Helper()
	for hunk := range strings.SplitSeq(changes, "@@\n") {
		var before, after strings.Builder
		for line := range strings.Lines(hunk) {
			if line[0] != '+' {
				before.WriteString(strings.TrimLeft(line[:1], " -") + line[1:])
			}
			if line[0] != '-' {
				after.WriteString(strings.TrimLeft(line[:1], " +") + line[1:])
			}
		}
		require.Equal(t, 1, strings.Count(text, before.String()), "once:\n%s", before.String())
		text = strings.Replace(text, before.String(), after.String(), 1)
	}
	return text
}

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", output)
}

// started is temporary.
func started(t *testing.T, exe string) *visitor.Program {
	script := filepath.Join(t.TempDir(), "start")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\nexec "+exe+" $1 $2\n"), 0o755))
	return visitor.StartExe(t, script)
}

// A tab shares the number with those in its room, and a room ends with its last tab.
func TestRooms_TabsOfARoomShareWhatOthersDoNotHear(t *testing.T) {
	t.Parallel()
	p := answered(t, "rooms.md")
	alice, bob, carol := visitor.New(t, p.URL), visitor.New(t, p.URL), visitor.New(t, p.URL)
	inTea, alsoInTea, inMilk := alice.Open("/likes?room=tea"), bob.Open("/likes?room=tea"), carol.Open("/likes?room=milk")
	second := alice.Open("/likes?room=tea")
	inTea.Shows("Here: 2")
	inMilk.Shows("Here: 1")
	inMilk.Settle()
	inMilk.StartHistory()
	inTea.Do("like", nil)
	bob.Post("/likes?room=tea", url.Values{"like": {""}})
	carol.OpenWithoutSocket("/likes?room=tea").Act("like", nil)
	for _, tb := range []*visitor.Tab{inTea, alsoInTea, second} {
		tb.Shows("Likes: 3 Here: 2") // carol was there for a moment
	}
	inMilk.Do("__navigate__", map[string]any{"room": "tea"})
	inMilk.Do("mount", map[string]any{"room": "tea"})
	inMilk.Settle()
	alsoInTea.Do("like", nil)
	inTea.Shows("Likes: 4 Here: 2")
	inMilk.Settle()
	assert.Len(t, inMilk.HasRead(), 1, "what a tab in another room has shown")

	for _, tb := range []*visitor.Tab{inTea, alsoInTea, second} {
		tb.Close()
	}
	require.Eventually(t, func() bool {
		return strings.Contains(carol.Get("/likes?room=tea"), "Likes: 0 Here: 1") // asking is being there for two seconds
	}, visitor.Soon, 3*time.Second, "the room ends")
	for _, name := range []string{"*", "a/*", "%20", "a:b"} {
		assert.Contains(t, carol.Get("/likes?room="+name), "There is no such room.", name)
		carol.Open("/likes?room=" + name).Shows("There is no such room.")
	}
}

func TestDatabase_X(t *testing.T) {
	t.Parallel()
	p := answered(t, "database.md")
	alice, bob := visitor.New(t, p.URL).Open("/likes"), visitor.New(t, p.URL).Open("/likes")
	alice.Do("like", nil)
	alice.Shows("Likes: 1")
	bob.Shows("Likes: 1")
}
