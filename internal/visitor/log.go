package visitor

import (
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Missing skips a test that lacks something, and fails it in CI, where nothing may
// be lacking. how says what, and how to get it. go test shows nothing of tests that
// do not fail, unless it is asked to, so the terminal gets a line as well.
func Missing(t testing.TB, how string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		require.FailNow(t, "cannot run in CI", how)
	}
	if _, said := missing.LoadOrStore(how, true); !said {
		if terminal, err := os.OpenFile("/dev/tty", os.O_WRONLY, 0); err == nil {
			fmt.Fprintf(terminal, "%s: some tests are skipped: %s\r\n", filepath.Base(os.Args[0]), how)
			terminal.Close()
		}
	}
	t.Skip(how)
}

var missing sync.Map // what a line was said about

// Log is a log that is written to while a test reads it. The zero value is empty.
type Log struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write adds to the log.
func (l *Log) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

// String is all that was written.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Logger writes to the log, as text.
func (l *Log) Logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

var seed = flag.Uint64("seed", 0, "what tests that draw at random begin with; 0 draws one")

// Seed returns what a test that draws at random begins with. If the test fails, it says
// how to repeat it.
func Seed(t testing.TB) uint64 {
	t.Helper()
	drawn := *seed
	for drawn == 0 {
		drawn = uint64(rand.Uint32()) // short enough to be typed
	}
	t.Cleanup(func() {
		if t.Failed() {
			name := strings.ReplaceAll(t.Name(), "/", "$/^")
			t.Logf("repeat it in the folder of its file: go test -race=%v -tags '%s' -count=1 -run '^%s$' -seed %d",
				builtWith("-race") == "true", builtWith("-tags"), name, drawn)
		}
	})
	return drawn
}
