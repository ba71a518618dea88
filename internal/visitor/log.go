package visitor

import (
	"fmt"
	"log/slog"
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
