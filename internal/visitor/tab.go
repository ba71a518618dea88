package visitor

import (
	"cmp"
	"fmt"
	"html"
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

// Tab is an open page. It applies the server's frames as the browser client does.
type Tab struct {
	Visitor *Visitor
	Path    string
	WS      *websocket.Conn
	Ended   chan struct{} // closed when the socket has ended

	t testing.TB

	before, after string // the HTML around the live part of the page

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at every frame
	tree     any
	frames   int
	settled  int
	answered string   // the action that was answered last
	history  []string // the texts since StartHistory, without repeats
	err      error    // why the socket has ended
}

func (tb *Tab) read() {
	defer close(tb.Ended)
	for {
		var frame struct {
			Tree map[string]any `json:"tree"`
			Meta struct {
				Action string `json:"action"`
			} `json:"meta"`
		}
		err := tb.WS.ReadJSON(&frame)
		tb.mu.Lock()
		if err == nil {
			tb.tree = merge(tb.tree, frame.Tree)
			tb.frames++
			tb.answered = cmp.Or(frame.Meta.Action, tb.answered)
			if tb.history != nil && tb.text() != tb.history[len(tb.history)-1] {
				tb.history = append(tb.history, tb.text())
			}
		}
		tb.err = err
		close(tb.changed)
		tb.changed = make(chan struct{})
		tb.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// StartHistory starts to record the text of the tab, now and after each change.
func (tb *Tab) StartHistory() {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.history = []string{tb.text()}
}

// HasRead returns the texts that the tab has shown since StartHistory.
func (tb *Tab) HasRead() []string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return slices.Clone(tb.history)
}

// NoChange checks that the text has not changed since StartHistory, and does not for
// another grace period.
func (tb *Tab) NoChange(grace time.Duration) {
	tb.t.Helper()
	<-time.After(grace)
	tb.Settle()
	assert.Len(tb.t, tb.HasRead(), 1, "texts of the tab")
}

// Do sends an action.
func (tb *Tab) Do(action string, fields map[string]any) {
	tb.t.Helper()
	assert.NoError(tb.t, Act(tb.WS, action, fields))
}

// Increment presses the button of the counter.
func (tb *Tab) Increment() { tb.t.Helper(); tb.Do("increment", nil) }

// Join joins under a name.
func (tb *Tab) Join(name string) { tb.t.Helper(); tb.Do("join", map[string]any{"username": name}) }

// Leave presses the button to leave.
func (tb *Tab) Leave() { tb.t.Helper(); tb.Do("leave", nil) }

// Close closes the tab without Leave, as a browser does.
func (tb *Tab) Close() {
	tb.WS.Close()
	<-tb.Ended
}

// Shows waits until the text of the tab contains want.
func (tb *Tab) Shows(want string) {
	tb.t.Helper()
	tb.WaitFor(func() bool { return strings.Contains(tb.text(), want) }, fmt.Sprintf("%q", want))
}

// ShowsNoMore waits until the text of the tab does not contain unwanted.
func (tb *Tab) ShowsNoMore(unwanted string) {
	tb.t.Helper()
	tb.WaitFor(func() bool { return !strings.Contains(tb.text(), unwanted) }, fmt.Sprintf("no %q", unwanted))
}

// html returns the HTML of the page. tb.mu must be held.
func (tb *Tab) html() string { return tb.before + render(tb.tree) + tb.after }

// text returns the visible text. tb.mu must be held.
func (tb *Tab) text() string { return Readable(tb.html()) }

// Never checks that the text of the tab does not contain unwanted now.
func (tb *Tab) Never(unwanted string) {
	tb.t.Helper()
	assert.NotContains(tb.t, tb.Text(), unwanted)
}

// Text returns the visible text.
func (tb *Tab) Text() string { return Readable(tb.HTML()) }

// HTML returns the HTML of the page.
func (tb *Tab) HTML() string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.html()
}

// FrameCount returns the number of frames received, including the first update.
func (tb *Tab) FrameCount() int {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.frames
}

// Settle waits until the server has answered everything that was sent. It answers the
// actions of a tab in order, including unknown ones.
func (tb *Tab) Settle() {
	tb.t.Helper()
	tb.settled++
	action := fmt.Sprint("settle ", tb.settled)
	tb.Do(action, nil)
	tb.WaitFor(func() bool { return tb.answered == action }, "an answer")
}

// Err returns why the socket has ended, or nil.
func (tb *Tab) Err() error {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.err
}

// Patience is the timeout of a tab's waits. Tests without a program or a browser may lower
// it.
var Patience = Soon

// WaitFor waits until what reports true. what is called with tb.mu held.
func (tb *Tab) WaitFor(what func() bool, name string) {
	tb.t.Helper()
	timeout := time.After(Patience)
	for {
		tb.mu.Lock()
		ok, changed, err := what(), tb.changed, tb.err
		tb.mu.Unlock()
		if ok {
			return
		}
		require.NoError(tb.t, err, "the socket ended before the tab got %s", name)
		select {
		case <-changed:
		case <-timeout:
			require.FailNow(tb.t, "timeout", "want %s, the page reads:\n%s", name, tb.Text())
		}
	}
}

// Counter returns the number that the counter shows.
func (tb *Tab) Counter() (n int) {
	tb.t.Helper()
	_, text, _ := strings.Cut(tb.Text(), "Counter: ")
	_, err := fmt.Sscan(text, &n)
	assert.NoError(tb.t, err)
	return n
}

// merge applies an update to a tree. A node with fixed parts ("s") replaces the old one; any
// other changes only the slots that it names. A list is changed by operations.
func merge(old, update any) any {
	into, ok := old.(map[string]any)
	if operations, isList := update.([]any); ok && isList {
		for _, operation := range operations {
			edit(into, operation.([]any))
		}
		return into
	}
	from, isNode := update.(map[string]any)
	if _, whole := from["s"]; !ok || !isNode || whole {
		return update
	}
	for slot, value := range from {
		into[slot] = merge(into[slot], value)
	}
	return into
}

// edit applies an operation to a list. The description ("m") names the slot that identifies
// an item ("d"). It arrives with the fixed parts and the first items.
func edit(list map[string]any, op []any) {
	items, _ := list["d"].([]any)
	find := func(key any) int {
		slot := list["m"].(map[string]any)["idKey"].(string)
		return slices.IndexFunc(items, func(item any) bool { return item.(map[string]any)[slot] == key })
	}
	switch op[0] {
	case "a": // append
		items = append(items, op[1].([]any)...)
		if len(op) == 4 {
			list["s"], list["m"] = op[2], op[3]
		}
	case "p": // prepend
		items = slices.Concat(op[1].([]any), items)
	case "i": // insert after
		items = slices.Insert(items, find(op[1])+1, op[2])
	case "r": // remove
		items = slices.Delete(items, find(op[1]), find(op[1])+1)
	case "u": // update
		items[find(op[1])] = merge(items[find(op[1])], op[2])
	case "o": // order
		var ordered []any
		for _, key := range op[1].([]any) {
			ordered = append(ordered, items[find(key)])
		}
		items = ordered
	default:
		panic(fmt.Sprintf("unknown operation %v", op))
	}
	list["d"] = items
}

// render returns the HTML of a tree: fixed parts and slots in turn, for each item of a
// list.
func render(tree any) string {
	node, ok := tree.(map[string]any)
	if !ok {
		if tree == nil {
			return ""
		}
		return fmt.Sprint(tree)
	}
	fixed, _ := node["s"].([]any)
	items, isList := node["d"].([]any)
	if !isList {
		items = []any{node}
	}
	var b strings.Builder
	for _, item := range items {
		for i, part := range fixed {
			b.WriteString(part.(string))
			b.WriteString(render(item.(map[string]any)[strconv.Itoa(i)]))
		}
	}
	return b.String()
}

// Around returns the HTML before and after the live part of a page, without listings.
func Around(t testing.TB, page string) (before, after string) {
	t.Helper()
	parts := aroundLive.FindStringSubmatch(listings.ReplaceAllString(page, ""))
	require.NotNil(t, parts, "the live part of the page:\n%s", page)
	return parts[1], parts[2]
}

// Readable returns the visible text of HTML, without listings.
func Readable(markup string) string {
	text := html.UnescapeString(tags.ReplaceAllString(listings.ReplaceAllString(markup, ""), ""))
	return spaces.ReplaceAllString(text, " ")
}

var (
	aroundLive = regexp.MustCompile(`(?s)^(.*?<div data-lvt-id=[^>]*>).*(</div>.*)$`)
	listings   = regexp.MustCompile(`(?s)<figure class="listing">.*?</figure>`) // of code, which contains every text that a page may show
	tags       = regexp.MustCompile(`<[^>]*>`)
	spaces     = regexp.MustCompile(`[ \t\r\n]+`)
)
