package storm

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// often is how often a condition is checked.
const often = 20 * time.Millisecond

// books hold what a program should have counted, and who is there.
type books struct {
	t       testing.TB
	program *visitor.Program
	tabs    int // how many make a storm
	atRest  int // goroutines before a storm

	// Visitors from before the storm, who must not notice it. A third one only looks.
	clicking, watching *visitor.Tab
	before             map[*visitor.Tab]bool

	mu     sync.Mutex
	want   map[string]int
	open   map[*visitor.Tab]bool
	crowds map[*visitor.Crowd]string // by their page
}

// What the program counts, besides reasons to refuse.
const (
	clicks = "clicks"
	users  = "users_online"
)

// connections is how the program names the connections of a page.
func connections(path string) string {
	return "connections " + strings.TrimPrefix(path, "/realtime/")
}

// open opens the books of a program in which nothing has happened.
func open(t testing.TB, tabs int, program *visitor.Program) *books {
	t.Helper()
	b := &books{t: t, tabs: tabs, program: program,
		want: map[string]int{}, open: map[*visitor.Tab]bool{}, crowds: map[*visitor.Crowd]string{}}
	b.clicking, b.watching = b.openTab(visitor.CounterPage), b.openTab(visitor.PresencePage)
	b.openTab(visitor.CounterPage)
	b.before = maps.Clone(b.open)
	b.watching.Join("watching")
	b.add(users, 1)
	b.watching.Settle()
	b.atRest = program.Goroutines()
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

// openTab opens a page in a tab of a new visitor.
func (b *books) openTab(path string) *visitor.Tab {
	b.t.Helper()
	return b.openIn(visitor.New(b.t, b.program.URL), path)
}

func (b *books) openIn(v *visitor.Visitor, path string) *visitor.Tab {
	b.t.Helper()
	tb := v.Open(path)
	b.add(connections(path), 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open[tb] = true
	return tb
}

// openCrowd opens a page in n tabs.
func (b *books) openCrowd(path string, n int) *visitor.Crowd {
	b.t.Helper()
	c := visitor.OpenCrowd(b.t, b.program.URL, path, n)
	b.add(connections(path), n)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.crowds[c] = path
	return c
}

// closed closes a tab, if it is not closed already.
func (b *books) closed(tb *visitor.Tab) {
	tb.Close()
	b.add(connections(tb.Path), -1)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, tb)
}

// endsWith waits until the server closes a tab, and checks the code of its close frame.
// The server waits for a second until the other side has read it. A slower machine may
// see none.
func (b *books) endsWith(tb *visitor.Tab, began time.Time, codes ...int) {
	b.t.Helper()
	select {
	case <-tb.Ended:
	case <-time.After(visitor.Soon):
		require.Fail(b.t, "still open", "want an end with one of %v", codes)
	}
	if took := time.Since(began); !websocket.IsCloseError(tb.Err(), codes...) && took < time.Second {
		assert.Fail(b.t, "closed with another code", "want one of %v, after %v closed with: %v", codes, took, tb.Err())
	}
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

// agree checks that the books are exact, that everybody sees so, and that those who were
// there before are served as before.
func (b *books) agree() {
	b.t.Helper()
	b.settle()
	b.clicking.Increment()
	b.add(clicks, 1)
	b.clicking.Settle()
	b.watching.Settle()
	b.settle()
}

// settle waits until the program counts what it should, and everybody sees it.
func (b *books) settle() {
	b.t.Helper()
	require.EventuallyWithT(b.t, func(check *assert.CollectT) {
		assert.Equal(check, b.want, b.counted())
	}, visitor.Soon, often, "what the program counts")
	for path, text := range map[string]string{
		visitor.CounterPage:  fmt.Sprintf("Counter: %d ", b.want[clicks]),
		visitor.PresencePage: fmt.Sprintf(" %d user(s) online", b.want[users]),
	} {
		for tb := range b.open {
			if tb.Path == path {
				tb.Shows(text)
			}
		}
		assert.Contains(b.t, visitor.New(b.t, b.program.URL).Get(path), text, "the page of a late visitor")
	}
	for c, path := range b.crowds {
		assert.EventuallyWithT(b.t, func(check *assert.CollectT) {
			got := c.Count(int64(b.want[clicks]))
			if path == visitor.PresencePage {
				got.Wrong = 0 // a crowd knows only the highest number that it has seen
			}
			assert.Zero(check, got.Wrong+got.Unanswered+got.CutOff, "of a crowd: %+v", got)
		}, visitor.Soon, often)
	}
}

// leaveNothing closes all but the tabs from before, and waits until no user and no
// goroutine is left of them.
func (b *books) leaveNothing() {
	b.t.Helper()
	for c := range b.crowds {
		c.Close()
	}
	for tb := range maps.Clone(b.open) {
		if !b.before[tb] {
			b.closed(tb)
		}
	}
	b.watching.Shows(" 1 user(s) online")
	assert.EventuallyWithT(b.t, func(check *assert.CollectT) {
		http.DefaultClient.CloseIdleConnections()
		assert.LessOrEqual(check, b.program.Goroutines(), b.atRest+3) // of requests for the number itself
	}, visitor.Soon, often, "goroutines are left")
}
