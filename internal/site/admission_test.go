package site_test

import (
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
			assert.Contains(t, log.String(), `msg="live connection refused" reason="foreign origin"`)
			assert.Contains(t, log.String(), `origin=https://evil.example`)
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
	assert.Equal(t, 1, strings.Count(log.String(), `msg="live connection refused" reason="session full"`))

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
