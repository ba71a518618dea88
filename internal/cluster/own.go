package cluster

import (
	"maps"
	"sync"
)

// own holds the state of this server: a count that only it raises, and its entries. Any
// goroutine may change them; the one that follows Redis writes them.
type own struct {
	id      string        // of this life of the process, never used again
	wake    chan struct{} // holds a value if there is something to write
	mu      sync.Mutex    // guards the rest
	told    *sync.Cond    // inRedis or sharing has changed
	sharing bool          // Redis accepts writes
	count   int64
	inRedis int64 // the count in Redis
	entries map[string]*string
	changed map[string]*string // entries that are not written yet; nil if removed
	version int64              // of the last write
	whole   bool               // write all entries next, whatever Redis has
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

// tell runs a function under the lock, and wakes those who wait.
func (o *own) tell(do func()) {
	o.locked(do)
	o.told.Broadcast()
}

// change runs a function under the lock, and wakes the goroutine that writes.
func (o *own) change(do func()) {
	o.locked(do)
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// wait waits until Redis has a count of n, or accepts no writes.
func (o *own) wait(n int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.sharing && o.inRedis < n {
		o.told.Wait()
	}
}

// next returns the next message to write. The zero message means that there is none.
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
