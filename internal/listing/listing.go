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
	"go/scanner"
	"go/token"
	"html/template"
	"io/fs"
	"path"
	"strings"
	"sync"
	"text/template/parse"

	"github.com/alecthomas/chroma/v2"
	"github.com/alecthomas/chroma/v2/formatters/html"
	"github.com/alecthomas/chroma/v2/lexers"
)

// In returns a function for templates, which renders a listing once and keeps it. Its
// argument is a file and the names of declarations, divided by spaces.
func In(files fs.FS) func(what string) (template.HTML, error) {
	var made sync.Map
	return func(what string) (template.HTML, error) {
		if shown, ok := made.Load(what); ok {
			return shown.(template.HTML), nil
		}
		words := strings.Fields(what)
		if len(words) < 2 {
			return "", fmt.Errorf("listing of %q: want a file and what it declares", what)
		}
		l, err := Of(files, words[0], words[1:]...)
		if err != nil {
			return "", err
		}
		shown, err := l.HTML()
		if err == nil {
			made.Store(what, shown)
		}
		return shown, err
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
	divide := templateTokens
	if path.Ext(l.File) == ".go" {
		divide = goTokens
	}
	tokens, err := divide(l.Source)
	if err != nil {
		return "", err
	}
	format := html.New(html.WithClasses(true), html.WithLineNumbers(true), html.BaseLineNumber(l.From), html.WithPreWrapper(pre(l.Caption())))
	var page strings.Builder
	fmt.Fprintf(&page, `<figure class="listing"><figcaption>%s</figcaption>`, l.Caption())
	err = format.Format(&page, noStyle, chroma.Literator(tokens...))
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

// goTokens divides Go code, by Go's own scanner: it takes a tenth of the time that
// chroma's lexer takes, which every start of the program would spend.
func goTokens(source string) (tokens []chroma.Token, err error) {
	file := token.NewFileSet().AddFile("", -1, len(source))
	var s scanner.Scanner
	s.Init(file, []byte(source), nil, scanner.ScanComments)
	done := 0
	for {
		pos, tok, text := s.Scan()
		kind := chroma.Text
		switch {
		case tok == token.EOF:
			return append(tokens, chroma.Token{Type: chroma.Text, Value: source[done:]}), nil
		case tok.IsKeyword():
			kind = chroma.Keyword
		case tok == token.COMMENT:
			kind = chroma.Comment
		case tok == token.STRING, tok == token.CHAR:
			kind = chroma.LiteralString
		default:
			continue
		}
		from := file.Offset(pos)
		tokens = append(tokens, chroma.Token{Type: chroma.Text, Value: source[done:from]}, chroma.Token{Type: kind, Value: text})
		done = from + len(text)
	}
}

// templateTokens divides a template. It leaves only the differences that a reader
// needs: each other one would be an element more on the page.
func templateTokens(source string) (tokens []chroma.Token, err error) {
	lexed, err := chroma.Coalesce(lexers.Get("go-html-template")).Tokenise(nil, source)
	if err != nil {
		return nil, err
	}
	for _, t := range lexed.Tokens() {
		t.Type = kind(t.Type)
		if last := len(tokens) - 1; last >= 0 && tokens[last].Type == t.Type {
			tokens[last].Value += t.Value
			continue
		}
		tokens = append(tokens, t)
	}
	return tokens, nil
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
