//go:build soak

package all

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

func TestSoak_VisitsLeaveNothingBehind(t *testing.T) {
	p := visitor.StartExe(t, visitor.BuildPlain(t), "-grace", "50ms")
	p.ForgetsVisits(1000, 10_000)
}

// With the defaults, somebody whose network fails without a word stays online for up to
// 9 seconds.
func TestSoak_SilentPeerIsGoneWithin10Seconds(t *testing.T) {
	server := visitor.Serve(t)
	stays := visitor.New(t, server).Open(visitor.PresencePage)
	silent, err := visitor.New(t, server).Dial(visitor.PresencePage)
	require.NoError(t, err)
	defer silent.Close()
	require.NoError(t, visitor.Act(silent, "join", map[string]any{"username": "silent"}))
	stays.Shows(" 1 user(s) online")
	began := time.Now()
	stays.Shows(" 0 user(s) online")
	assert.Less(t, time.Since(began), 10*time.Second)
}

// The program ends at most 3 seconds after the time for its stop, whoever does not
// answer: a socket, a connection without a request, Redis.
func TestSoak_StopIsBounded(t *testing.T) {
	redis := visitor.NewRedis(t)
	p := visitor.StartExe(t, visitor.BuildPlain(t), "-redis", redis.URL)
	deaf, err := visitor.New(t, p.URL).Dial(visitor.CounterPage)
	require.NoError(t, err)
	defer deaf.Close()
	idle, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	defer idle.Close()
	thaw := redis.Freeze()
	defer thaw()
	began := time.Now()
	p.Signal(syscall.SIGTERM)
	<-p.Exited
	assert.Zero(t, p.ExitCode())
	assert.Less(t, time.Since(began), visitor.Drain+3*time.Second)
}
