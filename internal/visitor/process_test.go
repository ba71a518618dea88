package visitor

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Its children end too, and its files are removed.
func TestProcess_EndsWhenItsTestIsKilled(t *testing.T) {
	if home := os.Getenv("HOME_OF_PROCESS"); home != "" { // in the test that is killed
		p, err := StartProcess(home, nil, `has started (\d+)`, "sh", "-c", "sleep 1000 & echo has started $!; wait")
		require.NoError(t, err)
		fmt.Println("child", p.Match)
		select {}
	}
	home := t.TempDir()
	test := exec.Command(os.Args[0], "-test.run="+t.Name())
	test.Env = append(os.Environ(), "HOME_OF_PROCESS="+home)
	test.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output, err := test.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, test.Start())
	var child string
	_, err = fmt.Fscanf(output, "child %s\n", &child)
	require.NoError(t, err)

	require.NoError(t, syscall.Kill(-test.Process.Pid, syscall.SIGKILL))
	test.Wait()
	assert.Eventually(t, func() bool {
		_, err := os.Stat(home)
		state, _ := os.ReadFile("/proc/" + child + "/stat")
		return os.IsNotExist(err) && (len(state) == 0 || strings.Contains(string(state), ") Z "))
	}, Soon, Interval, "the process to end and its files to be removed")
}
