package presence

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var (
	alice = User{"browser1", "Alice"}
	bob   = User{"browser2", "Bob"}
)

// everybody makes a View list more users than any test has.
var everybody = Options{Listed: 1000}

// tabs is what connection id sees: a name for each tab, its own in brackets.
func tabs(r *Record, id string) (names []string) {
	_, users, _ := r.View(id)
	for _, u := range users {
		name := u.Name
		if u.You {
			name = "[" + name + "]"
		}
		names = append(names, slices.Repeat([]string{name}, u.Tabs)...)
	}
	return names
}

func TestRecord_CountsUsersAndTheirTabs(t *testing.T) {
	r := New(everybody)
	assert.Empty(t, tabs(r, "a1"))

	r.Join("a1", alice)
	r.Join("b", bob)
	r.Join("a2", alice)
	assert.Equal(t, []string{"[Alice]", "[Alice]", "Bob"}, tabs(r, "a1"))
	assert.Equal(t, []string{"[Bob]", "Alice", "Alice"}, tabs(r, "b"))
	assert.Equal(t, []string{"Alice", "Alice", "Bob"}, tabs(r, "unknown"))

	r.Join("elsewhere", User{"browser 3", "Alice"})
	assert.Equal(t, []string{"[Alice]", "Alice", "Alice", "Bob"}, tabs(r, "elsewhere"), "another Alice")
	count, users, _ := r.View("")
	assert.Equal(t, 3, count)
	assert.NotEqual(t, users[0].Key, users[2].Key, "each has a key of their own")

	r.Leave("a1")
	assert.Equal(t, []string{"[Alice]", "Bob", "Alice"}, tabs(r, "a2"))
	r.Leave("a1")
	r.Leave("")
	assert.Equal(t, []string{"[Alice]", "Bob", "Alice"}, tabs(r, "a2"), "who is not online cannot leave")
	r.Join("a2", alice)
	assert.Equal(t, []string{"[Alice]", "Bob", "Alice"}, tabs(r, "a2"), "who is online already is no tab more")
	r.Join("a2", User{alice.Session, "Alicia"})
	assert.Equal(t, []string{"[Alicia]", "Bob", "Alice"}, tabs(r, "a2"), "and has one name")
	r.Leave("a2")
	assert.Equal(t, []string{"Bob", "Alice"}, tabs(r, "a2"))
}

func TestRecord_ViewListsNoMoreThanTheLimit(t *testing.T) {
	r := New(Options{})
	for i := range 30 {
		r.Join(fmt.Sprint(i), User{"browser", fmt.Sprint("user ", i)})
	}
	count, users, more := r.View("25")
	assert.Equal(t, 30, count)
	assert.Equal(t, 10, more)
	require.Len(t, users, 20)
	assert.Equal(t, Listed{Key: 25, Name: "user 25", Tabs: 1, You: true}, users[0], "you come first")
	assert.Equal(t, "user 0", users[1].Name)
	assert.Equal(t, "user 18", users[19].Name)
}

// announcements are what other servers were told.
type announcements []string

func (a *announcements) Set(id, user string) { *a = append(*a, id+" is "+user) }
func (a *announcements) Remove(id string)    { *a = append(*a, id+" is gone") }

func TestRecord_OfSeveralServersIsOne(t *testing.T) {
	var told announcements
	r := New(everybody)
	r.Announce(&told)
	r.Join("here", alice)
	r.SetElsewhere("there", alice.String())
	r.SetElsewhere("other", bob.String())
	assert.Equal(t, []string{"[Alice]", "[Alice]", "Bob"}, tabs(r, "here"), "one Alice in two tabs")
	r.SetElsewhere("other", User{bob.Session, "Bobby the second"}.String())
	assert.Equal(t, []string{"[Alice]", "[Alice]", "Bobby the second"}, tabs(r, "here"))
	r.Leave("here")
	r.Leave("other")
	assert.Equal(t, []string{"Alice"}, tabs(r, "here"))
	r.Leave("there")
	assert.Zero(t, r.Count())
	assert.Equal(t, announcements{"here is browser1 Alice", "here is gone"}, told, "only what is decided here")
}

func TestNewUser_HidesTheCookie(t *testing.T) {
	a, b := NewUser("the cookie of Alice", "Alice"), NewUser("the cookie of Bob", "Alice")
	assert.NotEqual(t, a, b)
	assert.Equal(t, a, NewUser("the cookie of Alice", "Alice"))
	assert.NotContains(t, a.String(), "cookie")
}

// inTime runs a test in a bubble of synctest, in which sleeping takes no time. end ends
// the socket of a connection.
func inTime(t *testing.T, opts Options, test func(t *testing.T, r *Record, end func(id string), left *atomic.Int64)) {
	synctest.Test(t, func(t *testing.T) {
		r, left := New(opts), &atomic.Int64{}
		test(t, r, func(id string) { r.Disconnect(id, func() { left.Add(1) }) }, left)
	})
}

// pass lets time pass, and waits for what it brings.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestRecord_DisconnectLeavesAfterTheGracePeriod(t *testing.T) {
	const grace = 5 * time.Second
	inTime(t, Options{Grace: grace}, func(t *testing.T, r *Record, end func(string), left *atomic.Int64) {
		r.Join("a", alice)
		end("a")
		pass(grace - time.Nanosecond)
		assert.Equal(t, []string{"Alice"}, tabs(r, ""))
		assert.Zero(t, left.Load())
		pass(time.Nanosecond)
		assert.Empty(t, tabs(r, ""))
		assert.EqualValues(t, 1, left.Load())

		end("a")
		end("never joined")
		r.Join("b", bob)
		end("b")
		r.Leave("b")
		assert.Empty(t, tabs(r, ""), "a leave waits for nothing")
		pass(2 * grace)
		assert.EqualValues(t, 1, left.Load(), "nobody else has left by the end of a socket")
	})
}

func TestRecord_ReloadTakesThePlaceOfTheOldConnection(t *testing.T) {
	for name, join := range map[string]func(*Record, string){
		"on this server":    func(r *Record, id string) { r.Join(id, alice) },
		"on another server": func(r *Record, id string) { r.SetElsewhere(id, alice.String()) },
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, everybody, func(t *testing.T, r *Record, end func(string), left *atomic.Int64) {
				var told announcements
				r.Announce(&told)
				r.Join("before", alice)
				r.Join("other tab", alice)
				end("before")
				assert.Equal(t, []string{"Alice", "Alice"}, tabs(r, ""), "while it reloads")
				pass(DefaultGrace / 2)
				join(r, "after")
				assert.Equal(t, []string{"Alice", "Alice"}, tabs(r, ""), "when it is back")
				assert.Equal(t, "before is gone", told[len(told)-1])
				pass(2 * DefaultGrace)
				assert.Equal(t, []string{"Alice", "Alice"}, tabs(r, ""))
				assert.Zero(t, left.Load())
			})
		})
	}
}

// A server that stops may notice last that a tab has gone.
func TestRecord_StopLetsAnotherServerBeQuicker(t *testing.T) {
	inTime(t, everybody, func(t *testing.T, r *Record, end func(string), left *atomic.Int64) {
		var told announcements
		r.Announce(&told)
		r.Join("alice", alice)
		r.Join("bob", bob)
		r.Stop()
		r.SetElsewhere("alice again", alice.String())
		assert.Equal(t, []string{"Alice", "Bob"}, tabs(r, ""), "each in one tab")
		assert.Equal(t, "alice is gone", told[len(told)-1])
		end("alice")
		end("bob")
		assert.Equal(t, []string{"Alice", "Bob"}, tabs(r, ""))
		pass(DefaultGrace)
		assert.Equal(t, []string{"Alice"}, tabs(r, ""), "Bob is not back")
		assert.EqualValues(t, 1, left.Load())
	})
}

// A server that stops is a reload of all its tabs: they may come back on any other.
func TestRecord_ConnectionsOfAServerThatStopsAreInTheirGracePeriod(t *testing.T) {
	inTime(t, everybody, func(t *testing.T, r *Record, end func(string), left *atomic.Int64) {
		for i, user := range []User{alice, alice, bob} {
			r.SetElsewhere(fmt.Sprint(i), user.String())
			end(fmt.Sprint(i))
			end(fmt.Sprint(i)) // once is enough
		}
		r.Join("here", alice)
		r.SetElsewhere("there", alice.String())
		assert.Equal(t, []string{"Alice", "Alice", "Bob"}, tabs(r, ""), "in as many tabs as before")
		pass(DefaultGrace)
		assert.Equal(t, []string{"Alice", "Alice"}, tabs(r, ""), "Bob is not back")
		assert.EqualValues(t, 1, left.Load())
	})
}

// A Record must agree with the simplest model there is, a list of tabs, through
// at least 100,000 random steps.
func TestRecord_AgreesWithModel(t *testing.T) {
	const histories, steps = 450, 300
	require.NoError(t, flag.Set("rapid.checks", fmt.Sprint(histories)))
	require.NoError(t, flag.Set("rapid.steps", fmt.Sprint(steps)))
	require.NoError(t, flag.Set("rapid.nofailfile", "true")) // the message holds the seed and all steps
	total := 0
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(withoutDeadline{t}, func(rt *rapid.T) {
			w := &world{t: rt, record: New(everybody), elsewhere: New(everybody)}
			w.record.Announce(w)
			rt.Repeat(map[string]func(*rapid.T){
				"open":   w.open,
				"join":   w.join,
				"leave":  w.leave,
				"close":  w.close,
				"reload": w.reload,
				"wait":   w.wait,
				"":       func(*rapid.T) { total++; w.check() },
			})
			w.closeAll()
		})
	})
	assert.GreaterOrEqual(t, total, 100_000, "steps")
}

// withoutDeadline hides the test's deadline from rapid: it is in real time, and
// this test lives in the bubble's.
type withoutDeadline struct{ testing.TB }

// world is some browsers with their tabs, and the model of who is online. Another
// server is told.
type world struct {
	t         *rapid.T
	record    *Record
	elsewhere *Record
	tabs      []*tab
	opened    int
	expected  int // announcements
	announced atomic.Int64
}

// tab is an open tab, or one that was closed and is in its grace period.
type tab struct {
	id     string
	user   User // no name: not joined
	closed time.Time
}

func (w *world) Set(id, user string) { w.elsewhere.SetElsewhere(id, user) }
func (w *world) Remove(id string)    { w.elsewhere.Leave(id) }

func (tb *tab) joined() bool { return tb.user.Name != "" }

func (w *world) open(*rapid.T) {
	w.add(rapid.SampledFrom([]string{"browser1", "browser2", "browser3"}).Draw(w.t, "session"))
}

func (w *world) add(session string) *tab {
	w.opened++
	tb := &tab{id: fmt.Sprint("connection ", w.opened), user: User{Session: session}}
	w.tabs = append(w.tabs, tb)
	return tb
}

// any is an open tab.
func (w *world) any() *tab {
	open := slices.DeleteFunc(slices.Clone(w.tabs), func(tb *tab) bool { return !tb.closed.IsZero() })
	if len(open) == 0 {
		w.t.Skip("no open tab") // rapid then draws another step
	}
	return rapid.SampledFrom(open).Draw(w.t, "tab")
}

func (w *world) join(*rapid.T) {
	w.joinAs(w.any(), rapid.SampledFrom([]string{"Alice", "Bob", "Carl"}).Draw(w.t, "name"))
}

func (w *world) joinAs(tb *tab, name string) {
	before := tb.user
	tb.user.Name = name
	w.record.Join(tb.id, tb.user)
	if tb.user == before {
		return
	}
	if i := slices.IndexFunc(w.tabs, func(old *tab) bool { return !old.closed.IsZero() && old.user == tb.user }); i >= 0 {
		w.tabs = slices.Delete(w.tabs, i, i+1)
	}
}

func (w *world) leave(*rapid.T) {
	tb := w.any()
	tb.user.Name = ""
	w.record.Leave(tb.id)
}

func (w *world) close(*rapid.T) { w.closeTab(w.any()) }

func (w *world) closeTab(tb *tab) {
	w.record.Disconnect(tb.id, func() { w.announced.Add(1) })
	tb.closed = time.Now()
	w.tabs = slices.DeleteFunc(w.tabs, func(other *tab) bool { return other == tb })
	if tb.joined() {
		w.tabs = append(w.tabs, tb) // in the order in which they were closed
	}
}

func (w *world) reload(*rapid.T) {
	tb := w.any()
	w.closeTab(tb)
	reloaded := w.add(tb.user.Session)
	if tb.joined() {
		w.wait(nil)
		w.joinAs(reloaded, tb.user.Name)
	}
}

// wait lets time pass, to within the grace period of a tab or after it.
func (w *world) wait(*rapid.T) {
	w.pass(time.Duration(rapid.IntRange(0, 3000).Draw(w.t, "ms")) * time.Millisecond)
}

func (w *world) pass(d time.Duration) {
	pass(d)
	w.tabs = slices.DeleteFunc(w.tabs, func(tb *tab) bool {
		left := !tb.closed.IsZero() && time.Since(tb.closed) >= DefaultGrace
		if left {
			w.expected++
		}
		return left
	})
}

// check compares what every open tab sees with the model, and what the record
// keeps with what it shows.
func (w *world) check() {
	users := map[User]int{}
	connections := 0
	for _, tb := range w.tabs {
		if tb.joined() {
			users[tb.user]++
			connections++
		}
	}
	w.sees(w.record, &tab{id: "not online"}, users)
	w.sees(w.elsewhere, &tab{id: "not online"}, users)
	for _, tb := range w.tabs {
		if tb.closed.IsZero() {
			w.sees(w.record, tb, users)
		}
	}
	w.record.mu.Lock()
	defer w.record.mu.Unlock()
	if len(w.record.connections) != connections || len(w.record.users) != len(users) {
		w.t.Fatalf("%d connections and %d users are kept, want %d and %d",
			len(w.record.connections), len(w.record.users), connections, len(users))
	}
	if announced := int(w.announced.Load()); announced != w.expected {
		w.t.Fatalf("%d leaves were announced, want %d", announced, w.expected)
	}
}

// sees checks the view of one tab. Names are compared without their browsers,
// which nobody sees.
func (w *world) sees(record *Record, tb *tab, users map[User]int) {
	want, got := map[string]int{}, map[string]int{}
	for user, tabs := range users {
		want[user.Name] += tabs
	}
	count, listed, _ := record.View(tb.id)
	keys := map[int]bool{}
	marked := Listed{}
	for _, u := range listed {
		got[u.Name] += u.Tabs
		keys[u.Key] = true
		if u.You {
			marked = u
		}
	}
	if count != len(users) || len(keys) != count || len(listed) != count || !maps.Equal(got, want) {
		w.t.Fatalf("%s sees %d: %v, want %d: %v", tb.id, count, listed, len(users), want)
	}
	if marked.You != tb.joined() || marked.Name != tb.user.Name || marked.Tabs != users[tb.user] {
		w.t.Fatalf("%s is %v and sees %v marked", tb.id, tb.user, marked)
	}
}

// closeAll closes every tab: nothing may be left.
func (w *world) closeAll() {
	for _, tb := range slices.Clone(w.tabs) {
		if tb.closed.IsZero() {
			w.closeTab(tb)
		}
	}
	w.pass(DefaultGrace)
	w.check()
}
