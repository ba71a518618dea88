//go:build all

package all

import (
	"fmt"
	"go/format"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// A snippet of docs/adapt.md is a fenced block below a sentence that says where it goes:
// "Create `file`:", or "In `file`, below `line`, add:". A line that is not unique is "the
// last `line`".
var (
	snippet = regexp.MustCompile("(?ms)^(?:Create `([^`]+)`|In `([^`]+)`, below (the last )?`([^`]+)`, add):\n\n```\\w+\n(.*?)^```$")
	fenced  = regexp.MustCompile("(?m)^```[a-z]+$")
)

// adapted builds the program with docs/adapt.md applied, and returns the executable.
func adapted(t *testing.T) (exe string) {
	t.Helper()
	guide, err := os.ReadFile("../../docs/adapt.md")
	require.NoError(t, err)
	snippets := snippet.FindAllStringSubmatch(string(guide), -1)
	require.Len(t, snippets, len(fenced.FindAll(guide, -1)), "every snippet says where it goes")
	dir, lines := t.TempDir(), 0
	require.NoError(t, exec.Command("cp", "-r", visitor.Root()+"/.", dir).Run())
	for _, s := range snippets {
		created, changed, theLast, place, text := s[1], s[2], s[3] != "", s[4], s[5]
		lines += len(regexp.MustCompile(`(?m)\S.*$`).FindAllString(text, -1))
		file := filepath.Join(dir, created+changed)
		if created == "" {
			before, err := os.ReadFile(file)
			require.NoError(t, err)
			found := regexp.MustCompile(`(?m)^\s*`+regexp.QuoteMeta(place)+`\n`).FindAllIndex(before, -1)
			require.NotEmpty(t, found, "no line %s", place)
			require.Equal(t, theLast, len(found) > 1, "%d lines %s", len(found), place)
			below := found[len(found)-1][1]
			text = string(before[:below]) + text + string(before[below:])
		} else {
			require.NoFileExists(t, file)
		}
		if filepath.Ext(file) == ".go" {
			formatted, err := format.Source([]byte(text))
			require.NoError(t, err)
			assert.Equal(t, string(formatted), text, "gofmt of %s", file)
		}
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	}
	assert.Contains(t, string(guide), fmt.Sprintf("five steps and %d lines", lines))
	return visitor.BuildCopy(t, dir)
}

const pollPage = "/realtime/poll"

// Following docs/adapt.md gives a poll that works as well as the two demos.
func TestAdapt_GuideMakesAPollWithOneVoteForEachBrowser(t *testing.T) {
	t.Parallel()
	p := visitor.StartExe(t, adapted(t))
	aliceVisitor, bobVisitor := visitor.New(t, p.URL), visitor.New(t, p.URL)
	alice, aliceSecond, bob := aliceVisitor.Open(pollPage), aliceVisitor.Open(pollPage), bobVisitor.Open(pollPage)
	tabs := []*visitor.Tab{alice, aliceSecond, bob}
	all := func(want ...string) {
		t.Helper()
		for _, tb := range tabs {
			for _, text := range want {
				tb.Shows(text)
			}
		}
	}
	vote := func(tb *visitor.Tab, choice string) { t.Helper(); tb.Do("vote", map[string]any{"choice": choice}) }
	vote(alice, "Tea")
	all("Coffee: 0", "Tea: 1", "Water: 0")
	alice.Shows("Tea: 1 (your vote)")
	aliceSecond.Shows("Tea: 1 (your vote)")
	bob.Never("your vote")

	vote(aliceSecond, "Coffee") // changes the browser's vote
	vote(bob, "Tea")
	all("Coffee: 1", "Tea: 1", "Water: 0")
	alice.Shows("Coffee: 1 (your vote) Vote for Coffee Tea: 1 Vote for Tea")
	bob.Shows("Tea: 1 (your vote)")
	assert.Contains(t, aliceVisitor.Get(pollPage), "Coffee: 1 (your vote)", "after a reload")
	assert.Contains(t, visitor.New(t, p.URL).Get(pollPage), "Coffee: 1 Vote for Coffee Tea: 1 Vote for Tea Water: 0", "a late visitor")

	t.Run("plain requests share the vote of their browser", func(t *testing.T) {
		for range 3 {
			bobVisitor.Post(pollPage, url.Values{"choice": {"Water"}, "vote": {""}})
		}
		all("Coffee: 1", "Tea: 0", "Water: 1")
		withoutSocket := bobVisitor.OpenWithoutSocket(pollPage)
		withoutSocket.Act("vote", map[string]any{"choice": "Tea"})
		assert.Contains(t, withoutSocket.Text(), "Tea: 1 (your vote)")
		all("Coffee: 1", "Tea: 1", "Water: 0")
	})

	t.Run("a choice that does not exist is refused", func(t *testing.T) {
		_, answer := aliceVisitor.Request(http.MethodPost, pollPage, "application/json", "application/json", `{"action":"vote","data":{"choice":"Beer"}}`)
		assert.Contains(t, answer, `"success":false`)
		assert.Contains(t, answer, "There is no such choice.")
		aliceVisitor.Post(pollPage, url.Values{"vote": {""}})
		assert.Contains(t, aliceVisitor.Get(pollPage), "Coffee: 1 (your vote) Vote for Coffee Tea: 1 Vote for Tea Water: 0")
	})

	t.Run("refreshes of many votes are merged", func(t *testing.T) {
		const sent = `realtime_refreshes_sent_total{page="poll"}`
		before, began := p.Metric(sent), time.Now()
		for i := range 100 {
			vote(alice, []string{"Water", "Coffee"}[i%2])
		}
		alice.Settle()
		all("Coffee: 1", "Tea: 1", "Water: 0")
		most := len(tabs) * (2 + int(time.Since(began)/visitor.Interval)) // one for each interval, the first, and the last
		assert.LessOrEqual(t, int(p.Metric(sent)-before), most, "refreshes")
	})

	t.Run("browsers show it", func(t *testing.T) {
		tb := browser.New(t).Open(p.URL)
		assert.Equal(t, "2", tb.Eval(`document.querySelectorAll("a[href='`+pollPage+`']").length`), "in the navigation and below")
		tb.Eval(`document.querySelector("a[href='` + pollPage + `']").click()`)
		tb.Shows("Tea: 1 Vote for Tea")
		tb.WaitUntil(browser.Live, "a live page")
		tb.Eval(`void document.querySelector("[data-key=Tea] button").click()`)
		tb.Shows("Tea: 2 (your vote)")
		all("Tea: 2")
		vote(bob, "Coffee")
		tb.Shows("Tea: 1 (your vote)")
	})
}
