package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/testenv"
	"realtime/internal/wsconn"
)

// Five peers send as fast as they can and never read. The framework would write
// to them with a lock held that everybody needs.
func TestHostile_PeersThatDoNotReadHarmNobody(t *testing.T) {
	const peers, flood = 5, 10 * time.Second
	program := start(t, build(t), "-admin-addr", "127.0.0.1:0") // without the race detector: it is a matter of time
	server := program.url
	clicker, poster := newVisitor(t, server).open(counterPage), newVisitor(t, server)
	watching := newVisitor(t, server).open(counterPage)

	clicks := 0
	click := func() time.Duration {
		<-time.After(50 * time.Millisecond) // a person, not a flood
		began := time.Now()
		clicker.increment()
		clicker.settle()
		clicks++
		return time.Since(began)
	}
	var usual time.Duration
	for range 20 {
		usual = max(usual, click())
	}

	ctx, stop := context.WithTimeout(t.Context(), flood)
	defer stop()
	var flooding sync.WaitGroup
	var closed atomic.Int64
	for range peers {
		flooding.Go(func() {
			for ctx.Err() == nil {
				assert.Less(t, floodWithoutReading(t, server), 5*time.Second, "until the server closes it")
				closed.Add(1)
			}
		})
	}
	var worst time.Duration
	for i := 0; ctx.Err() == nil; i++ {
		worst = max(worst, click())
		if i%10 == 0 {
			poster.click()
			clicks++
			newVisitor(t, server).open(counterPage).close()
		}
	}
	flooding.Wait()
	t.Logf("the worst of %d clicks took %v, before the flood %v; %d peers that did not read were closed", clicks, worst, usual, closed.Load())
	assert.Less(t, worst, max(250*time.Millisecond, 5*usual)) // more only where the machine is busy with something else
	watching.shows(fmt.Sprintf("Counter: %d ", clicks))
	assert.EventuallyWithT(t, func(check *assert.CollectT) {
		metrics := program.metrics(t)
		assert.EqualValues(check, 2, metrics["realtime_connections"])
		assert.EqualValues(check, closed.Load(), metrics["realtime_slow_closes_total"])
	}, soon, 10*time.Millisecond)
}

// floodWithoutReading opens a socket that nothing reads, and sends messages with
// long answers as fast as it can. It returns how long the server bore it.
func floodWithoutReading(t *testing.T, server string) time.Duration {
	ws, err := dialPage(websocket.Dialer{HandshakeTimeout: soon}, server, counterPage)
	if !assert.NoError(t, err) {
		return 0
	}
	defer ws.Close()
	began := time.Now()
	message := []byte(`{"action":"` + strings.Repeat("x", 4096) + `","data":{}}`)
	for err == nil {
		err = ws.WriteMessage(websocket.TextMessage, message)
	}
	return time.Since(began)
}

// Ten thousand frames that no browser sends, whole and half-sent.
func TestHostile_FramesChangeNothingAndStopNothing(t *testing.T) {
	t.Parallel()
	const frames = 10_000
	app, server := newApp(t, Config{})
	clicker, watching := newVisitor(t, server).open(counterPage), newVisitor(t, server).open(counterPage)
	var sent atomic.Int64
	var senders sync.WaitGroup
	for seed := range 8 {
		senders.Go(func() {
			random := rand.New(rand.NewPCG(uint64(seed), 6))
			v := newVisitor(t, server)
			v.get(counterPage) // for its cookie
			for sent.Load() < frames {
				ws, err := v.dial(counterPage)
				if err != nil { // its last sockets are not gone yet
					<-time.After(time.Millisecond)
					continue
				}
				go func() { // takes the answers
					for err == nil {
						_, _, err = ws.ReadMessage()
					}
				}()
				for range 50 {
					sent.Add(1)
					if !sendHostile(ws, random) {
						break
					}
				}
				ws.Close()
			}
		})
	}
	done := make(chan struct{})
	go func() {
		senders.Wait()
		close(done)
	}()
	clicks := 0
	for sending := true; sending; clicks++ {
		clicker.increment()
		clicker.shows(fmt.Sprintf("Counter: %d ", clicks+1))
		select {
		case <-done:
			sending = false
		case <-time.After(20 * time.Millisecond):
		}
	}
	watching.shows(fmt.Sprintf("Counter: %d ", clicks))
	stats := &app.upgrader.Stats
	for name, refused := range map[string]*atomic.Int64{"not text": &stats.NotText, "too long": &stats.TooLong, "no action": &stats.NotAction} {
		assert.Positive(t, refused.Load(), name)
	}
	assert.Eventually(t, func() bool { return app.upgrader.Open() == 2 }, soon, 10*time.Millisecond)
}

// sendHostile sends a frame, and reports whether the connection can go on.
func sendHostile(ws *websocket.Conn, random *rand.Rand) bool {
	text := func(message string) bool { return ws.WriteMessage(websocket.TextMessage, []byte(message)) == nil }
	raw := func(bytes ...byte) bool {
		ws.NetConn().Write(bytes)
		return false
	}
	switch random.IntN(100) {
	case 0:
		return text("")
	case 1:
		return text(`[1,2,3]`)
	case 2:
		return text(`{"action":7,"data":"x"}`)
	case 3:
		return text(`{"data":{"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}}`)
	case 4:
		return text(`{"data":` + strings.Repeat(`{"x":`, 5000))
	case 5:
		return text(`{"action":"upload_complete","upload_name":"x","entry_ids":["x"]}`)
	case 6:
		return text(`{"action":"refreshCounter","data":{"counter":99}}`)
	case 7:
		return text(`null`)
	case 8:
		return text(strings.Repeat("x", wsconn.MaxMessage+1)) && false
	case 9:
		return text("{\"action\":\"\xc3\x28\"}") && false
	case 10:
		ws.WriteMessage(websocket.BinaryMessage, []byte(`{"action":"increment"}`))
		return false
	case 11:
		return raw(0x81, 0xfe, 0xff) // half of a header
	case 12:
		return raw(0x81, 0x85, 1, 2, 3, 4, 'h') // a fifth of a message
	case 13:
		return raw(0xf3, 0x80, 0, 0, 0, 0) // no kind of frame
	default:
		return text(`{"action":`)
	}
}

func TestHandshake_OnlyFromPagesThatMayConnect(t *testing.T) {
	const friend, other = "https://friend.example", "http://friend.example:8080"
	for name, trust := range map[string]bool{"nobody's headers count": false, "behind a proxy": true} {
		t.Run(name, func(t *testing.T) {
			log := &testenv.Log{}
			server := newServerWith(t, Config{Log: log.Logger(), AllowOrigins: []string{friend, other}, TrustProxy: trust})
			host := strings.TrimPrefix(server, "http://")
			proxied := http.Header{"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"public.example"}, "X-Forwarded-For": {"203.0.113.9"}}
			for _, row := range []struct {
				origin  string
				headers http.Header
				want    int
			}{
				{server, nil, 101},
				{"", nil, 101}, // not from a page
				{friend, nil, 101},
				{other, nil, 101},
				{"https://" + host, nil, 403},
				{"https://evil.example", nil, 403},
				{"null", nil, 403},
				{friend + ".evil.example", nil, 403},
				{"https://FRIEND.example", nil, 403}, // no browser sends it so
				{"http://friend.example", nil, 403},
				{"https://friend.example:8443", nil, 403},
				{server + ".evil.example", nil, 403},
				{"http://127.0.0.1:1", nil, 403},
				{"https://public.example", proxied, map[bool]int{true: 101, false: 403}[trust]},
				{"http://public.example", proxied, 403},
				{server, proxied, map[bool]int{true: 403, false: 101}[trust]},
				{"https://evil.example", http.Header{"X-Forwarded-Host": {"evil.example, public.example"}, "X-Forwarded-Proto": {"https"}}, 403},
			} {
				for _, path := range []string{counterPage, presencePage} {
					header := row.headers.Clone()
					if header == nil {
						header = http.Header{}
					}
					if row.origin != "" {
						header.Set("Origin", row.origin)
					}
					_, resp := knock(t, server, path, header)
					assert.Equal(t, row.want, resp.StatusCode, "origin %q, headers %v", row.origin, row.headers)
				}
			}
			assert.Contains(t, log.String(), `msg="live connection refused" reason="foreign origin"`)
			assert.Contains(t, log.String(), `origin=https://evil.example`)
		})
	}
}

func TestForms_FromOtherSitesAreRefused(t *testing.T) {
	log := &testenv.Log{}
	server := newServerWith(t, Config{Log: log.Logger(), AllowOrigins: []string{"https://friend.example"}})
	tb := newVisitor(t, server).open(counterPage)
	clicks := 0
	for _, row := range []struct {
		headers http.Header
		body    string
		kind    string
		counts  bool
	}{
		{http.Header{"Origin": {"https://evil.example"}}, "increment=", "application/x-www-form-urlencoded", false},
		{http.Header{"Origin": {"https://evil.example"}}, `{"action":"increment"}`, "text/plain", false},
		{http.Header{"Origin": {"null"}}, "increment=", "application/x-www-form-urlencoded", false},
		{http.Header{"Sec-Fetch-Site": {"cross-site"}}, "increment=", "application/x-www-form-urlencoded", false},
		{http.Header{"Sec-Fetch-Site": {"same-site"}, "Origin": {"https://sub.evil.example"}}, `{"action":"increment"}`, "application/json", false},
		{http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {server}}, "increment=", "application/x-www-form-urlencoded", true},
		{http.Header{"Origin": {server}}, `{"action":"increment"}`, "application/json", true},
		{http.Header{"Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://friend.example"}}, "increment=", "application/x-www-form-urlencoded", true},
		{http.Header{}, "increment=", "application/x-www-form-urlencoded", true}, // not from a page
	} {
		req, err := http.NewRequest(http.MethodPost, server+counterPage, strings.NewReader(row.body))
		require.NoError(t, err)
		req.Header = row.headers.Clone()
		req.Header.Set("Content-Type", row.kind)
		resp, err := http.DefaultTransport.RoundTrip(req)
		require.NoError(t, err)
		resp.Body.Close()
		if row.counts {
			clicks++
			assert.Less(t, resp.StatusCode, 400, "%v", row.headers)
		} else {
			assert.Equal(t, http.StatusForbidden, resp.StatusCode, "%v", row.headers)
		}
		assert.Contains(t, newVisitor(t, server).get(counterPage), fmt.Sprintf("Counter: %d ", clicks), "%v", row.headers)
	}
	tb.shows(fmt.Sprintf("Counter: %d ", clicks))
	assert.Equal(t, 5, strings.Count(log.String(), `msg="form refused" reason=cross-site`), log.String())
}

func TestForms_ThatAreNoneSayNothingOfWhatIsInside(t *testing.T) {
	v := newVisitor(t, newServer(t))
	for body, kind := range map[string]string{
		`{"action":`: "application/json",
		`[]`:         "application/json",
		`%zz=1`:      "application/x-www-form-urlencoded",
	} {
		resp, answer := v.send(http.MethodPost, counterPage, kind, body)
		if assert.Equal(t, http.StatusBadRequest, resp.StatusCode, body) {
			assert.Equal(t, "This could not be understood, and did not count.\n", answer, body)
		}
	}
	assert.Contains(t, v.get(counterPage), "Counter: 0 ")
}

func TestSession_OnlyOneThatTheServerCouldHaveMadeIsTaken(t *testing.T) {
	server := newServer(t)
	made := newSession()
	for name, row := range map[string]struct {
		cookie string
		taken  bool
	}{
		"made here":     {made, true},
		"none":          {"", false},
		"too short":     {made[1:], false},
		"too long":      {"A" + made, false},
		"huge":          {strings.Repeat("A", 8000), false},
		"wildcard":      {"*" + made[1:], false},
		"not base64":    {strings.Repeat("!", 43) + "=", false},
		"no padding":    {made[:43] + "A", false},
		"another line":  {made[:20] + `\n` + made[22:], false},
		"anything else": {"admin", false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{counterPage, presencePage} {
				for _, method := range []string{http.MethodGet, http.MethodPost} {
					req, err := http.NewRequest(method, server+path, strings.NewReader("x="))
					require.NoError(t, err)
					req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
					if row.cookie != "" {
						req.Header.Set("Cookie", sessionCookie+"="+row.cookie)
					}
					resp, err := http.DefaultTransport.RoundTrip(req)
					require.NoError(t, err)
					resp.Body.Close()
					var set []*http.Cookie
					for _, cookie := range resp.Cookies() {
						if cookie.Name == sessionCookie {
							set = append(set, cookie)
						}
					}
					if row.taken {
						assert.Empty(t, set, "%s %s", method, path)
						continue
					}
					require.Len(t, set, 1, "%s %s", method, path)
					assert.Regexp(t, madeHere, set[0].Value)
					assert.True(t, set[0].HttpOnly)
					assert.Equal(t, http.SameSiteLaxMode, set[0].SameSite)
					assert.False(t, set[0].Secure, "plain HTTP")
					assert.Equal(t, "/", set[0].Path)
				}
			}
		})
	}
}

// Whoever brings the same made-up session is not the same visitor.
func TestSession_ThatIsMadeUpIsNotShared(t *testing.T) {
	for cookie, users := range map[string]int{"admin": 2, newSession(): 1} {
		server := newServer(t)
		for range 2 {
			ws, _ := knock(t, server, presencePage, http.Header{"Cookie": {sessionCookie + "=" + cookie}})
			require.NotNil(t, ws)
			require.NoError(t, act(ws, "join", map[string]any{"username": "Alice"}))
			for range 2 {
				_, _, err := ws.ReadMessage() // the page, and that it has joined
				require.NoError(t, err)
			}
		}
		assert.Contains(t, newVisitor(t, server).get(presencePage), fmt.Sprintf("%d user(s) online", users), cookie)
	}
}

func TestSession_IsSecureWhereTheRequestIs(t *testing.T) {
	for _, row := range []struct {
		trust        bool
		proto        string
		tls, secured bool
	}{
		{false, "", false, false},
		{false, "https", false, false},
		{true, "https", false, true},
		{true, "http", false, false},
		{true, "https, http", false, false}, // the nearest proxy's word
		{true, "", false, false},
		{false, "", true, true},
		{false, "http", true, true},
	} {
		server, client := newServerWith(t, Config{TrustProxy: row.trust}), http.DefaultClient
		if row.tls {
			server, client = newTLSServer(t)
		}
		req, err := http.NewRequest(http.MethodGet, server+counterPage, nil)
		require.NoError(t, err)
		if row.proto != "" {
			req.Header.Set("X-Forwarded-Proto", row.proto)
		}
		resp, err := client.Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		require.Len(t, resp.Cookies(), 1)
		assert.Equal(t, row.secured, resp.Cookies()[0].Secure, "%+v", row)
		assert.Equal(t, row.secured, resp.Header.Get("Strict-Transport-Security") != "", "%+v", row)
	}
}

func TestSession_HostileCookiesHoldNoMemory(t *testing.T) {
	server := newServer(t)
	post := func(i int) {
		req, err := http.NewRequest(http.MethodPost, server+counterPage, strings.NewReader("increment="))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Cookie", fmt.Sprintf("%s=%d%s", sessionCookie, i, strings.Repeat("x", 100<<10)))
		resp, err := http.DefaultTransport.RoundTrip(req)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, http.StatusSeeOther, resp.StatusCode)
	}
	for i := range 50 {
		post(i)
	}
	before := collected().HeapAlloc
	for i := range 500 {
		post(i)
	}
	after := collected().HeapAlloc
	t.Logf("%d kB, then %d kB", before>>10, after>>10)
	assert.Less(t, after, before+500<<10, "1 kB a post")
}

func TestRequests_OnlyMethodsThatPagesHave(t *testing.T) {
	v := newVisitor(t, newServer(t))
	const all, read = "GET, HEAD, POST", "GET, HEAD"
	for _, row := range []struct {
		method, path string
		want         int
		allow        string
	}{
		{http.MethodHead, "/", 200, ""},
		{http.MethodHead, counterPage, 200, ""},
		{http.MethodHead, "/static/app.css", 200, ""},
		{http.MethodHead, "/readyz", 200, ""},
		{http.MethodPut, counterPage, 405, all},
		{http.MethodDelete, presencePage, 405, all},
		{http.MethodPatch, "/", 405, all},
		{http.MethodOptions, "/nowhere", 405, all},
		{http.MethodTrace, "/static/app.css", 405, all},
		{"BREW", counterPage, 405, all},
		{http.MethodPost, "/", 405, read},
		{http.MethodPost, "/static/app.css", 405, read},
		{http.MethodPost, "/healthz", 405, read},
		{http.MethodPost, "/nowhere", 404, ""},
		{http.MethodGet, "/nowhere", 404, ""},
	} {
		resp, _ := v.send(row.method, row.path, "", "")
		assert.Equal(t, row.want, resp.StatusCode, "%s %s", row.method, row.path)
		assert.Equal(t, row.allow, resp.Header.Get("Allow"), "%s %s", row.method, row.path)
	}
}

func TestCapacity_IsFullForTheNextAndForNobodyElse(t *testing.T) {
	log := &testenv.Log{}
	app, server := newApp(t, Config{Log: log.Logger(), MaxConnections: 5, MaxPerSession: 3})
	first, second := newVisitor(t, server), newVisitor(t, server)
	var tabs []*tab
	for _, v := range []*visitor{first, second, first, second, first} {
		tabs = append(tabs, v.open(counterPage))
	}
	refused := func(v *visitor, path string) {
		t.Helper()
		_, resp := knock(t, v.base, path, http.Header{"Cookie": {sessionCookie + "=" + v.session()}})
		assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
		assert.Equal(t, "15", resp.Header.Get("Retry-After"))
	}
	room := func(v *visitor) string {
		t.Helper()
		return strings.TrimSpace(v.get("/healthz"))
	}
	refused(second, presencePage) // of all
	assert.Equal(t, "full", room(second))
	assert.Contains(t, second.get(counterPage), "Counter: 0 ", "the page is there")
	second.click()

	tabs[3].close()
	assert.Eventually(t, func() bool { return app.pages.sockets.on(counterPage) == 4 }, soon, time.Millisecond)
	refused(first, counterPage) // of one browser
	assert.Equal(t, "session full", room(first))
	assert.Equal(t, "ok", room(second))
	tabs[3] = second.open(presencePage)
	tabs[0].increment()
	for _, i := range []int{0, 1, 2, 4} {
		tabs[i].shows("Counter: 2 ")
	}
	tabs[3].join("Bob")
	tabs[3].shows("1 user(s) online")
	assert.Equal(t, 1, strings.Count(log.String(), `msg="live connection refused" reason=full`))
	assert.Equal(t, 1, strings.Count(log.String(), `msg="live connection refused" reason="session full"`))

	for _, tb := range tabs {
		tb.close()
	}
	assert.Eventually(t, func() bool { return room(first) == "ok" }, soon, 10*time.Millisecond)
	first.open(counterPage).shows("Counter: 2 ")
}

func TestCapacity_IsAsDocumentedByDefault(t *testing.T) {
	app, _ := newApp(t, Config{})
	assert.Equal(t, 10_000, app.pages.sockets.max)
	assert.Equal(t, 50, app.pages.sockets.maxPerSession)
}

// session is the session cookie that a visitor was given.
func (v *visitor) session() string {
	v.t.Helper()
	base, err := url.Parse(v.base)
	require.NoError(v.t, err)
	for _, cookie := range v.client.Jar.Cookies(base) {
		if cookie.Name == sessionCookie {
			return cookie.Value
		}
	}
	return ""
}
