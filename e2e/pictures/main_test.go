//go:build pictures

// Package pictures makes the pictures in docs from the running program.
package pictures

import (
	"testing"

	"realtime/internal/visitor/browser"
)

func TestMain(m *testing.M) { browser.Main(m) }
