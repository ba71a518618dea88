package logging

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
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

func TestLog_CountsWhatRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, seen := &visitor.Log{}, ""
		logger, flush := New(log, slog.LevelInfo, false)
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
	logger, flush := New(&log, slog.LevelDebug, true)
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
	logger, flush := New(&log, slog.LevelInfo, false)
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
