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
	"realtime/internal/visitor/storm"
)

func TestSoak_VisitsLeaveNothingBehind(t *testing.T) {
	p := visitor.StartExe(t, visitor.BuildPlain(t), "-grace", "50ms")
	p.ForgetsVisits(1000, 10_000)
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

func TestSoak_StormsOfManyTabs(t *testing.T) { storm.Run(t, 64) }
