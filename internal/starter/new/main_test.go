package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const root = "../../.."

// The test of docs/adapt.md builds it and visits its page.
func TestMakeProgram_IsSmallAndOfItsModule(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "poll")
	require.NoError(t, os.Mkdir(dir, 0o700), "an empty folder")
	require.NoError(t, makeProgram(root, "example.com/poll", dir))
	lines := 0
	require.NoError(t, fs.WalkDir(os.DirFS(dir), ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || file == "go.sum" || file == "static/package-lock.json" || filepath.Dir(file) == "static/vendor" {
			return err // or nothing that anybody reads
		}
		text, err := os.ReadFile(filepath.Join(dir, file))
		if file != "go.mod" { // which has 30, or more if the Go proxy is out of reach
			lines += bytes.Count(text, []byte("\n"))
		}
		assert.NotContains(t, string(text), "realtime/", file)
		return err
	}))
	assert.Greater(t, lines, 2000)
	assert.LessOrEqual(t, lines, 3200-30, "lines")
}

func TestMakeProgram_RefusesAndLeavesNothing(t *testing.T) {
	parent := t.TempDir()
	full, file := filepath.Join(parent, "full"), filepath.Join(parent, "file")
	require.NoError(t, os.Mkdir(full, 0o700))
	for _, name := range []string{filepath.Join(full, "go.mod"), file} {
		require.NoError(t, os.WriteFile(name, []byte("module other"), 0o600))
	}
	for want, row := range map[string]struct{ root, module, dir string }{
		"say which module to make": {root, "", filepath.Join(parent, "new")},
		"and where":                {root, "example.com/poll", ""},
		"full is not empty":        {root, "example.com/poll", full},
		"file: not a directory":    {root, "example.com/poll", file},
		"malformed import path":    {root, "example.com/my poll", filepath.Join(parent, "new")},
		"nowhere: no such file":    {root, "example.com/poll", filepath.Join(parent, "nowhere", "new")},
		"directory not found":      {full, "example.com/poll", filepath.Join(parent, "new")}, // there is none
	} {
		err := makeProgram(row.root, row.module, row.dir)
		require.ErrorContains(t, err, want)
		assert.NotContains(t, strings.TrimSpace(err.Error()), "\n", "one line")
	}
	for dir, want := range map[string]int{parent: 2, full: 1} {
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		assert.Len(t, left, want)
	}
}
