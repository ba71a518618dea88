package site_test

import (
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/site"
	"realtime/internal/visitor"
)

func TestHandshake_OnlyFromPagesThatMayConnect(t *testing.T) {
	const friend, other = "https://friend.example", "http://friend.example:8080"
	for name, trust := range map[string]bool{"nobody's headers count": false, "behind a proxy": true} {
		t.Run(name, func(t *testing.T) {
			log := &visitor.Log{}
			server := newServer(t, site.Options{Log: log.Logger(), AllowOrigins: []string{friend, other}, TrustProxy: trust})
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
				for _, path := range []string{toyPage} {
					header := row.headers.Clone()
					if header == nil {
						header = http.Header{}
					}
					if row.origin != "" {
						header.Set("Origin", row.origin)
					}
					_, resp := visitor.Knock(t, server, path, header)
					assert.Equal(t, row.want, resp.StatusCode, "origin %q, headers %v", row.origin, row.headers)
				}
			}
			assert.Contains(t, log.String(), `msg="live connection refused" reason=foreign_origin remote_addr=`)
			expected := map[bool]string{true: "https://public.example", false: server}[trust]
			assert.Contains(t, log.String(), `origin=https://evil.example expected_origin=`+expected)
		})
	}
}

func TestCapacity_IsFullForTheNextAndForNobodyElse(t *testing.T) {
	log := &visitor.Log{}
	server := newServer(t, site.Options{Log: log.Logger(), MaxConnections: 5, MaxPerSession: 3})
	first, second := visitor.New(t, server), visitor.New(t, server)
	var tabs []*visitor.Tab
	for _, v := range []*visitor.Visitor{first, second, first, second, first} {
		tabs = append(tabs, v.Open(toyPage))
	}
	refused := func(v *visitor.Visitor, path string) {
		t.Helper()
		_, resp := visitor.Knock(t, v.Base, path, http.Header{"Cookie": {visitor.SessionCookie + "=" + v.Session()}})
		assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
		assert.Equal(t, "15", resp.Header.Get("Retry-After"))
	}
	room := func(v *visitor.Visitor) string {
		t.Helper()
		return strings.TrimSpace(v.Get("/healthz"))
	}
	refused(second, toyPage) // of all
	assert.Equal(t, "full", room(second))
	assert.Contains(t, second.Get(toyPage), "Lamps: 0 ", "the page is there")
	press(second)

	tabs[3].Close()
	assert.Eventually(t, func() bool { return room(first) == "session full" }, visitor.Soon, time.Millisecond)
	refused(first, toyPage) // of one browser
	assert.Equal(t, "ok", room(second))
	tabs[3] = second.Open(toyPage)
	light(tabs[0])
	for _, i := range []int{0, 1, 2, 3, 4} {
		tabs[i].Shows("Lamps: 2 ")
	}
	tabs[3].Shows("Lamps: 2 ")
	assert.Equal(t, 1, strings.Count(log.String(), `msg="live connection refused" reason=full`))
	assert.Equal(t, 1, strings.Count(log.String(), `msg="live connection refused" reason=session_full`))

	for _, tb := range tabs {
		tb.Close()
	}
	assert.Eventually(t, func() bool { return room(first) == "ok" }, visitor.Soon, 10*time.Millisecond)
	first.Open(toyPage).Shows("Lamps: 2 ")
}

func TestCapacity_IsAsDocumentedByDefault(t *testing.T) {
	assert.Equal(t, 10_000, site.DefaultMaxConnections)
	assert.Equal(t, 50, site.DefaultMaxPerSession)
	server := newServer(t, site.Options{})
	cookie := http.Header{"Cookie": {visitor.SessionCookie + "=" + madeUp()}}
	for range site.DefaultMaxPerSession {
		ws, _ := visitor.Knock(t, server, toyPage, cookie)
		require.NotNil(t, ws)
	}
	_, resp := visitor.Knock(t, server, toyPage, cookie)
	assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
}

func TestLivePages_RefuseSocketsFromOtherSites(t *testing.T) {
	server := newServer(t, site.Options{})
	for _, path := range []string{toyPage} {
		_, resp := visitor.Knock(t, server, path, http.Header{"Origin": {"https://evil.example"}})
		assert.Equal(t, http.StatusForbidden, resp.StatusCode)
	}
}

// A page that cannot open its socket works by requests, and tells nobody why.
func TestHandshake_WithoutAnUpgradeIsRefusedAndLoggedOnce(t *testing.T) {
	log := &visitor.Log{}
	s, server := serve(t, site.Options{Log: log.Logger()})
	const tries = 3
	for range tries {
		conn := say(t, server, "GET "+toyPage+" HTTP/1.0\r\nHost: x\r\nConnection: close\r\n"+ // as nginx sends it by default
			"Origin: "+server+"\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		assert.Contains(t, string(answer), " 426 Upgrade Required\r\n")
		assert.Contains(t, string(answer), "\r\nUpgrade: websocket\r\n")
		assert.Contains(t, string(answer), "a proxy does not pass on the upgrade")
	}
	assert.Equal(t, tries, metric(t, s, `realtime_connections_refused_total{reason="no_upgrade"}`))
	assert.Equal(t, 1, strings.Count(log.String(), "\n"), log.String())
	assert.Contains(t, log.String(), `level=WARN msg="live connection refused" reason=no_upgrade remote_addr=`)
	assert.Contains(t, log.String(), "proxy_set_header Upgrade $http_upgrade")
}

func TestHandshake_ThatIsBrokenIsRefusedAndNoError(t *testing.T) {
	log, framework := &visitor.Log{}, &visitor.Log{}
	before := slog.Default()
	slog.SetDefault(framework.Logger())
	defer slog.SetDefault(before)
	s, server := serve(t, site.Options{Log: log.Logger()})
	const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	broken := []string{
		"GET", "Sec-WebSocket-Version: 13\r\n",
		"GET", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \r\n",
		"GET", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: broken\r\n",
		"GET", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSBpcyBsb25n\r\n",
		"GET", key,
		"GET", "Sec-WebSocket-Version: 8\r\n" + key,
		"POST", "Sec-WebSocket-Version: 13\r\n" + key,
	}
	for i := 0; i < len(broken); i += 2 {
		conn := say(t, server, broken[i]+" "+toyPage+" HTTP/1.1\r\nHost: x\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\n"+broken[i+1]+"\r\n")
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		assert.Contains(t, string(answer), " 400 Bad Request\r\n", broken[i+1])
		assert.Contains(t, string(answer), "\r\nSec-Websocket-Version: 13\r\n")
	}
	assert.Equal(t, len(broken)/2, metric(t, s, `realtime_connections_refused_total{reason="bad_handshake"}`))
	assert.Equal(t, len(broken)/2, strings.Count(log.String(), `level=WARN msg="live connection refused" reason=bad_handshake`), log.String())
	assert.Empty(t, framework.String())
}

// The answer to a handshake has what every answer has.
func TestHandshake_AnswerHasItsHeaders(t *testing.T) {
	server := newServer(t, site.Options{})
	ws, resp := visitor.Knock(t, server, toyPage, nil)
	require.NotNil(t, ws)
	assert.Regexp(t, `^[A-Z2-7]{26}$`, resp.Header.Get("X-Request-Id"))
	require.Len(t, resp.Cookies(), 1)
	assert.Regexp(t, cookieValue, resp.Cookies()[0].Value)
	_, resp = visitor.Knock(t, server, toyPage, http.Header{"Cookie": {visitor.SessionCookie + "=" + resp.Cookies()[0].Value}})
	assert.Empty(t, resp.Cookies(), "the session stays")
}

func TestProxy_ThatIsNotTrustedIsLoggedOnce(t *testing.T) {
	for header, value := range map[string]string{"X-Forwarded-Proto": "https", "X-Forwarded-Host": "public.example", "X-Forwarded-For": "203.0.113.9"} {
		for _, trust := range []bool{false, true} {
			log := &visitor.Log{}
			server := newServer(t, site.Options{Log: log.Logger(), TrustProxy: trust})
			for range 3 {
				req, err := http.NewRequest(http.MethodGet, server+toyPage, nil)
				require.NoError(t, err)
				req.Header.Set(header, value)
				resp, err := http.DefaultClient.Do(req)
				require.NoError(t, err)
				resp.Body.Close()
			}
			assert.Equal(t, map[bool]int{false: 1, true: 0}[trust], strings.Count(log.String(), "-trust-proxy"), "%s, trusted: %v", header, trust)
		}
	}
}
