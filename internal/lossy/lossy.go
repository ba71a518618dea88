// Package lossy writes lines for a reader that may be slow, stuck or gone, such as a pipe or a
// terminal, without waiting long for it. Lines arrive whole and in order. Lines beyond what
// may wait for a stuck reader are dropped and counted.
package lossy

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// patience is how long Write waits, once, for a stuck reader.
const patience = time.Second

// maxWaiting is how much may wait for a stuck reader, in bytes.
const maxWaiting = 1 << 20

// Writer writes a line before Write returns, as long as the reader keeps up. Once the reader
// is stuck, lines wait in memory and Write returns at once. It is safe for concurrent use.
type Writer struct {
	out  io.Writer
	lost func(lines int) []byte

	mu      sync.Mutex
	waiting [][]byte
	size    int           // of waiting, in bytes
	dropped int           // lines after the last one that is waiting
	idle    chan struct{} // closed when all is written; nil while nothing is being written
}

// New returns a Writer that writes to out, and in the place of dropped lines what lost
// returns. Lines are dropped only if a megabyte waits; for less, lost may be nil.
func New(out io.Writer, lost func(lines int) []byte) *Writer { return &Writer{out: out, lost: lost} }

// Write writes a line. It never fails, because there is nobody to tell.
func (w *Writer) Write(line []byte) (int, error) {
	if idle := w.take(line); idle != nil {
		wait(idle, patience)
	}
	return len(line), nil
}

// Flush waits until everything is written, or until the time is over.
func (w *Writer) Flush(within time.Duration) {
	w.mu.Lock()
	idle := w.idle
	w.mu.Unlock()
	if idle != nil {
		wait(idle, within)
	}
}

func wait(idle <-chan struct{}, within time.Duration) {
	select {
	case <-idle:
	case <-time.After(within):
	}
}

// take queues a line, or drops it. If nothing is being written, it starts writing, and the
// caller should wait for idle.
func (w *Writer) take(line []byte) (idle <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dropped > 0 || w.size+len(line) > maxWaiting {
		w.dropped++
		return nil
	}
	w.waiting, w.size = append(w.waiting, bytes.Clone(line)), w.size+len(line)
	if w.idle != nil {
		return nil
	}
	w.idle = make(chan struct{})
	go w.write()
	return w.idle
}

// write writes lines until none is waiting.
func (w *Writer) write() {
	for lines := w.next(); len(lines) > 0; lines = w.next() {
		for _, line := range lines {
			w.out.Write(line)
		}
	}
}

// next returns the lines that are waiting, with one for those dropped after them. If there are
// none, writing ends.
func (w *Writer) next() [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := w.waiting
	if w.dropped > 0 {
		lines = append(lines, w.lost(w.dropped))
	}
	w.waiting, w.size, w.dropped = nil, 0, 0
	if len(lines) == 0 {
		close(w.idle)
		w.idle = nil
	}
	return lines
}
