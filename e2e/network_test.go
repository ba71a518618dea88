package e2e

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

func TestBrowser_SlowNetworkKeepsItsSocketAndCountsEachClickOnce(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	network := visitor.NewNetwork(t, server)
	network.Delay(350 * time.Millisecond)
	person := browser.NewWindowed(t)
	tb := person.Load("about:blank")
	tb.WatchNotices()
	tb.WatchStatus()
	tb.Navigate(network.URL + visitor.CounterPage)
	tb.WaitUntil(browser.Live, "a live page")
	tb.CountConnects()
	for i := range 2 {
		tb.Hide(person)
		tb.Show()
		tb.Eval(browser.ComesOnline)
		tb.Click("increment")
		tb.Shows("Counter: " + strconv.Itoa(i+1))
	}
	assert.Equal(t, "0", tb.Eval(`connects`), "new sockets")
	assert.Empty(t, tb.Notices())
	for _, said := range tb.Heard() {
		assert.Contains(t, []string{"Connecting… Buttons work.", ""}, said.Text)
	}
	visitor.New(t, server).Open(visitor.CounterPage).Shows("Counter: 2")
}

// A ping waits for the click before it, and the click for 2 seconds for Redis: its
// answer takes 6 seconds here, longer than a ping alone may take.
func TestBrowser_ClickThatWaitsForRedisKeepsItsSocket(t *testing.T) {
	t.Parallel()
	redis := visitor.NewRedis(t)
	network := visitor.NewNetwork(t, visitor.Serve(t, "-redis", redis.URL, "-ping-timeout", "30s"))
	tb := browser.New(t).Open(network.URL + visitor.CounterPage)
	tb.WatchNotices()
	tb.CountConnects()
	thaw := redis.Freeze()
	defer thaw()
	network.Delay(2 * time.Second)
	tb.Click("increment")
	tb.Eval(browser.ComesOnline)
	tb.WaitUntil(`document.querySelector(".note")?.textContent`, "what the server says about the click")
	assert.Equal(t, "0", tb.Eval(`connects`), "new sockets")
	assert.Empty(t, tb.Notices())
}

func TestBrowser_FormThatIsGoneAfterABreakIsToldSo(t *testing.T) {
	t.Parallel()
	network := visitor.NewNetwork(t, visitor.Serve(t))
	tb := browser.New(t).Open(network.URL + visitor.PresencePage)
	tb.ExpectErrors("net::ERR_")
	tb.Join("Alice")
	network.Leave()
	tb.WaitUntil(`!liveTemplateClient.isReady()`, "a lost socket")
	tb.Eval(`document.querySelector("[name=leave]").click()`)
	network.ComeBack()
	tb.Shows("What you did last was not sent, because the page has changed meanwhile.")
	tb.Shows("0 user(s) online Username")
}

// withoutStorage is how a browser that blocks site data answers scripts.
const withoutStorage = `for (const name of ["localStorage", "sessionStorage"]) {
	Object.defineProperty(window, name, {get() { throw new DOMException("blocked", "SecurityError"); }});
}
undefined`

func TestBrowser_WithoutStorageEverythingButRememberingWorks(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	tb := browser.New(t).Load("about:blank")
	tb.InEveryPage(withoutStorage)
	network := visitor.NewNetwork(t, server)
	peer := visitor.New(t, server).Open(visitor.PresencePage)
	tb.Navigate(network.URL + visitor.PresencePage)
	tb.WaitUntil(browser.Live, "a live page")
	tb.Join("Alice")
	peer.Shows("1 user(s) online")
	tb.WaitUntil(`document.title.startsWith("(1) ")`, "the number in the title")
	tb.CountConnects()
	network.Cut()
	tb.WaitUntil(`connects === 1`, "a new socket")
	tb.Shows("1 user(s) online Logged in as Alice ")
	tb.Click("leave")
	peer.Shows("0 user(s) online")
	tb.Shows("0 user(s) online Username")

	tb.Navigate(network.URL + visitor.CounterPage)
	tb.WaitUntil(browser.Live, "a live page")
	tb.Click("increment")
	tb.Shows("Counter: 1")
}

func TestBrowser_RequestThatIsRefusedHasNotCounted(t *testing.T) {
	t.Parallel()
	var answer atomic.Int64 // the status of an answer to a form
	tb := browser.New(t).Load("about:blank")
	tb.ExpectErrors("WebSocket")
	tb.ExpectErrors("status of")
	tb.ExpectErrors("HTTP request failed")
	tb.Navigate(visitor.ServeBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch status := int(answer.Load()); {
			case websocket.IsWebSocketUpgrade(r):
				visitor.RefuseUpgrade(w, r)
			case r.Method == http.MethodPost && status != 0:
				http.Error(w, "refused", status)
			default:
				app.ServeHTTP(w, r)
			}
		})
	}) + visitor.CounterPage)
	tb.Shows("Live updates are off")
	for _, row := range []struct {
		status int
		says   string
	}{
		{http.StatusTooManyRequests, "Slow down: that was too fast, and did not count."},
		{http.StatusForbidden, "What you did last did not count: the server has refused it."},
		{http.StatusInternalServerError, "What you did last may not have counted."},
	} {
		answer.Store(int64(row.status))
		tb.Click("increment")
		tb.WaitUntil(`document.getElementById("notice").textContent === `+browser.Quote(row.says), strconv.Itoa(row.status)+": "+row.says)
	}
	answer.Store(0)
	tb.Click("increment")
	tb.Shows("Counter: 1")
}

func TestBrowser_StoppingServerIsAskedOften(t *testing.T) {
	t.Parallel()
	var stopping atomic.Bool
	var asked atomic.Int64
	network := visitor.NewNetwork(t, visitor.ServeBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/healthz" && stopping.Load() {
				asked.Add(1)
				http.Error(w, "stopping", http.StatusServiceUnavailable)
				return
			}
			app.ServeHTTP(w, r)
		})
	}))
	tb := browser.New(t).Open(network.URL + visitor.CounterPage)
	tb.ExpectErrors("503")
	tb.Eval(`void (Math.random = () => 0.999)`) // waits are as long as they can be
	stopping.Store(true)
	network.Cut()
	// Of a server that is away, the ninth question comes after 21 s.
	assert.Eventually(t, func() bool { return asked.Load() > 8 }, 12*time.Second, 10*time.Millisecond)
	stopping.Store(false)
	tb.Shows("Back online")
}

func TestBrowser_ProbeThatHangsHoldsUpNobody(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		notice func(person *browser.Browser, tb *browser.Tab)
	}{
		{"online", func(_ *browser.Browser, tb *browser.Tab) { tb.Eval(browser.ComesOnline) }},
		{"shown", func(person *browser.Browser, tb *browser.Tab) {
			tb.Hide(person)
			tb.Show()
		}},
		{"left and kept whole", func(_ *browser.Browser, tb *browser.Tab) {
			tb.Eval(`dispatchEvent(new PageTransitionEvent("pagehide", {persisted: true}))`)
			tb.Eval(`dispatchEvent(new PageTransitionEvent("pageshow", {persisted: true}))`)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var hangs atomic.Bool
			hung, ended := make(chan struct{}), make(chan struct{})
			server := visitor.ServeBehind(t, func(app http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/healthz" && hangs.CompareAndSwap(true, false) {
						close(hung)
						<-ended
					}
					app.ServeHTTP(w, r)
				})
			})
			t.Cleanup(func() { close(ended) })
			network := visitor.NewNetwork(t, server)
			person := browser.NewWindowed(t)
			tb := person.OpenWindow(network.URL + visitor.CounterPage)
			tb.Eval(`void (Math.random = () => 0.999)`) // waits are as long as they can be
			hangs.Store(true)
			network.Cut()
			<-hung
			row.notice(person, tb)
			tb.WaitUntilWithin(4500*time.Millisecond, browser.Live, "a live page before the probe is given up, and another asked")
		})
	}
}

// Firefox lets a socket wait after others have failed. Here the server does.
func TestBrowser_SocketThatWaitsIsNotOneThatFailed(t *testing.T) {
	t.Parallel()
	var blocked, waiting atomic.Bool
	var opened atomic.Int64
	blocked.Store(true)
	tb := browser.New(t).Load("about:blank")
	tb.ExpectErrors("WebSocket")
	tb.InEveryPage(`Math.random = () => 0.1`) // attempts come often
	tb.Navigate(visitor.ServeBehind(t, func(app http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if websocket.IsWebSocketUpgrade(r) {
				if blocked.Load() {
					visitor.RefuseUpgrade(w, r)
					return
				}
				if waiting.CompareAndSwap(true, false) {
					<-time.After(11 * time.Second)
				}
				opened.Add(1)
			}
			app.ServeHTTP(w, r)
		})
	}) + visitor.CounterPage)
	tb.Shows("Live updates are off")
	waiting.Store(true)
	blocked.Store(false)
	tb.WaitUntil(browser.Live+` && document.documentElement.dataset.connection === "up"`, "a live page")
	assert.EqualValues(t, 2, opened.Load(), "the socket that waited, and the client's")
}
