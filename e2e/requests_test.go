package e2e

import (
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

func TestLivePages_TabsOfOneBrowserWithoutSocketsStayApart(t *testing.T) {
	v := visitor.New(t, newServer(t))
	v.Get(visitor.PresencePage) // for its cookie
	hostile := []string{`Alice`, `onfocus=alert(1)`, `" onfocus="alert(1)`, `x`, `true`}
	join := func(tb *visitor.RequestTab, i int) {
		name := hostile[i%len(hostile)]
		tb.Act("join", map[string]any{"username": name})
		assert.Contains(t, tb.HTML(), `id="username" name="username" value="`+template.HTMLEscapeString(name)+`" placeholder=`)
		assert.Contains(t, tb.Text(), notLive)
	}

	first, second := v.OpenWithoutSocket(visitor.PresencePage), v.OpenWithoutSocket(visitor.PresencePage)
	for i := range 20 { // in turn
		join(first, i)
		second.Act("presenceChanged", nil)
		assert.NotContains(t, second.Text(), notLive)
		join(second, i+1)
		first.Act("leave", nil)
		assert.NotContains(t, first.Text(), notLive)
		resp, _ := v.Post(visitor.PresencePage, url.Values{"username": {"Carol"}, "join": {""}}) // and one without scripts
		assert.Equal(t, http.StatusOK, resp.StatusCode)
	}
	var tabs sync.WaitGroup
	for i, tb := range []*visitor.RequestTab{first, second} { // at once
		tabs.Go(func() {
			for j := range 100 {
				join(tb, i+j)
			}
		})
	}
	tabs.Wait()

	one, two := v.OpenWithoutSocket(visitor.CounterPage), v.OpenWithoutSocket(visitor.CounterPage)
	for i := range 10 {
		one.Act("increment", nil)
		assert.Contains(t, one.Text(), fmt.Sprintf("Counter: %d ", 2*i+1))
		two.Act("increment", nil)
		assert.Contains(t, two.Text(), fmt.Sprintf("Counter: %d ", 2*i+2))
	}
}

// Two visitors with the same made-up session do not share it.
func TestSession_ThatIsMadeUpIsNotShared(t *testing.T) {
	for cookie, users := range map[string]int{"admin": 2, madeUp(): 1} {
		server := newServer(t)
		for range 2 {
			ws, _ := visitor.Knock(t, server, visitor.PresencePage, http.Header{"Cookie": {visitor.SessionCookie + "=" + cookie}})
			require.NotNil(t, ws)
			require.NoError(t, visitor.Act(ws, "join", map[string]any{"username": "Alice"}))
			for range 2 {
				_, _, err := ws.ReadMessage() // the page, and that it has joined
				require.NoError(t, err)
			}
		}
		assert.Contains(t, visitor.New(t, server).Get(visitor.PresencePage), fmt.Sprintf("%d user(s) online", users), cookie)
	}
}

// An action that changes nothing for others publishes nothing.
func TestPublish_OnlyWhatHasChanged(t *testing.T) {
	t.Parallel()
	p := visitor.Start(t)
	tb, plain := visitor.New(t, p.URL).Open(visitor.PresencePage), visitor.New(t, p.URL)
	plain.Post(visitor.PresencePage, url.Values{"username": {"Alice"}, "join": {""}})
	plain.Post(visitor.PresencePage, url.Values{"leave": {""}})
	tb.Leave() // has not joined
	tb.Join(" ")
	tb.Settle()
	const joins, clicks = `realtime_refreshes_asked_total{action="PresenceChanged"}`, `realtime_refreshes_asked_total{action="RefreshCounter"}`
	assert.Zero(t, p.Metric(joins))
	tb.Join("Alice")
	tb.Settle()
	assert.EqualValues(t, 1, p.Metric(joins))
	tb.Leave()
	tb.Leave()
	tb.Settle()
	assert.EqualValues(t, 2, p.Metric(joins))
	plain.Click()
	assert.EqualValues(t, 1, p.Metric(clicks))
}

// Visitors who have gone leave nothing behind: no goroutine, no memory.
func TestPresence_VisitsLeaveNothingBehind(t *testing.T) {
	p := visitor.StartExe(t, visitor.BuildPlain(t), "-grace", "50ms",
		"-ping", "50ms", "-ping-timeout", "30s") // the next ping holds a closed connection
	server := p.URL
	inUse := func() (goroutines, heap int) {
		http.DefaultClient.CloseIdleConnections()
		return p.Goroutines(), p.Heap()
	}
	visitor.ComeAndGo(t, server, 1000)
	var goroutines int
	var heap int
	require.Eventually(t, func() bool {
		before := heap
		goroutines, heap = inUse()
		return before > 0 && before <= heap // nothing is left to collect
	}, visitor.Soon, 200*time.Millisecond)

	visitor.ComeAndGo(t, server, 10_000)
	last := visitor.New(t, server).Open(visitor.PresencePage)
	last.Shows(" 0 user(s) online")
	last.Close()
	assert.Eventually(t, func() bool {
		g, h := inUse()
		t.Logf("goroutines: %d, then %d; heap: %d kB, then %d kB", goroutines, g, heap>>10, h>>10)
		return g <= goroutines && h <= heap+1<<20 // 100 bytes a visit
	}, visitor.Soon, 200*time.Millisecond)
}

func TestPresence_CrowdThatClosesAtOnceLeavesExactly(t *testing.T) {
	const crowd = 200
	server := newServer(t)
	stays := visitor.New(t, server).Open(visitor.PresencePage)
	stays.Join("stays")
	tabs := make([]*visitor.Tab, crowd)
	for i := range tabs {
		tabs[i] = visitor.New(t, server).Open(visitor.PresencePage)
	}
	for _, tb := range tabs {
		tb.Join("guest")
	}
	stays.Shows("201 user(s) online")
	stays.Shows("and 181 more")

	var closing sync.WaitGroup
	for _, tb := range tabs {
		closing.Go(tb.Close)
	}
	stays.Shows("1 user(s) online Logged in as stays Leave stays (you) Joining needs")
	closing.Wait()
}

// With the defaults: somebody who loses the network without a word, and the grace
// period.
func TestPresence_SilentPeerIsGoneWithin10SecondsByDefault(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	stays := visitor.New(t, server).Open(visitor.PresencePage)
	silent, err := visitor.New(t, server).Dial(visitor.PresencePage)
	require.NoError(t, err)
	defer silent.Close()
	require.NoError(t, visitor.Act(silent, "join", map[string]any{"username": "silent"}))
	began := time.Now()
	stays.Shows(" 1 user(s) online") // from here on the silent end reads and writes nothing
	stays.Shows(" 0 user(s) online")
	assert.Less(t, time.Since(began), 10*time.Second)
}
