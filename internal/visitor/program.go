package visitor

import (
	"bufio"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Main is for TestMain. It runs the tests with the logs of the framework and of the Redis
// client turned off, and removes the programs that they have built.
func Main(m *testing.M) int {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	logging.Disable()
	defer func() {
		for _, dir := range buildDirs {
			os.RemoveAll(dir)
		}
	}()
	return m.Run()
}

// Root returns the directory of the module.
func Root() string {
	_, thisFile, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(thisFile), "../..")
}

// Copy returns a directory with a copy of the module.
func Copy(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	Run(t, Root(), "cp", "-a", "./.", dir)
	return dir
}

// readSources opens every file that the program is built from, and every folder. go test
// records which files a test opens, and does not use a cached result if one has changed.
func readSources() error {
	return filepath.WalkDir(Root(), func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{".git", "node_modules", "bin", "docs", "testdata"}, entry.Name()):
			return fs.SkipDir
		case !entry.IsDir() && !strings.HasSuffix(name, "_test.go"):
			_, err = os.ReadFile(name)
		}
		return err
	})
}

// builtWith returns the value of a build flag of this test.
func builtWith(flag string) string {
	info, _ := debug.ReadBuildInfo()
	for _, setting := range info.Settings {
		if setting.Key == flag {
			return setting.Value
		}
	}
	return ""
}

// raceFlag is the build flag that turns the race detector on or off, as in this test.
func raceFlag() string { return "-race=" + cmp.Or(builtWith("-race"), "false") }

// Build builds the program, with the race detector if the test has it, and returns the path
// of the executable. It is built once.
func Build(t testing.TB) (exe string) { t.Helper(); return builtWithFlag(t, raceFlag()) }

// BuildPlain builds the program without the race detector, for tests that measure
// time.
func BuildPlain(t testing.TB) (exe string) { t.Helper(); return builtWithFlag(t, "-race=false") }

func builtWithFlag(t testing.TB, flag string) (exe string) {
	t.Helper()
	return built(t, flag, func(string) []string {
		return []string{flag, "-ldflags=-X realtime/internal/listing.SourceURL=" + SourceURL}
	})
}

// SourceURL is where the program says that its source is.
const SourceURL = "https://example.com/blob/v1"

// buildDirs are the directories of the executables, by name of the variant.
var (
	buildDirs = map[string]string{}
	building  sync.Mutex
)

func built(t testing.TB, as string, flags func(dir string) []string) (exe string) {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	if buildDirs[as] == "" {
		require.NoError(t, readSources())
		dir, err := os.MkdirTemp("", "realtime")
		require.NoError(t, err)
		Run(t, Root(), "go", append(append([]string{"build"}, flags(dir)...), "-o", filepath.Join(dir, "realtime"), ".")...)
		buildDirs[as] = dir
	}
	return filepath.Join(buildDirs[as], "realtime")
}

// BuildNext is Build for a later version of the program, whose pages say "Have a try:" and
// whose style has the version "next".
func BuildNext(t testing.TB) (exe string) {
	t.Helper()
	return built(t, "next", func(dir string) []string { return []string{raceFlag(), "-overlay", overlayNext(t, dir)} })
}

// overlayNext writes the changed files of a later version into a directory, and the overlay
// file for go build.
func overlayNext(t testing.TB, dir string) (file string) {
	t.Helper()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for _, change := range []struct{ file, was, is string }{
		{"static/app.css", "/* Only", ":root { --version: next; }\n/* Only"},
		{"static/live.js", "// Keeps", "// It keeps"},
		{"templates/realtime/multi-user-sync.tmpl", "Try:", "Have a try:"},
		{"templates/realtime/presence.tmpl", "Try:", "Have a try:"},
	} {
		file := filepath.Join(Root(), change.file)
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Contains(t, string(source), change.was)
		overlay.Replace[file] = filepath.Join(dir, filepath.Base(file))
		require.NoError(t, os.WriteFile(overlay.Replace[file], []byte(strings.Replace(string(source), change.was, change.is, 1)), 0o600))
	}
	list, err := json.Marshal(overlay)
	require.NoError(t, err)
	file = filepath.Join(dir, "overlay")
	require.NoError(t, os.WriteFile(file, list, 0o600))
	return file
}

// BuildCopy is Build for another module.
func BuildCopy(t testing.TB, copied string) (exe string) {
	t.Helper()
	exe = filepath.Join(t.TempDir(), "realtime")
	Run(t, copied, "go", "build", raceFlag(), "-o", exe, ".")
	return exe
}

// goTool runs a go command in a directory.
// Run runs a command in a directory. The test fails with what it says if it fails.
func Run(t testing.TB, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// Program is a running copy of the built program.
type Program struct {
	URL    string        // where it listens; unix: and a path for a Unix socket
	Exited chan struct{} // closed when the program has exited

	t        testing.TB
	cmd      *exec.Cmd
	logFile  string
	signaled atomic.Bool // by the test
}

// Start runs the program from Build until the test ends, in a directory of its own. Unless
// args say otherwise, it listens on a free port and has an admin address. The test fails if
// the program reports a data race, panics, or exits by itself; then it shows the end of the
// log.
func Start(t testing.TB, args ...string) *Program {
	t.Helper()
	return StartExe(t, Build(t), args...)
}

// StartExe is Start with an executable.
func StartExe(t testing.TB, exe string, args ...string) *Program {
	t.Helper()
	return StartNew(t, exe, append([]string{"-admin-addr", "127.0.0.1:0"}, args...)...)
}

// StartNew is StartExe for a program that make new has made. It has no admin address.
func StartNew(t testing.TB, exe string, args ...string) *Program {
	t.Helper()
	dir := t.TempDir()
	p := &Program{t: t, logFile: filepath.Join(dir, "log"), Exited: make(chan struct{})}
	p.cmd = exec.Command(exe, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), "REDIS_URL=", "GORACE=halt_on_error=0 exitcode=66 atexit_sleep_ms=50")
	log, err := os.Create(p.logFile)
	require.NoError(t, err)
	defer log.Close()
	p.cmd.Stderr = log
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	go func() {
		p.cmd.Wait()
		close(p.Exited)
	}()
	t.Cleanup(p.end)
	require.NoError(t, err, "no address; the log:\n%s", p.Log())
	address := regexp.MustCompile(`^(?:Open |Listening on )(http://\S+|unix:.+)\n$`).FindStringSubmatch(line)
	require.NotNil(t, address, "the first line is %q", line)
	p.URL = address[1]
	return p
}

// end kills the program, and fails the test if it was broken.
func (p *Program) end() {
	select {
	case <-p.Exited:
		assert.True(p.t, p.signaled.Load(), "the program has exited by itself: %v", p.cmd.ProcessState)
	default:
		p.cmd.Process.Kill()
		<-p.Exited
	}
	log := p.Log()
	if at := broken.FindStringIndex(log); at != nil {
		assert.Fail(p.t, "the program is broken", log[at[0]:])
	} else if p.t.Failed() && log != "" {
		p.t.Logf("the end of the log of %s:\n%s", p.URL, lastLines(log, 40))
	}
}

// broken matches the log of a program that has crashed or has a data race.
var broken = regexp.MustCompile(`WARNING: DATA RACE|panic: |panic serving|fatal error: `)

// lastLines returns the last n lines of a text.
func lastLines(text string, n int) string {
	lines := slices.Collect(strings.Lines(text))
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// Addr returns the host and port that the program listens on.
func (p *Program) Addr() string { return strings.TrimPrefix(p.URL, "http://") }

// Log returns what the program has logged.
func (p *Program) Log() string {
	p.t.Helper()
	content, err := os.ReadFile(p.logFile)
	require.NoError(p.t, err)
	return string(content)
}

var startLines = regexp.MustCompile(`(?m)^.*(metrics and profiles|browser files are not built in).*\n`)

// Said returns what the program has logged, except for the lines of every start.
func (p *Program) Said() string {
	p.t.Helper()
	return startLines.ReplaceAllString(p.Log(), "")
}

// Admin returns the answer of the program's admin address to a path.
func (p *Program) Admin(path string) string {
	p.t.Helper()
	address := regexp.MustCompile(`metrics and profiles.*(http://[^\s"]+)`).FindStringSubmatch(p.Log())
	require.NotNil(p.t, address, "an admin address in the log:\n%s", p.Log())
	resp, err := http.Get(address[1] + path)
	require.NoError(p.t, err)
	defer resp.Body.Close()
	require.Equal(p.t, http.StatusOK, resp.StatusCode)
	body, err := io.ReadAll(resp.Body)
	require.NoError(p.t, err)
	return string(body)
}

// Metric returns the value of a metric, written as name{label="value"}.
func (p *Program) Metric(name string) (value float64) {
	p.t.Helper()
	_, after, found := strings.Cut("\n"+p.Admin("/metrics"), "\n"+name+" ")
	require.True(p.t, found, "no metric %s", name)
	_, err := fmt.Sscan(after, &value)
	require.NoError(p.t, err)
	return value
}

// Connections returns the number of live connections of a page.
func (p *Program) Connections(path string) int {
	p.t.Helper()
	return int(p.Metric(`realtime_connections{page="` + filepath.Base(path) + `"}`))
}

// Goroutines returns the number of goroutines of the program.
func (p *Program) Goroutines() int { p.t.Helper(); return int(p.Metric("go_goroutines")) }

// Heap returns the bytes in use on the heap after a garbage collection.
func (p *Program) Heap() (inUse int) {
	p.t.Helper()
	const collected = "/debug/pprof/heap?gc=1&debug=1"
	p.Admin(collected)
	_, stats, _ := strings.Cut(p.Admin(collected), "# HeapAlloc = ") // the second empties pools
	_, err := fmt.Sscan(stats, &inUse)
	require.NoError(p.t, err)
	return inUse
}

// CPUTime returns the CPU time that the program has used. It works on Linux only.
func (p *Program) CPUTime() (used time.Duration) {
	p.t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.cmd.Process.Pid))
	require.NoError(p.t, err)
	require.NotEmpty(p.t, threads, "CPU times of the program")
	for _, thread := range threads {
		var running int64
		stat, _ := os.ReadFile(thread) // gone if the thread has ended
		fmt.Sscan(string(stat), &running)
		used += time.Duration(running)
	}
	return used
}

// Signal sends a signal to the program.
func (p *Program) Signal(signal os.Signal) {
	p.t.Helper()
	p.signaled.Store(true)
	require.NoError(p.t, p.cmd.Process.Signal(signal))
}

// Stop signals the program, waits for its end, and returns its exit status.
func (p *Program) Stop(signal os.Signal) int {
	p.t.Helper()
	p.Signal(signal)
	<-p.Exited
	return p.ExitCode()
}

// ExitCode returns the exit status of a program that has exited: 66 after a data race.
func (p *Program) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Defaults of the program that tests rely on.
const (
	Grace    = 2 * time.Second       // -grace
	Interval = 50 * time.Millisecond // -refresh-interval
	Drain    = 2 * time.Second       // -drain
	MaxForm  = 16 << 10              // bytes
)

// Patient are flags with which the program disconnects no silent or slow peer. On a busy
// machine every peer is slow.
var Patient = []string{"-ping", "1m", "-ping-timeout", "1h", "-write-timeout", "1h"}

// Texts of the pages.
const (
	NoName   = "Please enter a name."
	LongName = "Please use at most 40 characters."
	NotLive  = "Joining needs a live connection. Without one, the server cannot tell when you leave."
)

// Serve starts the program, and returns its address.
func Serve(t testing.TB, args ...string) (url string) {
	t.Helper()
	return Start(t, args...).URL
}

// MadeUpSession returns a session cookie of the form that the server creates.
func MadeUpSession() string { return rand.Text() + rand.Text()[:17] + "=" }

// Percentile returns the value that percent of all values do not exceed.
func Percentile(values []time.Duration, percent int) time.Duration {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[(len(values)-1)*percent/100]
}

// StartServers runs n copies of the program on a Redis server of their own.
func StartServers(t testing.TB, n int, args ...string) (*Redis, []*Program) {
	t.Helper()
	redis, servers := NewRedis(t), make([]*Program, n)
	for i := range servers {
		servers[i] = Start(t, append(args, "-redis", redis.URL)...)
	}
	return redis, servers
}

// OpenSilent opens two connections that send nothing: the socket of a page, and one without
// a request.
func (p *Program) OpenSilent() {
	p.t.Helper()
	ws, err := New(p.t, p.URL).Dial(CounterPage)
	conn, failed := net.Dial("tcp", p.Addr())
	require.NoError(p.t, errors.Join(err, failed))
	p.t.Cleanup(func() { ws.Close(); conn.Close() })
}

// ForgetsVisits checks that visits leak nothing: no goroutine, and less than a megabyte in
// all. The first visits are a warm-up.
func (p *Program) ForgetsVisits(first, visits int) {
	p.t.Helper()
	var goroutines, heap int
	ComeAndGo(p.t, p.URL, first)
	require.Eventually(p.t, func() bool {
		http.DefaultClient.CloseIdleConnections()
		before := heap
		goroutines, heap = p.Goroutines(), p.Heap()
		return before > 0 && before <= heap
	}, Soon, 200*time.Millisecond, "a stable heap")
	ComeAndGo(p.t, p.URL, visits)
	assert.EventuallyWithT(p.t, func(check *assert.CollectT) {
		http.DefaultClient.CloseIdleConnections()
		assert.LessOrEqual(check, p.Goroutines(), goroutines, "goroutines")
		assert.LessOrEqual(check, p.Heap(), heap+1<<20, "bytes on the heap")
	}, Soon, 100*time.Millisecond)
}
