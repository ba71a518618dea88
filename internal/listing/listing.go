// Package listing shows source code on a page: it cuts declarations out of the files
// that a program was built from, and renders them as HTML with their line numbers.
//
// It highlights by classes, without styles of its own: k is a keyword, s a string, c a
// comment; ln is the number of a line, and cl its text.
package listing

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"html/template"
	"io/fs"
	"path"
	"strings"
	"text/template/parse"

	"github.com/alecthomas/chroma/v2"
	"github.com/alecthomas/chroma/v2/formatters/html"
	"github.com/alecthomas/chroma/v2/lexers"
)

// In returns a function for templates, which renders a listing. Its argument is a file
// and the names of declarations, divided by spaces.
func In(files fs.FS) func(what string) (template.HTML, error) {
	return func(what string) (template.HTML, error) {
		words := strings.Fields(what)
		if len(words) < 2 {
			return "", fmt.Errorf("listing of %q: want a file and what it declares", what)
		}
		l, err := Of(files, words[0], words[1:]...)
		if err != nil {
			return "", err
		}
		return l.HTML()
	}
}

// Listing is a part of a file.
type Listing struct {
	File     string
	From, To int // its first and last line, from 1
	Source   string
}

// Of returns the lines of a file that hold the named declarations, and everything
// between them. In a Go file a type brings its methods along, and every declaration
// its comment. In a template file the names are those of definitions. A name that the
// file does not declare is an error.
func Of(files fs.FS, file string, names ...string) (Listing, error) {
	source, err := fs.ReadFile(files, file)
	if err != nil {
		return Listing{}, err
	}
	declared := definitions
	if path.Ext(file) == ".go" {
		declared = declarations
	}
	spans, err := declared(string(source))
	if err != nil {
		return Listing{}, fmt.Errorf("%s: %w", file, err)
	}
	var lines span
	for _, name := range names {
		named, found := spans[name]
		if !found {
			return Listing{}, fmt.Errorf("%s declares no %s", file, name)
		}
		lines = lines.with(named)
	}
	text := strings.SplitAfter(string(source), "\n")[lines.from-1 : lines.to]
	return Listing{file, lines.from, lines.to, strings.Join(text, "")}, nil
}

// Caption says where the listing stands, as in handlers.go:31-64.
func (l Listing) Caption() string {
	return template.HTMLEscapeString(fmt.Sprintf("%s:%d-%d", l.File, l.From, l.To))
}

// span is a range of lines. The zero value has none.
type span struct{ from, to int }

// with returns the smallest span that holds both.
func (s span) with(other span) span {
	if s.from == 0 {
		return other
	}
	return span{min(s.from, other.from), max(s.to, other.to)}
}

// declarations returns the lines of everything that a Go file declares.
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
			add(receiver(d), d.Doc, d)
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

// receiver returns the name of the type that a function is a method of, or its own.
func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	t := f.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if name, ok := t.(*ast.Ident); ok {
		return name.Name
	}
	return f.Name.Name
}

// definitions returns the lines of everything that a template file defines. A
// definition begins a line, and its end is a line of its own.
func definitions(source string) (map[string]span, error) {
	spans := map[string]span{}
	lines := strings.Split(source, "\n")
	for i, line := range lines {
		name, found := strings.CutPrefix(line, `{{define "`)
		if !found {
			continue
		}
		name, _, _ = strings.Cut(name, `"`)
		for j := i; j < len(lines) && spans[name].to == 0; j++ {
			if strings.HasSuffix(lines[j], "{{end}}") && whole(strings.Join(lines[i:j+1], "\n")) {
				spans[name] = span{i + 1, j + 1}
			}
		}
	}
	return spans, nil
}

// whole reports whether text is a template, and not only its beginning.
func whole(text string) bool {
	t := parse.New("")
	t.Mode = parse.SkipFuncCheck
	_, err := t.Parse(text, "", "", map[string]*parse.Tree{})
	return err == nil
}

// HTML renders the listing as a figure. Code that is wider than the page scrolls, so it
// has to take the keyboard focus.
func (l Listing) HTML() (template.HTML, error) {
	lexer := lexers.Get("go-html-template")
	if path.Ext(l.File) == ".go" {
		lexer = lexers.Get("go")
	}
	tokens, err := chroma.Coalesce(lexer).Tokenise(nil, l.Source)
	if err != nil {
		return "", err
	}
	format := html.New(html.WithClasses(true), html.WithLineNumbers(true), html.BaseLineNumber(l.From), html.WithPreWrapper(pre(l.Caption())))
	var page strings.Builder
	fmt.Fprintf(&page, `<figure class="listing"><figcaption>%s</figcaption>`, l.Caption())
	err = format.Format(&page, noStyle, chroma.Literator(plain(tokens.Tokens())...))
	page.WriteString("</figure>")
	return template.HTML(page.String()), err
}

// noStyle is the style of a page that has its own for the classes.
var noStyle = chroma.MustNewStyle("none", nil)

// pre is what surrounds code of that name.
type pre string

func (p pre) Start(bool, string) string {
	return fmt.Sprintf(`<pre tabindex="0" role="group" aria-label="%s"><code>`, string(p))
}

func (p pre) End(bool) string { return "</code></pre>" }

// plain leaves only the differences that a reader needs: each other one would be an
// element more on the page.
func plain(tokens []chroma.Token) (plainer []chroma.Token) {
	for _, t := range tokens {
		t.Type = kind(t.Type)
		if last := len(plainer) - 1; last >= 0 && plainer[last].Type == t.Type {
			plainer[last].Value += t.Value
			continue
		}
		plainer = append(plainer, t)
	}
	return plainer
}

func kind(t chroma.TokenType) chroma.TokenType {
	switch {
	case t.InCategory(chroma.Keyword):
		return chroma.Keyword
	case t.InCategory(chroma.Comment) && !t.InSubCategory(chroma.CommentPreproc):
		return chroma.Comment
	case t.InSubCategory(chroma.LiteralString):
		return chroma.LiteralString
	}
	return chroma.Text
}
