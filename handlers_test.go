package main

import (
	"context"
	"fmt"
	"html"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/cluster"
	"realtime/internal/fanout"
	"realtime/internal/flags"
	"realtime/internal/logging"
	"realtime/internal/presence"
	"realtime/internal/site"
	"realtime/internal/visitor"
	"realtime/internal/wsconn"
)

func TestMain(m *testing.M) {
	visitor.Patience = 20 * time.Second
	os.Exit(visitor.Main(m))
}

// newServer serves the app in this process, and returns its address.
func newServer(t testing.TB, opts flags.Options) (url string) {
	t.Helper()
	a := newTestApp(t, opts)
	return serve(t, a, a)
}

// newTestApp returns an app that shuts down at once: most tests end with open tabs.
func newTestApp(t testing.TB, opts flags.Options) *app {
	t.Helper()
	opts.Drain = time.Millisecond
	a, err := newApp(t.Context(), opts)
	require.NoError(t, err)
	return a
}

// serve serves an app behind a handler until the test ends, and returns its address.
func serve(t testing.TB, a *app, handler http.Handler) (url string) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), visitor.Soon)
		defer cancel()
		assert.NoError(t, a.stop(ctx), "shutdown")
		server.Close()
	})
	return server.URL
}

// It shuts down gracefully, as after a signal, and returns the error.
func TestServe_FailingListenerStopsTheApp(t *testing.T) {
	for _, fails := range []string{"visitors", "admin"} {
		listeners := map[string]net.Listener{}
		for _, name := range []string{"visitors", "admin"} {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			listeners[name] = listener
		}
		ended := make(chan error)
		a := newTestApp(t, flags.Options{})
		go func() { ended <- a.serve(t.Context(), listeners["visitors"], listeners["admin"], visitor.Soon) }()
		tb := visitor.New(t, "http://"+listeners["visitors"].Addr().String()).Open(visitor.CounterPage)
		listeners[fails].Close()
		<-tb.Ended
		assert.EqualError(t, tb.Err(), "websocket: close 1001 (going away): the server is stopping", fails)
		assert.ErrorIs(t, <-ended, net.ErrClosed, fails)
		assert.Error(t, listeners["admin"].Close(), "already closed")
	}
}

// The framework warns of every action that it drops. A refresh that waits stands for those.
func TestApp_DroppedRefreshIsNoWarning(t *testing.T) {
	log := &visitor.Log{}
	logger, _ := logging.New(log, slog.LevelInfo, false)
	tb := visitor.New(t, newServer(t, flags.Options{Site: site.Options{Log: logger}})).Open(visitor.CounterPage)
	tb.Increment()
	tb.Settle()
	for _, action := range []string{"RefreshCounter", "Called"} {
		logger.Warn("dispatch channel full, dropping broadcast action", slog.String("action", action))
	}
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "action=Called") }, visitor.Soon, time.Millisecond)
	assert.NotContains(t, log.String(), "action=RefreshCounter")
}

func TestState_HoldsOnlyData(t *testing.T) {
	livetemplate.AssertPureState[MultiUserSyncState](t)
	livetemplate.AssertPureState[PresenceState](t)
}

func TestCounter_EveryTabOfEveryVisitorSeesIncrement(t *testing.T) {
	server := newServer(t, flags.Options{})
	alice, bob, plain := visitor.New(t, server), visitor.New(t, server), visitor.New(t, server)
	tab1, tab2, other := alice.Open(visitor.CounterPage), alice.Open(visitor.CounterPage), bob.Open(visitor.CounterPage)
	for i, click := range []func(){tab1.Increment, other.Increment, plain.Click} {
		click()
		for _, tb := range []*visitor.Tab{tab1, tab2, other} {
			tb.Shows(fmt.Sprintf("Counter: %d ", i+1))
		}
	}
	assert.Contains(t, visitor.New(t, server).Get(visitor.CounterPage), "Counter: 3 ", "the first HTML of a late visitor")
	resp, _ := plain.Post(visitor.CounterPage, url.Values{"increment": {""}})
	assert.Equal(t, "./multi-user-sync", resp.Header.Get("Location"), "relative: a proxy may add a path prefix")
}

// Clicks on other servers arrive between two clicks here.
func TestCounter_IsTheSumOfAllServers(t *testing.T) {
	a, c, _ := newControllers(t, presence.Options{})
	server := serve(t, a, a)
	tb, peer := visitor.New(t, server).Open(visitor.CounterPage), visitor.New(t, server).Open(visitor.CounterPage)
	tb.Increment()
	peer.Shows("Counter: 1 ")
	c.counted(10)
	peer.Shows("Counter: 11 ")
	tb.Increment()
	peer.Shows("Counter: 12 ")
	tb.Shows("Counter: 12 ")
	assert.Equal(t, 2, c.servers.Counted(), "what this server reports to the others")
}

func TestPresence_JoinAndLeaveCountEverywhere(t *testing.T) {
	server := newServer(t, flags.Options{})
	browser := visitor.New(t, server)
	alice, aliceSecond, bob := browser.Open(visitor.PresencePage), browser.Open(visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	everyone := []*visitor.Tab{alice, aliceSecond, bob}

	alice.Join("Alice")
	alice.Shows("Logged in as Alice")
	bob.Join("Bob")
	bob.Shows("Logged in as Bob")
	for _, tb := range everyone {
		tb.Shows("2 user(s) online")
	}
	assert.Contains(t, visitor.New(t, server).Get(visitor.PresencePage), "2 user(s) online", "the first HTML of a late visitor")
	bob.Join("Bobby")
	bob.Shows("Logged in as Bobby")
	alice.Shows("Bobby")
	assert.Contains(t, alice.Text(), "2 user(s) online", "Bob has changed his name")

	bob.Leave()
	for _, tb := range everyone {
		tb.Shows("1 user(s) online")
	}
	alice.Shows("Logged in as Alice")
	for _, tb := range []*visitor.Tab{bob, aliceSecond} {
		tb.Never("Logged in")
		assert.Contains(t, tb.HTML(), `name="join"`)
	}
	assert.NotContains(t, alice.HTML(), `name="join"`)
}

// A Mount sent as an action is not a new connection: one tab must not become two users.
func TestPresence_ClosedTabLeaves(t *testing.T) {
	server := newServer(t, flags.Options{Presence: presence.Options{Grace: time.Millisecond}})
	alice, bob := visitor.New(t, server).Open(visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	alice.Join("Alice")
	bob.Join("Bob")
	alice.Shows("2 user(s) online")
	bob.Do("mount", nil)
	bob.Join("Bobby")
	alice.Shows("Bobby")
	assert.Contains(t, alice.Text(), "2 user(s) online")
	bob.Close()
	alice.Shows("1 user(s) online")
}

func TestPresence_TabsOfOneNameAreOneUserPerBrowser(t *testing.T) {
	server := newServer(t, flags.Options{Presence: presence.Options{Grace: time.Millisecond}})
	alice := visitor.New(t, server)
	one, two, other := alice.Open(visitor.PresencePage), alice.Open(visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	one.Join("Alice")
	two.Join("Alice")
	other.Shows("1 user(s) online")
	other.Shows("Join Alice in 2 tabs Joining needs")
	other.Join("Alice")
	one.Shows("2 user(s) online Logged in as Alice Leave Alice (you) in 2 tabs Alice Joining needs")
	other.Shows("2 user(s) online Logged in as Alice Leave Alice (you) Alice in 2 tabs Joining needs")

	one.Leave()
	other.Shows("2 user(s) online Logged in as Alice Leave Alice (you) Alice Joining needs")
	two.Shows("Logged in as Alice")
	two.Close()
	other.Shows("1 user(s) online Logged in as Alice Leave Alice (you) Joining needs")
}

func TestPresence_RefusedNameSaysWhyAndOutlivesUpdates(t *testing.T) {
	server := newServer(t, flags.Options{})
	alice, bob := visitor.New(t, server).Open(visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	hostile := strings.Repeat("ü", 41) + `" onfocus="alert(1)" x="<script>`
	for typed, wantProblem := range map[string]string{"   ": presence.NoName, hostile: presence.LongName} {
		alice.Join(typed)
		alice.Shows(wantProblem)
		bob.Join("Bob")
		alice.Shows("1 user(s) online")
		alice.Shows(wantProblem)
		input := visitor.TagOf(t, alice.HTML(), "<input type=\"text\"")
		assert.Contains(t, input, `value="`+template.HTMLEscapeString(typed)+`"`, "the typed text is still in the field")
		assert.Contains(t, input, `aria-invalid="true"`)
		assert.Contains(t, input, `aria-describedby="username-error"`)
		visitor.TagOf(t, alice.HTML(), `<small id="username-error"`)

		alice.Join("Alice")
		alice.Shows("2 user(s) online")
		alice.Leave()
		bob.Leave()
		alice.Shows("0 user(s) online")
		alice.Never(wantProblem)
	}
}

func TestPresence_NameJoinsAsTyped(t *testing.T) {
	tb := visitor.New(t, newServer(t, flags.Options{})).Open(visitor.PresencePage)
	for typed, sent := range map[string]any{ // sent as the browser client sends it
		"true":                         true,
		"null":                         "null",
		"1e-7":                         1e-7,
		"1e+21":                        1e21,
		"<img src=x onerror=alert(1)>": "<img src=x onerror=alert(1)>",
		"spaced out":                   "  spaced \t\n\u00a0 out ",
	} {
		tb.Do("join", map[string]any{"username": sent})
		tb.Shows("Logged in as " + typed + " ")
		assert.NotContains(t, tb.HTML(), "<img src=x", "a name is text")
		assert.Contains(t, html.UnescapeString(tb.HTML()), `<bdi translate="no">`+typed+` </bdi><small role="note">(you)</small> </li>`)
		tb.Leave()
	}
	tb.Do("join", nil)
	tb.Shows(presence.NoName)
}

func TestPresence_PlainPostSaysItNeedsALiveConnection(t *testing.T) {
	plain := visitor.New(t, newServer(t, flags.Options{}))
	_, page := plain.Post(visitor.PresencePage, url.Values{"username": {"<img src=x>"}, "join": {""}})
	alert := visitor.TagOf(t, page, `<small id="username-error"`)
	assert.Contains(t, page, alert+needsSocket, "the error is beside the field")
	assert.Contains(t, page, `value="&lt;img src=x&gt;"`, "the typed name is still there")
	assert.Contains(t, visitor.Readable(page), "0 user(s) online")
}

// If Mount read first, it would miss a change made before it subscribes.
func TestPages_MountSubscribesBeforeItReads(t *testing.T) {
	told := make(announcer)
	a, counter, people := newControllers(t, presence.Options{Announce: told})
	server := serve(t, a, a)
	go people.online.Join("somebody", presence.User{Name: "Alice"})
	<-told
	defer func() { <-told }() // until then the record is locked
	counter.mu.Lock()         // now neither page can read
	defer counter.mu.Unlock()
	for page, row := range map[string]struct {
		controller string // the function that reads
		publish    func()
	}{
		visitor.CounterPage:  {"MultiUserSyncController).RefreshCounter", func() { counter.peers.PublishTo(allTabs, "RefreshCounter") }},
		visitor.PresencePage: {"PresenceController).read", people.changed},
	} {
		ws, err := visitor.New(t, server).Dial(page)
		require.NoError(t, err)
		defer ws.Close()
		stacks := make([]byte, 8<<20)
		require.Eventually(t, func() bool {
			return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), row.controller)
		}, visitor.Soon, time.Millisecond, "Mount waits to read")
		row.publish()
		answer := httptest.NewRecorder()
		a.metrics.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		sent := fmt.Sprintf("\nrealtime_refreshes_sent_total{page=%q} 1\n", path.Base(page))
		assert.True(t, strings.Contains(answer.Body.String(), sent), "the tab has not subscribed to %s", page)
	}
}

// A tab loads HTML, opens a socket, loses it and opens another. A peer's change before each
// write of the server in turn, and after the last, reaches the tab.
func TestPages_ChangeIsNeverMissed(t *testing.T) {
	t.Parallel()
	for fanOut, interval := range map[string]time.Duration{"at once": time.Millisecond, "merged": fanout.DefaultInterval} {
		t.Run(fanOut, func(t *testing.T) {
			a := newTestApp(t, flags.Options{
				Fanout: fanout.Options{Interval: interval},
				Site:   site.Options{Heartbeat: wsconn.Heartbeat{Write: time.Hour}}, // writes wait for the change
			})
			peer := visitor.New(t, serve(t, a, a)).Open(visitor.CounterPage)
			for point, sent := int64(1), int64(1); point <= sent+1; point++ {
				want := fmt.Sprintf("Counter: %d ", point)
				change := sync.OnceFunc(func() {
					peer.Increment()
					peer.Shows(want)
				})
				server := httptest.NewUnstartedServer(a)
				g := &gate{Listener: server.Listener, n: point, open: change}
				server.Listener = g
				server.Start()
				tb := visitor.New(t, server.URL).Open(visitor.CounterPage)
				tb.Close()
				tb.Connect()
				change()
				tb.Shows(want)
				tb.Close()
				server.Close()
				sent = g.sent.Load()
			}
		})
	}
}

func TestPages_HostileMessagesChangeNothingShared(t *testing.T) {
	server := newServer(t, flags.Options{})
	for page, want := range map[string]string{visitor.CounterPage: "Counter: 0 ", visitor.PresencePage: " 0 user(s) online"} {
		sender, peer := visitor.New(t, server).Open(page), visitor.New(t, server).Open(page)
		for _, frame := range []string{
			`{"action":"refreshCounter","data":{"counter":99}}`,
			`{"action":"presenceChanged","data":{"onlinecount":99}}`,
			`{"action":"__navigate__","data":{"counter":"99"}}`,
			`{"action":"counted","data":{"total":99}}`, // not exported
		} {
			require.NoError(t, sender.WS.WriteMessage(websocket.TextMessage, []byte(frame)))
			sender.Settle() // it is still connected
			assert.Contains(t, sender.Text(), want, frame)
		}
		peer.Settle()
		assert.Equal(t, 2, peer.FrameCount(), "the peer got only its page and its own answer")
		assert.Contains(t, visitor.New(t, server).Get(page), want)
	}
}

// newControllers returns an app and its controllers.
func newControllers(t testing.TB, opts presence.Options) (*app, *MultiUserSyncController, *PresenceController) {
	t.Helper()
	servers, err := cluster.New(cluster.Options{})
	require.NoError(t, err)
	a := &app{fanout: fanout.New(fanout.Options{}), servers: servers}
	a.addSite(flags.Options{Drain: time.Millisecond})
	counter, people := multiUserSyncHandler(a), presenceHandler(a, opts)
	a.online = people.online
	a.metrics.WatchSite(a.Site)
	return a, counter, people
}

// announcer blocks a join, with the record locked, until it was received from twice.
type announcer chan struct{}

func (a announcer) Set(string, string) { a <- struct{}{}; a <- struct{}{} }
func (a announcer) Remove(string)      {}

// gate is a listener that calls open before its server's nth write.
type gate struct {
	net.Listener
	n    int64
	open func()
	sent atomic.Int64
}

func (g *gate) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	return gatedConn{conn, g}, err
}

type gatedConn struct {
	net.Conn
	gate *gate
}

func (c gatedConn) Write(b []byte) (int, error) {
	if c.gate.sent.Add(1) == c.gate.n {
		c.gate.open()
	}
	return c.Conn.Write(b)
}
