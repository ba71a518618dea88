package cluster

import (
	"maps"
	"sync"
)

// own is what this server shares: a count that only it raises, and its entries. Any
// goroutine may change them. The one that follows Redis writes them.
type own struct {
	id      string        // of this life of the process; never used again
	wake    chan struct{} // there is something to write
	mu      sync.Mutex    // guards the rest
	told    *sync.Cond    // Redis has the count, or takes nothing
	sharing bool          // Redis takes what is written
	count   int64
	inRedis int64 // the same, as Redis has it
	entries map[string]*string
	changed map[string]*string // those that were not written yet; nil if removed
	version int64              // of what was last written
	whole   bool               // Redis may have anything: write every entry
}

func newOwn(id string) *own {
	o := &own{id: id, wake: make(chan struct{}, 1), entries: map[string]*string{}, changed: map[string]*string{}, whole: true}
	o.told = sync.NewCond(&o.mu)
	return o
}

func (o *own) locked(do func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	do()
}

// tell is locked for what may end a wait.
func (o *own) tell(do func()) {
	o.locked(do)
	o.told.Broadcast()
}

// change is locked for what has to be written.
func (o *own) change(do func()) {
	o.locked(do)
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// wait waits until Redis has a count of n, or takes nothing.
func (o *own) wait(n int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.sharing && o.inRedis < n {
		o.told.Wait()
	}
}

// next is what Redis has to be told next. It may be nothing.
func (o *own) next() (msg message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	msg.Counts = map[string]int64{}
	if o.count > o.inRedis {
		msg.Counts[o.id] = o.count
	}
	if o.whole {
		o.changed = maps.Clone(o.entries)
	}
	if o.whole || len(o.changed) > 0 {
		o.version++
		msg.Server, msg.Version, msg.Whole, msg.Entries = o.id, o.version, o.whole, o.changed
		o.changed, o.whole = map[string]*string{}, false
	}
	return msg
}
