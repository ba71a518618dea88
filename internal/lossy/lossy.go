// Package lossy writes lines for a reader that may be slow, stuck or gone, as a pipe or a
// terminal can be, without ever waiting long for it. Lines arrive whole and in order.
// What a stuck reader does not take is dropped and counted.
package lossy

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// Patience is how long Write waits for a reader that takes nothing, once.
const Patience = time.Second

// maxWaiting is how much may wait for a reader that takes nothing, in bytes.
const maxWaiting = 1 << 20

// Writer writes each line in the caller's time while the reader keeps up, so that a line
// is out before Write returns. Once the reader is stuck, lines wait in memory, and nobody
// waits for them. It is safe for concurrent use.
type Writer struct {
	out  io.Writer
	lost func(lines int) []byte

	mu      sync.Mutex
	waiting [][]byte
	size    int           // of what is waiting, in bytes
	dropped int           // lines since the last one that is waiting
	idle    chan struct{} // closed once all is written; nil if nothing is being written
}

// New returns a Writer that writes to out. It writes what lost returns in the place of
// lines that were dropped.
func New(out io.Writer, lost func(lines int) []byte) *Writer { return &Writer{out: out, lost: lost} }

// Write takes a line. It never fails: nobody could be told.
func (w *Writer) Write(line []byte) (int, error) {
	if idle := w.take(line); idle != nil {
		wait(idle, Patience)
	}
	return len(line), nil
}

// Flush waits until everything is written, but not longer than a time.
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

// take takes a line, or drops it. If nothing is being written, that begins now, and the
// caller should wait for its end.
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

// write writes all that is waiting.
func (w *Writer) write() {
	for lines := w.next(); len(lines) > 0; lines = w.next() {
		for _, line := range lines {
			w.out.Write(line)
		}
	}
}

// next returns the lines that are waiting, and how many were dropped after them. If there
// are none, nothing is being written any more.
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
