package store_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"realtime/internal/store"
)

// Two lives of a process, one after the other.
func Example() {
	dir, _ := os.MkdirTemp("", "")
	defer os.RemoveAll(dir)
	for _, life := range []string{"first", "second"} {
		counts, err := store.Open(filepath.Join(dir, "counts"), slog.Default())
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(counts.Counts())
		counts.Keep(life, 12)
		counts.Close()
	}
	// Output:
	// map[]
	// map[first:12]
}
