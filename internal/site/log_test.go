package site

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"realtime/internal/visitor"
)

// lines is where a logger writes to.
type lines chan string

func (l lines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}

// take is what was written since the last time, without the time of day.
func (l lines) take() (got []string) {
	synctest.Wait()
	for len(l) > 0 {
		_, line, _ := strings.Cut(<-l, "level=")
		got = append(got, strings.TrimSpace(line))
	}
	return got
}

func TestLog_CountsWhatRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logged := make(lines, 2000)
		logger, flush := NewLogger(logged, slog.LevelInfo, false)
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
		}, logged.take())
		time.Sleep(RepeatsWithin)
		assert.Equal(t, []string{"WARN msg=dropped warned=true left_out=995"}, logged.take())
		time.Sleep(10 * RepeatsWithin)
		assert.Empty(t, logged.take(), "nothing was left out")

		drop(RepeatsLogged + 1)
		assert.Len(t, logged.take(), RepeatsLogged)
		flush()
		assert.Equal(t, []string{"WARN msg=dropped warned=true left_out=1"}, logged.take())
		time.Sleep(10 * RepeatsWithin)
		assert.Empty(t, logged.take(), "reported once")

		drop(2)
		assert.Len(t, logged.take(), 2)
		flush()
		assert.Empty(t, logged.take())
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
		http.Get(server.URL) // does not trust the server's certificate
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

func TestLog_DurationsHaveAUnit(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		var log bytes.Buffer
		logger, _ := NewLogger(&log, slog.LevelInfo, asJSON)
		logger.With(slog.Duration("every", time.Minute)).Info("it took", slog.Duration("took", 1500*time.Millisecond),
			slog.Group("parts", slog.Any("first", 20*time.Microsecond)))
		for _, want := range []string{"1m0s", "1.5s", "20µs"} {
			assert.Contains(t, log.String(), want)
		}
	}
}
