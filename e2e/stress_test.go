package e2e

import (
	"testing"

	"realtime/internal/visitor/storm"
)

// Six tabs for each storm. make test-all has more, and make soak even more.
func TestStress(t *testing.T) {
	t.Parallel()
	storm.Run(t, 6)
}
