package main

import (
	"fmt"
	"html/template"
	"math/rand/v2"
	"net/http"
	"net/url"
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

	"realtime/internal/fanout"
	"realtime/internal/presence"
	"realtime/internal/wsconn"
)

func TestState_HoldsOnlyData(t *testing.T) {
	livetemplate.AssertPureState[MultiUserSyncState](t)
	livetemplate.AssertPureState[PresenceState](t)
}

func TestCounter_EveryTabOfEveryVisitorSeesIncrement(t *testing.T) {
	server := newServer(t)
	alice, bob := newVisitor(t, server), newVisitor(t, server)
	tab1, tab2, other := alice.open(counterPage), alice.open(counterPage), bob.open(counterPage)

	tab1.increment()
	for _, tb := range []*tab{tab1, tab2, other} {
		tb.shows("Counter: 1")
	}
	other.increment()
	for _, tb := range []*tab{tab1, tab2, other} {
		tb.shows("Counter: 2")
	}
}

func TestCounter_LateTabHasCurrentValueInFirstHTML(t *testing.T) {
	server := newServer(t)
	tb := newVisitor(t, server).open(counterPage)
	tb.increment()
	tb.shows("Counter: 1")
	assert.Contains(t, newVisitor(t, server).get(counterPage), "Counter: 1")
}

func TestCounter_CrowdCountsEveryClick(t *testing.T) {
	const visitors, clicks = 50, 20
	server := newServer(t)
	crowd := make([]*tab, visitors)
	for i := range crowd {
		crowd[i] = newVisitor(t, server).open(counterPage)
	}
	var clicking sync.WaitGroup
	for _, tb := range crowd {
		clicking.Go(func() {
			for range clicks {
				tb.increment()
			}
		})
	}
	clicking.Wait()
	for _, tb := range crowd {
		tb.shows("Counter: 1000")
	}
	assert.Contains(t, newVisitor(t, server).get(counterPage), "Counter: 1000 ")
}

func TestCounter_RefreshThatChangesNothingIsNotSent(t *testing.T) {
	server := newServer(t)
	tb, peer := newVisitor(t, server).open(counterPage), newVisitor(t, server).open(counterPage)
	tb.increment()
	tb.increment() // announced at the end of an interval, to this tab too
	peer.shows("Counter: 2")
	<-time.After(2 * fanout.DefaultInterval)
	tb.settle()
	assert.Equal(t, 4, tb.frameCount(), "the page and three answers")
}

func TestCounter_PlainPostCountsAndLiveTabsSeeIt(t *testing.T) {
	server := newServer(t)
	live, plain := newVisitor(t, server).open(counterPage), newVisitor(t, server)

	resp, _ := plain.post(counterPage, url.Values{"increment": {""}})
	assert.Equal(t, http.StatusSeeOther, resp.StatusCode)
	location, err := resp.Location()
	require.NoError(t, err)
	assert.Equal(t, counterPage, location.Path)
	assert.Contains(t, plain.get(location.Path), "Counter: 1")
	live.shows("Counter: 1")
}

func TestPresence_JoinAndLeaveCountEverywhere(t *testing.T) {
	server := newServer(t)
	aliceVisitor := newVisitor(t, server)
	alice, aliceSecond, bob := aliceVisitor.open(presencePage), aliceVisitor.open(presencePage), newVisitor(t, server).open(presencePage)
	everyone := []*tab{alice, aliceSecond, bob}

	alice.join("Alice")
	alice.shows("Logged in as Alice")
	bob.join("Bob")
	bob.shows("Logged in as Bob")
	for _, tb := range everyone {
		tb.shows("2 user(s) online")
	}
	assert.Contains(t, newVisitor(t, server).get(presencePage), "2 user(s) online", "the page of a late visitor")

	bob.leave()
	for _, tb := range everyone {
		tb.shows("1 user(s) online")
	}
	alice.shows("Logged in as Alice")
	bob.never("Logged in")
	aliceSecond.never("Logged in")
	for _, tb := range []*tab{bob, aliceSecond} {
		assert.Contains(t, tb.html(), `name="join"`, "the form is for who has not joined")
	}
	assert.NotContains(t, alice.html(), `name="join"`, "Alice has joined")
}

func TestPresence_ClosedTabLeaves(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	alice, bob := newVisitor(t, server).open(presencePage), newVisitor(t, server).open(presencePage)
	alice.join("Alice")
	bob.join("Bob")
	alice.shows("2 user(s) online")
	closed := time.Now()
	bob.close()
	alice.shows("1 user(s) online")
	assert.Less(t, time.Since(closed), 3*time.Second)

	alice.leave()
	alice.shows("0 user(s) online")
	alice.join("Alice again")
	alice.shows("1 user(s) online")
	late := newVisitor(t, server).open(presencePage)
	alice.close()
	late.shows("0 user(s) online")
}

func TestPresence_TabsOfOneNameAreOneUserPerBrowser(t *testing.T) {
	server := newServerWith(t, Config{Grace: 10 * time.Millisecond})
	visitor := newVisitor(t, server)
	one, two, other := visitor.open(presencePage), visitor.open(presencePage), newVisitor(t, server).open(presencePage)
	one.join("Alice")
	two.join("Alice")
	other.shows("1 user(s) online")
	other.shows("Join Alice in 2 tabs Joining needs")
	other.join("Alice")
	one.shows("2 user(s) online Logged in as Alice Leave Alice (you) in 2 tabs Alice Joining needs")
	other.shows("2 user(s) online Logged in as Alice Leave Alice (you) Alice in 2 tabs Joining needs")

	one.leave()
	other.shows("2 user(s) online Logged in as Alice Leave Alice (you) Alice Joining needs")
	two.shows("Logged in as Alice")
	two.close()
	other.shows("1 user(s) online Logged in as Alice Leave Alice (you) Joining needs")
}

func TestPresence_ReloadIsNoticedByNobody(t *testing.T) {
	sockets := &socketCount{open: map[string]int{}}
	server := newServerBehind(t, sockets.count)
	alice, bob := newVisitor(t, server), newVisitor(t, server).open(presencePage)
	tb := alice.open(presencePage)
	tb.join("Alice")
	bob.shows("1 user(s) online")
	bob.startHistory()
	for range 10 { // what the browser's script does
		tb.close()
		sockets.waitFor(t, map[string]int{presencePage: 1}) // Bob's
		tb = alice.open(presencePage)
		tb.join("Alice")
		tb.shows("1 user(s) online Logged in as Alice Leave Alice (you) Joining needs")
	}
	bob.noChange()
}

func TestPresence_SilentPeerLeavesAndIdleOnesStay(t *testing.T) {
	heartbeat := wsconn.Heartbeat{Ping: 20 * time.Millisecond, Timeout: 500 * time.Millisecond}
	server := newServerWith(t, Config{Grace: 50 * time.Millisecond, Heartbeat: heartbeat})
	idle := newVisitor(t, server).open(presencePage)
	idle.join("idle")
	idle.shows("1 user(s) online")

	silent, err := newVisitor(t, server).dial(presencePage)
	require.NoError(t, err)
	defer silent.Close()
	require.NoError(t, act(silent, "join", map[string]any{"username": "silent"}))
	idle.shows("2 user(s) online") // from here on the silent end reads and writes nothing
	idle.shows("1 user(s) online Logged in as idle Leave idle (you) Joining needs")
}

func TestPresence_SilentPeerIsGoneWithin10SecondsByDefault(t *testing.T) {
	assert.Less(t, wsconn.DefaultTimeout+presence.DefaultGrace, 10*time.Second)
}

func TestPresence_CrowdThatClosesAtOnceLeavesExactly(t *testing.T) {
	const crowd = 200
	server := newServer(t)
	stays := newVisitor(t, server).open(presencePage)
	stays.join("stays")
	tabs := make([]*tab, crowd)
	for i := range tabs {
		tabs[i] = newVisitor(t, server).open(presencePage)
	}
	for _, tb := range tabs {
		tb.join("guest")
	}
	stays.shows("201 user(s) online")
	stays.shows("and 181 more")

	closed := time.Now()
	var closing sync.WaitGroup
	for _, tb := range tabs {
		closing.Go(tb.close)
	}
	stays.shows("1 user(s) online Logged in as stays Leave stays (you) Joining needs")
	assert.Less(t, time.Since(closed), 3*time.Second)
	closing.Wait()
}

// Whoever came and went must leave nothing behind: no goroutine, no memory.
func TestPresence_VisitsLeaveNothingBehind(t *testing.T) {
	server := newServerWith(t, Config{
		Grace:     50 * time.Millisecond,
		Heartbeat: wsconn.Heartbeat{Ping: 50 * time.Millisecond, Timeout: soon}, // the next ping holds a closed connection
	})
	inUse := func() (goroutines int, heap uint64) {
		return runtime.NumGoroutine(), collected().HeapAlloc
	}
	comeAndGo(t, server, 1000)
	var goroutines int
	var heap uint64
	require.Eventually(t, func() bool {
		before := heap
		goroutines, heap = inUse()
		return before > 0 && before <= heap // nothing is left to collect
	}, soon, 200*time.Millisecond)

	comeAndGo(t, server, 10_000)
	last := newVisitor(t, server).open(presencePage)
	last.shows(" 0 user(s) online")
	last.close()
	assert.Eventually(t, func() bool {
		g, h := inUse()
		t.Logf("goroutines: %d, then %d; heap: %d kB, then %d kB", goroutines, g, heap>>10, h>>10)
		return g <= goroutines && h <= heap+1<<19 // 50 bytes a visit
	}, soon, 200*time.Millisecond)
}

func TestPresence_JoinTwiceIsOneUser(t *testing.T) {
	server := newServer(t)
	alice := newVisitor(t, server).open(presencePage)
	alice.join("Alice")
	alice.join("Alicia")
	alice.shows("Logged in as Alicia")
	alice.shows("1 user(s) online")
}

func TestPresence_RefusedNameSaysWhyAndOutlivesUpdates(t *testing.T) {
	long := strings.Repeat("ü", 41)
	for name, row := range map[string]struct{ typed, wantProblem string }{
		"blank":    {"   ", noName},
		"empty":    {"", noName},
		"too long": {long, longName},
		"override": {"Alice\u202eecilA", controlName},
		"hostile":  {long + `" onfocus="alert(1)" x="<script>`, longName},
	} {
		t.Run(name, func(t *testing.T) {
			server := newServer(t)
			alice, bob := newVisitor(t, server).open(presencePage), newVisitor(t, server).open(presencePage)
			alice.join(row.typed)
			alice.shows(row.wantProblem)

			bob.join("Bob")
			alice.shows("1 user(s) online")
			alice.shows(row.wantProblem)
			input := tagOf(t, alice.html(), "<input type=\"text\"")
			assert.Contains(t, input, `value="`+template.HTMLEscapeString(row.typed)+`"`, "the typed text is still in the field")
			assert.Contains(t, input, `aria-invalid="true"`)
			assert.Contains(t, input, `aria-describedby="username-error"`)
			tagOf(t, alice.html(), `<small id="username-error"`)

			alice.join("Alice")
			alice.shows("2 user(s) online")
			alice.leave()
			alice.shows("1 user(s) online")
			alice.never(row.wantProblem)
		})
	}
}

func TestPresence_NameJoinsAsTyped(t *testing.T) {
	server := newServer(t)
	tb := newVisitor(t, server).open(presencePage)
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
		tb.do("join", map[string]any{"username": sent})
		tb.shows("Logged in as " + typed + " ")
		assert.NotContains(t, tb.html(), "<img", "a name is text")
		tb.leave()
	}
	tb.do("join", nil)
	tb.shows(noName)
}

func TestPresence_PlainPostSaysItNeedsALiveConnection(t *testing.T) {
	server := newServer(t)
	live, plain := newVisitor(t, server).open(presencePage), newVisitor(t, server)
	_, page := plain.send(http.MethodGet, presencePage, "", "")
	noscript, _, _ := strings.Cut(page[strings.Index(page, "<noscript>"):], "</noscript>")
	assert.Contains(t, readable(noscript), notLive, "without scripts the page says so beforehand")

	for name, form := range map[string]url.Values{
		"a name":        {"username": {"Alice"}, "join": {""}},
		"a blank name":  {"username": {"   "}, "join": {""}},
		"a hostile one": {"username": {`<img src=x>`}, "join": {""}},
	} {
		t.Run(name, func(t *testing.T) {
			resp, page := plain.post(presencePage, form)
			assert.Equal(t, http.StatusOK, resp.StatusCode)
			alert := tagOf(t, page, `<small id="username-error"`)
			assert.Contains(t, page, alert+notLive, "the reason is beside the field")
			assert.Contains(t, page, `value="`+template.HTMLEscapeString(form.Get("username"))+`"`, "the typed name is still there")
			assert.NotContains(t, readable(page), "Logged in")
		})
	}
	assert.Contains(t, plain.get(presencePage), "0 user(s) online")
	live.never("1 user(s) online")
}

// A page is HTML first, then a socket, and another one after a break. One change
// of a peer lands anywhere in between.
func TestPages_ChangeIsNeverMissed(t *testing.T) {
	for _, row := range []struct {
		page   string
		visits int
		act    func(peer *tab, i int) (want string)
	}{
		{counterPage, 1000, func(peer *tab, i int) string {
			peer.increment()
			return fmt.Sprintf("Counter: %d Increment", i+1)
		}},
		{presencePage, 100, func(peer *tab, i int) string {
			if i%2 == 0 {
				peer.join("Bob")
				return "1 user(s) online"
			}
			peer.leave()
			return "0 user(s) online"
		}},
	} {
		t.Run(row.page, func(t *testing.T) {
			// Without waiting for the next interval there are many changes in little time.
			server := newServerWith(t, Config{Fanout: fanout.Options{Interval: time.Millisecond}})
			var peers []*tab // several, since each may change 50 times a second only
			for range 10 {
				peers = append(peers, newVisitor(t, server).open(row.page))
			}
			var done atomic.Bool
			var crowd sync.WaitGroup
			defer crowd.Wait()
			defer done.Store(true)
			for range 4 { // come and go, and hold up each other's subscriptions
				v := newVisitor(t, server)
				v.get(row.page) // for its cookie
				crowd.Go(func() {
					for !done.Load() {
						ws, err := v.dial(row.page)
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
				tb := newVisitor(t, server).open(row.page)
				for range connects - 1 {
					tb.close()
					tb.connect()
				}
				visit = (visit*9 + time.Since(began)*3/2) / 10 // so that some changes come after it
				tb.shows(<-want)
				tb.close()
			}
		})
	}
}

func TestPages_HostileMessagesChangeNothingShared(t *testing.T) {
	server := newServer(t)
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
			for _, page := range []string{counterPage, presencePage} {
				sender, peer := newVisitor(t, server).open(page), newVisitor(t, server).open(page)
				require.NoError(t, sender.ws.WriteMessage(row.frameType, []byte(row.frame)))
				if row.frameType == websocket.TextMessage {
					sender.settle() // still served
				} else {
					<-sender.ended
				}
				peer.settle()
				assert.Equal(t, 2, peer.frameCount(), "the peer got its page and its own answer, nothing else")
				for _, tb := range []*tab{sender, peer} {
					tb.never("99")
					tb.close()
				}
			}
			late := newVisitor(t, server)
			assert.Contains(t, late.get(counterPage), "Counter: 0 ")
			assert.Contains(t, late.get(presencePage), "0 user(s) online")
		})
	}
}

func TestPages_StillWorkAfterHostileMessages(t *testing.T) {
	server := newServer(t)
	sender, peer := newVisitor(t, server).open(counterPage), newVisitor(t, server).open(counterPage)
	for _, frame := range []string{`{"action":`, `{"action":"mount"}`, `{"action":"mount"}`, `{"action":"refreshCounter"}`} {
		require.NoError(t, sender.ws.WriteMessage(websocket.TextMessage, []byte(frame)))
	}
	sender.increment()
	sender.shows("Counter: 1")
	peer.shows("Counter: 1")
	peer.increment()
	sender.shows("Counter: 2")
}

// tagOf is the first tag in markup that begins with start.
func tagOf(t *testing.T, markup, start string) string {
	t.Helper()
	_, rest, found := strings.Cut(markup, start)
	require.True(t, found, "no %s in the page", start)
	tag, _, _ := strings.Cut(rest, ">")
	return start + tag + ">"
}
