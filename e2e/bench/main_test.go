// Package bench measures the built program, and writes docs/bench.md.
package bench

import (
	"testing"

	"realtime/internal/visitor/browser"
)

func TestMain(m *testing.M) { browser.Main(m) }
