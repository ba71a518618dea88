package visitor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Redis is a Redis server on a port of its own, with its data on disk.
type Redis struct {
	Addr string
	URL  string
	*redis.Client

	t    testing.TB
	dir  string
	args []string
	cmd  *exec.Cmd
}

// NewRedis runs a Redis server until the test ends, with additional arguments. If there is
// no redis-server, the test is skipped.
func NewRedis(t testing.TB, args ...string) *Redis {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		Missing(t, "no redis-server: `make test` installs it as root on Debian, or put one on the PATH")
	}
	s := &Redis{Addr: FreeAddr(t), t: t, dir: t.TempDir(), args: args}
	s.URL = "redis://" + s.Addr + "/0"
	s.Client = redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() {
		s.Stop()
		s.Close()
	})
	s.Start()
	return s
}

// Start starts the server with the data on disk.
func (s *Redis) Start() {
	s.t.Helper()
	s.cmd = exec.Command("redis-server", append([]string{"--port", portOf(s.Addr), "--bind", "127.0.0.1", "--dir", s.dir,
		"--save", "", "--appendonly", "yes", "--appendfsync", "always"}, s.args...)...)
	require.NoError(s.t, s.cmd.Start())
	require.Eventually(s.t, func() bool { return s.Ping(context.Background()).Err() == nil }, Soon, 5*time.Millisecond, "redis-server answers")
}

// Stop stops the server, if it runs.
func (s *Redis) Stop() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Signal(syscall.SIGCONT) // a frozen process would not end
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.cmd.Wait()
	s.cmd = nil
}

// OnlyInMemory makes the server write nothing to disk, which is its default. It is for
// measurements.
func (s *Redis) OnlyInMemory() {
	s.t.Helper()
	require.NoError(s.t, s.ConfigSet(context.Background(), "appendonly", "no").Err())
}

// Erase removes the data of a stopped server.
func (s *Redis) Erase() {
	s.t.Helper()
	require.NoError(s.t, os.RemoveAll(filepath.Join(s.dir, "appendonlydir")))
}

// Freeze pauses the server, with its connections open, until thaw is called.
func (s *Redis) Freeze() (thaw func()) {
	s.t.Helper()
	require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGSTOP))
	return func() { assert.NoError(s.t, s.cmd.Process.Signal(syscall.SIGCONT)) }
}

// Usage is what the server has used.
type Usage struct {
	Commands int           // including those inside scripts
	CPU      time.Duration // of its process
	Memory   int           // bytes
}

// Spent returns what the server uses while do runs.
func (s *Redis) Spent(do func()) Usage {
	s.t.Helper()
	before := s.usage()
	do()
	after := s.usage()
	return Usage{after.Commands - before.Commands, after.CPU - before.CPU, after.Memory - before.Memory}
}

// usage returns what the server has used since it started.
func (s *Redis) usage() Usage {
	s.t.Helper()
	info, err := s.InfoMap(context.Background(), "stats", "cpu", "memory").Result()
	require.NoError(s.t, err)
	number := func(section, field string) (n float64) {
		_, err := fmt.Sscan(info[section][field], &n)
		require.NoError(s.t, err, field)
		return n
	}
	return Usage{
		Commands: int(number("Stats", "total_commands_processed")),
		CPU:      time.Duration((number("CPU", "used_cpu_sys") + number("CPU", "used_cpu_user")) * float64(time.Second)),
		Memory:   int(number("Memory", "used_memory")),
	}
}
