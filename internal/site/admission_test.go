package site_test

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
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
	const ok, no = http.StatusSwitchingProtocols, http.StatusForbidden
	for name, trust := range map[string]bool{"without a proxy": false, "behind a proxy": true} {
		t.Run(name, func(t *testing.T) {
			log := &visitor.Log{}
			_, server := serve(t, behind(trust, site.Options{Log: log.Logger(), AllowOrigins: []string{friend, other}}))
			host := strings.TrimPrefix(server, "http://")
			proxied := http.Header{"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"public.example"}, "X-Forwarded-For": {"203.0.113.9"}}
			for _, row := range []struct {
				origin        string
				headers       http.Header
				want, trusted int // without and with trust in the headers
			}{
				{server, nil, ok, ok},
				{"", nil, ok, ok}, // not from a page
				{friend, nil, ok, ok},
				{other, nil, ok, ok},
				{"https://" + host, nil, no, no},
				{"https://evil.example", nil, no, no},
				{friend + ".evil.example", nil, no, no},
				{server + ".evil.example", nil, no, no},
				{"https://public.example", proxied, no, ok},
				{"http://public.example", proxied, no, no},
				{server, proxied, ok, no},
				{"https://evil.example", http.Header{"X-Forwarded-Host": {"evil.example, public.example"}, "X-Forwarded-Proto": {"https"}}, no, no},
			} {
				header := with(http.Header{}, row.headers)
				if row.origin != "" {
					header.Set("Origin", row.origin)
				}
				_, resp := visitor.Knock(t, server, toyPage, header)
				assert.Equal(t, map[bool]int{false: row.want, true: row.trusted}[trust], resp.StatusCode, "%v", header)
			}
			assert.Contains(t, log.String(), `msg="live connection refused" reason=foreign_origin remote_addr=`)
			expected := map[bool]string{true: "https://public.example", false: server}[trust]
			assert.Contains(t, log.String(), `origin=https://evil.example expected_origin=`+expected)
		})
	}
}

// Where nothing is around the site, a proxy that ends TLS needs no setting.
func TestHandshake_BehindTLSWithoutASetting(t *testing.T) {
	_, server := serve(t, site.Options{})
	for origin, want := range map[string]int{
		strings.Replace(server, "http", "https", 1): http.StatusSwitchingProtocols,
		"https://evil.example":                      http.StatusForbidden,
	} {
		_, resp := visitor.Knock(t, server, toyPage, http.Header{"Origin": {origin}})
		assert.Equal(t, want, resp.StatusCode, origin)
	}
}

// Proxies write hosts in other forms than browsers do.
func TestOrigin_IsComparedAsBrowsersCompareIt(t *testing.T) {
	s := newSite(t, behind(true, site.Options{AllowOrigins: []string{"https://friend.example", "http://[2001:db8::1]"}}))
	for _, row := range []struct {
		proto, host, origin string
		same                bool
	}{
		{"https", "x.example", "https://x.example", true},
		{"wss", "x.example", "https://x.example", true},
		{"WSS", "x.example:443", "https://x.example", true},
		{"https", "X.Example:443", "https://x.example", true},
		{"https", "x.example:", "https://x.example", true},
		{"https", "x.example:8443", "https://x.example:8443", true},
		{"http", "x.example:80", "http://x.example", true},
		{"ws", "x.example:80", "http://x.example", true},
		{"", "x.example:80", "http://x.example", true},
		{"https", "[2001:DB8:0::1]:443", "https://[2001:db8::1]", true},
		{"http", "[::ffff:7f00:1]:8080", "http://[::ffff:7f00:1]:8080", true},
		{"https", "x.example.", "https://x.example.", true},
		{"https", "x.example:80", "https://x.example:80", true},
		{"https", "x.example:80", "http://x.example", false},
		{"https", "x.example:80", "https://x.example", false},
		{"http", "x.example:443", "https://x.example", false},
		{"https", "x.example:8443", "https://x.example", false},
		{"https", "x.example.", "https://x.example", false},
		{"https", "x.example", "http://x.example", false},
		{"https", "x.example", "https://friend.example", true},
		{"https", "x.example", "http://[2001:db8::1]", true},
		{"https", "x.example", "http://friend.example", false},
	} {
		for _, header := range []string{"Host", "X-Forwarded-Host"} {
			target := map[string]string{"Host": "http://" + row.host, "X-Forwarded-Host": "http://behind.example"}[header] + toyPage
			sent := http.Header{"Origin": {row.origin}, header: {row.host}, "X-Forwarded-Proto": {row.proto}}
			form := ask(s, http.MethodPost, target, sent, "light=")
			socket := ask(s, http.MethodGet, target, with(sent, http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
				"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}), "")
			assert.Equal(t, !row.same, form.Code == http.StatusForbidden, "%s, a form: %+v", header, row)
			assert.Equal(t, !row.same, socket.Code == http.StatusForbidden, "%s, a socket: %+v", header, row)
		}
	}
}

func TestCapacity_FullRefusesOnlyNewConnections(t *testing.T) {
	log := &visitor.Log{}
	s, server := serve(t, site.Options{Log: log.Logger(), MaxConnections: 5, MaxPerSession: 3})
	first, second := visitor.New(t, server), visitor.New(t, server)
	var tabs []*visitor.Tab
	for _, v := range []*visitor.Visitor{first, second, first, second, first} {
		tabs = append(tabs, v.Open(toyPage))
	}
	hears := func(v *visitor.Visitor, want string) {
		t.Helper()
		assert.Eventually(t, func() bool { return strings.TrimSpace(v.Get("/healthz")) == want }, visitor.Soon, tick, want)
		if want != "ok" {
			_, resp := visitor.Knock(t, server, toyPage, session(v.Session()))
			assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
			assert.Equal(t, "15", resp.Header.Get("Retry-After"))
			assert.Contains(t, log.String(), `msg="live connection refused" reason=`+strings.ReplaceAll(want, " ", "_"))
		}
	}
	hears(second, "full")
	assert.Zero(t, lamps(s), "the page itself is served")
	tabs[3].Close()
	hears(first, "session full")
	hears(second, "ok")
	tabs[3] = second.Open(toyPage)
	light(tabs[0])
	for _, tb := range tabs {
		tb.Shows("Lamps: 1 ")
		tb.Close()
	}
	hears(first, "ok")
}

// An invalid handshake is refused, counted and logged, but is not an error. If a proxy does
// not pass on upgrades, only the first is logged: pages behind it fall back to plain
// requests, and keep trying.
func TestHandshake_InvalidOnesAreRefusedAndNotErrors(t *testing.T) {
	const key, foreignKey = "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZSBpcyBsb25n"
	framework := captureLog(t)
	log := &visitor.Log{}
	s := newSite(t, site.Options{Log: log.Logger()})
	for _, row := range []struct{ method, version, key, body string }{
		{http.MethodGet, "13", "", ""},
		{http.MethodGet, "13", "broken", ""},
		{http.MethodGet, "13", foreignKey, ""},
		{http.MethodGet, "13", key, "body"},
		{http.MethodGet, "8", key, ""},
		{http.MethodPost, "13", key, ""},
	} {
		answer := ask(s, row.method, toyPage, http.Header{"Connection": {"close, Upgrade"}, "Upgrade": {"websocket"},
			"Sec-Websocket-Version": {row.version}, "Sec-Websocket-Key": {row.key}}, row.body)
		assert.Equal(t, http.StatusBadRequest, answer.Code, "%v", row)
		assert.Equal(t, "13", answer.Header().Get("Sec-WebSocket-Version"), "%v", row)
	}
	for range 3 { // as nginx passes it on by default
		answer := ask(s, http.MethodGet, toyPage, http.Header{"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {key}}, "")
		assert.Equal(t, http.StatusUpgradeRequired, answer.Code)
		assert.Equal(t, "websocket", answer.Header().Get("Upgrade"))
		assert.Contains(t, answer.Body.String(), "a proxy does not pass on the upgrade")
	}
	for why, want := range map[string]struct{ refused, logged int }{"bad_handshake": {6, 6}, "no_upgrade": {3, 1}} {
		assert.Equal(t, want.refused, metric(t, s, `realtime_connections_refused_total{reason="`+why+`"}`))
		assert.Equal(t, want.logged, strings.Count(log.String(), `level=WARN msg="live connection refused" reason=`+why+` remote_addr=`), log)
	}
	assert.Contains(t, log.String(), "proxy_set_header Upgrade $http_upgrade")
	assert.Empty(t, framework.String())
}

// A client that sends frames before the answer is cut off, which is no error either.
func TestHandshake_EarlyFramesEndItAndAreNotErrors(t *testing.T) {
	framework, log, errors := captureLog(t), &visitor.Log{}, &visitor.Log{}
	server := httptest.NewUnstartedServer(newSite(t, site.Options{Log: log.Logger()}))
	server.Config.ErrorLog = slog.NewLogLogger(errors.Logger().Handler(), slog.LevelError)
	server.Start()
	defer server.Close()
	for _, early := range []string{"\x81\x80\x00\x00\x00\x00", strings.Repeat("x", 100_000)} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		require.NoError(t, err)
		io.WriteString(conn, "GET "+toyPage+" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"+early)
		answer, _ := io.ReadAll(conn) // until it is closed
		assert.Empty(t, answer)
		conn.Close()
	}
	require.Eventually(t, func() bool { return strings.Count(log.String(), "client sent data before handshake is complete") == 2 },
		visitor.Soon, time.Millisecond, "a line for each, which may come after the end of the connection")
	assert.Empty(t, framework.String()+errors.String())
}
