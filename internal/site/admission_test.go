package site_test

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/site"
	"realtime/internal/visitor"
)

func TestHandshake_OnlyFromPagesThatMayConnect(t *testing.T) {
	const friend, other = "https://friend.example", "http://friend.example:8080"
	const ok, no = http.StatusSwitchingProtocols, http.StatusForbidden
	for name, trust := range map[string]bool{"nobody's headers count": false, "behind a proxy": true} {
		t.Run(name, func(t *testing.T) {
			log := &visitor.Log{}
			_, server := serve(t, site.Options{Log: log.Logger(), AllowOrigins: []string{friend, other}, TrustProxy: trust})
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
				{"http://friend.example", nil, no, no},
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

func TestCapacity_IsFullForTheNextAndForNobodyElse(t *testing.T) {
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
	}
	refused := func(v *visitor.Visitor, why string) {
		t.Helper()
		hears(v, why)
		_, resp := visitor.Knock(t, server, toyPage, session(v.Session()))
		assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
		assert.Equal(t, "15", resp.Header.Get("Retry-After"))
		assert.Contains(t, log.String(), `msg="live connection refused" reason=`+strings.ReplaceAll(why, " ", "_"))
	}
	refused(second, "full")
	assert.Zero(t, lamps(s), "the page is there")
	tabs[3].Close()
	refused(first, "session full")
	hears(second, "ok")
	tabs[3] = second.Open(toyPage)
	light(tabs[0])
	for _, tb := range tabs {
		tb.Shows("Lamps: 1 ")
		tb.Close()
	}
	hears(first, "ok")
	first.Open(toyPage)
}

// A handshake that is none is refused, counted and logged. Of a proxy that passes no
// upgrade on, the first is logged: its pages work by requests, and keep trying.
func TestHandshake_ThatIsNoneIsRefusedAndNoError(t *testing.T) {
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	framework := captureLog(t)
	log := &visitor.Log{}
	s := newSite(t, site.Options{Log: log.Logger()})
	for _, row := range []struct{ method, upgrade, version, key string }{
		{http.MethodGet, "websocket", "13", ""},
		{http.MethodGet, "websocket", "13", "broken"},
		{http.MethodGet, "websocket", "13", "dGhlIHNhbXBsZSBub25jZSBpcyBsb25n"},
		{http.MethodGet, "websocket", "", key},
		{http.MethodGet, "websocket", "8", key},
		{http.MethodPost, "websocket", "13", key},
		{http.MethodGet, "", "13", key}, // as nginx sends it by default
		{http.MethodGet, "", "13", key},
		{http.MethodGet, "", "13", key},
	} {
		header := http.Header{"Sec-Websocket-Version": {row.version}, "Sec-Websocket-Key": {row.key}}
		if row.upgrade != "" {
			header["Connection"], header["Upgrade"] = []string{"close, Upgrade"}, []string{row.upgrade}
			answer := ask(s, row.method, toyPage, header, "")
			assert.Equal(t, http.StatusBadRequest, answer.Code, "%v", row)
			assert.Equal(t, "13", answer.Header().Get("Sec-WebSocket-Version"), "%v", row)
			continue
		}
		answer := ask(s, row.method, toyPage, header, "")
		assert.Equal(t, http.StatusUpgradeRequired, answer.Code)
		assert.Equal(t, "websocket", answer.Header().Get("Upgrade"))
		assert.Contains(t, answer.Body.String(), "a proxy does not pass on the upgrade")
	}
	assert.Equal(t, 6, metric(t, s, `realtime_connections_refused_total{reason="bad_handshake"}`))
	assert.Equal(t, 6, strings.Count(log.String(), `level=WARN msg="live connection refused" reason=bad_handshake remote_addr=`), log)
	assert.Equal(t, 3, metric(t, s, `realtime_connections_refused_total{reason="no_upgrade"}`))
	assert.Equal(t, 1, strings.Count(log.String(), `level=WARN msg="live connection refused" reason=no_upgrade remote_addr=`), log)
	assert.Contains(t, log.String(), "proxy_set_header Upgrade $http_upgrade")
	assert.Empty(t, framework.String())
}

// captureLog returns what the default logger writes until the test ends.
func captureLog(t testing.TB) *visitor.Log {
	t.Helper()
	log, before := &visitor.Log{}, slog.Default()
	slog.SetDefault(log.Logger())
	t.Cleanup(func() { slog.SetDefault(before) })
	return log
}

// The answer to a handshake has what every answer has.
func TestHandshake_AnswerHasItsHeaders(t *testing.T) {
	_, server := serve(t, site.Options{})
	ws, resp := visitor.Knock(t, server, toyPage, nil)
	require.NotNil(t, ws)
	assert.Regexp(t, `^[A-Z2-7]{26}$`, resp.Header.Get("X-Request-Id"))
	require.Len(t, resp.Cookies(), 1)
	assert.Regexp(t, cookieValue, resp.Cookies()[0].Value)
	_, resp = visitor.Knock(t, server, toyPage, session(resp.Cookies()[0].Value))
	assert.Empty(t, resp.Cookies(), "the session stays")
}

func TestProxy_ThatIsNotTrustedIsLoggedOnce(t *testing.T) {
	for header, value := range map[string]string{"X-Forwarded-Proto": "https", "X-Forwarded-Host": "public.example", "X-Forwarded-For": "203.0.113.9"} {
		for trust, want := range map[bool]int{false: 1, true: 0} {
			log := &visitor.Log{}
			s := newSite(t, site.Options{Log: log.Logger(), TrustProxy: trust})
			for range 3 {
				ask(s, http.MethodGet, toyPage, http.Header{header: {value}}, "")
			}
			assert.Equal(t, want, strings.Count(log.String(), "-trust-proxy"), "%s, trusted: %v", header, trust)
		}
	}
}
