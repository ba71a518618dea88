//go:build all

package all

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// Built without npm's files, and where the public CDN hangs, a page is drawn, says what it
// misses, and its forms work.
func TestBrowser_MissingCDNIsNoticed(t *testing.T) {
	t.Parallel()
	dir := visitor.Copy(t)
	for _, file := range []string{"pico.min.css", "livetemplate-client.browser.js"} {
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "static/vendor", file)))
	}
	program := visitor.StartExe(t, visitor.BuildCopy(t, dir))
	tb := browser.New(t).Load("about:blank")
	tb.ExpectErrors("net::ERR_")
	tb.Eval(`void location.assign(` + browser.Quote(program.URL+visitor.CounterPage) + `)`)
	tb.Shows("Not loaded from https://cdn.jsdelivr.net: livetemplate-client.browser.js or pico.min.css. To build them in, run make assets, and start the server again.")
	tb.Click("increment")
	tb.Shows("Counter: 1 ")
	assert.NotContains(t, tb.Text(), "Connecting…")
	assert.LessOrEqual(t, tb.Number(`document.documentElement.scrollWidth - innerWidth`), 0.0, "code widens no page")
	assert.GreaterOrEqual(t, tb.Number(`document.querySelector(".listing").getBoundingClientRect().left`), 0.0, "code begins on the screen")
}
