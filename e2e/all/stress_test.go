//go:build all

package all

import (
	"testing"

	"realtime/internal/visitor/storm"
)

func TestStress(t *testing.T) {
	t.Parallel()
	storm.Run(t, 64)
}
