package e2e

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

const (
	// isNext is a script that is true on a page of a later version.
	isNext = `document.readyState === "complete" && document.querySelector("main").innerText.includes("Have a try:") &&
		getComputedStyle(document.documentElement).getPropertyValue("--version") === "next"`
	newVersion = "There is a new version of this page."
)

// After a deploy, open tabs become the new page by themselves where nothing would be lost,
// and otherwise at the press of a button.
func TestDeploy_OpenPagesBecomeNew(t *testing.T) {
	t.Parallel()
	next := visitor.BuildNext(t)
	before := visitor.Start(t, "-drain", "10ms")
	person := browser.New(t)
	open := func(page string) *browser.Tab {
		tb := person.OpenWindow(before.URL + page)
		tb.ExpectServerAway()
		return tb
	}
	counter, joined, typing := open(visitor.CounterPage), open(visitor.PresencePage), open(visitor.PresencePage)
	joined.Join("Alice")
	typing.TypeInto("username", "half a name")
	restart := func(exe string) {
		require.Zero(t, before.Stop(syscall.SIGTERM))
		before = visitor.StartExe(t, exe, "-drain", "10ms", "-addr", before.Addr())
	}
	tabs := []*browser.Tab{counter, joined, typing}
	for _, tb := range tabs {
		tb.CountConnects()
	}
	restart(visitor.Build(t))
	for _, tb := range tabs {
		tb.WaitUntil(`connects === 1`, "a live page again")
	}
	restart(next)
	counter.WaitUntil(isNext, "the new page")
	joined.WaitUntil(isNext, "the new page")
	joined.Shows("Logged in as Alice")
	assert.Equal(t, []int{2, 2}, []int{counter.Loads(), joined.Loads()}, "a restart with the same build reloads no page")

	typing.Shows(newVersion)
	assert.Equal(t, "half a name", typing.Eval(typedName))
	assert.Equal(t, 1, typing.Loads())
	typing.Click("renew")
	typing.WaitUntil(isNext+" && "+browser.Live, "the new page")
	assert.Equal(t, "half a name", typing.Eval(typedName), "typed text is kept")
	assert.Empty(t, typing.Eval(`document.getElementById("renew").innerText`))
	visitor.New(t, before.URL).Click()
	counter.Shows("Counter: 1")
	assert.Equal(t, 2, counter.Loads(), "once")
}

// A balancer sends sockets to the new version, and pages to the old one. A page does not
// reload while it would get the old version, and then reloads once, even if the balancer
// sends it back.
func TestDeploy_PageBetweenTwoVersionsReloadsOnce(t *testing.T) {
	t.Parallel()
	old, next := visitor.Serve(t), visitor.StartExe(t, visitor.BuildNext(t))
	target, err := url.Parse(next.URL)
	require.NoError(t, err)
	ofNext := httputil.NewSingleHostReverseProxy(target)
	var asked, newPage atomic.Int64
	network := visitor.NewNetwork(t, visitor.NewProxy(t, old, func(ofOld http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				asked.Add(1)
			}
			switch {
			case websocket.IsWebSocketUpgrade(r), r.Method == http.MethodHead && newPage.Load() == 1:
				ofNext.ServeHTTP(w, r)
			case r.Method == http.MethodHead && newPage.Load() == 2:
				w.WriteHeader(http.StatusBadGateway)
			default:
				ofOld.ServeHTTP(w, r)
			}
		})
	}))
	tb := browser.New(t).Load("about:blank")
	tb.ExpectServerAway()
	tb.ExpectErrors("502")
	tb.InEveryPage(`const now = performance.now; performance.now = () => now.call(performance) + 1e6;`) // the page looks unused
	tb.Navigate(network.URL + visitor.CounterPage)
	for _, answer := range []int64{0, 2} {
		newPage.Store(answer)
		before := asked.Load()
		require.Eventually(t, func() bool { return asked.Load() > before+1 }, visitor.Soon, time.Millisecond, "checks for a new page")
		assert.Equal(t, 2, tb.Loads(), "about:blank and the page")
	}
	newPage.Store(1)
	tb.WaitUntil(`performance.getEntriesByType("navigation")[0].type === "reload"`, "a reload")
	for range 3 {
		tb.Shows(newVersion)
		assert.Equal(t, 3, tb.Loads())
		network.Cut()
		tb.WaitUntil(`document.getElementById("renew").innerText === ""`, "a lost socket")
	}
}
