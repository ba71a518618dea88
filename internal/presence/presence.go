// Package presence keeps the record of who is online. People are counted, and
// connections decide: a user is online while at least one of their connections
// is. A connection whose socket ends leaves after a grace period, which a reload
// fits into.
//
// Where several servers share who is online, each has all of it in its Record and
// decides about its own connections only: it announces them, and is told about
// those of the others.
package presence

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
	"sync"
	"time"
)

// DefaultGrace is long enough for a reload, and short enough for a closed tab to
// be gone when somebody looks.
const DefaultGrace = 2 * time.Second

// User is who a connection belongs to: a name within one browser session. Two
// tabs of one browser with one name are one user; the same name in another
// browser is another.
type User struct {
	Session string // without spaces
	Name    string
}

// NewUser is the user of that name in the browser session with that cookie. Its
// Session is a hash: whoever sees who is online does not see the cookie.
func NewUser(cookie, name string) User {
	hash := sha256.Sum256([]byte(cookie))
	return User{Session: base64.RawURLEncoding.EncodeToString(hash[:16]), Name: name}
}

// String is what other servers are told.
func (u User) String() string { return u.Session + " " + u.Name }

// Listed is a user as one connection sees them.
type Listed struct {
	Key  int // tells users of the same name apart; stays as long as the user is online
	Name string
	Tabs int  // how many connections they have, at least 1
	You  bool // the connection that asked belongs to them
}

// Record is who is online. Connections are known by an ID that is never used
// again once its socket has ended. A Record is safe for concurrent use.
type Record struct {
	grace    time.Duration
	announce Announcer // nil: there is no other server

	mu          sync.Mutex
	connections map[string]connection // by ID
	users       map[User]*online
	arrivals    []*online // the same users, in the order they came
	arrived     int       // how many users ever came: the next key
}

// Announcer tells other servers which connections of this one are online. It is
// called under the lock of the Record, so it must not wait, nor call the Record.
type Announcer interface {
	Set(id, user string)
	Remove(id string)
}

// connection is one that is online.
type connection struct {
	*online
	elsewhere bool // on another server, which decides when it leaves
}

// online is a user who is.
type online struct {
	User
	key   int
	tabs  int      // connections, with those in their grace period
	ended []string // IDs of the connections in their grace period
}

// New returns an empty Record. A connection whose socket ends stays online for
// the grace period; 0 means DefaultGrace.
func New(grace time.Duration) *Record {
	return &Record{
		grace:       cmp.Or(grace, DefaultGrace),
		connections: map[string]connection{},
		users:       map[User]*online{},
	}
}

// Announce makes a hear of every connection of this server that comes or goes. It
// belongs before the Record is used.
func (r *Record) Announce(a Announcer) { r.announce = a }

// Join brings a connection online as one of u's. It takes the place of one of
// u's connections that is in its grace period, if there is any: that is a
// reload, and the user has as many tabs as before. A connection that was online
// as another user leaves that one.
func (r *Record) Join(id string, u User) { r.join(id, u, false) }

// SetElsewhere is Join for a connection of another server, as it was announced there.
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
		r.remove(id)
	}
	if user == nil {
		user = &online{User: u, key: r.arrived}
		r.arrived++
		r.users[u] = user
		r.arrivals = append(r.arrivals, user)
	}
	r.connections[id] = connection{user, elsewhere}
	user.tabs++
	if r.announce != nil && !elsewhere {
		r.announce.Set(id, u.String())
	}
	if len(user.ended) > 0 {
		r.remove(user.ended[0])
	}
}

// Leave takes a connection offline at once. One that is not online stays so. It
// is for those of other servers as well.
func (r *Record) Leave(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remove(id)
}

// Disconnect starts the grace period of a connection whose socket has ended. If
// no other has taken its place by the end of it, the connection leaves, and
// announce is called.
func (r *Record) Disconnect(id string, announce func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	user, ok := r.connections[id]
	if !ok {
		return
	}
	user.ended = append(user.ended, id)
	time.AfterFunc(r.grace, func() {
		r.mu.Lock()
		left := r.remove(id)
		r.mu.Unlock()
		if left {
			announce()
		}
	})
}

// remove takes a connection offline, and its user with the last one. It reports
// whether there was anything to take. The caller holds r.mu.
func (r *Record) remove(id string) bool {
	user, ok := r.connections[id]
	if !ok {
		return false
	}
	delete(r.connections, id)
	if r.announce != nil && !user.elsewhere {
		r.announce.Remove(id)
	}
	user.tabs--
	if i := slices.Index(user.ended, id); i >= 0 {
		user.ended = slices.Delete(user.ended, i, i+1)
	}
	if user.tabs == 0 {
		delete(r.users, user.User)
		i, _ := slices.BinarySearchFunc(r.arrivals, user.key, func(o *online, key int) int { return o.key - key })
		r.arrivals = slices.Delete(r.arrivals, i, i+1)
	}
	return true
}

// Count is how many users are online.
func (r *Record) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.arrivals)
}

// View is how many users are online, and at most limit of them, which is at
// least 1: first the one that connection id belongs to, then the others in the
// order they came. The ID of a connection that is not online belongs to nobody.
func (r *Record) View(id string, limit int) (count int, users []Listed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	you := r.connections[id].online
	list := func(user *online) {
		users = append(users, Listed{Key: user.key, Name: user.Name, Tabs: user.tabs, You: user == you})
	}
	if you != nil {
		list(you)
	}
	for _, user := range r.arrivals {
		if len(users) == limit {
			break
		}
		if user != you {
			list(user)
		}
	}
	return len(r.arrivals), users
}
