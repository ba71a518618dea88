//go:build all || soak

package all

import (
	"testing"

	"realtime/internal/visitor/storm"
)

func TestStress(t *testing.T) {
	t.Parallel()
	storm.Run(t, 24)
}

func TestSoak_StormsOfManyTabs(t *testing.T) { storm.Run(t, 64) }
