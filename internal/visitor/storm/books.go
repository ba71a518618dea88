package storm

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// often is how often a condition is checked.
const often = 20 * time.Millisecond

// books hold what a program should have counted, and the tabs that stay open.
type books struct {
	t       testing.TB
	program *visitor.Program
	size    int // how many tabs make a storm

	// What is there before the storms. These visitors must not notice them.
	clicking, watching *visitor.Tab
	before, atRest     int // tabs, and goroutines of the program

	mu     sync.Mutex
	want   map[string]int
	tabs   []*visitor.Tab
	crowds map[*visitor.Crowd]string // by their page
}

// What the program counts, besides reasons to refuse.
const (
	clicks = "clicks"
	users  = "users_online"
)

// newBooks starts the program, and opens its books.
func newBooks(t testing.TB, size int, flags ...string) *books {
	t.Helper()
	b := &books{t: t, size: size, program: visitor.Start(t, flags...), want: map[string]int{}, crowds: map[*visitor.Crowd]string{}}
	b.clicking, b.watching = b.open(b.visitor(), visitor.CounterPage), b.open(b.visitor(), visitor.PresencePage)
	b.open(b.visitor(), visitor.CounterPage) // only looks
	b.watching.Join("watching")
	b.watching.Settle()
	b.add(users, 1)
	b.before, b.atRest = len(b.tabs), b.program.Goroutines()
	return b
}

// add says that n more of something are to be counted.
func (b *books) add(what string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.want[what] += n; b.want[what] == 0 {
		delete(b.want, what)
	}
}

func (b *books) visitor() *visitor.Visitor { return visitor.New(b.t, b.program.URL) }

// open opens a page in a tab that stays.
func (b *books) open(v *visitor.Visitor, path string) *visitor.Tab {
	b.t.Helper()
	tb := v.Open(path)
	b.add(connections(path), 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tabs = append(b.tabs, tb)
	return tb
}

// openCrowd opens a page in n tabs that stay.
func (b *books) openCrowd(path string, n int) *visitor.Crowd {
	b.t.Helper()
	c := visitor.OpenCrowd(b.t, b.program.URL, path, n)
	b.add(connections(path), n)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.crowds[c] = path
	return c
}

// connections is how the program names the connections of a page.
func connections(path string) string {
	return "connections " + strings.TrimPrefix(path, "/realtime/")
}

var (
	// metricLine matches a metric with one label at most, which those of requests and
	// of the build are not.
	metricLine = regexp.MustCompile(`(?m)^realtime_(\w+?)(?:_total)?(?:\{\w+="([^"]*)"\})? (\d+)$`)
	// uncounted matches the names of the others that are in no books. The number of
	// refreshes depends on time.
	uncounted = regexp.MustCompile(`^(refresh|dispatch|connections_(limit|opened))`)
)

// counted returns what the program counts and is not 0.
func (b *books) counted() map[string]int {
	got := map[string]int{}
	for _, line := range metricLine.FindAllStringSubmatch(b.program.Admin("/metrics"), -1) {
		name := strings.TrimSpace(line[1] + " " + line[2])
		if n, _ := strconv.Atoi(line[3]); n > 0 && !uncounted.MatchString(name) {
			got[name] = n
		}
	}
	return got
}

// agree waits until the program has counted what it should, and everybody sees so.
func (b *books) agree() {
	b.t.Helper()
	require.EventuallyWithT(b.t, func(check *assert.CollectT) {
		assert.Equal(check, b.want, b.counted())
	}, visitor.Soon, often, "what the program counts")
	shown := map[string]string{
		visitor.CounterPage:  fmt.Sprintf("Counter: %d ", b.want[clicks]),
		visitor.PresencePage: fmt.Sprintf(" %d user(s) online", b.want[users]),
	}
	for _, tb := range b.tabs {
		tb.Shows(shown[tb.Path])
	}
	for c, path := range b.crowds {
		assert.EventuallyWithT(b.t, func(check *assert.CollectT) {
			got := c.Count(int64(b.want[clicks]))
			if path == visitor.PresencePage {
				got.Wrong = 0 // a crowd knows only the highest number that it has seen
			}
			assert.Zero(check, got.Wrong+got.Unanswered+got.CutOff, "of a crowd: %+v", got)
		}, visitor.Soon, often)
		assert.Contains(b.t, b.visitor().Get(path), shown[path], "the page of a late visitor")
	}
}

// leaveNothing closes all tabs but those from before, and waits until no user and no
// goroutine is left of them.
func (b *books) leaveNothing() {
	b.t.Helper()
	for c := range b.crowds {
		c.Close()
	}
	for _, tb := range b.tabs[b.before:] {
		tb.Close()
	}
	b.tabs = b.tabs[:b.before]
	b.watching.Shows(" 1 user(s) online")
	assert.EventuallyWithT(b.t, func(check *assert.CollectT) {
		http.DefaultClient.CloseIdleConnections()
		assert.LessOrEqual(check, b.program.Goroutines(), b.atRest+3) // of requests for the number itself
	}, visitor.Soon, often, "goroutines are left")
}
