//go:build all || soak

// Package all tests the built program like package e2e, with what takes too long or needs
// too much for make test: other browsers, proxies, slow networks, and each page in each
// state. It needs a build tag: make test-all sets all, and make soak sets soak.
package all

import (
	"testing"

	"realtime/internal/visitor/browser"
)

func TestMain(m *testing.M) { browser.Main(m) }
