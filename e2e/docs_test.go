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

// The README shows the pattern as it stands in the file that it links.
func TestDocs_ReadmeShowsThePattern(t *testing.T) {
	t.Parallel()
	shown := regexp.MustCompile("(?s)```go\n(.*?)```").FindStringSubmatch(readFile(t, "README.md"))
	require.NotNil(t, shown)
	assert.Contains(t, readFile(t, "handlers_realtime.go"), shown[1])
}

// docs/operating.md has a row for each flag of -h and for each metric, and no other.
func TestDocs_OperatingListsFlagsAndMetrics(t *testing.T) {
	t.Parallel()
	text := readFile(t, "docs/operating.md")
	rows := func(pattern string) (names []string) {
		for _, row := range regexp.MustCompile("(?m)^\\| `("+pattern+")` ").FindAllStringSubmatch(text, -1) {
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
	docs, links := readDocs(t), 0
	for name, doc := range docs {
		for _, link := range linkTarget.FindAllStringSubmatch(doc.prose, -1) {
			target, err := url.Parse(link[1] + link[2])
			require.NoError(t, err, "%s: %s", name, link[0])
			if target.IsAbs() {
				continue
			}
			links++
			file := name
			if target.Path != "" {
				file = path.Join(path.Dir(name), target.Path)
			}
			assert.True(t, fileExists(file), "%s links to %s", name, link[0])
			if target.Fragment != "" {
				assert.Contains(t, docs[file].anchors, target.Fragment, "%s links to %s", name, link[0])
			}
		}
	}
	assert.Greater(t, links, 20, "links that were looked at")
}

// Whoever looks for what the documents name finds it: the targets of make, the flags of
// the program, the files, and the tests, whatever build tags they have.
func TestDocs_CommandsAndFilesExist(t *testing.T) {
	t.Parallel()
	files := filesOfRepository(t)
	byName := map[string]bool{} // a table about one package names its files without the folder
	tests := map[string]bool{}
	for _, file := range files {
		byName[path.Base(file)] = true
		if strings.HasSuffix(file, "_test.go") {
			for _, test := range testFunc.FindAllStringSubmatch(readFile(t, file), -1) {
				tests[test[1]] = true
			}
		}
	}
	makefile, flags := readFile(t, "Makefile"), append(flagsOfProgram(t), "-h")
	docs := readDocs(t)
	const unit = "docs/deploy/realtime@.service"
	docs[unit] = document{code: strings.Split(readFile(t, unit), "\n")}
	found := map[string]int{}
	for name, doc := range docs {
		check := func(kind, what string, exists bool) {
			found[kind]++
			assert.True(t, exists, "%s names the %s %q, which does not exist", name, kind, what)
		}
		for _, code := range doc.code {
			if command := makeCommand.FindStringSubmatch(code); command != nil {
				for target := range strings.FieldsSeq(command[1]) {
					check("target", target, strings.Contains(makefile, "\n"+target+":"))
				}
			}
			if command := programCommand.FindStringSubmatch(code); command != nil {
				for _, flag := range option.FindAllStringSubmatch(command[1], -1) {
					check("flag", flag[1], slices.Contains(flags, flag[1]))
				}
			}
			for _, test := range testName.FindAllString(code, -1) {
				check("test", test, tests[test])
			}
			// adapt.md names files that its reader writes, and has a test of its own.
			if file := pathInCode.FindStringSubmatch(code); file != nil && name != "docs/adapt.md" {
				check("file", file[1], fileExists(path.Clean(file[1])) || byName[file[1]])
			}
		}
	}
	for kind, least := range map[string]int{"target": 5, "flag": 20, "test": 10, "file": 40} {
		assert.GreaterOrEqual(t, found[kind], least, kind)
	}
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
	testName       = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w*_\w+`)
	testFunc       = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
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
	docs := map[string]document{}
	for _, file := range filesOfRepository(t) {
		if file == "README.md" || path.Dir(file) == "docs" && path.Ext(file) == ".md" {
			docs[file] = parseMarkdown(readFile(t, file))
		}
	}
	return docs
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

// filesOfRepository returns the paths of all files but those of others.
func filesOfRepository(t *testing.T) (files []string) {
	t.Helper()
	require.NoError(t, fs.WalkDir(repository, ".", func(file string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && slices.Contains([]string{".git", "node_modules"}, entry.Name()) {
			return fs.SkipDir
		}
		files = append(files, file)
		return err
	}))
	return files
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	content, err := fs.ReadFile(repository, file)
	require.NoError(t, err)
	return string(content)
}

func fileExists(file string) bool {
	_, err := fs.Stat(repository, file)
	return err == nil
}
