//go:build all || soak

package all

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// stress is a program under stress, and what it should have counted.
type stress struct {
	t       *testing.T
	flags   []string
	size    int // how many tabs make a storm
	program *visitor.Program
	url     string
	atRest  int // goroutines before anybody came

	// Visitors from before the storm, who must not notice it. A third one only looks at
	// the counter.
	healthy, watching *visitor.Tab

	mu      sync.Mutex
	want    map[string]int
	tabs    []*visitor.Tab            // that are open
	crowds  map[*visitor.Crowd]string // by their page
	knocked []*websocket.Conn         // sockets that nobody reads
}

// What the program counts, besides reasons to refuse.
const (
	clicks     = "clicks"
	users      = "users_online"
	slowCloses = "slow_closes"
)

// connections is how the program names the connections of a page.
func connections(path string) string {
	return "connections " + strings.TrimPrefix(path, "/realtime/")
}

func newStress(t *testing.T, size int, flags []string) *stress {
	t.Helper()
	flags = slices.Concat([]string{"-grace", "50ms", "-drain", "1ms"}, patient, flags) // the last of each counts
	s := &stress{t: t, flags: flags, size: size, want: map[string]int{}, crowds: map[*visitor.Crowd]string{}}
	s.start("127.0.0.1:0")
	s.healthy, s.watching = s.open(visitor.CounterPage), s.open(visitor.PresencePage)
	s.open(visitor.CounterPage)
	s.watching.Join("watching")
	s.add(users, 1)
	return s
}

// start starts the program, in which nothing has happened.
func (s *stress) start(addr string) {
	s.t.Helper()
	s.program = visitor.Start(s.t, slices.Concat([]string{"-addr", addr}, s.flags)...)
	s.url = s.program.URL
	s.atRest = s.program.Goroutines()
}

// leavesNothing closes every tab, and waits until no goroutine is left of them.
func (s *stress) leavesNothing() {
	s.t.Helper()
	for _, tb := range s.tabs {
		tb.Close()
	}
	for c := range s.crowds {
		c.Close()
	}
	for _, ws := range s.knocked {
		ws.Close()
	}
	assert.EventuallyWithT(s.t, func(check *assert.CollectT) {
		http.DefaultClient.CloseIdleConnections()
		assert.LessOrEqual(check, s.program.Goroutines(), s.atRest+3) // of requests for the number itself
	}, visitor.Soon, often, "goroutines are left")
}

// add says that n more of something are to be counted.
func (s *stress) add(what string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.want[what] += n; s.want[what] == 0 {
		delete(s.want, what)
	}
}

var (
	// metricLine matches a metric with one label at most, which those of requests and
	// of the build are not.
	metricLine = regexp.MustCompile(`(?m)^realtime_(\w+?)(?:_total)?(?:\{\w+="([^"]*)"\})? (\d+)$`)
	// uncounted matches the names of the others that no scenario counts. The number
	// of refreshes depends on time.
	uncounted = regexp.MustCompile(`^(refresh|dispatch|connections_(limit|opened))`)
)

// counted returns what the program counts and is not 0.
func (s *stress) counted() map[string]int {
	got := map[string]int{}
	for _, line := range metricLine.FindAllStringSubmatch(s.program.Admin("/metrics"), -1) {
		name, value := strings.TrimSpace(line[1]+" "+line[2]), line[3]
		if n, _ := strconv.Atoi(value); n > 0 && !uncounted.MatchString(name) {
			got[name] = n
		}
	}
	return got
}

// settles waits until the program counts what it should.
func (s *stress) settles() {
	s.t.Helper()
	require.EventuallyWithT(s.t, func(check *assert.CollectT) {
		assert.Equal(check, s.want, s.counted())
	}, visitor.Soon, often, "what the app counts")
}

// agrees checks after a storm that every number is exact, for everyone, and that
// who was there before is served as before.
func (s *stress) agrees() {
	s.t.Helper()
	s.everybodyAgrees()
	s.healthy.Increment()
	s.add(clicks, 1)
	s.healthy.Settle()
	s.watching.Settle()
	s.everybodyAgrees()
}

func (s *stress) everybodyAgrees() {
	s.t.Helper()
	s.settles()
	s.shows(visitor.CounterPage, fmt.Sprintf("Counter: %d ", s.want[clicks]), s.want[clicks])
	s.shows(visitor.PresencePage, fmt.Sprintf(" %d user(s) online", s.want[users]), s.want[users])
}

// shows waits until all tabs of a page show a text or its number, as new ones do.
func (s *stress) shows(path, text string, number int) {
	s.t.Helper()
	for _, tb := range s.tabs {
		if tb.Path == path {
			tb.Shows(text)
		}
	}
	for c, at := range s.crowds {
		if at == path {
			assert.EventuallyWithT(s.t, func(check *assert.CollectT) {
				got := c.Count(int64(number))
				if path == visitor.PresencePage {
					got.Wrong = 0 // a crowd knows only the highest number it has seen
				}
				assert.Zero(check, got.Wrong+got.Unanswered+got.CutOff, "of a crowd: %+v", got)
			}, visitor.Soon, often)
		}
	}
	assert.Contains(s.t, visitor.New(s.t, s.url).Get(path), text)
}

// open opens a page in a tab of a new visitor.
func (s *stress) open(path string) *visitor.Tab {
	s.t.Helper()
	return s.openAs(visitor.New(s.t, s.url), path)
}

func (s *stress) openAs(v *visitor.Visitor, path string) *visitor.Tab {
	s.t.Helper()
	tb := v.Open(path)
	s.add(connections(path), 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tabs = append(s.tabs, tb)
	return tb
}

// closed notes that a tab was closed.
func (s *stress) closed(tb *visitor.Tab) {
	s.add(connections(tb.Path), -1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tabs = slices.DeleteFunc(s.tabs, func(open *visitor.Tab) bool { return open == tb })
}

// crowd opens a page in n tabs.
func (s *stress) crowd(path string, n int) *visitor.Crowd {
	s.t.Helper()
	c := visitor.OpenCrowd(s.t, s.url, path, n)
	s.add(connections(path), n)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.crowds[c] = path
	return c
}

// peer opens a socket that nothing reads, and that the server is to close.
func (s *stress) peer(path string) *websocket.Conn {
	s.t.Helper()
	ws, err := visitor.New(s.t, s.url).Dial(path)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { ws.Close() })
	return ws
}

// knock asks for a socket, and returns the status of the answer.
func (s *stress) knock(path string, header http.Header) (ws *websocket.Conn, status int) {
	s.t.Helper()
	ws, resp := visitor.Knock(s.t, s.url, path, header)
	if ws != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.knocked = append(s.knocked, ws)
	}
	return ws, resp.StatusCode
}

// say sends raw bytes to the server, and returns the connection.
func (s *stress) say(format string, args ...any) *net.TCPConn {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, format, args...)
	return conn.(*net.TCPConn)
}

// each runs do n times, eight at a time. The framework closes its connections one
// after the other, and no scenario is about a backlog of them.
func each(n int, do func(i int)) {
	var workers sync.WaitGroup
	for first := range min(8, n) {
		workers.Go(func() {
			for i := first; i < n; i += 8 {
				do(i)
			}
		})
	}
	workers.Wait()
}

// draw draws n numbers from 0 to below k. Goroutines cannot share the source.
func draw(r *rand.Rand, n, k int) []int {
	numbers := make([]int, n)
	for i := range numbers {
		numbers[i] = r.IntN(k)
	}
	return numbers
}

// endsWith reads a socket to its end, and checks the code of the close frame.
func (s *stress) endsWith(ws *websocket.Conn, code int) {
	s.t.Helper()
	began := time.Now()
	var err error
	for ws.SetReadDeadline(began.Add(visitor.Soon)); err == nil; {
		_, _, err = ws.ReadMessage()
	}
	s.endedWith(err, began, code)
	ws.Close()
}

// endedWith checks the code that a socket has ended with. The server gives up after
// a second, so on a slow machine there may be none.
func (s *stress) endedWith(err error, began time.Time, codes ...int) {
	s.t.Helper()
	if took := time.Since(began); !websocket.IsCloseError(err, codes...) && took < time.Second {
		assert.Fail(s.t, "closed with another code", "want %v, after %v closed with: %v", codes, took, err)
	}
}

// knockAtOnce asks for n sockets. As many are opened as there is room for. When
// they are closed, there is room again.
func (s *stress) knockAtOnce(n, room int, why string, header func(i int) http.Header) {
	s.t.Helper()
	sockets, opened := make([]*websocket.Conn, n), 0
	each(n, func(i int) {
		var status int
		if sockets[i], status = s.knock(visitor.CounterPage, header(i)); status != http.StatusSwitchingProtocols {
			assert.Equal(s.t, http.StatusServiceUnavailable, status)
		}
	})
	for _, ws := range sockets {
		if ws != nil {
			opened++
		}
	}
	assert.Equal(s.t, room, opened, "opened")
	s.add("connections_refused "+why, n-room)
	s.add(connections(visitor.CounterPage), room)
	s.settles()
	for _, ws := range sockets {
		if ws != nil {
			ws.Close()
		}
	}
	s.add(connections(visitor.CounterPage), -room)
	s.settles()
}

// stopped stops the program while all tabs are open.
func (s *stress) stopped() {
	s.t.Helper()
	s.program.Signal(syscall.SIGTERM)
	s.ended()
}

// ended waits until the program has ended, and checks that it has told each tab why.
func (s *stress) ended() {
	s.t.Helper()
	began := time.Now()
	for _, tb := range s.tabs {
		<-tb.Ended
		s.endedWith(tb.Err(), began, websocket.CloseGoingAway)
		assert.NotContains(s.t, tb.Err().Error(), "shutting down", "the framework says so, which has to wait first")
	}
	<-s.program.Exited
	assert.Zero(s.t, s.program.ExitCode())
}

// startAgain starts the program where it was before. It has forgotten everything.
func (s *stress) startAgain() {
	s.t.Helper()
	s.start(strings.TrimPrefix(s.url, "http://"))
	s.want = map[string]int{users: 1}
	for _, tb := range s.tabs {
		s.add(connections(tb.Path), 1)
	}
}

// comesBack knocks until a tab gets a socket, and opens another.
func (s *stress) comesBack(tb *visitor.Tab) {
	s.t.Helper()
	require.EventuallyWithT(s.t, func(check *assert.CollectT) {
		ws, err := tb.Visitor.Dial(tb.Path)
		require.NoError(check, err)
		ws.Close()
	}, visitor.Soon, often)
	tb.Connect()
	if tb == s.watching {
		tb.Join("watching")
	}
}
