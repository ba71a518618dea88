//go:build all

package all

import (
	"net/http"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

const pollPage = "/poll"

// Following docs/adapt.md gives a poll that works as well as the two demos.
func TestAdapt_GuideMakesAPollWithOneVoteForEachBrowser(t *testing.T) {
	t.Parallel()
	exe := followed(t, "docs/adapt.md")
	p := visitor.StartNew(t, exe)
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
		before, began := bob.FrameCount(), time.Now()
		for i := range 100 {
			vote(alice, []string{"Water", "Coffee"}[i%2])
		}
		alice.Settle()
		all("Coffee: 1", "Tea: 1", "Water: 0")
		most := 2 + int(time.Since(began)/visitor.Interval) // one for each interval, the first, and the last
		assert.LessOrEqual(t, bob.FrameCount()-before, most, "refreshes")
	})

	t.Run("browsers show it", func(t *testing.T) {
		tb := browser.New(t).Open(p.URL)
		tb.Eval(`document.querySelector("a[href='` + pollPage + `']").click()`)
		tb.Shows("Tea: 1 Vote for Tea")
		tb.WaitUntil(browser.Live, "a live page")
		tb.Eval(`void document.querySelector("[data-key=Tea] button").click()`)
		tb.Shows("Tea: 2 (your vote)")
		all("Tea: 2")
		vote(bob, "Coffee")
		tb.Shows("Tea: 1 (your vote)")

		tb.ExpectServerAway()
		assert.Zero(t, p.Stop(os.Interrupt), "exit status")
		tb.Shows("Reconnecting…")
		visitor.StartNew(t, exe, "-addr", p.Addr())
		tb.Shows("Tea: 0 Vote for Tea")
		tb.WaitUntil(`document.querySelector("#status").textContent === ""`, "no word of it")
	})
}
