package visitor

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A page is read as the browser client renders it: from the first tree, and the
// updates that came after it.
func TestTree_IsRenderedAfterUpdates(t *testing.T) {
	var tree any
	for _, step := range []struct{ update, want string }{
		{`{"s":["<p>","</p>",""],"0":"1","1":""}`, "1"},
		{`{"0":"2"}`, "2"},
		{`{}`, "2"},
		{`{"1":{"s":["<ul>","</ul>"],"0":{"s":[" <li>","</li>"],"d":[{"0":"a"},{"0":"b"}],"m":{"idKey":"0"}}}}`, "2 a b"},
		{`{"1":{"0":[["a",[{"0":"c"}]]]}}`, "2 a b c"},
		{`{"1":{"0":[["r","b"]]}}`, "2 a c"},
		{`{"1":""}`, "2"},
	} {
		var update map[string]any
		require.NoError(t, json.Unmarshal([]byte(step.update), &update))
		tree = merge(tree, update)
		assert.Equal(t, step.want+" ", Readable(render(tree))+" ", "after %s", step.update)
	}
}

func TestReadable_IsWhatAPersonReads(t *testing.T) {
	for markup, want := range map[string]string{
		"<p>one</p>\n  <p>two</p>":            "one two",
		"<b>bold</b>er":                       "bolder",
		"&lt;img&gt; &amp; so on":             "<img> & so on",
		`<input value="not text">`:            "",
		"1&nbsp;000":                          "1\u00a0000",
		"<p>one</p><script>two</script> left": "onetwo left",
	} {
		assert.Equal(t, want, Readable(markup), "of %s", markup)
	}
}

func TestJudge_FindsWhatMustNotBeInALog(t *testing.T) {
	assert.NoError(t, judge("level=INFO msg=stopping\nlevel=WARN msg=\"live connection refused\"\n"))
	for _, log := range []string{
		"all well\n==================\nWARNING: DATA RACE\nWrite at 0x00c000\n",
		"panic: runtime error: index out of range\n",
		"level=ERROR msg=\"http: panic serving 127.0.0.1:1: nil\"\n",
		"fatal error: concurrent map writes\n",
	} {
		assert.Error(t, judge(log), log)
	}
}
