package site

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
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
