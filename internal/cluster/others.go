package cluster

import (
	"cmp"
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// Entries is where a Member puts the entries of other servers.
type Entries interface {
	SetElsewhere(id, value string)     // adds an entry, or changes it
	Leave(id string) bool              // removes it, if it is there
	Disconnect(id string, left func()) // its server stops: it may be removed, and left called, before Leave
}

// others is what is known of the other servers. The goroutine that follows Redis owns it.
type others struct {
	Entries
	own      string // ID of this server
	counted  func(total int)
	changed  func()
	counts   map[string]int64 // by life of a process
	total    int64
	versions map[string]int64           // of the entries of each server; negative once it has left
	ids      map[string]map[string]bool // of its entries
	alive    map[string]time.Time       // when it was last known to be
	ignored  atomic.Int64               // messages and counts that no server can have written
}

// merge takes over counts: of each, the larger.
func (o *others) merge(counts map[string]int64) {
	before := o.total
	for life, n := range counts {
		if len(life) != len(o.own) || n < 0 || n >= 1e14 { // that scripts cannot write exactly
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

// apply takes over what a server has changed, and reports whether nothing was missed.
func (o *others) apply(msg message) bool {
	o.merge(msg.Counts)
	known := o.versions[msg.Server]
	switch {
	case msg.Server == o.own || msg.Server == "" && msg.Counts != nil:
	case len(msg.Server) != len(o.own):
		o.ignored.Add(1)
	case known < 0 || 0 < msg.Version && msg.Version <= known: // is known
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

// compare takes over what was found in Redis, and returns the counts that are missing there.
// A server is gone when it has not been alive for a lease, and not when one answer lacks it:
// leases end early if the clock of Redis is set, or its memory is full.
func (o *others) compare(f found, opts Options, gap bool) (missing map[string]int64) {
	for id, alive := range o.alive {
		left, ok := f.Leases[id]
		renewed := time.Now().Add(time.Duration(left)*time.Millisecond - opts.Lease)
		switch {
		case gap: // it may have been cut off as well
			o.alive[id] = time.Now()
		case ok && renewed.After(alive):
			o.alive[id] = renewed
		case !ok && (o.versions[id] < 0 || time.Since(alive) > opts.Lease-opts.Renew/2): // an answer takes time
			o.remove(o.ids[id], nil)
			delete(o.versions, id)
			delete(o.alive, id)
			delete(o.ids, id)
		}
	}
	// Those that have left come first: their people may be back on one that has not.
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
