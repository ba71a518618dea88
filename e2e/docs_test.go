package e2e

import (
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

var testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark|Example)\w*)\(`)

// The README shows the pattern as it stands in the file that it links.
func TestDocs_ReadmeShowsThePattern(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("../handlers_realtime.go")
	require.NoError(t, err)
	shown := regexp.MustCompile("(?s)```go\n(.*?)```").FindSubmatch(readme)
	require.NotNil(t, shown)
	assert.Contains(t, string(source), string(shown[1]))
}

// docs/tests.md names every test below the heading of its package, and no other.
func TestDocs_ListEveryTest(t *testing.T) {
	t.Parallel()
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
	readme, err := fs.ReadFile(repository, "README.md")
	require.NoError(t, err)
	for _, name := range regexp.MustCompile(`Test\w+_\w+`).FindAllString(string(readme), -1) {
		assert.Contains(t, string(text), "`"+name+"`", "the README names it")
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
	assert.ElementsMatch(t, flagsOfProgram(t), rows("-[a-z-]+"))

	p := visitor.Start(t, "-redis", visitor.NewRedis(t).URL)
	visitor.New(t, p.URL).Get("/") // the first request makes the metrics of requests
	var metrics []string
	for name := range visitor.ParseMetrics(t, p.Admin("/metrics")) {
		if strings.HasPrefix(name, "realtime_") {
			metrics = append(metrics, name)
		}
	}
	assert.ElementsMatch(t, metrics, rows("realtime_[a-z_]+"))
}

// flagsOfProgram returns the flags that -h lists.
func flagsOfProgram(t *testing.T) (flags []string) {
	t.Helper()
	help, err := exec.Command(visitor.Build(t), "-h").Output()
	require.NoError(t, err)
	for _, line := range regexp.MustCompile(`(?m)^  (-[a-z-]+)`).FindAllStringSubmatch(string(help), -1) {
		flags = append(flags, line[1])
	}
	require.NotEmpty(t, flags)
	return flags
}

// Every link and image leads to a file of this repository, and every anchor to a heading.
func TestDocs_LinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	pages := readDocs(t)
	links := 0
	for name, p := range pages {
		for _, link := range linkTarget.FindAllStringSubmatch(p.prose, -1) {
			target, err := url.Parse(link[1] + link[2])
			require.NoError(t, err, "%s: %s", name, link[0])
			if target.IsAbs() {
				continue
			}
			links++
			file := name
			if target.Path != "" {
				file = path.Join(path.Dir(name), target.Path)
				_, err = fs.Stat(repository, file)
				assert.NoError(t, err, "%s links to %s", name, link[0])
			}
			if target.Fragment != "" {
				assert.Contains(t, pages[file].anchors, target.Fragment, "%s links to %s", name, link[0])
			}
		}
	}
	assert.Greater(t, links, 20, "links that were looked at")
}

// Whoever types what the documents show finds it: the targets of make, the flags of the
// program, the files.
func TestDocs_CommandsAndFilesExist(t *testing.T) {
	t.Parallel()
	makefile, err := fs.ReadFile(repository, "Makefile")
	require.NoError(t, err)
	flags := append(flagsOfProgram(t), "-h")
	files := filesByName(t)
	pages := readDocs(t)
	unit, err := fs.ReadFile(repository, "docs/deploy/realtime@.service")
	require.NoError(t, err)
	pages["docs/deploy/realtime@.service"] = document{code: strings.Split(string(unit), "\n")}
	targets, options, paths := 0, 0, 0
	for name, p := range pages {
		for _, code := range p.code {
			if command := makeCommand.FindStringSubmatch(code); command != nil {
				for target := range strings.FieldsSeq(command[1]) {
					targets++
					assert.True(t, strings.Contains(string(makefile), "\n"+target+":"), "%s shows %q, and the Makefile has no %s", name, code, target)
				}
			}
			if command := programCommand.FindStringSubmatch(code); command != nil {
				for _, flag := range option.FindAllStringSubmatch(command[1], -1) {
					options++
					assert.Contains(t, flags, flag[1], "%s shows %q", name, code)
				}
			}
			if name == "docs/adapt.md" {
				continue // it names files that its reader writes, and has a test of its own
			}
			if match := pathInCode.FindStringSubmatch(code); match != nil {
				paths++
				_, err := fs.Stat(repository, path.Clean(match[1]))
				assert.True(t, err == nil || files[match[1]], "%s names %q, which does not exist", name, match[1])
			}
		}
	}
	assert.Greater(t, targets, 5, "targets of make")
	assert.Greater(t, options, 20, "flags")
	assert.Greater(t, paths, 40, "paths")
}

var (
	repository = os.DirFS("..")

	fence    = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	codeSpan = regexp.MustCompile("`[^`\n]+`")

	linkTarget = regexp.MustCompile(`\]\(([^)\s]+)[^)]*\)|(?:src|srcset|href)="([^"]+)"`)
	heading    = regexp.MustCompile(`(?m)^#{1,6} +(.+)$`)

	makeCommand    = regexp.MustCompile(`(?:^|\s)make((?: +[a-z][a-z-]*\b)+)(?: |$)`)
	programCommand = regexp.MustCompile(`(?:(?:^|[\s/=])realtime |^go run \. |^)(-[a-z].*)`) // or a flag alone
	option         = regexp.MustCompile(`(?:^|\s)-?(-[a-z][a-z-]*)`)
	pathInCode     = regexp.MustCompile(`^((?:(?:internal|static|templates|e2e|docs)/[^\s:*…]*)|[a-z_]+\.(?:go|js|css|tmpl))(?::[0-9-]+)?$`)
)

// document is a page of Markdown.
type document struct {
	prose   string   // without code
	code    []string // code spans, and the lines of code blocks
	anchors []string
}

// readDocs returns README.md and all of docs, by path.
func readDocs(t *testing.T) map[string]document {
	t.Helper()
	pages := map[string]document{}
	require.NoError(t, fs.WalkDir(repository, ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || file != "README.md" && !strings.HasPrefix(file, "docs/") || path.Ext(file) != ".md" {
			return err
		}
		source, err := fs.ReadFile(repository, file)
		pages[file] = parseMarkdown(string(source))
		return err
	}))
	return pages
}

func parseMarkdown(source string) (d document) {
	withoutBlocks := fence.ReplaceAllStringFunc(source, func(block string) string {
		d.code = append(d.code, strings.Split(block, "\n")...)
		return ""
	})
	for _, span := range codeSpan.FindAllString(withoutBlocks, -1) {
		d.code = append(d.code, strings.Trim(span, "`"))
	}
	d.prose = codeSpan.ReplaceAllString(withoutBlocks, "code")
	for _, match := range heading.FindAllStringSubmatch(withoutBlocks, -1) {
		d.anchors = append(d.anchors, anchor(match[1]))
	}
	return d
}

// anchor returns the anchor that GitHub gives to a heading, the first of its name.
func anchor(heading string) string {
	heading = regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`).ReplaceAllString(heading, "$1") // a link is its text
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

// filesByName returns the names of all files of the repository, without their folders:
// a table about one package names its files that way.
func filesByName(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	require.NoError(t, fs.WalkDir(repository, ".", func(file string, entry fs.DirEntry, err error) error {
		if entry.IsDir() && slices.Contains([]string{".git", "node_modules"}, entry.Name()) {
			return fs.SkipDir
		}
		names[path.Base(file)] = true
		return err
	}))
	return names
}
