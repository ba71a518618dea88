//go:build soak

package all

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// go test answers from its cache until a source, a template or a script has changed.
func TestSoak_NoChangeIsAnsweredFromTheCache(t *testing.T) {
	dir := t.TempDir()
	parts := []string{"go.mod", "go.sum", "main.go", "handlers_realtime.go", "state_realtime.go", "templates", "static", "internal", "e2e"}
	copied := exec.Command("cp", append(append([]string{"-r"}, parts...), dir)...)
	copied.Dir = visitor.Root()
	out, err := copied.CombinedOutput()
	require.NoError(t, err, string(out))
	run := func() string {
		cmd := exec.Command("go", "test", "-run", "TestProgram_ExplainsItself", "./e2e")
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	run()
	require.Contains(t, run(), "(cached)")
	for file, change := range map[string]string{
		"handlers_realtime.go":             "// changed\n",
		"templates/realtime/presence.tmpl": "{{/* changed */}}\n",
		"static/new.js":                    "// changed\n",
	} {
		path := filepath.Join(dir, file)
		before, _ := os.ReadFile(path)
		require.NoError(t, os.WriteFile(path, append(before, change...), 0o644))
		assert.NotContains(t, run(), "(cached)", file)
	}
}
