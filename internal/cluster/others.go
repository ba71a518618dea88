package cluster

import (
	"cmp"
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// Entries receives the entries of other servers.
type Entries interface {
	SetElsewhere(id, value string)     // adds or changes an entry
	Leave(id string) bool              // removes it, if it is there
	Disconnect(id string, left func()) // its server shuts down: it may be removed, and left called, before Leave
}

// others holds the state of the other servers. Only the goroutine that follows Redis uses it.
type others struct {
	Entries
	own      string // ID of this server
	counted  func(elsewhere int)
	changed  func()
	counts   map[string]int64 // by life of a process
	total    int64
	versions map[string]int64           // of the entries of each server; negative once it has left
	ids      map[string]map[string]bool // of the entries of each server
	alive    map[string]time.Time       // when each server last renewed its lease
	ignored  atomic.Int64               // messages and counts that no server can have written
}

// merge keeps the larger of each count.
func (o *others) merge(counts map[string]int64) {
	before := o.total
	for life, n := range counts {
		if len(life) != len(o.own) || n < 0 || n >= 1e14 { // more than scripts can write exactly
			o.ignored.Add(1)
		} else if life != o.own && n > o.counts[life] {
			o.total += n - o.counts[life]
			o.counts[life] = n
		}
	}
	if o.total > before {
		o.counted(int(o.total))
	}
}

// apply applies a message, and reports whether none before it was missed.
func (o *others) apply(msg message) bool {
	o.merge(msg.Counts)
	known := o.versions[msg.Server]
	switch {
	case msg.Server == o.own || msg.Server == "" && msg.Counts != nil:
	case len(msg.Server) != len(o.own):
		o.ignored.Add(1)
	case known < 0 || 0 < msg.Version && msg.Version <= known: // already applied, or the server has left
	case msg.Whole:
		before := o.ids[msg.Server]
		o.ids[msg.Server] = map[string]bool{}
		o.change(msg)
		o.remove(before, o.ids[msg.Server])
	case known == 0 || msg.Version > known+1:
		return false
	default:
		o.change(msg)
	}
	return true
}

func (o *others) change(msg message) {
	o.versions[msg.Server], o.alive[msg.Server] = msg.Version, time.Now()
	for id, value := range msg.Entries {
		if value != nil {
			o.ids[msg.Server][id] = true
			o.SetElsewhere(id, *value)
		} else {
			delete(o.ids[msg.Server], id)
			o.Leave(id)
		}
	}
	if msg.Version < 0 {
		for id := range o.ids[msg.Server] {
			o.Disconnect(id, o.changed)
		}
	}
	o.changed()
}

func (o *others) remove(ids, except map[string]bool) {
	for id := range ids {
		if !except[id] {
			o.Leave(id)
		}
	}
	o.changed()
}

// compare applies the state of Redis, and returns the counts that are missing there. A server
// is gone when it has not renewed its lease for the length of one, not when it is missing from
// one answer: leases end early if the clock of Redis is set or its memory is full.
func (o *others) compare(f found, opts Options, gap bool) (missing map[string]int64) {
	for id, alive := range o.alive {
		left, ok := f.Leases[id]
		renewed := time.Now().Add(time.Duration(left)*time.Millisecond - opts.Lease)
		switch {
		case gap: // that server may have been cut off as well
			o.alive[id] = time.Now()
		case ok && renewed.After(alive):
			o.alive[id] = renewed
		case !ok && (o.versions[id] < 0 || time.Since(alive) > opts.Lease-opts.Renew/2): // less the time of an answer
			o.remove(o.ids[id], nil)
			delete(o.versions, id)
			delete(o.alive, id)
			delete(o.ids, id)
		}
	}
	// Servers that have left come first: their entries may be back on another one.
	byVersion := func(a, b message) int { return cmp.Compare(a.Version, b.Version) }
	for _, msg := range slices.SortedFunc(maps.Values(f.Changed), byVersion) {
		o.apply(msg)
	}
	if f.Counts != nil {
		o.merge(f.Counts)
		missing = maps.Clone(o.counts)
		maps.DeleteFunc(missing, func(life string, n int64) bool { return n <= f.Counts[life] })
	}
	return missing
}
