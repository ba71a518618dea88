package lossy_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"realtime/internal/lossy"
)

// reader reads a line for each value in let, and keeps it.
type reader struct {
	let  chan bool
	read strings.Builder
}

func (r *reader) Write(line []byte) (int, error) {
	<-r.let
	return r.read.Write(line)
}

func lost(lines int) []byte { return fmt.Appendf(nil, "%d lost\n", lines) }

// patience is how long the first line waits for a stuck reader.
const patience = time.Second

// A stuck reader delays the first line and no other. Once it reads again, it gets every line
// that was kept, in order, and the number of the others in their place.
func TestWriter_DoesNotWaitForAStuckReaderAndCountsLostLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, began := &reader{let: make(chan bool)}, time.Now()
		w := lossy.New(r, lost)
		const lines, length = 3000, 1000 // more than may wait
		line := func(i int) string { return fmt.Sprintf("%*d\n", length-1, i) }
		for i := range lines {
			n, err := w.Write([]byte(line(i)))
			assert.Equal(t, length, n)
			assert.NoError(t, err)
		}
		fmt.Fprintln(w, "a short line would have room, but comes after the dropped ones")
		assert.Equal(t, patience, time.Since(began), "of the first line")
		w.Flush(time.Minute)
		assert.Equal(t, patience+time.Minute, time.Since(began))

		close(r.let)
		w.Flush(time.Minute)
		fmt.Fprintln(w, "and on")
		var want strings.Builder
		kept := 1 + (1<<20)/length // one is being written
		for i := range kept {
			want.WriteString(line(i))
		}
		fmt.Fprintf(&want, "%d lost\nand on\n", lines-kept+1)
		assert.Equal(t, want.String(), r.read.String())
	})
}

// While the reader keeps up, a line is written before Write returns, so that a crash of the
// program does not lose it.
func TestWriter_WritesAtOnceWhileTheReaderKeepsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{let: make(chan bool)}
		close(r.let)
		w := lossy.New(r, lost)
		for i := range 1000 {
			fmt.Fprintln(w, i)
			assert.True(t, strings.HasSuffix(r.read.String(), fmt.Sprintln(i)))
		}
	})
}

type gone struct{}

func (gone) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestWriter_IgnoresAReaderThatIsGone(t *testing.T) {
	w := lossy.New(gone{}, lost)
	for range 3 {
		n, err := w.Write([]byte("line\n"))
		assert.Equal(t, 5, n)
		assert.NoError(t, err)
	}
}
