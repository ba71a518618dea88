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

// Missing skips a test that lacks something, or fails it in CI. how says what is missing and
// how to get it. go test prints nothing about skipped tests, so the terminal gets a line as
// well.
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

var missing sync.Map // what was printed already

// Log is a log that a test can read while it is written to. The zero value is empty.
type Log struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write appends to the log.
func (l *Log) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

// String returns everything written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Logger returns a logger that writes to the log, as text.
func (l *Log) Logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

var seed = flag.Uint64("seed", 0, "the seed of tests that use random numbers; 0 picks one")

// Seed returns the seed for a test that uses random numbers. If the test fails, it prints
// the command that repeats it.
func Seed(t testing.TB) uint64 {
	t.Helper()
	picked := *seed
	for picked == 0 {
		picked = uint64(rand.Uint32()) // short enough to type
	}
	t.Cleanup(func() {
		if t.Failed() {
			name := strings.ReplaceAll(t.Name(), "/", "$/^")
			t.Logf("repeat it in the folder of its file: go test -race=%v -tags '%s' -count=1 -run '^%s$' -seed %d",
				builtWith("-race") == "true", builtWith("-tags"), name, picked)
		}
	})
	return picked
}
