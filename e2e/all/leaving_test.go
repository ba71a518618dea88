//go:build all

package all

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

func TestBrowser_PageThatIsLeftClosesItsSocketAndReopensItOnReturn(t *testing.T) {
	t.Parallel()
	sockets := &visitor.SocketCount{}
	server := visitor.ServeBehind(t, func(app http.Handler) http.Handler { return visitor.KeptWhole(sockets.Count(app)) })
	alice, bob := browser.NewWindowed(t).Open(server+visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	alice.Join("Alice")
	bob.Shows("1 user(s) online")

	alice.Navigate("about:blank") // by its address: no script of the page sees it coming
	bob.Shows("0 user(s) online")
	sockets.WaitFor(t, map[string]int{visitor.PresencePage: 1})

	alice.Eval(`void setTimeout(() => history.back())`)
	bob.Shows("1 user(s) online")
	alice.Shows("Logged in as Alice")
	sockets.WaitFor(t, map[string]int{visitor.PresencePage: 2})
	bob.Join("Bob")
	alice.Shows("2 user(s) online")
}

func TestBrowser_KilledBrowserLeavesWithAllItsTabs(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	person, peer := browser.NewProcess(t), visitor.New(t, server).Open(visitor.PresencePage)
	for i := range 3 {
		person.Open(server + visitor.PresencePage).Join(fmt.Sprint("tab ", i))
	}
	peer.Shows("3 user(s) online")
	require.NoError(t, chromedp.FromContext(person.Ctx).Browser.Process().Kill())
	peer.Shows("0 user(s) online")
}
