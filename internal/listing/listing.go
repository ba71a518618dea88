// Package listing shows source code on a page: it cuts declarations out of the files that a
// program was built from, and renders them as HTML.
//
// Each line of code is an element that holds its number in data-line, so that a style sheet
// can show the number without it being copied. Elements of three classes are highlighted:
// k is a keyword or an action of a template, s a string, c a comment.
package listing

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"html/template"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

// HTML renders types and functions of a file, and everything between them, as a figure. What
// to show is the file and their names, separated by spaces. A type brings its methods along,
// and every declaration its comment. In a template file the names are those of definitions.
// A name that the file does not declare is an error.
func HTML(files fs.FS, what string) (template.HTML, error) {
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
	var lines span
	for name := range strings.FieldsSeq(names) {
		named, found := spans[name]
		if !found {
			return "", fmt.Errorf("%s declares no %s", file, name)
		}
		lines = lines.with(named)
	}
	code := strings.Join(strings.SplitAfter(string(source), "\n")[lines.from-1:lines.to], "")
	code = tokens.ReplaceAllStringFunc(escaper.Replace(code), highlight)
	return figure(fmt.Sprintf("%s:%d-%d", file, lines.from, lines.to), lines.from, code), nil
}

// figure returns highlighted code with a caption and the number of its first line. Code that
// is wider than the page scrolls, so it has to take the keyboard focus.
func figure(caption string, number int, code string) template.HTML {
	var page strings.Builder
	fmt.Fprintf(&page, `<figure class="listing"><figcaption>%[1]s</figcaption><pre tabindex="0" role="group" aria-label="%[1]s"><code>`, template.HTMLEscapeString(caption))
	for line := range strings.Lines(code) {
		fmt.Fprintf(&page, `<span data-line="%d">%s</span>`, number, line)
		number++
	}
	page.WriteString("</code></pre></figure>")
	return template.HTML(page.String())
}

// span is a range of lines, counted from 1. The zero value is empty.
type span struct{ from, to int }

// with returns the smallest span that holds both.
func (s span) with(other span) span {
	if s.from == 0 {
		return other
	}
	return span{min(s.from, other.from), max(s.to, other.to)}
}

// declarations returns the lines of each type and each function of a Go file.
func declarations(source string) (map[string]span, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, "", source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	spans := map[string]span{}
	add := func(name string, doc *ast.CommentGroup, node ast.Node) {
		from := node.Pos()
		if doc != nil {
			from = doc.Pos()
		}
		spans[name] = spans[name].with(span{files.Position(from).Line, files.Position(node.End()).Line})
	}
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				receiver := d.Recv.List[0].Type
				name = strings.TrimPrefix(source[receiver.Pos()-file.FileStart:receiver.End()-file.FileStart], "*")
			}
			add(name, d.Doc, d)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if t, ok := spec.(*ast.TypeSpec); ok {
					add(t.Name.Name, d.Doc, d)
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
func definitions(source string) (map[string]span, error) {
	spans := map[string]span{}
	depth, from, name := 0, 0, ""
	for i, line := range strings.Split(source, "\n") {
		for _, action := range blocks.FindAllStringSubmatch(line, -1) {
			if action[1] != "end" {
				if depth++; depth == 1 {
					from, name = i+1, action[2]
				}
			} else if depth--; depth == 0 {
				spans[name] = span{from, i + 1}
			}
		}
	}
	return spans, nil
}

// escaper leaves quotation marks as they are, for goTokens.
var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// goTokens matches comments, strings and words of Go code, and actions those of a template.
var (
	goTokens = regexp.MustCompile(`//.*|(?s:/\*.*?\*/)|"(\\.|[^"\\])*"|'(\\.|[^'\\])*'|` + "`[^`]*`" + `|\w+`)
	actions  = regexp.MustCompile(`(?s){{.*?}}`)
	comment  = regexp.MustCompile(`^(//|({{-? ?)?/\*)`)
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
