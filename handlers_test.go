package main

import (
	"context"
	"fmt"
	"html/template"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/cluster"
	"realtime/internal/fanout"
	"realtime/internal/presence"
	"realtime/internal/site"
	"realtime/internal/visitor"
	"realtime/internal/wsconn"
)

func TestMain(m *testing.M) { os.Exit(visitor.Main(m)) }

// newServer serves the app in this process, and returns its address.
func newServer(t testing.TB, cfg config) (url string) {
	t.Helper()
	cfg.site.Drain = time.Millisecond // most tests end with open tabs
	a, err := newApp(t.Context(), cfg)
	require.NoError(t, err)
	return serve(t, a)
}

// serve serves an app until the test ends, and returns its address.
func serve(t testing.TB, a *app) (url string) {
	t.Helper()
	server := httptest.NewServer(a)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), visitor.Soon)
		defer cancel()
		assert.NoError(t, a.shutdown(ctx), "shutdown")
		server.Close()
	})
	return server.URL
}

func TestState_HoldsOnlyData(t *testing.T) {
	livetemplate.AssertPureState[MultiUserSyncState](t)
	livetemplate.AssertPureState[PresenceState](t)
}

func TestCounter_EveryTabOfEveryVisitorSeesIncrement(t *testing.T) {
	server := newServer(t, config{})
	alice, bob := visitor.New(t, server), visitor.New(t, server)
	tab1, tab2, other := alice.Open(visitor.CounterPage), alice.Open(visitor.CounterPage), bob.Open(visitor.CounterPage)

	tab1.Increment()
	for _, tb := range []*visitor.Tab{tab1, tab2, other} {
		tb.Shows("Counter: 1")
	}
	other.Increment()
	for _, tb := range []*visitor.Tab{tab1, tab2, other} {
		tb.Shows("Counter: 2")
	}
}

func TestCounter_LateTabHasCurrentValueInFirstHTML(t *testing.T) {
	server := newServer(t, config{})
	tb := visitor.New(t, server).Open(visitor.CounterPage)
	tb.Increment()
	tb.Shows("Counter: 1")
	assert.Contains(t, visitor.New(t, server).Get(visitor.CounterPage), "Counter: 1")
}

func TestCounter_CrowdCountsEveryClick(t *testing.T) {
	const visitors, clicks = 50, 20
	server := newServer(t, config{})
	crowd := make([]*visitor.Tab, visitors)
	for i := range crowd {
		crowd[i] = visitor.New(t, server).Open(visitor.CounterPage)
	}
	var clicking sync.WaitGroup
	for _, tb := range crowd {
		clicking.Go(func() {
			for range clicks {
				tb.Increment()
			}
		})
	}
	clicking.Wait()
	for _, tb := range crowd {
		tb.Shows("Counter: 1000")
	}
	assert.Contains(t, visitor.New(t, server).Get(visitor.CounterPage), "Counter: 1000 ")
}

func TestCounter_RefreshThatChangesNothingIsNotSent(t *testing.T) {
	server := newServer(t, config{})
	tb, peer := visitor.New(t, server).Open(visitor.CounterPage), visitor.New(t, server).Open(visitor.CounterPage)
	tb.Increment()
	tb.Increment() // announced at the end of an interval, to this tab too
	peer.Shows("Counter: 2")
	<-time.After(2 * fanout.DefaultInterval)
	tb.Settle()
	assert.Equal(t, 4, tb.FrameCount(), "the page and three answers")
}

// newCounter serves a counter whose controller a test can reach.
func newCounter(t *testing.T) (a *app, c *MultiUserSyncController, server string) {
	t.Helper()
	servers, err := cluster.New(cluster.Options{})
	require.NoError(t, err)
	s, err := newSite(site.Options{Drain: time.Millisecond}, servers)
	require.NoError(t, err)
	a = &app{Site: s, fanout: fanout.New(fanout.Options{}), servers: servers, online: presence.New(presence.Options{})}
	c = multiUserSyncHandler(a)
	require.NoError(t, a.broken)
	return a, c, serve(t, a)
}

// A page that cannot be built keeps the app from serving, see newApp.
func TestLive_NotesATemplateThatIsBroken(t *testing.T) {
	a, _, _ := newCounter(t)
	assert.Nil(t, live(a, "nowhere", &MultiUserSyncController{}, &MultiUserSyncState{}))
	assert.ErrorContains(t, a.broken, "realtime/nowhere.tmpl")
}

// A total may arrive after a later one: from another server, or from a click.
func TestCounter_NeverGoesBack(t *testing.T) {
	_, c, server := newCounter(t)
	c.counted(10)
	c.counted(9)
	tb, peer := visitor.New(t, server).Open(visitor.CounterPage), visitor.New(t, server).Open(visitor.CounterPage)
	tb.Shows("Counter: 10")
	tb.Increment() // this server alone has counted to 1
	tb.Settle()
	assert.Contains(t, tb.Text(), "Counter: 10")
	c.counted(11)
	peer.Shows("Counter: 11")
}

// Between a read and a subscription that comes after it, a change could be missed.
func TestCounter_MountSubscribesBeforeItReads(t *testing.T) {
	a, c, server := newCounter(t)
	c.mu.Lock() // Mount can do everything but read
	ws, err := visitor.New(t, server).Dial(visitor.CounterPage)
	require.NoError(t, err)
	defer ws.Close()
	assert.Eventually(t, func() bool {
		stacks := make([]byte, 1<<20)
		return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "(*MultiUserSyncController).read")
	}, visitor.Soon, time.Millisecond, "Mount waits to read")
	c.changed()
	answer := httptest.NewRecorder()
	a.Admin.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	c.mu.Unlock()
	assert.Contains(t, answer.Body.String(), `realtime_refreshes_sent_total{page="multi-user-sync"} 1`)
}

func TestCounter_PlainPostCountsAndLiveTabsSeeIt(t *testing.T) {
	server := newServer(t, config{})
	tb, plain := visitor.New(t, server).Open(visitor.CounterPage), visitor.New(t, server)

	resp, _ := plain.Post(visitor.CounterPage, url.Values{"increment": {""}})
	assert.Equal(t, http.StatusSeeOther, resp.StatusCode)
	location, err := resp.Location()
	require.NoError(t, err)
	assert.Equal(t, visitor.CounterPage, location.Path)
	assert.Contains(t, plain.Get(location.Path), "Counter: 1")
	tb.Shows("Counter: 1")
}

func TestPresence_JoinAndLeaveCountEverywhere(t *testing.T) {
	server := newServer(t, config{})
	aliceVisitor := visitor.New(t, server)
	alice, aliceSecond, bob := aliceVisitor.Open(visitor.PresencePage), aliceVisitor.Open(visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	everyone := []*visitor.Tab{alice, aliceSecond, bob}

	alice.Join("Alice")
	alice.Shows("Logged in as Alice")
	bob.Join("Bob")
	bob.Shows("Logged in as Bob")
	for _, tb := range everyone {
		tb.Shows("2 user(s) online")
	}
	assert.Contains(t, visitor.New(t, server).Get(visitor.PresencePage), "2 user(s) online", "the page of a late visitor")

	bob.Leave()
	for _, tb := range everyone {
		tb.Shows("1 user(s) online")
	}
	alice.Shows("Logged in as Alice")
	bob.Never("Logged in")
	aliceSecond.Never("Logged in")
	for _, tb := range []*visitor.Tab{bob, aliceSecond} {
		assert.Contains(t, tb.HTML(), `name="join"`, "the form is for who has not joined")
	}
	assert.NotContains(t, alice.HTML(), `name="join"`, "Alice has joined")
}

func TestPresence_ClosedTabLeaves(t *testing.T) {
	t.Parallel()
	server := newServer(t, config{})
	alice, bob := visitor.New(t, server).Open(visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	alice.Join("Alice")
	bob.Join("Bob")
	alice.Shows("2 user(s) online")
	closed := time.Now()
	bob.Close()
	alice.Shows("1 user(s) online")
	assert.Less(t, time.Since(closed), 3*time.Second)

	alice.Leave()
	alice.Shows("0 user(s) online")
	alice.Join("Alice again")
	alice.Shows("1 user(s) online")
	late := visitor.New(t, server).Open(visitor.PresencePage)
	alice.Close()
	late.Shows("0 user(s) online")
}

func TestPresence_TabsOfOneNameAreOneUserPerBrowser(t *testing.T) {
	server := newServer(t, config{presence: presence.Options{Grace: 10 * time.Millisecond}})
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

func TestPresence_ReloadIsNoticedByNobody(t *testing.T) {
	t.Parallel()
	sockets := &visitor.SocketCount{}
	server := visitor.NewProxy(t, newServer(t, config{}), sockets.Count)
	alice, bob := visitor.New(t, server), visitor.New(t, server).Open(visitor.PresencePage)
	tb := alice.Open(visitor.PresencePage)
	tb.Join("Alice")
	bob.Shows("1 user(s) online")
	bob.StartHistory()
	for range 10 { // what the browser's script does
		tb.Close()
		sockets.WaitFor(t, map[string]int{visitor.PresencePage: 1}) // Bob's
		tb = alice.Open(visitor.PresencePage)
		tb.Join("Alice")
		tb.Shows("1 user(s) online Logged in as Alice Leave Alice (you) Joining needs")
	}
	bob.NoChange(presence.DefaultGrace)
}

func TestPresence_SilentPeerLeavesAndIdleOnesStay(t *testing.T) {
	t.Parallel()
	heartbeat := wsconn.Heartbeat{Ping: 20 * time.Millisecond, Timeout: 500 * time.Millisecond}
	server := newServer(t, config{presence: presence.Options{Grace: 50 * time.Millisecond}, site: site.Options{Heartbeat: heartbeat}})
	idle := visitor.New(t, server).Open(visitor.PresencePage)
	idle.Join("idle")
	idle.Shows("1 user(s) online")

	silent, err := visitor.New(t, server).Dial(visitor.PresencePage)
	require.NoError(t, err)
	defer silent.Close()
	require.NoError(t, visitor.Act(silent, "join", map[string]any{"username": "silent"}))
	idle.Shows("2 user(s) online") // from here on the silent end reads and writes nothing
	idle.Shows("1 user(s) online Logged in as idle Leave idle (you) Joining needs")
}

func TestPresence_JoinTwiceIsOneUser(t *testing.T) {
	server := newServer(t, config{})
	alice := visitor.New(t, server).Open(visitor.PresencePage)
	alice.Join("Alice")
	alice.Join("Alicia")
	alice.Shows("Logged in as Alicia")
	alice.Shows("1 user(s) online")
}

func TestPresence_RefusedNameSaysWhyAndOutlivesUpdates(t *testing.T) {
	long := strings.Repeat("ü", 41)
	for name, row := range map[string]struct{ typed, wantProblem string }{
		"blank":    {"   ", presence.NoName},
		"empty":    {"", presence.NoName},
		"too long": {long, presence.LongName},
		"override": {"Alice\u202eecilA", presence.ControlName},
		"hostile":  {long + `" onfocus="alert(1)" x="<script>`, presence.LongName},
	} {
		t.Run(name, func(t *testing.T) {
			server := newServer(t, config{})
			alice, bob := visitor.New(t, server).Open(visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
			alice.Join(row.typed)
			alice.Shows(row.wantProblem)

			bob.Join("Bob")
			alice.Shows("1 user(s) online")
			alice.Shows(row.wantProblem)
			input := visitor.TagOf(t, alice.HTML(), "<input type=\"text\"")
			assert.Contains(t, input, `value="`+template.HTMLEscapeString(row.typed)+`"`, "the typed text is still in the field")
			assert.Contains(t, input, `aria-invalid="true"`)
			assert.Contains(t, input, `aria-describedby="username-error"`)
			visitor.TagOf(t, alice.HTML(), `<small id="username-error"`)

			alice.Join("Alice")
			alice.Shows("2 user(s) online")
			alice.Leave()
			alice.Shows("1 user(s) online")
			alice.Never(row.wantProblem)
		})
	}
}

func TestPresence_NameJoinsAsTyped(t *testing.T) {
	server := newServer(t, config{})
	tb := visitor.New(t, server).Open(visitor.PresencePage)
	for typed, sent := range map[string]any{ // sent as the browser client sends it
		"true":                         true,
		"false":                        false,
		"null":                         "null",
		"007":                          "007",
		"7":                            7,
		"-1.5":                         -1.5,
		"1e-7":                         1e-7,
		"0.000001":                     0.000001,
		"1e+21":                        1e21,
		"9007199254740991":             9007199254740991,
		"Infinity":                     nil,
		"Zoë ☕":                        "Zoë ☕",
		"<img src=x onerror=alert(1)>": "<img src=x onerror=alert(1)>",
		"spaced out":                   "  spaced \t\n\u00a0 out ",
		"{{.OnlineCount}}":             "{{.OnlineCount}}",
	} {
		tb.Do("join", map[string]any{"username": sent})
		tb.Shows("Logged in as " + typed + " ")
		assert.NotContains(t, tb.HTML(), "<img", "a name is text")
		tb.Leave()
	}
	tb.Do("join", nil)
	tb.Shows(presence.NoName)
}

func TestPresence_PlainPostSaysItNeedsALiveConnection(t *testing.T) {
	server := newServer(t, config{})
	tb, plain := visitor.New(t, server).Open(visitor.PresencePage), visitor.New(t, server)
	_, page := plain.Send(http.MethodGet, visitor.PresencePage, "", "")
	noscript, _, _ := strings.Cut(page[strings.Index(page, "<noscript>"):], "</noscript>")
	assert.Contains(t, visitor.Readable(noscript), needsSocket, "without scripts the page says so beforehand")

	for name, form := range map[string]url.Values{
		"a name":        {"username": {"Alice"}, "join": {""}},
		"a blank name":  {"username": {"   "}, "join": {""}},
		"a hostile one": {"username": {`<img src=x>`}, "join": {""}},
	} {
		t.Run(name, func(t *testing.T) {
			resp, page := plain.Post(visitor.PresencePage, form)
			assert.Equal(t, http.StatusOK, resp.StatusCode)
			alert := visitor.TagOf(t, page, `<small id="username-error"`)
			assert.Contains(t, page, alert+needsSocket, "the reason is beside the field")
			assert.Contains(t, page, `value="`+template.HTMLEscapeString(form.Get("username"))+`"`, "the typed name is still there")
			assert.NotContains(t, visitor.Readable(page), "Logged in")
		})
	}
	assert.Contains(t, plain.Get(visitor.PresencePage), "0 user(s) online")
	tb.Never("1 user(s) online")
}

// A page is HTML first, then a socket, and another one after a break. One change
// of a peer lands anywhere in between.
func TestPages_ChangeIsNeverMissed(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		page   string
		visits int
		act    func(peer *visitor.Tab, i int) (want string)
	}{
		{visitor.CounterPage, 1000, func(peer *visitor.Tab, i int) string {
			peer.Increment()
			return fmt.Sprintf("Counter: %d Increment", i+1)
		}},
		{visitor.PresencePage, 100, func(peer *visitor.Tab, i int) string {
			if i%2 == 0 {
				peer.Join("Bob")
				return "1 user(s) online"
			}
			peer.Leave()
			return "0 user(s) online"
		}},
	} {
		t.Run(row.page, func(t *testing.T) {
			// Without waiting for the next interval there are many changes in little time.
			server := newServer(t, config{fanout: fanout.Options{Interval: time.Millisecond}})
			var peers []*visitor.Tab // several, since each may change 50 times a second only
			for range 10 {
				peers = append(peers, visitor.New(t, server).Open(row.page))
			}
			var done atomic.Bool
			var crowd sync.WaitGroup
			defer crowd.Wait()
			defer done.Store(true)
			for range 2 { // come and go, and hold up each other's subscriptions
				v := visitor.New(t, server)
				v.Get(row.page) // for its cookie
				crowd.Go(func() {
					for !done.Load() {
						ws, err := v.Dial(row.page)
						if assert.NoError(t, err) {
							ws.ReadMessage()
							ws.Close()
						}
					}
				})
			}

			visit := 5 * time.Millisecond
			for seed := range row.visits {
				random := rand.New(rand.NewPCG(uint64(seed), 0))
				connects, delay := 1+random.IntN(2), time.Duration(random.Int64N(int64(visit)))
				want := make(chan string, 1)
				time.AfterFunc(delay, func() { want <- row.act(peers[seed/2%10], seed) })

				began := time.Now()
				tb := visitor.New(t, server).Open(row.page)
				for range connects - 1 {
					tb.Close()
					tb.Connect()
				}
				visit = (visit*9 + time.Since(began)*3/2) / 10 // so that some changes come after it
				tb.Shows(<-want)
				tb.Close()
			}
		})
	}
}

func TestPages_HostileMessagesChangeNothingShared(t *testing.T) {
	server := newServer(t, config{})
	for name, row := range map[string]struct {
		frameType int
		frame     string
	}{
		"refreshCounter":           {websocket.TextMessage, `{"action":"refreshCounter","data":{"counter":99}}`},
		"presenceChanged":          {websocket.TextMessage, `{"action":"presenceChanged","data":{"onlinecount":99}}`},
		"mount":                    {websocket.TextMessage, `{"action":"mount","data":{}}`},
		"navigate":                 {websocket.TextMessage, `{"action":"__navigate__","data":{"counter":"99"}}`},
		"unknown action":           {websocket.TextMessage, `{"action":"launch","data":{}}`},
		"no action":                {websocket.TextMessage, `{}`},
		"unexported helper":        {websocket.TextMessage, `{"action":"add","data":{}}`},
		"invalid JSON":             {websocket.TextMessage, `{"action":`},
		"other JSON":               {websocket.TextMessage, `[1,2,3]`},
		"fields of the wrong kind": {websocket.TextMessage, `{"action":7,"data":"x"}`},
		"binary":                   {websocket.BinaryMessage, "\x00\xff\x00"},
		"binary increment":         {websocket.BinaryMessage, `{"action":"increment","data":{}}`},
		"binary join":              {websocket.BinaryMessage, `{"action":"join","data":{"username":"x"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			for _, page := range []string{visitor.CounterPage, visitor.PresencePage} {
				sender, peer := visitor.New(t, server).Open(page), visitor.New(t, server).Open(page)
				require.NoError(t, sender.WS.WriteMessage(row.frameType, []byte(row.frame)))
				if row.frameType == websocket.TextMessage {
					sender.Settle() // still served
				} else {
					<-sender.Ended
				}
				peer.Settle()
				assert.Equal(t, 2, peer.FrameCount(), "the peer got its page and its own answer, nothing else")
				for _, tb := range []*visitor.Tab{sender, peer} {
					tb.Never("99")
					tb.Close()
				}
			}
			late := visitor.New(t, server)
			assert.Contains(t, late.Get(visitor.CounterPage), "Counter: 0 ")
			assert.Contains(t, late.Get(visitor.PresencePage), "0 user(s) online")
		})
	}
}

// Otherwise one connection could take part as two users.
func TestPresence_MountAsAnActionIsNoNewConnection(t *testing.T) {
	t.Parallel()
	server := newServer(t, config{})
	alice, bob := visitor.New(t, server).Open(visitor.PresencePage), visitor.New(t, server).Open(visitor.PresencePage)
	alice.Join("Alice")
	bob.Shows("1 user(s) online")
	alice.Do("mount", nil)
	alice.Join("Alicia")
	bob.Shows("Alicia")
	assert.Contains(t, bob.Text(), "1 user(s) online")
	alice.Close()
	bob.Shows(" 0 user(s) online")
}

func TestPages_StillWorkAfterHostileMessages(t *testing.T) {
	server := newServer(t, config{})
	sender, peer := visitor.New(t, server).Open(visitor.CounterPage), visitor.New(t, server).Open(visitor.CounterPage)
	for _, frame := range []string{`{"action":`, `{"action":"mount"}`, `{"action":"mount"}`, `{"action":"refreshCounter"}`} {
		require.NoError(t, sender.WS.WriteMessage(websocket.TextMessage, []byte(frame)))
	}
	sender.Increment()
	sender.Shows("Counter: 1")
	peer.Shows("Counter: 1")
	peer.Increment()
	sender.Shows("Counter: 2")
}

func TestFiles_NotFetchedComeFromTheCDNAndTheLogSaysSo(t *testing.T) {
	static := fstest.MapFS{"package.json": {Data: []byte("{}")}}
	for _, missing := range []bool{true, false} {
		log := &visitor.Log{}
		files, err := browserFiles(static, log.Logger())
		require.NoError(t, err)
		assert.Equal(t, missing, files.CDN() != "")
		assert.Equal(t, missing, strings.Contains(log.String(), "run `make assets` to fetch them"), log.String())
		static["vendor/livetemplate-client.browser.js"], static["vendor/pico.min.css"] = &fstest.MapFile{}, &fstest.MapFile{}
	}
}
