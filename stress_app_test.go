package main

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// stress is an app under stress, and what it should count.
type stress struct {
	t    *testing.T
	cfg  Config
	size int // how many tabs make a storm
	app  *App
	http *http.Server
	url  string

	// Visitors of before the storm, who must not notice it. There is a third, who
	// only looks at the counter.
	healthy, watching *tab

	mu     sync.Mutex
	want   map[string]int
	tabs   []*tab            // that are open
	crowds map[*crowd]string // by their page
}

// What the app counts, beside reasons to refuse.
const (
	clicks     = "clicks"
	users      = "users_online"
	slowCloses = "slow_closes"
)

// connections is what the app calls the connections of a page.
func connections(path string) string {
	return "connections " + strings.TrimPrefix(path, "/realtime/")
}

func newStress(t *testing.T, cfg Config) *stress {
	t.Helper()
	cfg.Grace = cmp.Or(cfg.Grace, 50*time.Millisecond)
	cfg.Heartbeat = cmp.Or(cfg.Heartbeat, patient)
	cfg.Drain = time.Millisecond
	s := &stress{t: t, cfg: cfg, size: 32, want: map[string]int{}, crowds: map[*crowd]string{}}
	s.start("127.0.0.1:0")
	t.Cleanup(s.stop)
	s.healthy, s.watching = s.open(counterPage), s.open(presencePage)
	s.open(counterPage)
	s.watching.join("watching")
	s.add(users, 1)
	return s
}

// start serves a new app, in which nothing has happened.
func (s *stress) start(addr string) {
	s.t.Helper()
	app, err := NewApp(s.cfg)
	require.NoError(s.t, err)
	var listener net.Listener
	require.EventuallyWithT(s.t, func(check *assert.CollectT) { // another socket may have the port for a moment
		listener, err = net.Listen("tcp", addr)
		require.NoError(check, err)
	}, soon, often)
	s.app, s.http, s.url = app, &http.Server{Handler: app}, "http://"+listener.Addr().String()
	go s.http.Serve(listener)
}

func (s *stress) stop() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	assert.NoError(s.t, s.app.Shutdown(ctx))
	s.http.Close()
}

// add says that n more of something are to be counted.
func (s *stress) add(what string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.want[what] += n; s.want[what] == 0 {
		delete(s.want, what)
	}
}

var metricLine = regexp.MustCompile(`(?m)^realtime_(\w+?)(?:_total)?(?:\{\w+="(.*)"\})? (\d+)$`)

// counted is what the app counts and is not 0, without refreshes: how many of
// those there are is a matter of time.
func (s *stress) counted() map[string]int {
	got := map[string]int{}
	for _, line := range metricLine.FindAllStringSubmatch(scrape(s.t, s.app), -1) {
		name, value := strings.TrimSpace(line[1]+" "+line[2]), line[3]
		if n, _ := strconv.Atoi(value); n > 0 && !strings.HasPrefix(name, "refreshes") && !strings.HasPrefix(name, "dispatch") {
			got[name] = n
		}
	}
	return got
}

// settles waits until the app counts what it should.
func (s *stress) settles() {
	s.t.Helper()
	require.EventuallyWithT(s.t, func(check *assert.CollectT) {
		assert.Equal(check, s.want, s.counted())
	}, soon, often, "what the app counts")
}

// agrees checks after a storm that every number is exact, for everyone, and that
// who was there before is served as before.
func (s *stress) agrees() {
	s.t.Helper()
	s.everybodyAgrees()
	s.healthy.increment()
	s.add(clicks, 1)
	s.healthy.settle()
	s.watching.settle()
	s.everybodyAgrees()
}

func (s *stress) everybodyAgrees() {
	s.t.Helper()
	s.settles()
	s.shows(counterPage, fmt.Sprintf("Counter: %d ", s.want[clicks]), s.want[clicks])
	s.shows(presencePage, fmt.Sprintf(" %d user(s) online", s.want[users]), s.want[users])
	assert.Equal(s.t, s.want[connections(counterPage)]+s.want[connections(presencePage)], s.app.upgrader.Open(), "open connections")
}

// shows waits until all tabs of a page show a text or its number, as new ones do.
func (s *stress) shows(path, text string, number int) {
	s.t.Helper()
	for _, tb := range s.tabs {
		if tb.path == path {
			tb.shows(text)
		}
	}
	for c, at := range s.crowds {
		if at == path {
			assert.EventuallyWithT(s.t, func(check *assert.CollectT) {
				got := c.count(int64(number))
				if path == presencePage {
					got.wrong = 0 // a crowd knows only the highest number it has seen
				}
				assert.Zero(check, got.wrong+got.unanswered+got.cutOff, "of a crowd: %+v", got)
			}, soon, often)
		}
	}
	assert.Contains(s.t, newVisitor(s.t, s.url).get(path), text)
}

// open opens a page in a tab of a new visitor.
func (s *stress) open(path string) *tab {
	s.t.Helper()
	return s.openAs(newVisitor(s.t, s.url), path)
}

func (s *stress) openAs(v *visitor, path string) *tab {
	s.t.Helper()
	tb := v.open(path)
	s.add(connections(path), 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tabs = append(s.tabs, tb)
	return tb
}

// closed notes that a tab is.
func (s *stress) closed(tb *tab) {
	s.add(connections(tb.path), -1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tabs = slices.DeleteFunc(s.tabs, func(open *tab) bool { return open == tb })
}

// crowd opens a page in n tabs.
func (s *stress) crowd(path string, n int) *crowd {
	s.t.Helper()
	c := openCrowd(s.t, s.url, path, n)
	s.add(connections(path), n)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.crowds[c] = path
	return c
}

// peer opens a socket that nothing reads, and that the server is to close.
func (s *stress) peer(path string) *websocket.Conn {
	s.t.Helper()
	ws, err := newVisitor(s.t, s.url).dial(path)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { ws.Close() })
	return ws
}

// knock asks for a socket, and returns the status of the answer.
func (s *stress) knock(path string, header http.Header) (ws *websocket.Conn, status int) {
	s.t.Helper()
	ws, resp := knock(s.t, s.url, path, header)
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

// each runs do n times, eight at a time: the framework closes its connections
// one after the other, and a backlog of them is no part of a scenario.
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

// draw draws n numbers from 0 to below k, before goroutines share them.
func draw(r *rand.Rand, n, k int) []int {
	numbers := make([]int, n)
	for i := range numbers {
		numbers[i] = r.IntN(k)
	}
	return numbers
}

// endsWith reads a socket to its end, and checks the code of that.
func (s *stress) endsWith(ws *websocket.Conn, code int) {
	s.t.Helper()
	began := time.Now()
	var err error
	for ws.SetReadDeadline(began.Add(soon)); err == nil; {
		_, _, err = ws.ReadMessage()
	}
	s.endedWith(err, began, code)
	ws.Close()
}

// endedWith checks the code that a socket has ended with. The server takes a
// second at most to say it: on a machine that needs longer, there may be none.
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
		if sockets[i], status = s.knock(counterPage, header(i)); status != http.StatusSwitchingProtocols {
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
	s.add(connections(counterPage), room)
	s.settles()
	for _, ws := range sockets {
		if ws != nil {
			ws.Close()
		}
	}
	s.add(connections(counterPage), -room)
	s.settles()
}

// stopped stops the app while all tabs are open, and tells each why.
func (s *stress) stopped() {
	s.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(s.t.Context(), soon)
	defer cancel()
	assert.NoError(s.t, s.app.Shutdown(ctx))
	for _, tb := range s.tabs {
		<-tb.ended
		s.endedWith(tb.err, began, websocket.CloseGoingAway)
		assert.NotContains(s.t, tb.err.Error(), "shutting down", "that is the framework, which has to wait first")
	}
	assert.Zero(s.t, s.app.upgrader.Open(), "open connections")
}

// startAgain starts a new app where the one before was. It has forgotten everything.
func (s *stress) startAgain() {
	s.t.Helper()
	s.start(strings.TrimPrefix(s.url, "http://"))
	s.want = map[string]int{users: 1}
	for _, tb := range s.tabs {
		s.add(connections(tb.path), 1)
	}
}

// comesBack knocks until a tab gets a socket, and opens another.
func (s *stress) comesBack(tb *tab) {
	s.t.Helper()
	require.EventuallyWithT(s.t, func(check *assert.CollectT) {
		ws, err := tb.visitor.dial(tb.path)
		require.NoError(check, err)
		ws.Close()
	}, soon, often)
	tb.connect()
	if tb == s.watching {
		tb.join("watching")
	}
}
