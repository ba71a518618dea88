// Package presence keeps a record of who is online, and says which names people
// may use. It counts people, not connections: a user is online while at least one
// of their connections is. A connection whose socket has ended leaves after a
// grace period, so that a reload goes unnoticed.
//
// Where several servers share who is online, each has a complete Record and
// decides about its own connections only. It announces those, and is told about
// the connections of the others.
//
// A Record does not publish anything: whoever changes it does.
package presence

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// DefaultGrace is long enough for a reload, and short enough that a closed tab
	// is gone when somebody looks.
	DefaultGrace = 2 * time.Second

	// DefaultListed is as many names as a page can show.
	DefaultListed = 20
)

// User is a name within one browser session. Two tabs of one browser with one name
// are one user. The same name in another browser is another user.
type User struct {
	Session string // contains no space
	Name    string
}

// NewUser returns the user with that name in the browser session with that cookie.
// Its Session is a hash, so that nobody learns the cookie from the record.
func NewUser(cookie, name string) User {
	hash := sha256.Sum256([]byte(cookie))
	return User{Session: base64.RawURLEncoding.EncodeToString(hash[:16]), Name: name}
}

// String returns the user as it is announced to other servers.
func (u User) String() string { return u.Session + " " + u.Name }

// Options configure a Record. The zero value is ready to use.
type Options struct {
	Grace  time.Duration // how long a connection stays online after its socket has ended; default: DefaultGrace
	Listed int           // how many users View lists; default: DefaultListed

	// Row renders a user in the list, which is its data as a Listed. It panics if that
	// fails. Default: the name alone.
	Row *template.Template

	// Announce hears of the connections of this server. Default: nobody does.
	Announce Announcer
}

var nameAlone = template.Must(template.New("").Parse("<li>{{.Name}}"))

// Record is who is online. It has a lock of its own and is safe for concurrent use.
//
// Connections are known by an ID. The ID of a connection whose socket has ended is
// never used again.
type Record struct {
	opts Options

	mu          sync.Mutex
	connections map[string]connection // by ID
	users       map[User]*online
	arrivals    []*online // the same users, in the order they came
	arrived     int       // users so far; the key of the next one
	rows        rows      // of the first of them, as all tabs show them
}

// Announcer tells other servers which connections of this one are online. A Record
// calls it with its lock held, so it must neither wait nor call the Record.
type Announcer interface {
	Set(id, user string)
	Remove(id string)
}

// connection is a connection that is online.
type connection struct {
	*online
	elsewhere bool // on another server, which decides when it leaves
}

// online is a user who is online.
type online struct {
	User
	key   int
	tabs  int           // connections, including those in their grace period
	ended []string      // IDs of the connections that the next one may replace
	you   template.HTML // the row, as the user's own tabs show it; empty: not rendered
}

// New returns an empty Record.
func New(opts Options) *Record {
	opts.Grace = cmp.Or(opts.Grace, DefaultGrace)
	opts.Listed = cmp.Or(opts.Listed, DefaultListed)
	opts.Row = cmp.Or(opts.Row, nameAlone)
	return &Record{opts: opts, connections: map[string]connection{}, users: map[User]*online{}}
}

// Connect returns an ID for a connection. When ctx ends, which must be when its socket
// does, the connection leaves as Disconnect says.
func (r *Record) Connect(ctx context.Context, left func()) (id string) {
	id = rand.Text()
	context.AfterFunc(ctx, func() { r.Disconnect(id, left) })
	return id
}

// Join brings a connection online as one of u's. It replaces a connection of u that
// is in its grace period, if there is one: that is a reload, and the user has as
// many tabs as before. A connection that was online as another user leaves that one.
func (r *Record) Join(id string, u User) { r.join(id, u, false) }

// SetElsewhere is Join for a connection of another server, with the user as that
// server has announced it.
func (r *Record) SetElsewhere(id, user string) {
	session, name, _ := strings.Cut(user, " ")
	r.join(id, User{session, name}, true)
}

func (r *Record) join(id string, u User, elsewhere bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	user := r.users[u]
	if before, ok := r.connections[id]; ok {
		if before.online == user {
			return
		}
		r.removeLocked(id)
	}
	if user == nil {
		user = &online{User: u, key: r.arrived}
		r.arrived++
		r.users[u] = user
		r.arrivals = append(r.arrivals, user)
	}
	r.connections[id] = connection{user, elsewhere}
	user.tabs++
	r.changedLocked(user)
	if r.opts.Announce != nil && !elsewhere {
		r.opts.Announce.Set(id, u.String())
	}
	if len(user.ended) > 0 {
		r.removeLocked(user.ended[0])
	}
}

// Leave takes a connection offline at once, and reports whether it was online. The
// connection may be one of another server.
func (r *Record) Leave(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.removeLocked(id)
}

// Disconnect starts the grace period of a connection whose socket has ended, or whose
// server stops. If nothing has replaced the connection by the end of it, the connection
// leaves and left is called. An ID that is not online is ignored.
func (r *Record) Disconnect(id string, left func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	user, ok := r.connections[id]
	if !ok {
		return
	}
	user.end(id)
	time.AfterFunc(r.opts.Grace, func() {
		if r.Leave(id) {
			left()
		}
	})
}

// Stop is for a server that stops: from now on, a connection of a user replaces one
// of this server's before its socket has ended.
func (r *Record) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, user := range r.connections {
		if !user.elsewhere {
			user.end(id)
		}
	}
}

// end lets the next connection of the user replace one of them.
func (o *online) end(id string) {
	if !slices.Contains(o.ended, id) {
		o.ended = append(o.ended, id)
	}
}

// removeLocked takes a connection offline, and its user with the last one. It
// reports whether the connection was online.
func (r *Record) removeLocked(id string) bool {
	user, ok := r.connections[id]
	if !ok {
		return false
	}
	delete(r.connections, id)
	if r.opts.Announce != nil && !user.elsewhere {
		r.opts.Announce.Remove(id)
	}
	user.tabs--
	r.changedLocked(user.online)
	if i := slices.Index(user.ended, id); i >= 0 {
		user.ended = slices.Delete(user.ended, i, i+1)
	}
	if user.tabs == 0 {
		delete(r.users, user.User)
		i := r.arrivalLocked(user.online)
		r.arrivals = slices.Delete(r.arrivals, i, i+1)
	}
	return true
}

// arrivalLocked returns the place of a user among those who are online, as they came.
func (r *Record) arrivalLocked(user *online) int {
	i, _ := slices.BinarySearchFunc(r.arrivals, user.key, func(o *online, key int) int { return o.key - key })
	return i
}

// Count returns the number of users online.
func (r *Record) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.arrivals)
}

// View returns the number of users online, and the list of them as the tab of a
// connection shows it.
func (r *Record) View(id string) (count int, list List) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rows.cuts == nil {
		r.renderLocked()
	}
	text, cuts, count := r.rows.text, r.rows.cuts, len(r.arrivals)
	list.Before, list.More = text, count-(len(cuts)-1)
	if you := r.connections[id].online; you != nil {
		if you.you == "" {
			you.you = r.row(you, true)
		}
		// A user who is not among the first takes the place of the last of them.
		at := min(r.arrivalLocked(you), len(cuts)-2)
		list.You, list.Before, list.After = you.you, text[:cuts[at]], text[cuts[at+1]:]
	}
	return count, list
}

// changedLocked makes stale what was rendered before a user came or went, here or in
// another tab.
func (r *Record) changedLocked(user *online) { r.rows, user.you = rows{}, "" }

func (r *Record) renderLocked() {
	r.rows.cuts = append(make([]int, 0, r.opts.Listed+1), 0)
	for _, user := range r.arrivals[:min(r.opts.Listed, len(r.arrivals))] {
		r.rows.text += r.row(user, false)
		r.rows.cuts = append(r.rows.cuts, len(r.rows.text))
	}
}

func (r *Record) row(user *online, you bool) template.HTML {
	var row strings.Builder
	template.Must(r.opts.Row, r.opts.Row.Execute(&row, Listed{user.key, user.Name, user.tabs, you}))
	return template.HTML(row.String())
}
