package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// After the first refresh of each page, the next one is an hour away.
func TestMetrics_CountWhatHappens(t *testing.T) {
	t.Parallel()
	p := visitor.Start(t, "-max-connections", "4", "-refresh-interval", "1h")
	server := p.URL
	alice, bob := visitor.New(t, server), visitor.New(t, server)
	counter, other, presence := alice.Open(visitor.CounterPage), bob.Open(visitor.CounterPage), bob.Open(visitor.PresencePage)
	counter.Increment()
	other.Shows("Counter: 1 ")
	for range 3 { // their refreshes are merged
		counter.Increment()
	}
	counter.Settle()
	alice.Click()

	// Actions that change nothing for others ask for no refresh.
	alice.Post(visitor.PresencePage, url.Values{"username": {"Alice"}, "join": {""}})
	presence.Leave() // has not joined
	presence.Join(" ")
	presence.Settle()
	assert.Zero(t, p.Metric(`realtime_refreshes_asked_total{action="PresenceChanged"}`))
	presence.Join("Bob")
	presence.Leave()
	presence.Join("Bob")
	presence.Settle()

	// Two invalid messages, a binary message, a connection above the limit, one from a
	// foreign origin, and a form that is too long are refused.
	for range 2 {
		require.NoError(t, counter.WS.WriteMessage(websocket.TextMessage, []byte("no action")))
	}
	counter.Settle()
	binary := bob.Open(visitor.CounterPage)
	visitor.Knock(t, server, visitor.CounterPage, nil)
	visitor.Knock(t, server, visitor.CounterPage, http.Header{"Origin": {"https://evil.example"}})
	require.NoError(t, binary.WS.WriteMessage(websocket.BinaryMessage, []byte("x")))
	require.Eventually(t, func() bool { return p.Connections(visitor.CounterPage) == 2 }, visitor.Soon, time.Millisecond)
	alice.Post(visitor.CounterPage, url.Values{"x": {strings.Repeat("x", visitor.MaxForm)}})

	for _, path := range []string{"/", "/", "/static/nothing", "/wp-login.php"} {
		alice.Send(http.MethodGet, path, "", "")
	}
	alice.Send(http.MethodPatch, visitor.CounterPage, "", "")

	text := p.Admin("/metrics")
	for sample, want := range map[string]float64{
		`realtime_connections{page="multi-user-sync"}`:                2,
		`realtime_connections{page="presence"}`:                       1,
		`realtime_connections_opened_total{page="multi-user-sync"}`:   3,
		`realtime_connections_opened_total{page="presence"}`:          1,
		`realtime_connections_limit`:                                  4,
		`realtime_users_online`:                                       1,
		`realtime_clicks_total`:                                       5,
		`realtime_refreshes_asked_total{action="RefreshCounter"}`:     5,
		`realtime_refreshes_merged_total{action="RefreshCounter"}`:    3,
		`realtime_refreshes_sent_total{page="multi-user-sync"}`:       1,
		`realtime_refreshes_asked_total{action="PresenceChanged"}`:    3,
		`realtime_messages_refused_total{reason="not_action"}`:        2,
		`realtime_messages_refused_total{reason="not_text"}`:          1,
		`realtime_connections_refused_total{reason="full"}`:           1,
		`realtime_connections_refused_total{reason="foreign_origin"}`: 1,
		`realtime_requests_refused_total{reason="too_long"}`:          1,
	} {
		assert.Contains(t, text, fmt.Sprintf("\n%s %v\n", sample, want))
	}
	for labels, want := range map[string]int{
		`method="GET",route="/",status="200"`:                           2,
		`method="GET",route="/realtime/multi-user-sync",status="200"`:   3,
		`method="GET",route="/realtime/multi-user-sync",status="403"`:   1,
		`method="POST",route="/realtime/multi-user-sync",status="303"`:  1,
		`method="POST",route="/realtime/multi-user-sync",status="413"`:  1,
		`method="other",route="/realtime/multi-user-sync",status="405"`: 1,
		`method="GET",route="/static/",status="404"`:                    1,
		`method="GET",route="other",status="404"`:                       1,
	} {
		assert.Contains(t, text, fmt.Sprintf("\nrealtime_request_duration_seconds_count{%s} %d\n", labels, want))
	}
	assert.Contains(t, text, `realtime_refresh_duration_seconds_count{action="RefreshCounter"} 1`)
	assert.Regexp(t, `\nrealtime_build_info{go_version="go1[^"]+",revision="([0-9a-f]{40}(\+dirty)?|unknown)",version="[^"]+"} 1\n`, text)
	assert.NotContains(t, text, "livetemplate_", "the framework's own metrics are often wrong")

	problems, err := promlint.New(strings.NewReader(text)).Lint()
	require.NoError(t, err)
	assert.Empty(t, problems)
}

func TestLog_IdentifiesRequestsAndHidesSecrets(t *testing.T) {
	t.Parallel()
	p := visitor.Start(t, "-log-level", "debug", "-log-format", "json", "-trust-proxy")
	v := visitor.New(t, p.URL)
	tb := v.Open(visitor.PresencePage)
	tb.Join("Wilhelmina")
	tb.Shows("Logged in as Wilhelmina")
	for _, frame := range []string{`{"action":"Wilhelmina"`, `{"action":"upload_complete","upload_name":"Wilhelmina","entry_ids":["x"]}`, `{"Wilhelmina":1}`} {
		require.NoError(t, tb.WS.WriteMessage(websocket.TextMessage, []byte(frame)))
	}
	tb.Settle()
	v.Post(visitor.PresencePage, url.Values{"username": {"Wilhelmina"}, "join": {""}})
	resp, _ := v.Post(visitor.PresencePage, url.Values{"username": {strings.Repeat("Wilhelmina", visitor.MaxForm)}})
	v.Send(http.MethodPost, visitor.PresencePage, "application/json", `{"action":"Wilhelmina`)
	tb.Close()
	const connection = `"msg":"request","method":"GET","path":"/realtime/presence","status":101,"took":"`
	require.Eventually(t, func() bool { return strings.Contains(p.Log(), connection) }, visitor.Soon, time.Millisecond, "the end of the connection")

	id := resp.Header.Get("X-Request-Id")
	assert.Regexp(t, `^[A-Z2-7]{26}$`, id)
	log := p.Log()
	for _, want := range []string{
		`"level":"DEBUG","msg":"Client connected"`,
		`"msg":"message refused: not an action","remote_addr":"[^"]+","request_id":"`,
		`"msg":"form refused","reason":"too_long","remote_addr":"[^"]+",.*"request_id":"` + id,
		`"msg":"request","method":"POST","path":"/realtime/presence","status":413,"took":"[0-9.]+[mµ]?s","remote_addr":"[^"]+","request_id":"` + id,
	} {
		assert.Regexp(t, want, log)
	}
	for _, secret := range []string{"Wilhelmina", v.Session(), "group_id"} {
		assert.NotContains(t, log, secret)
	}
	assert.NotContains(t, p.Said(), `"level":"INFO"`)
	for line := range strings.Lines(log) {
		assert.True(t, json.Valid([]byte(line)), "not JSON: %s", line)
	}
	assert.NotContains(t, p.Admin("/metrics"), `status="101"`, "a connection is not a request")

	for given, kept := range map[string]bool{"abc-123": true, strings.Repeat("x", 65): false, "a b": false, "": false} {
		_, resp := visitor.Knock(t, p.URL, "/healthz", http.Header{"X-Request-Id": {given}})
		assert.Equal(t, kept, resp.Header.Get("X-Request-Id") == given, "an ID of a proxy: %q", given)
	}
}
