package e2e

import (
	"io/fs"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// The README shows the pattern as it stands in the file that it links.
func TestDocs_ReadmeShowsThePattern(t *testing.T) {
	t.Parallel()
	shown := regexp.MustCompile("(?s)```go\n(.*?)```").FindStringSubmatch(readFile(t, "README.md"))
	require.NotNil(t, shown)
	assert.Contains(t, readFile(t, "internal/starter/handlers.go"), shown[1])
}

// Whoever watches a metric that the documents name finds it.
func TestDocs_MetricsExist(t *testing.T) {
	t.Parallel()
	p := visitor.Start(t, "-redis", visitor.NewRedis(t).URL)
	metrics := firsts("(?m)^# TYPE (realtime_[a-z_]+) ", p.Admin("/metrics"))
	named := firsts("`(realtime_[a-z_]+)`", readFile(t, "docs/operating.md"))
	assert.Greater(t, len(named), 3)
	assert.Subset(t, metrics, named)
}

// Every link and image leads to a file of this repository, and every anchor to a heading.
func TestDocs_LinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	files, docs := filesOfRepository(t), readDocs(t)
	for name, source := range docs {
		links := regexp.MustCompile(`\]\(([^)\s]+)[^)]*\)|(?:src|srcset|href)="([^"]+)"`).FindAllStringSubmatch(code.ReplaceAllString(source, ""), -1)
		assert.True(t, name != "README.md" || len(links) > 10, "%d links in the README", len(links))
		for _, link := range links {
			target, err := url.Parse(link[1] + link[2])
			require.NoError(t, err, "%s: %s", name, link[0])
			if target.IsAbs() {
				continue
			}
			file := name
			if target.Path != "" {
				file = path.Join(path.Dir(name), target.Path)
			}
			assert.True(t, slices.Contains(files, file), "%s links to %s", name, link[0])
			if target.Fragment != "" {
				assert.Contains(t, anchors(docs[file]), target.Fragment, "%s links to %s", name, link[0])
			}
		}
	}
}

// Whoever looks for what the documents name finds it: the targets of make, the flags of
// the program, the files, and the tests, whatever build tags they have.
func TestDocs_CommandsAndFilesExist(t *testing.T) {
	t.Parallel()
	files := filesOfRepository(t)
	var tests []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			tests = append(tests, firsts(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`, readFile(t, file))...)
		}
	}
	for _, file := range files { // a table about one package names its files without the folder
		files = append(files, path.Base(file))
	}
	docs := readDocs(t)
	const unit = "docs/deploy/realtime@.service"
	docs[unit] = "```\n" + readFile(t, unit) + "```\n"
	for kind, row := range map[string]struct {
		where  string // in code
		name   string // there
		exists []string
		least  int
	}{
		"target": {`(?:^|\s)make((?: +[a-z][a-z-]*\b)+)(?: |$)`, `[a-z-]+`, firsts(`(?m)^([a-z-]+):`, readFile(t, "Makefile")), 5},
		"flag":   {`(?:(?:^|[\s/=])realtime |^go run \. |^)(-[a-z].*)`, `\B-[a-z][a-z-]*`, append(flagsOfProgram(t), "-h"), 10}, // of the program, or alone
		"test":   {`\b((?:Test|Fuzz|Benchmark)[A-Z]\w*_\w+)`, `.+`, tests, 3},
		"file":   {`^((?:(?:internal|static|templates|e2e|docs)/[^\s:*…]*)|[a-z_]+\.(?:go|js|css|tmpl))(?::[0-9-]+)?$`, `.+`, files, 20},
	} {
		found := 0
		for doc, source := range docs {
			if (kind == "file" || kind == "flag") && isGuide(source) {
				continue
			}
			for _, where := range firsts("(?m)"+row.where, codeOf(source)) {
				for _, name := range regexp.MustCompile(row.name).FindAllString(where, -1) {
					found++
					assert.True(t, slices.Contains(row.exists, path.Clean(name)), "%s names the %s %q, which does not exist", doc, kind, name)
				}
			}
		}
		assert.GreaterOrEqual(t, found, row.least, kind)
	}
}

// Whoever looks in the code for a function, a type or a setting that the documents name
// finds it.
func TestDocs_NamesExist(t *testing.T) {
	t.Parallel()
	var sources strings.Builder
	for _, file := range filesOfRepository(t) {
		if regexp.MustCompile(`^Makefile$|\.(go|js|cfg|conf)$|^templates/.*\.tmpl$`).MatchString(file) {
			sources.WriteString(readFile(t, file))
		}
	}
	found := 0
	for doc, source := range readDocs(t) {
		if isGuide(source) {
			continue
		}
		for _, name := range firsts(`(?m)^(?:\w+\.)*(\w+)(?:\(\))?$`, codeOf(source)) { // alone, of a package or a type, or called
			found++
			assert.True(t, strings.Contains(sources.String(), name), "%s names %q, which does not exist", doc, name)
		}
	}
	assert.Greater(t, found, 50)
}

// isGuide reports whether a page of docs begins with a program that its reader makes: it
// names what is in that program, in which lines begin with -, and has a test of its own.
func isGuide(page string) bool { return strings.Contains(page, "make new MODULE=example.com/") }

// flagsOfProgram returns the flags that -h lists.
func flagsOfProgram(t *testing.T) []string {
	t.Helper()
	help, _, _ := run(t, "", "-h")
	return firsts(`(?m)^  (-[a-z-]+)`, help)
}

// firsts returns what the first group of a pattern matches in a text.
func firsts(pattern, text string) (all []string) {
	for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		all = append(all, match[1])
	}
	return all
}

// code matches a block or a span of code in Markdown.
var code = regexp.MustCompile("(?ms)^ *```.*?^ *```|`[^`\n]+`")

// codeOf returns all code in a page.
func codeOf(source string) (text string) {
	for _, piece := range code.FindAllString(source, -1) {
		text += strings.Trim(piece, " `") + "\n"
	}
	return text
}

// anchors returns those that GitHub gives to the headings of a page.
func anchors(source string) (all []string) {
	for _, heading := range firsts(`(?m)^#{1,6} +(.+)$`, source) {
		text := regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`).ReplaceAllString(heading, "$1") // a link is its text
		words := regexp.MustCompile(`[^\p{L}\p{Nd} _-]`).ReplaceAllString(strings.ToLower(text), "")
		all = append(all, strings.ReplaceAll(words, " ", "-"))
	}
	return all
}

// filesOfRepository returns the paths of all files and folders but those of others.
func filesOfRepository(t *testing.T) (files []string) {
	t.Helper()
	require.NoError(t, fs.WalkDir(os.DirFS(visitor.Root()), ".", func(file string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && slices.Contains([]string{".git", "node_modules"}, entry.Name()) {
			return fs.SkipDir
		}
		files = append(files, file)
		return err
	}))
	return files
}

// readFile returns the content of a file of the repository.
func readFile(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile("../" + file)
	require.NoError(t, err)
	return string(content)
}

// readDocs returns README.md and all pages of docs, by path.
func readDocs(t *testing.T) map[string]string {
	t.Helper()
	docs := map[string]string{"README.md": readFile(t, "README.md")}
	for _, file := range filesOfRepository(t) {
		if page, _ := path.Match("docs/*.md", file); page {
			docs[file] = readFile(t, file)
		}
	}
	return docs
}
