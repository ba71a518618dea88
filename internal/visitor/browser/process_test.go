package browser

import (
	"bufio"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// The processes that a test has started end with it, with what they have started, and
// leave no files, also when the test is killed.
func TestProcess_EndsThoughItsTestIsKilled(t *testing.T) {
	if home := os.Getenv("HOME_OF_PROCESS"); home != "" { // this is the test that is killed
		child, _, err := startProcess(home, nil, regexp.MustCompile(`has started (\d+)`), "sh", "-c", "sleep 1000 & echo has started $!; wait")
		require.NoError(t, err)
		os.Stdout.WriteString("home of " + child + "\n")
		select {}
	}
	home := t.TempDir()
	test := exec.Command(os.Args[0], "-test.run="+t.Name())
	test.Env = append(os.Environ(), "HOME_OF_PROCESS="+home)
	test.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output, err := test.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, test.Start())
	t.Cleanup(func() { test.Process.Kill() })
	line, err := bufio.NewReader(output).ReadString('\n')
	require.NoError(t, err)
	child, found := strings.CutPrefix(strings.TrimSpace(line), "home of ")
	require.True(t, found, line)

	require.NoError(t, syscall.Kill(-test.Process.Pid, syscall.SIGKILL))
	test.Wait()
	assert.Eventually(t, func() bool {
		_, err := os.Stat(home)
		state, _ := os.ReadFile("/proc/" + child + "/stat")
		return os.IsNotExist(err) && (len(state) == 0 || strings.Contains(string(state), ") Z "))
	}, visitor.Soon, 10*time.Millisecond, "the process to end and its files to go")
}
