package cluster

import (
	"cmp"
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// maxCount is the greatest count that scripts of Redis read and write exactly.
const maxCount = 1e14 - 1

// Entries is where a Member puts the entries of other servers.
type Entries interface {
	SetElsewhere(id, value string)     // adds an entry, or changes it
	Leave(id string) bool              // removes it, if it is there
	Disconnect(id string, left func()) // its server stops: it may be removed, and left called, before Leave
}

// others is what is known of the other servers. The goroutine that follows Redis owns it.
type others struct {
	Entries
	counted func(total int)
	changed func()

	own     string           // ID of this server
	counts  map[string]int64 // by life of a process
	total   int64
	servers map[string]*server
	ignored atomic.Int64 // messages and counts that no server can have written
}

type server struct {
	version int64           // of its entries; negative once it has left
	alive   time.Time       // when it was last known to be
	ids     map[string]bool // of its entries
}

// merge takes over counts: of each, the larger.
func (o *others) merge(counts map[string]int64) {
	before := o.total
	for life, n := range counts {
		switch {
		case len(life) != len(o.own) || n < 0 || n > maxCount:
			o.ignored.Add(1)
		case life != o.own && n > o.counts[life]:
			o.total += n - o.counts[life]
			o.counts[life] = n
		}
	}
	if o.total > before {
		o.counted(int(o.total))
	}
}

// apply takes over what a server has changed, and reports whether nothing was missed.
func (o *others) apply(msg message) bool {
	o.merge(msg.Counts)
	s := o.servers[msg.Server]
	switch {
	case msg.Server == o.own || msg.Server == "" && msg.Counts != nil:
	case len(msg.Server) != len(o.own):
		o.ignored.Add(1)
	case s != nil && (s.version < 0 || 0 < msg.Version && msg.Version <= s.version): // is known
	case msg.Whole:
		o.servers[msg.Server] = &server{ids: map[string]bool{}}
		o.change(o.servers[msg.Server], msg)
		if s != nil {
			maps.DeleteFunc(s.ids, func(id string, _ bool) bool { _, stays := msg.Entries[id]; return stays })
			o.remove(s)
		}
	case s == nil || msg.Version > s.version+1:
		return false
	default:
		o.change(s, msg)
	}
	return true
}

func (o *others) change(s *server, msg message) {
	s.version, s.alive = msg.Version, time.Now()
	for id, value := range msg.Entries {
		if value != nil {
			s.ids[id] = true
			o.SetElsewhere(id, *value)
		} else {
			delete(s.ids, id)
			o.Leave(id)
		}
	}
	for id := range s.ids {
		if s.version < 0 {
			o.Disconnect(id, o.changed)
		}
	}
	o.changed()
}

func (o *others) remove(s *server) {
	for id := range s.ids {
		o.Leave(id)
	}
	o.changed()
}

// compare takes over what was found in Redis, and returns the counts that are missing there.
//
// A server is gone when it has not been alive for a lease, and not when one answer lacks it:
// leases end early if the clock of Redis is set, or its memory is full.
func (o *others) compare(f found, lease, tolerance time.Duration) (missing map[string]int64) {
	for id, s := range o.servers {
		left, ok := f.Leases[id]
		alive := time.Now().Add(time.Duration(left)*time.Millisecond - lease)
		switch {
		case ok && alive.After(s.alive):
			s.alive = alive
		case !ok && (s.version < 0 || time.Since(s.alive) > lease-tolerance):
			delete(o.servers, id)
			o.remove(s)
		}
	}
	// Those that have left come first: their people may be back on one that has not.
	byVersion := func(a, b message) int { return cmp.Compare(a.Version, b.Version) }
	for _, msg := range slices.SortedFunc(maps.Values(f.Changed), byVersion) {
		o.apply(msg)
	}
	o.merge(f.Counts)
	missing = maps.Clone(o.counts)
	maps.DeleteFunc(missing, func(life string, n int64) bool { return f.Counts == nil || n <= f.Counts[life] })
	return missing
}
