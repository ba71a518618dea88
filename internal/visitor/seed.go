package visitor

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var seed = flag.Uint64("seed", 0, "what tests that draw at random begin with; 0 draws one")

// Seed returns what a test that draws at random begins with. If the test fails, it says
// how to repeat it.
func Seed(t testing.TB) uint64 {
	t.Helper()
	drawn := *seed
	for drawn == 0 {
		drawn = uint64(rand.Uint32()) // short enough to be typed
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat it: %s", repeat(t.Name(), drawn))
		}
	})
	return drawn
}

// repeat returns the command that runs a test of this package again, built as it was.
func repeat(test string, seed uint64) string {
	command := []string{"go", "test"}
	command = append(command, raceFlag()...)
	if tags := builtWith("-tags"); tags != "" {
		command = append(command, "-tags", tags)
	}
	var names []string
	for name := range strings.SplitSeq(test, "/") {
		names = append(names, "^"+regexp.QuoteMeta(name)+"$")
	}
	dir, _ := os.Getwd()
	pkg, _ := filepath.Rel(Root(), dir)
	return fmt.Sprintf("%s -count=1 -run '%s' ./%s -seed %d", strings.Join(command, " "), strings.Join(names, "/"), pkg, seed)
}
