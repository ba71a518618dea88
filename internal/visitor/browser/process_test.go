package browser

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// It ends when its input does, which the system sees to if the test is killed.
func TestProcess_EndsWithAllItHasStartedAndLeavesNoFiles(t *testing.T) {
	home := t.TempDir()
	child, stop, err := startProcess(home, nil, regexp.MustCompile(`has started (\d+)`), "sh", "-c", "sleep 1000 & echo has started $!; wait")
	require.NoError(t, err)
	stop()
	assert.NoDirExists(t, home)
	assert.Eventually(t, func() bool {
		state, _ := os.ReadFile("/proc/" + child + "/stat")
		return len(state) == 0 || strings.Contains(string(state), ") Z ")
	}, visitor.Soon, visitor.Interval, "the process to end")
}
