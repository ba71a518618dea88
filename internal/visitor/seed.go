package visitor

import (
	"flag"
	"math/rand/v2"
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
			name := strings.ReplaceAll(t.Name(), "/", "$/^")
			t.Logf("repeat it in the folder of its file: go test -race=%v -tags '%s' -count=1 -run '^%s$' -seed %d",
				builtWith("-race") == "true", builtWith("-tags"), name, drawn)
		}
	})
	return drawn
}
