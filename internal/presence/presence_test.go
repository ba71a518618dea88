package presence

import (
	"flag"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

var (
	alice = User{"browser1", "Alice"}
	bob   = User{"browser2", "Bob"}
)

// row renders a user so that a test can read it again.
var row = template.Must(template.New("").Parse("{{.Key}} {{.Tabs}} {{.You}} {{.Name}}\n"))

// listed returns the users in a list.
func listed(list List) (users []Listed) {
	for line := range strings.Lines(string(list.You + list.Before + list.After)) {
		var u Listed
		if _, err := fmt.Sscan(line, &u.Key, &u.Tabs, &u.You); err != nil {
			panic(err)
		}
		u.Name = strings.TrimSpace(strings.SplitN(line, " ", 4)[3])
		users = append(users, u)
	}
	return users
}

// tabs returns what connection id sees: a name for each tab, its own in brackets.
func tabs(r *Record, id string) (names []string) {
	_, list := r.View(id)
	for _, u := range listed(list) {
		name := u.Name
		if u.You {
			name = "[" + name + "]"
		}
		names = append(names, slices.Repeat([]string{name}, u.Tabs)...)
	}
	return names
}

func TestRecord_ViewListsYouFirstThenOthersByArrival(t *testing.T) {
	r := New(Options{Row: row})
	for i := range 31 {
		r.Join(fmt.Sprint(i), User{"browser", fmt.Sprint(i)})
	}
	r.Leave("1")
	for id, row := range map[string]struct{ first, second, last string }{
		"not online": {"0", "2", "20"},
		"0":          {"0", "2", "20"},
		"7":          {"7", "0", "20"},
		"20":         {"20", "0", "19"},
		"25":         {"25", "0", "19"},
	} {
		t.Run(id, func(t *testing.T) {
			count, list := r.View(id)
			users := listed(list)
			assert.Equal(t, 30, count)
			assert.Equal(t, 10, list.More)
			require.Len(t, users, DefaultListed)
			assert.Equal(t, []string{row.first, row.second, row.last}, []string{users[0].Name, users[1].Name, users[19].Name})
			assert.Equal(t, id != "not online", users[0].You)
		})
	}
}

// All tabs share one rendering of the list, and those of a user one of the user's row.
func TestRecord_RendersARowOnceForEachChange(t *testing.T) {
	rendered := map[string]int{}
	count := template.FuncMap{"count": func(u Listed) string {
		rendered[fmt.Sprint(u.Name, u.You)]++
		return "row"
	}}
	r := New(Options{Row: template.Must(template.New("").Funcs(count).Parse("{{count .}}"))})
	r.Join("a", alice)
	r.Join("b", bob)
	r.Join("another tab of b", bob)
	for range 100 {
		for _, id := range []string{"a", "b", "another tab of b", "not online"} {
			r.View(id)
		}
	}
	assert.Equal(t, map[string]int{"Alicefalse": 1, "Alicetrue": 1, "Bobfalse": 1, "Bobtrue": 1}, rendered)
}

// announcements records what other servers were told.
type announcements []string

func (a *announcements) Set(id, user string) { *a = append(*a, id+" is "+user) }
func (a *announcements) Remove(id string)    { *a = append(*a, id+" is gone") }

func TestRecord_IsSharedByAllServers(t *testing.T) {
	var told announcements
	r := New(Options{Row: row, Announce: &told})
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
	assert.Equal(t, announcements{"here is browser1 Alice", "here is gone"}, told, "only this server's own connections")
}

func TestNewUser_HidesTheCookie(t *testing.T) {
	a, b := NewUser("the cookie of Alice", "Alice"), NewUser("the cookie of Bob", "Alice")
	assert.NotEqual(t, a, b)
	assert.Equal(t, a, NewUser("the cookie of Alice", "Alice"))
	assert.NotContains(t, a.String(), "cookie")
}

// withClock runs a test on the virtual clock of synctest. end ends the socket of a
// connection; left counts the users who went offline.
func withClock(t *testing.T, test func(t *testing.T, r *Record, end func(id string), left *atomic.Int64)) {
	synctest.Test(t, func(t *testing.T) {
		r, left := New(Options{Row: row}), &atomic.Int64{}
		test(t, r, func(id string) { r.Disconnect(id, func() { left.Add(1) }) }, left)
	})
}

// pass advances the clock, and waits until all timers have run.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestRecord_ReloadOnAnotherServerReplacesTheOldConnection(t *testing.T) {
	withClock(t, func(t *testing.T, r *Record, end func(string), left *atomic.Int64) {
		var told announcements
		r.opts.Announce = &told
		r.Join("before", alice)
		r.Join("other tab", alice)
		end("before")
		r.SetElsewhere("after", alice.String())
		assert.Equal(t, []string{"Alice", "Alice"}, tabs(r, ""))
		assert.Equal(t, "before is gone", told[len(told)-1])
		pass(DefaultGrace)
		assert.Equal(t, []string{"Alice", "Alice"}, tabs(r, ""))
		assert.Zero(t, left.Load())
	})
}

// A server that shuts down may be the last to notice that a tab has moved.
func TestRecord_AfterStopAReturningTabReplacesItsOldConnection(t *testing.T) {
	withClock(t, func(t *testing.T, r *Record, end func(string), left *atomic.Int64) {
		var told announcements
		r.opts.Announce = &told
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
		assert.Equal(t, []string{"Alice"}, tabs(r, ""), "Bob has not returned")
		assert.EqualValues(t, 1, left.Load())
	})
}

// A server's shutdown is a reload of all its tabs: they may return to any other server.
func TestRecord_ConnectionsOfAStoppingServerGetAGracePeriod(t *testing.T) {
	withClock(t, func(t *testing.T, r *Record, end func(string), left *atomic.Int64) {
		for i, user := range []User{alice, alice, bob} {
			r.SetElsewhere(fmt.Sprint(i), user.String())
			end(fmt.Sprint(i))
			end(fmt.Sprint(i)) // again: it must count once
		}
		r.Join("here", alice)
		r.SetElsewhere("there", alice.String())
		assert.Equal(t, []string{"Alice", "Alice", "Bob"}, tabs(r, ""), "in as many tabs as before")
		pass(DefaultGrace)
		assert.Equal(t, []string{"Alice", "Alice"}, tabs(r, ""), "Bob has not returned")
		assert.EqualValues(t, 1, left.Load())
	})
}

// A Record agrees with a simple model, two lists of tabs, over more than 100,000 random
// steps.
func TestRecord_AgreesWithModel(t *testing.T) {
	flag.Set("rapid.checks", "450")
	flag.Set("rapid.steps", "300")
	flag.Set("rapid.nofailfile", "true") // the failure message has the seed and all steps
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(withoutDeadline{t}, func(rt *rapid.T) {
			time.Sleep(100 * time.Millisecond) // rapid shrinks a failure for 30 seconds of this clock
			w := &world{T: rt, here: New(Options{Row: row}), elsewhere: New(Options{Row: row})}
			w.here.opts.Announce = w
			session := rapid.SampledFrom([]string{"browser1", "browser2", "browser3"})
			name := rapid.SampledFrom([]string{"Alice", "Bob", "Carl"})
			rt.Repeat(map[string]func(*rapid.T){
				"open":  func(*rapid.T) { w.opens(session.Draw(rt, "session")) },
				"join":  func(*rapid.T) { w.joins(w.any(), name.Draw(rt, "name")) },
				"close": func(*rapid.T) { w.closes(w.any()) },
				"wait":  func(*rapid.T) { w.waits() },
				"leave": func(*rapid.T) {
					tb := w.any()
					tb.user.Name = ""
					w.here.Leave(tb.id)
				},
				"reload": func(*rapid.T) {
					tb := w.any()
					w.closes(tb)
					reloaded := w.opens(tb.user.Session)
					if tb.joined() {
						w.waits()
						w.joins(reloaded, tb.user.Name)
					}
				},
				"": func(*rapid.T) { w.check() },
			})
			for len(w.open) > 0 {
				w.closes(w.open[0])
			}
			w.pass(DefaultGrace)
			w.check() // nothing is left
		})
	})
}

// withoutDeadline hides the test's deadline from rapid: it is in real time, unlike this
// test.
type withoutDeadline struct{ testing.TB }

// world is some browsers with their tabs, the model of who is online, and another server
// that is told of changes.
type world struct {
	*rapid.T
	here, elsewhere *Record
	open            []*tab
	closed          []*tab // in their grace period, in the order they were closed
	opened          int
	left            int          // tabs whose grace period has ended
	announced       atomic.Int64 // the same, according to the record
}

type tab struct {
	id     string
	user   User // without a name: not joined
	closed time.Time
}

func (tb *tab) joined() bool { return tb.user.Name != "" }

func (w *world) Set(id, user string) { w.elsewhere.SetElsewhere(id, user) }
func (w *world) Remove(id string)    { w.elsewhere.Leave(id) }

func (w *world) opens(session string) *tab {
	w.opened++
	tb := &tab{id: fmt.Sprint("connection ", w.opened), user: User{Session: session}}
	w.open = append(w.open, tb)
	return tb
}

// any draws an open tab.
func (w *world) any() *tab {
	if len(w.open) == 0 {
		w.Skip("no open tab") // rapid then draws another step
	}
	return rapid.SampledFrom(w.open).Draw(w.T, "tab")
}

// joins joins under a name, in place of a closed tab that had it.
func (w *world) joins(tb *tab, name string) {
	before := tb.user
	tb.user.Name = name
	w.here.Join(tb.id, tb.user)
	i := slices.IndexFunc(w.closed, func(old *tab) bool { return old.user == tb.user })
	if i >= 0 && tb.user != before {
		w.closed = slices.Delete(w.closed, i, i+1)
	}
}

func (w *world) closes(tb *tab) {
	w.here.Disconnect(tb.id, func() { w.announced.Add(1) })
	tb.closed = time.Now()
	w.open = slices.DeleteFunc(w.open, func(other *tab) bool { return other == tb })
	if tb.joined() {
		w.closed = append(w.closed, tb)
	}
}

// waits lets time pass, less than a grace period or more.
func (w *world) waits() {
	w.pass(time.Duration(rapid.IntRange(0, 3000).Draw(w.T, "ms")) * time.Millisecond)
}

func (w *world) pass(d time.Duration) {
	pass(d)
	w.closed = slices.DeleteFunc(w.closed, func(tb *tab) bool {
		over := time.Since(tb.closed) >= DefaultGrace
		if over {
			w.left++
		}
		return over
	})
}

// check compares what every open tab sees with the model, and what the record stores with
// what it shows.
func (w *world) check() {
	users, connections := map[User]int{}, 0
	for _, tb := range slices.Concat(w.open, w.closed) {
		if tb.joined() {
			users[tb.user]++
			connections++
		}
	}
	w.sees(w.elsewhere, &tab{id: "not online"}, users)
	for _, tb := range append(w.open, &tab{id: "not online"}) {
		w.sees(w.here, tb, users)
	}
	w.here.mu.Lock()
	defer w.here.mu.Unlock()
	if len(w.here.connections) != connections || len(w.here.users) != len(users) || int(w.announced.Load()) != w.left {
		w.Fatalf("%d connections and %d users are kept, and %d leaves were announced, want %d, %d and %d",
			len(w.here.connections), len(w.here.users), w.announced.Load(), connections, len(users), w.left)
	}
}

// sees checks the view of one tab. It compares names only, because nobody sees browsers.
func (w *world) sees(record *Record, tb *tab, users map[User]int) {
	want, got := map[string]int{}, map[string]int{}
	for user, tabs := range users {
		want[user.Name] += tabs
	}
	count, list := record.View(tb.id)
	keys, you := map[int]bool{}, Listed{}
	shown := listed(list)
	for _, u := range shown {
		got[u.Name] += u.Tabs
		keys[u.Key] = true
		if u.You {
			you = u
		}
	}
	if count != len(users) || len(keys) != count || len(shown) != count || !maps.Equal(got, want) {
		w.Fatalf("%s sees %d: %v, want %d: %v", tb.id, count, shown, len(users), want)
	}
	if you.You != tb.joined() || you.Name != tb.user.Name || you.Tabs != users[tb.user] {
		w.Fatalf("%s is %v and sees %v marked", tb.id, tb.user, you)
	}
}

func TestName_IsRefusedOrDisplayable(t *testing.T) {
	for name, row := range map[string]struct{ typed, want, wantProblem string }{
		"40 characters":              {strings.Repeat("ü", 40), strings.Repeat("ü", 40), ""},
		"41 characters":              {strings.Repeat("ü", 41), "", LongName},
		"40 composed from 80":        {strings.Repeat("u\u0308", 40), strings.Repeat("ü", 40), ""},
		"inner white space":          {" Ann \t\r\n\u00a0\u2003 Lee\u3000", "Ann Lee", ""},
		"NFC":                        {"Zoe\u0308", "Zoë", ""},
		"empty":                      {"", "", NoName},
		"nothing that can be seen":   {"\u200b\ufe0f\u034f\u00ad\u2060\ufeff\u200d\u17b4\U0001d173\U000e0041\U000e0002", "", NoName},
		"nothing but blanks":         {"\u2800\u115f\u1160\u3164\uffa0\ufffc\U0001d159\U00013441\U00016fe4", "", NoName},
		"an accent on nothing":       {"\u0301 \ufe0f\u20e3", "", NoName},
		"nothing seen at the ends":   {"\ufeff\u2800\u0301 Alice\u200d\ufe0f\u3164", "Alice", ""},
		"nothing seen inside":        {"A\u200dl\u00adi\ufe0fc\u034fe\u2800\U0001d159Lee", "Alice Lee", ""},
		"nothing between accents":    {"क\u0301\u200b\u094d\u200dष", "क\u094d\u0301ष", ""},
		"nothing to join or to vary": {"$\ufe0f علی\u200c ☕\u200d", "$ علی ☕", ""},
		"4 accents":                  {"a" + strings.Repeat("\u0323", 5) + "b", "ạ" + strings.Repeat("\u0323", 4) + "b", ""},
		"5 accents":                  {"x\u0301\u0302\u0303\u0304\u0305", "", MarkedName},
		"5 accents and a joiner":     {"क\u094d\u094d\u094d\u200d\u0301\u0302", "", MarkedName},
		"no UTF-8":                   {"Al\xffice", "", UnknownName},
		"half a surrogate":           {"Al\ufffdice", "", UnknownName},
		"private use":                {"\uf8ff", "", UnknownName},
		"unassigned":                 {"Alice\U0003fffe", "", UnknownName},
		"NUL":                        {"Al\x00ice", "", ControlName},
		"right-to-left override":     {"Alice\u202e", "", ControlName},
		"direction isolate":          {"\u2067Alice\u2069", "", ControlName},
		"control in a name too long": {strings.Repeat("a", 41) + "\x00", "", ControlName},
		"markup":                     {"<b>Alice</b>", "<b>Alice</b>", ""},
	} {
		got, problem := Name(row.typed)
		assert.Equal(t, row.want, got, name)
		assert.Equal(t, row.wantProblem, problem, name)
	}
	for name, typed := range map[string]string{ // their invisible characters change how others look
		"joined emoji":        "👩🏽\u200d🚀",
		"two colourful emoji": "❤\ufe0f 🏳\ufe0f\u200d🌈",
		"keycap":              "1\ufe0f\u20e3",
		"flag of Wales":       "🏴\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f",
		"Persian":             "می\u200cخواهم",
		"Hindi":               "क\u094d\u200cष",
		"Malayalam":           "മോഹന\u0d4d\u200d",
		"Bengali":             "র\u200d\u09cdয",
		"Japanese":            "葛\U000e0100城",
		"number sign":         "\u0600٣",
	} {
		got, problem := Name(typed)
		assert.Equal(t, typed, got, name+problem)
	}
}

// A text is either refused with a reason, or becomes a displayable name that Name leaves
// unchanged.
func FuzzName(f *testing.F) {
	for _, typed := range []string{
		"", " ", "Alice", "  spaced \t\n\u00a0 out ", "Zoë", "Zoe\u0308", "☕", "👩‍👩‍👧‍👦", "\u202eecilA", "\u200b", "\x00", "\ufeff",
		"क\u0301\u200b\u094d\u200dष", "f\u094d\u200d", "\u0309\u200d\u094d", "1\ufe0f\u20e3", "می\u200cخواهم", "葛\U000e0100城",
		strings.Repeat("ü", 40), strings.Repeat("u\u0308", 41), "\U000e0041", "a\u0301\u0327\u0323", "<b>", "\xff", "ﷺ", "1e-7", "-Infinity",
	} {
		f.Add(typed)
	}
	f.Fuzz(func(t *testing.T, typed string) {
		name, problem := Name(typed)
		if problem != "" {
			assert.Empty(t, name)
			assert.Contains(t, []string{NoName, LongName, ControlName, UnknownName, MarkedName}, problem)
			return
		}
		assert.LessOrEqual(t, utf8.RuneCountInString(name), 40)
		assert.True(t, strings.ContainsFunc(name, func(r rune) bool {
			return unicode.In(r, unicode.L, unicode.N, unicode.P, unicode.S, unicode.Prepended_Concatenation_Mark)
		}), "something visible")
		assert.False(t, strings.ContainsFunc(name, controls))
		assert.True(t, norm.NFC.IsNormalString(name))
		assert.Equal(t, name, strings.Join(strings.Fields(name), " "))
		assert.True(t, utf8.ValidString(name))
		for _, same := range []string{name, "\ufeff" + typed + "\u2800", "\u00ad" + name + "\u200b"} {
			again, problem := Name(same)
			assert.Equal(t, name, again)
			assert.Empty(t, problem)
		}
	})
}
