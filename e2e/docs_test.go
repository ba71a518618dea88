package e2e

import (
	"io/fs"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

var testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark|Example)\w*)\(`)

// docs/tests.md names every test below the heading of its package, and no other.
func TestDocs_ListEveryTest(t *testing.T) {
	t.Parallel()
	repository := os.DirFS("..")
	text, err := fs.ReadFile(repository, "docs/tests.md")
	require.NoError(t, err)
	list, _, found := strings.Cut(string(text), "\n## Renamed")
	require.True(t, found)
	var listed, written []string
	for _, room := range strings.Split(list, "\n## ")[1:] {
		heading, rows, _ := strings.Cut(room, "\n")
		dir := strings.Trim(heading, "`")
		if dir == "go test ." {
			dir = "."
		}
		for _, row := range regexp.MustCompile(`(?m)^\| (\w+\.go) \| (.*) \|$`).FindAllStringSubmatch(rows, -1) {
			for name := range strings.SplitSeq(row[2], ", ") {
				listed = append(listed, path.Join(dir, row[1])+" "+strings.Trim(name, "`"))
			}
		}
	}
	require.NoError(t, fs.WalkDir(repository, ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, "_test.go") {
			return err
		}
		source, err := fs.ReadFile(repository, file)
		for _, match := range testFunc.FindAllStringSubmatch(string(source), -1) {
			if match[1] != "TestMain" {
				written = append(written, file+" "+match[1])
			}
		}
		return err
	}))
	for _, name := range written {
		assert.True(t, slices.Contains(listed, name), "docs/tests.md lacks %s", name)
	}
	for _, name := range listed {
		assert.True(t, slices.Contains(written, name), "docs/tests.md has %s, which does not exist", name)
	}
}

// docs/operating.md has a row for each flag of -h and for each metric, and no other.
func TestDocs_OperatingListsFlagsAndMetrics(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/operating.md")
	require.NoError(t, err)
	rows := func(pattern string) (names []string) {
		for _, row := range regexp.MustCompile("(?m)^\\| `("+pattern+")` ").FindAllStringSubmatch(string(text), -1) {
			names = append(names, row[1])
		}
		return names
	}
	exe := visitor.Build(t)
	help, err := exec.Command(exe, "-h").Output()
	require.NoError(t, err)
	var flags []string
	for _, line := range regexp.MustCompile(`(?m)^  (-[a-z-]+)`).FindAllStringSubmatch(string(help), -1) {
		flags = append(flags, line[1])
	}
	assert.ElementsMatch(t, flags, rows("-[a-z-]+"))

	unit, err := os.ReadFile("../docs/deploy/realtime@.service")
	require.NoError(t, err)
	for _, flag := range regexp.MustCompile(`(?m)^ExecStart=.*`).FindAllString(string(unit), -1) {
		assert.Subset(t, flags, regexp.MustCompile(`-[a-z-]+\b`).FindAllString(flag, -1))
	}

	p := visitor.StartExe(t, exe, "-redis", visitor.NewRedis(t).URL)
	visitor.New(t, p.URL).Get("/") // the first request makes the metrics of requests
	var metrics []string
	for name := range visitor.ParseMetrics(t, p.Admin("/metrics")) {
		if strings.HasPrefix(name, "realtime_") {
			metrics = append(metrics, name)
		}
	}
	assert.ElementsMatch(t, metrics, rows("realtime_[a-z_]+"))
}
