package listing_test

import (
	"go/format"
	unescape "html"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/listing"
)

const code = `package toy

// Lamp is a lamp.
type Lamp struct{ on bool }

// New returns a lamp.
func New() *Lamp { return &Lamp{} }

// Light lights it.
func (l *Lamp) Light() {
	const quote = '"'
	/* over
	two lines */
	l.on = true
}

// dark is no lamp.
const dark = 0

func (l Lamp) String() string { return "// <lamp>" }

func after() {}

var left = 1
var middle = 2
var right = 3
`

const page = `{{define "content"}}
{{template "live" .}}
{{end}}

{{define "live"}}
{{if .On}}{{with .Name}}<b>{{.}}</b>{{end}}
{{- /* a comment */}}
{{end}}
{{unknown "function"}}
{{- end}}
`

var files = fstest.MapFS{"toy.go": {Data: []byte(code)}, "toy.tmpl": {Data: []byte(page)}, "broken.go": {Data: []byte("package")}}

// html renders a listing of a file, which is served at its name below /whole/.
func html(what string) (string, error) {
	shown, err := listing.From(files, func(name string, _ []byte) string { return "/whole/" + name })(what)
	return string(shown), err
}

func TestFrom_CutsByDeclaration(t *testing.T) {
	for name, row := range map[string]struct{ what, want string }{
		"a type with its methods":          {"toy.go Lamp", "3-4 … 9-15 … 20-20"},
		"a function with its comment":      {"toy.go New", "6-7"},
		"a method":                         {"toy.go Lamp.String", "20-20"},
		"several, in any order":            {"toy.go after New", "6-7 … 22-22"},
		"neighbours, and what is in both":  {"toy.go dark Lamp.String Lamp.Light Lamp", "3-4 … 9-20"},
		"neighbours without an empty line": {"toy.go left right", "24-24 … 26-26"},
		"a definition with a condition":    {"toy.tmpl live", "5-10"},
	} {
		shown, err := html(row.what)
		require.NoError(t, err)
		assert.Equal(t, row.want, ranges(shown), name)
	}
}

// ranges returns the numbers of the lines that are shown, each run of them as its ends.
func ranges(shown string) string {
	var runs []string
	from, last := "", ""
	for _, line := range append(regexp.MustCompile(`data-line="(.*?)"`).FindAllStringSubmatch(shown, -1), []string{"", "…"}) {
		switch {
		case line[1] == "…":
			runs, from = append(runs, from+"-"+last), ""
		case from == "":
			from = line[1]
		}
		last = line[1]
	}
	return strings.Join(runs, " … ")
}

// Code that is gone from a file cannot be shown, and a page that wants to show it is not
// served.
func TestFrom_SaysWhatIsMissing(t *testing.T) {
	for what, want := range map[string]string{
		"toy.tmpl footer":   "toy.tmpl declares no footer",
		"nothing.go Lamp":   "open nothing.go: file does not exist",
		"broken.go Lamp":    "broken.go: 1:8: expected 'IDENT'",
		"toy.go":            `listing of "toy.go": want a file and what it declares`,
		"toy.go Lamp wrong": "toy.go declares no wrong",
	} {
		_, err := html(what)
		assert.ErrorContains(t, err, want, what)
	}
}

// The caption is a link where the build knows an address.
func TestFrom_LinksToTheSource(t *testing.T) {
	shown, err := html("toy.go New")
	require.NoError(t, err)
	assert.Contains(t, shown, `<figcaption data-file="/whole/toy.go">toy.go:6-7</figcaption>`)
	t.Cleanup(func() { listing.SourceURL = "" })
	listing.SourceURL = "https://example.com/blob/v1"
	shown, err = html("toy.go New")
	require.NoError(t, err)
	assert.Contains(t, shown, `"><a href="https://example.com/blob/v1/toy.go#L6-L7">toy.go:6-7</a></figcaption>`)
}

// What is copied compiles: declarations are complete, and are apart where lines are left out.
func TestFrom_ShowsCodeThatCompiles(t *testing.T) {
	shown, err := html("toy.go Lamp New after left right")
	require.NoError(t, err)
	code := "package toy\n\n" + unescape.UnescapeString(regexp.MustCompile(`<figcaption.*</figcaption>|<[^>]*>`).ReplaceAllString(shown, ""))
	formatted, err := format.Source([]byte(code))
	require.NoError(t, err)
	assert.Equal(t, string(formatted), code)
}

// TestListings_ShowTheRealCode shows that the text is the source.
func TestFrom_NumbersLinesAndHighlights(t *testing.T) {
	for what, want := range map[string][]string{
		"toy.go Lamp": {
			`<figure class="listing"><figcaption data-file="/whole/toy.go">toy.go:3-20</figcaption><pre tabindex="0" `,
			"<span data-line=\"3\"><span class=\"c\">// Lamp is a lamp.</span>\n</span>",
			`<span class="k">type</span> <b>Lamp</b>`, `(l *Lamp) <b>Light</b>()`, "<span data-line=\"…\">\n</span>", `<span class="s">"// &lt;lamp&gt;"</span>`, `<span class="s">'"'</span>`,
			"<span class=\"c\">/* over</span>\n</span><span data-line=\"13\"><span class=\"c\">\ttwo lines */</span>",
			`<span data-line="20">`,
		},
		"toy.tmpl live": {`<span class="k">{{if .On}}</span>`, `<span class="c">{{- /* a comment */}}</span>`, `&lt;b&gt;`},
	} {
		shown, err := html(what)
		require.NoError(t, err)
		for _, part := range want {
			assert.Contains(t, shown, part)
		}
		assert.NotContains(t, shown, "style=")
	}
}
