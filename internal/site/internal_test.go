package site

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetemplate/livetemplate"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/wsconn"
)

func TestLog_CountsWhatRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, seen := &visitor.Log{}, ""
		logger, flush := NewLogger(log, slog.LevelInfo, false)
		logged := func() (lines []string) { // since the last time, without the time of day
			synctest.Wait()
			all := log.String()
			for line := range strings.Lines(strings.TrimPrefix(all, seen)) {
				_, line, _ = strings.Cut(line, "level=")
				lines = append(lines, strings.TrimSpace(line))
			}
			seen = all
			return lines
		}
		drop := func(times int) {
			for i := range times {
				logger.With(slog.Bool("warned", true)).Warn("dropped", slog.Int("n", i), slog.String("group_id", fmt.Sprint(i)))
			}
		}

		drop(1000)
		logger.Warn("something else")
		logger.Error("dropped")
		assert.Equal(t, []string{
			"WARN msg=dropped warned=true n=0",
			"WARN msg=dropped warned=true n=1",
			"WARN msg=dropped warned=true n=2",
			"WARN msg=dropped warned=true n=3",
			"WARN msg=dropped warned=true n=4",
			`WARN msg="something else"`,
			"ERROR msg=dropped",
		}, logged())
		time.Sleep(RepeatsWithin)
		assert.Equal(t, []string{"WARN msg=dropped warned=true left_out=995"}, logged())
		time.Sleep(10 * RepeatsWithin)
		assert.Empty(t, logged(), "nothing was left out")

		drop(RepeatsLogged + 1)
		assert.Len(t, logged(), RepeatsLogged)
		flush()
		assert.Equal(t, []string{"WARN msg=dropped warned=true left_out=1"}, logged())
		time.Sleep(10 * RepeatsWithin)
		assert.Empty(t, logged(), "reported once")

		drop(2)
		assert.Len(t, logged(), 2)
		flush()
		assert.Empty(t, logged())
	})
}

func TestLog_DebugLeavesNothingOut(t *testing.T) {
	var log bytes.Buffer
	logger, flush := NewLogger(&log, slog.LevelDebug, true)
	for range 100 {
		logger.Info("Client connected")
		logger.Debug("details")
	}
	flush()
	assert.Equal(t, 200, strings.Count(log.String(), `"level":"DEBUG"`))
}

// What net/http says about one peer after the other is one message: an address or a
// stack in it makes no difference. The lines that are logged keep both.
func TestLog_CountsMessagesOfNetHTTPTogether(t *testing.T) {
	var log visitor.Log
	logger, flush := NewLogger(&log, slog.LevelInfo, false)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { panic("not for " + r.Host) }))
	server.Config.ErrorLog = slog.NewLogLogger(logger.Handler(), slog.LevelError)
	server.StartTLS()
	defer server.Close()
	client := server.Client()
	client.Transport.(*http.Transport).DisableKeepAlives = true
	for range RepeatsLogged + 3 {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		require.NoError(t, err)
		assert.Error(t, tls.Client(conn, &tls.Config{ServerName: "example.com"}).Handshake(), "it does not trust the certificate")
		io.Copy(io.Discard, conn) // until the server has logged that
		conn.Close()
		client.Get(server.URL)
	}
	server.Close()
	flush()
	for pattern, times := range map[string]int{
		`(?m)msg="http: TLS handshake error from 127.0.0.1:\d+: [^"]*"$`:      RepeatsLogged,
		`(?m)msg="http: TLS handshake error from ADDRESS: [^"]*" left_out=3$`: 1,
		`(?m)msg="http: panic serving 127.0.0.1:\d+: not for .*goroutine.*"$`: RepeatsLogged,
		`(?m)msg="http: panic serving ADDRESS: not for [^"\\]*" left_out=3$`:  1,
	} {
		assert.Len(t, regexp.MustCompile(pattern).FindAllString(log.String(), -1), times, "%s in\n%s", pattern, &log)
	}
}

// The limit itself is that of TestPosts_AboveTheRateAreRefused.
func TestRateLimit_RemembersNoSessionForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newRateLimit(DefaultActionRate, DefaultActionBurst)
		for range DefaultActionBurst {
			l.allow("fast")
		}
		for i := range 2000 {
			l.allow(fmt.Sprint("made up ", i))
		}
		for _, row := range []struct {
			after time.Duration
			knows int
		}{{21 * time.Millisecond, 1}, {3900 * time.Millisecond, 1}, {200 * time.Millisecond, 0}} { // the others have posted once
			time.Sleep(row.after)
			synctest.Wait()
			l.mu.Lock()
			assert.Len(t, l.sessions, row.knows)
			l.mu.Unlock()
		}
		for range DefaultActionBurst {
			assert.True(t, l.allow("fast"), "as much as ever")
		}
	})
}

// By default a browser may have 50 live connections, and all of them 10,000, also when
// many connect at once.
func TestCapacity_IsExactAndAsDocumentedByDefault(t *testing.T) {
	a := newAdmission(Options{}, newRefusals(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), "live connection", "refused", ""))
	var connecting sync.WaitGroup
	requests := make([]*http.Request, 201)
	admitted := make([]int, len(requests))
	for browser := range requests {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
			"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Cookie": {fmt.Sprintf("%s=%043d=", sessionCookie, browser)}}
		requests[browser] = r
		connecting.Go(func() {
			for a.admit(r) == "" {
				admitted[browser]++
			}
		})
	}
	connecting.Wait()
	assert.Equal(t, 10_000, a.on("/"))
	assert.Equal(t, 50, slices.Max(admitted))
	for browser, r := range requests {
		for range admitted[browser] {
			a.release(r)
		}
	}
	assert.Empty(t, a.bySession, "who has gone is not kept")
}

// asked counts how often the framework is asked for its metrics.
type asked struct {
	livetemplate.LiveHandler
	times int
}

func (a *asked) MetricsHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		a.times++
		io.WriteString(w, "# TYPE livetemplate_publishes_sent_total counter\nlivetemplate_publishes_sent_total 3\n"+
			"# TYPE livetemplate_websocket_slow_client_closes_total counter\nlivetemplate_websocket_slow_client_closes_total 2\n")
	})
}

func TestMetrics_AskTheFrameworkOnceAScrape(t *testing.T) {
	one, two := &asked{}, &asked{}
	stats := &wsconn.Stats{}
	stats.SlowCloses.Add(1)
	m := newMetrics()
	m.registry.MustRegister(&framework{stats: stats, pages: func() []*Page {
		return []*Page{{path: "/a/one", handler: one}, {path: "/a/two", handler: two}}
	}})
	w := httptest.NewRecorder()
	m.admin().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		`realtime_refreshes_sent_total{page="one"} 3`,
		`realtime_refreshes_sent_total{page="two"} 3`,
		`realtime_dispatch_drops_total{page="one"} 0`,
		"\nrealtime_slow_closes_total 5\n",
	} {
		assert.Contains(t, w.Body.String(), want)
	}
	assert.Equal(t, 1, one.times)
	assert.Equal(t, 1, two.times)
}
