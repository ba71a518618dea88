package listing_test

import (
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
	l.on = true // "<on>"
}

const (
	// dark is no light.
	dark = 0
	dim  = 1
)

func (l Lamp) String() string { return "lamp" }

func after() {}
`

const page = `{{define "content"}}
{{template "live" .}}
{{end}}

{{define "live"}}
{{if .On}}
on
{{end}}
{{unknown "function"}}
{{end}}
`

var files = fstest.MapFS{"toy.go": {Data: []byte(code)}, "toy.tmpl": {Data: []byte(page)}, "broken.go": {Data: []byte("package")}}

func TestOf_CutsByDeclaration(t *testing.T) {
	for name, row := range map[string]struct {
		file  string
		names []string
		want  string
	}{
		"a type with its methods and what is between": {"toy.go", []string{"Lamp"}, "toy.go:3-20"},
		"a function with its comment":                 {"toy.go", []string{"New"}, "toy.go:6-7"},
		"a group of constants":                        {"toy.go", []string{"dim"}, "toy.go:14-18"},
		"several, in any order":                       {"toy.go", []string{"after", "dark"}, "toy.go:14-22"},
		"a definition with a condition":               {"toy.tmpl", []string{"live"}, "toy.tmpl:5-10"},
	} {
		l, err := listing.Of(files, row.file, row.names...)
		require.NoError(t, err)
		assert.Equal(t, row.want, l.Caption(), name)
	}
}

// What is gone from a file cannot be shown, and a page that wants to show it is not
// served.
func TestIn_SaysWhatIsWrong(t *testing.T) {
	for what, want := range map[string]string{
		"toy.tmpl footer":   "toy.tmpl declares no footer",
		"nothing.go Lamp":   "open nothing.go: file does not exist",
		"broken.go Lamp":    "broken.go: 1:8: expected 'IDENT'",
		"toy.go":            `listing of "toy.go": want a file and what it declares`,
		"toy.go Lamp wrong": "toy.go declares no wrong",
	} {
		_, err := listing.In(files)(what)
		assert.ErrorContains(t, err, want, what)
	}
}

// That the text is the source is shown by TestListings_AreTheCodeThatRuns.
func TestHTML_HasNumbersAndClasses(t *testing.T) {
	shown, err := listing.In(files)("toy.go Lamp")
	require.NoError(t, err)
	markup := string(shown)
	for _, want := range []string{
		`<figure class="listing"><figcaption>toy.go:3-20</figcaption><pre tabindex="0" `,
		`<span class="k">type</span> Lamp`, `<span class="c">// Lamp is a lamp.</span>`, `<span class="s">&#34;lamp&#34;</span>`,
		`<span class="ln"> 3</span>`, `<span class="ln">20</span>`,
	} {
		assert.Contains(t, markup, want)
	}
	assert.NotContains(t, markup, "style=")
}
