package main

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	cdpnetwork "github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/fanout"
	"realtime/internal/testenv"
	"realtime/internal/wsconn"
)

func TestPolicy_IsOnEveryAnswer(t *testing.T) {
	v := newVisitor(t, newServer(t))
	for _, path := range []string{"/", counterPage, presencePage, "/nowhere", "/static/nothing", "/healthz"} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut} {
			resp, _ := v.send(method, path, "application/x-www-form-urlencoded", "")
			policy := resp.Header.Get("Content-Security-Policy")
			for _, part := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
				"form-action 'self'", "frame-ancestors 'none'", "object-src 'none'", "base-uri 'none'"} {
				assert.Contains(t, strings.Split(policy, "; "), part, "%s %s", method, path)
			}
			assert.NotContains(t, policy, "unsafe")
			assert.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
			assert.Equal(t, "same-origin", resp.Header.Get("Referrer-Policy"))
			assert.Contains(t, resp.Header.Get("Permissions-Policy"), "camera=()")
			assert.Empty(t, resp.Header.Get("Strict-Transport-Security"), "plain HTTP")
		}
	}
}

func TestBrowser_PolicyStopsScriptsAndFramesThatAreNotOurs(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	tb := newBrowser(t).open(server + presencePage)
	tb.expectErrors("Content Security Policy")
	tb.eval(`void (() => {
		document.body.append(Object.assign(document.createElement("script"), {textContent: "window.injected = true"}));
		document.body.insertAdjacentHTML("beforeend", '<img src="data:," onerror="window.injected = true">');
		document.body.insertAdjacentHTML("beforeend", '<form action="https://evil.example" id="elsewhere"></form>');
		window.violations = [];
		document.addEventListener("securitypolicyviolation", (e) => violations.push(e.effectiveDirective));
		document.getElementById("elsewhere").submit();
	})()`)
	tb.waitUntil(`violations.includes("form-action")`, "the form to be refused")
	assert.Equal(t, "", tb.eval(`window.injected`))
}

func TestStatic_IsKeptForAYearUnderItsHashAndAskedForOtherwise(t *testing.T) {
	needAssets(t)
	v := newVisitor(t, newServer(t))
	_, page := v.send(http.MethodGet, counterPage, "", "")
	addresses := addressOf.FindAllStringSubmatch(page, -1)
	require.Len(t, addresses, 9)
	for _, address := range addresses {
		resp, _ := v.send(http.MethodGet, address[1], "", "")
		assert.Equal(t, http.StatusOK, resp.StatusCode)
		assert.Equal(t, "public, max-age=31536000", resp.Header.Get("Cache-Control"), address[1])
		plain := strings.Replace(address[1], "-"+address[2], "", 1)
		resp, content := v.send(http.MethodGet, plain, "", "")
		require.Equal(t, http.StatusOK, resp.StatusCode, plain)
		assert.Equal(t, "no-cache", resp.Header.Get("Cache-Control"), plain)
		assert.NotEmpty(t, content)

		req, err := http.NewRequest(http.MethodGet, v.base+plain, nil)
		require.NoError(t, err)
		req.Header.Set("If-None-Match", resp.Header.Get("ETag"))
		again, err := v.client.Do(req)
		require.NoError(t, err)
		again.Body.Close()
		assert.Equal(t, http.StatusNotModified, again.StatusCode, plain)

		resp, _ = v.send(http.MethodGet, strings.Replace(address[1], address[2], strings.Repeat("0", 64), 1), "", "")
		assert.Equal(t, http.StatusNotFound, resp.StatusCode, "content of another version")
	}
	for _, path := range []string{"/", counterPage, presencePage, "/nowhere"} {
		resp, _ := v.send(http.MethodGet, path, "", "")
		assert.Equal(t, "no-store", resp.Header.Get("Cache-Control"), path)
	}
}

var addressOf = regexp.MustCompile(`(?:src|href)="(/static/[^"]*?-([0-9a-f]{64})[^"]*)"`)

func TestStatic_IsCompressedAndTheSocketIsNot(t *testing.T) {
	needAssets(t)
	server := newServer(t)
	for _, path := range []string{counterPage, presencePage, "/static/app.css", "/static/live.js", "/static/vendor/pico.min.css"} {
		req, err := http.NewRequest(http.MethodGet, server+path, nil)
		require.NoError(t, err)
		req.Header.Set("Accept-Encoding", "gzip")
		resp, err := http.DefaultTransport.RoundTrip(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, "gzip", resp.Header.Get("Content-Encoding"), path)
		assert.Contains(t, resp.Header.Values("Vary"), "Accept-Encoding", path)
		unzipped, err := gzip.NewReader(resp.Body)
		require.NoError(t, err)
		content, err := io.ReadAll(unzipped)
		require.NoError(t, err)
		_, plain := newVisitor(t, server).send(http.MethodGet, path, "", "")
		assert.Equal(t, around.ReplaceAllString(plain, "$1$2"), around.ReplaceAllString(string(content), "$1$2"), path)
	}
	ws, resp := knock(t, server, counterPage, http.Header{"Accept-Encoding": {"gzip"}, "Sec-WebSocket-Extensions": {"permessage-deflate"}})
	require.NotNil(t, ws)
	assert.Empty(t, resp.Header.Get("Content-Encoding")+resp.Header.Get("Sec-WebSocket-Extensions"))
}

// What crosses the network when a page is opened, as Chromium counts it.
func TestBrowser_FirstVisitIsSmallAndTheSecondOnlyHTML(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	for _, path := range []string{counterPage, presencePage} {
		tb := newBrowser(t).load("about:blank")
		tb.run(cdpnetwork.Enable())
		var wire loadedFiles
		chromedp.ListenTarget(tb.ctx, wire.listen)
		load := func() {
			tb.navigate(server + path)
			tb.waitUntil(live, "a live page")
		}
		load()
		first, files := wire.sum()
		t.Logf("%s: %d bytes in %d files", path, first, len(files))
		assert.Less(t, first, 75_000, "%v", files)
		assert.Greater(t, len(files), 8)
		load()
		second, files := wire.sum()
		t.Logf("%s again: %d bytes: %v", path, second, files)
		for _, file := range files {
			if !strings.Contains(file, "/favicon-") { // loads when the browser finds the time
				assert.Equal(t, server+path, file)
			}
		}
		assert.Less(t, second, 5_000)
	}
}

// loadedFiles adds up what a tab loads over the network.
type loadedFiles struct {
	mu    sync.Mutex
	urls  map[cdpnetwork.RequestID]string
	bytes int
	files []string
}

func (l *loadedFiles) listen(event any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch e := event.(type) {
	case *cdpnetwork.EventResponseReceived:
		if l.urls == nil {
			l.urls = map[cdpnetwork.RequestID]string{}
		}
		if !e.Response.FromDiskCache {
			l.urls[e.RequestID] = e.Response.URL
		}
	case *cdpnetwork.EventRequestServedFromCache:
		delete(l.urls, e.RequestID)
	case *cdpnetwork.EventLoadingFinished:
		if url, found := l.urls[e.RequestID]; found && e.EncodedDataLength > 0 {
			l.bytes += int(e.EncodedDataLength)
			l.files = append(l.files, url)
		}
	}
}

// sum is what was loaded since the last one.
func (l *loadedFiles) sum() (bytes int, files []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	bytes, files = l.bytes, l.files
	l.bytes, l.files = 0, nil
	return bytes, files
}

func TestMetrics_SayWhatHappened(t *testing.T) {
	app, server := newApp(t, Config{MaxConnections: 4, Log: slog.New(slog.DiscardHandler),
		Fanout: fanout.Options{Interval: time.Hour}})
	alice, bob := newVisitor(t, server), newVisitor(t, server)
	counter, other, presence := alice.open(counterPage), bob.open(counterPage), bob.open(presencePage)
	counter.increment()
	other.shows("Counter: 1 ")
	for range 3 { // which wait for the interval
		counter.increment()
	}
	counter.settle()
	alice.click()
	presence.join("Bob")
	presence.shows("1 user(s) online")
	require.NoError(t, counter.ws.WriteMessage(websocket.TextMessage, []byte("no action")))
	require.NoError(t, counter.ws.WriteMessage(websocket.TextMessage, []byte("no action")))
	counter.settle()
	binary, err := bob.dial(counterPage)
	require.NoError(t, err)
	defer binary.Close()
	fifth, _ := knock(t, server, counterPage, nil)
	require.Nil(t, fifth)
	fromElsewhere, _ := knock(t, server, counterPage, http.Header{"Origin": {"https://evil.example"}})
	require.Nil(t, fromElsewhere)
	require.NoError(t, binary.WriteMessage(websocket.BinaryMessage, []byte("x")))
	require.Eventually(t, func() bool { return app.pages.sockets.on(counterPage) == 3 }, soon, time.Millisecond)
	alice.post(counterPage, url.Values{"x": {strings.Repeat("x", maxForm)}})

	text := scrape(t, app)
	for sample, want := range map[string]float64{
		`realtime_connections{page="multi-user-sync"}`:                3,
		`realtime_connections{page="presence"}`:                       1,
		`realtime_users_online`:                                       1,
		`realtime_clicks_total`:                                       5,
		`realtime_refreshes_asked_total{action="RefreshCounter"}`:     5,
		`realtime_refreshes_merged_total{action="RefreshCounter"}`:    3,
		`realtime_refreshes_sent_total{page="multi-user-sync"}`:       1,
		`realtime_refreshes_asked_total{action="PresenceChanged"}`:    1,
		`realtime_dispatch_drops_total{page="multi-user-sync"}`:       0,
		`realtime_slow_closes_total`:                                  0,
		`realtime_messages_refused_total{reason="no action"}`:         2,
		`realtime_messages_refused_total{reason="not text"}`:          1,
		`realtime_messages_refused_total{reason="too long"}`:          0,
		`realtime_messages_refused_total{reason="too fast"}`:          0,
		`realtime_connections_refused_total{reason="full"}`:           1,
		`realtime_connections_refused_total{reason="foreign origin"}`: 1,
		`realtime_requests_refused_total{reason="too long"}`:          1,
		`realtime_requests_refused_total{reason="cross-site"}`:        0,
	} {
		assert.Contains(t, text, fmt.Sprintf("\n%s %v\n", sample, want))
	}
	assert.Contains(t, text, "\ngo_goroutines ")
	assert.NotContains(t, text, "livetemplate_", "many of those are always 0")
}

func TestMetrics_PrometheusTakesThem(t *testing.T) {
	app, _ := newApp(t, Config{})
	problems, err := testutil.GatherAndLint(app.pages.metrics.registry) // the rules of promtool check metrics
	require.NoError(t, err)
	assert.Empty(t, problems)
	families := parseMetrics(t, scrape(t, app))
	assert.Len(t, families["realtime_connections"].Metric, 2, "both pages in one exposition")
}

// scrape is what /metrics says.
func scrape(t *testing.T, app *App) string {
	t.Helper()
	resp := httptest.NewRecorder()
	app.Admin.ServeHTTP(resp, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusOK, resp.Code)
	assert.Contains(t, resp.Header().Get("Content-Type"), "text/plain; version=0.0.4")
	return resp.Body.String()
}

func TestLog_TellsRequestsApartAndNoSecrets(t *testing.T) {
	out := &testenv.Log{}
	logger, flush := newLogger(out, slog.LevelDebug, false)
	framework := slog.Default()
	slog.SetDefault(logger) // no test that logs runs beside this one
	t.Cleanup(func() { slog.SetDefault(framework) })
	server := newServerWith(t, Config{Log: logger, TrustProxy: true})
	v := newVisitor(t, server)
	tb := v.open(presencePage)
	tb.join("Wilhelmina")
	tb.shows("Logged in as Wilhelmina")
	for _, frame := range []string{`{"action":"Wilhelmina"`, `{"action":"upload_complete","upload_name":"Wilhelmina","entry_ids":["x"]}`, `{"Wilhelmina":1}`} {
		require.NoError(t, tb.ws.WriteMessage(websocket.TextMessage, []byte(frame)))
	}
	tb.settle()
	v.post(presencePage, url.Values{"username": {"Wilhelmina"}, "join": {""}})
	resp, _ := v.post(presencePage, url.Values{"username": {strings.Repeat("Wilhelmina", maxForm)}})
	v.send(http.MethodPost, presencePage, "application/json", `{"action":"Wilhelmina`)
	tb.close()
	flush()

	assert.NotContains(t, out.String(), "Wilhelmina")
	assert.NotContains(t, out.String(), v.session())
	assert.NotContains(t, out.String(), "level=INFO")
	id := resp.Header.Get("X-Request-Id")
	assert.Regexp(t, `^[A-Z2-7]{26}$`, id)
	assert.Contains(t, out.String(), `msg="form refused" reason="too long" remote_addr=`)
	assert.Contains(t, out.String(), "request_id="+id)
	assert.Regexp(t, `msg="message that is no action refused" remote_addr=\S+ request_id=`, out.String())

	for given, kept := range map[string]bool{"abc-123": true, strings.Repeat("x", 65): false, "a b": false, "": false} {
		req, err := http.NewRequest(http.MethodGet, server+"/healthz", nil)
		require.NoError(t, err)
		req.Header.Set("X-Request-Id", given)
		resp, err := v.client.Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, kept, resp.Header.Get("X-Request-Id") == given, "a proxy names it %q", given)
	}
}

func TestStop_TellsEverybodyOneAfterTheOther(t *testing.T) {
	const tabs = 20
	exe := build(t)
	p := start(t, exe)
	v := newVisitor(t, p.url)
	var open []*tab
	for range tabs {
		open = append(open, newVisitor(t, p.url).open(counterPage))
	}
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	began := time.Now()
	closed := make(chan time.Duration, tabs)
	for _, tb := range open {
		go func() {
			<-tb.ended
			closed <- time.Since(began)
		}()
	}
	require.Eventually(t, func() bool {
		resp, body := v.send(http.MethodGet, "/readyz", "", "")
		return resp.StatusCode == http.StatusServiceUnavailable && body == "stopping\n"
	}, time.Second, time.Millisecond, "not ready any more")
	assert.Equal(t, "stopping ", v.get("/healthz"), "but alive")
	_, resp := knock(t, p.url, counterPage, nil)
	assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)

	var at []time.Duration
	for range tabs {
		at = append(at, <-closed)
	}
	slices.Sort(at)
	t.Logf("closed after %v to %v", at[0], at[tabs-1])
	assert.Greater(t, at[tabs-1]-at[0], DefaultDrain/2)
	for _, tb := range open {
		assert.True(t, websocket.IsCloseError(tb.err, websocket.CloseGoingAway), "closed with: %v", tb.err)
	}
	select {
	case <-p.exited:
	case <-time.After(5*time.Second - time.Since(began)):
		require.Fail(t, "still running after 5 s")
	}
	assert.Equal(t, 0, p.cmd.ProcessState.ExitCode())
	assert.Equal(t, 1, strings.Count(p.log(t), "level=INFO"), p.log(t))
}

func TestStop_LeaksNothing(t *testing.T) {
	http.DefaultClient.CloseIdleConnections()
	before := runtime.NumGoroutine()
	for range 3 {
		app, err := NewApp(Config{Drain: 10 * time.Millisecond, Heartbeat: wsconn.Heartbeat{Ping: 10 * time.Millisecond}})
		require.NoError(t, err)
		server := httptest.NewServer(app)
		for range 10 {
			v := newVisitor(t, server.URL)
			v.client.Transport = &http.Transport{DisableKeepAlives: true}
			v.open(presencePage).join("guest")
			v.click()
		}
		deaf, err := newVisitor(t, server.URL).dial(counterPage) // never answers
		require.NoError(t, err)
		defer deaf.Close()
		assert.NoError(t, app.Shutdown(t.Context()))
		server.Close()
	}
	nothingRuns(t, before+1) // with the one that counts
}

// The limits of a request hold for what the program serves.
func TestProgram_CutsSlowRequests(t *testing.T) {
	t.Parallel()
	p := start(t, build(t))
	for name, row := range map[string]struct {
		sent   string
		within time.Duration
		want   string
	}{
		"a slow header":     {"GET / HTTP/1.1\r\nHost: x\r\n", 7 * time.Second, ""},
		"a slow body":       {"POST " + counterPage + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nincr", 13 * time.Second, "408 Request Timeout"},
		"a huge header":     {"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + strings.Repeat("x", 32<<10) + "\r\n\r\n", 2 * time.Second, "431 Request Header Fields Too Large"},
		"a huge body":       {"POST " + counterPage + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n" + strings.Repeat("x", 64<<10), 4 * time.Second, "413 Request Entity Too Large"},
		"without a request": {"", 7 * time.Second, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
			require.NoError(t, err)
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(row.within))
			go io.WriteString(conn, row.sent)
			answer, err := io.ReadAll(conn)
			assert.False(t, errors.Is(err, os.ErrDeadlineExceeded), "still open after %v", row.within)
			assert.Contains(t, string(answer), row.want)
		})
	}
}

func TestBrowser_MessageThatIsTooLongIsToldSo(t *testing.T) {
	t.Parallel()
	tb := newBrowser(t).open(newServer(t) + counterPage)
	tb.eval(`void (() => {
		const socket = new WebSocket(location.href.replace("http", "ws"));
		socket.onopen = () => socket.send("x".repeat(8 << 20));
		socket.onclose = (event) => { window.endedWith = event.code; };
	})()`)
	tb.waitUntil(`window.endedWith`, "the socket to be closed")
	assert.Equal(t, "1009", tb.eval(`endedWith`))
}
