// Package listing shows source code on a page: it cuts declarations out of the files that a
// program was built from, and renders them as HTML.
//
// Each line of code is an element that holds its number in data-line, so that a style sheet
// can show the number without it being copied. Elements of three classes are highlighted:
// k is a keyword or an action of a template, s a string, c a comment. What is declared is bold.
package listing

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"html/template"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// SourceURL is where the files can be read on the web, if the build knows it. Captions then
// are links: go build -ldflags "-X realtime/internal/listing.SourceURL=https://example.com/blob/v1"
var SourceURL string

// From returns a function for templates that renders declarations of a file as a figure. What
// to show is the file and their names, separated by spaces. A type brings its methods along, a
// single method is named as in Lamp.Light, and every declaration brings its comment. In a
// template file the names are those of definitions. A name that the file does not declare is
// an error.
//
// Serve is called with each file that is shown, and returns the address of the whole of it.
func From(files fs.FS, serve func(name string, text []byte) (address string)) func(what string) (template.HTML, error) {
	return func(what string) (template.HTML, error) {
		file, names, _ := strings.Cut(what, " ")
		if names == "" {
			return "", fmt.Errorf("listing of %q: want a file and what it declares", what)
		}
		source, err := fs.ReadFile(files, file)
		if err != nil {
			return "", err
		}
		declared, tokens := definitions, actions
		if path.Ext(file) == ".go" {
			declared, tokens = declarations, goTokens
		}
		spans, err := declared(string(source))
		if err != nil {
			return "", fmt.Errorf("%s: %w", file, err)
		}
		shown := map[int]bool{} // by the number of the line
		for name := range strings.FieldsSeq(names) {
			if spans[name] == nil {
				return "", fmt.Errorf("%s declares no %s", file, name)
			}
			for _, lines := range spans[name] {
				for number := lines.from; number <= lines.to; number++ {
					shown[number] = true
				}
			}
		}
		code := tokens.ReplaceAllStringFunc(escaper.Replace(string(source)), highlight)
		lines := strings.SplitAfter(named.ReplaceAllString(code, "$1<b>$2</b>"), "\n")
		return figure(file, serve(file, source), lines, slices.Sorted(maps.Keys(shown))), nil
	}
}

// figure shows the lines of a file that have one of the numbers. Where it leaves some out, it
// has an empty line with dots for a number. Code that is wider than its box scrolls, so the box
// has to take the keyboard focus.
func figure(file, address string, lines []string, numbers []int) template.HTML {
	from, to := numbers[0], numbers[len(numbers)-1]
	name := template.HTMLEscapeString(fmt.Sprintf("%s:%d-%d", file, from, to))
	caption := name
	if SourceURL != "" {
		caption = fmt.Sprintf(`<a href="%s">%s</a>`, template.HTMLEscapeString(fmt.Sprintf("%s/%s#L%d-L%d", SourceURL, file, from, to)), name)
	}
	var page strings.Builder
	fmt.Fprintf(&page, `<figure class="listing"><figcaption data-file="%s">%s</figcaption>`, template.HTMLEscapeString(address), caption)
	fmt.Fprintf(&page, `<pre tabindex="0" role="group" aria-label="%s"><code>`, name)
	last := from - 1
	for _, number := range numbers {
		if last < number-1 {
			label := "…"
			if last == number-2 && lines[last] == "\n" { // nothing is left out
				label = strconv.Itoa(last + 1)
			}
			fmt.Fprintf(&page, "<span data-line=\"%s\">\n</span>", label)
		}
		fmt.Fprintf(&page, `<span data-line="%d">%s</span>`, number, lines[number-1])
		last = number
	}
	page.WriteString("</code></pre></figure>")
	return template.HTML(page.String())
}

// span is a range of lines, counted from 1.
type span struct{ from, to int }

// declarations returns the lines of each declaration of a Go file.
func declarations(source string) (map[string][]span, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, "", source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	spans := map[string][]span{}
	add := func(name string, doc *ast.CommentGroup, node ast.Node) {
		from := node.Pos()
		if doc != nil {
			from = doc.Pos()
		}
		spans[name] = append(spans[name], span{files.Position(from).Line, files.Position(node.End()).Line})
	}
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				receiver := d.Recv.List[0].Type
				owner := strings.TrimPrefix(source[receiver.Pos()-file.FileStart:receiver.End()-file.FileStart], "*")
				add(owner, d.Doc, d)
				name = owner + "." + name
			}
			add(name, d.Doc, d)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					add(s.Name.Name, d.Doc, d)
				case *ast.ValueSpec:
					for _, name := range s.Names {
						add(name.Name, d.Doc, d)
					}
				}
			}
		}
	}
	return spans, nil
}

// blocks matches the start of an action that opens a block, with the name of the block if it
// has one, and of the action that closes it.
var blocks = regexp.MustCompile(`{{-? *(define|block|if|range|with|end)\b *"?([^"}]*)`)

// definitions returns the lines of each definition of a template file.
func definitions(source string) (map[string][]span, error) {
	spans := map[string][]span{}
	depth, from, name := 0, 0, ""
	for i, line := range strings.Split(source, "\n") {
		for _, action := range blocks.FindAllStringSubmatch(line, -1) {
			if action[1] != "end" {
				if depth++; depth == 1 {
					from, name = i+1, action[2]
				}
			} else if depth--; depth == 0 {
				spans[name] = []span{{from, i + 1}}
			}
		}
	}
	return spans, nil
}

// escaper leaves quotation marks as they are, for goTokens.
var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// goTokens matches comments, strings and words of Go code, actions those of a template, and
// named what a line of highlighted code declares.
var (
	goTokens = regexp.MustCompile(`//.*|(?s:/\*.*?\*/)|"(\\.|[^"\\])*"|'(\\.|[^'\\])*'|` + "`[^`]*`" + `|\w+`)
	actions  = regexp.MustCompile(`(?s){{.*?}}`)
	comment  = regexp.MustCompile(`^(//|({{-? ?)?/\*)`)
	named    = regexp.MustCompile(`(?m)^(<span class="k">(?:func|type)</span> (?:\([^)]*\) )?)(\w+)`)
)

// highlight returns the HTML of a token: an element for each line if it has a class.
func highlight(text string) string {
	var class string
	switch {
	case comment.MatchString(text):
		class = "c"
	case strings.ContainsAny(text[:1], "\"'`"):
		class = "s"
	case token.IsKeyword(text), text[0] == '{':
		class = "k"
	default:
		return text
	}
	start, end := `<span class="`+class+`">`, "</span>"
	return start + strings.ReplaceAll(text, "\n", end+"\n"+start) + end
}
