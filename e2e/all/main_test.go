//go:build all || soak

// Package all tests the built program as package e2e does, with all that make test has no
// time or no programs for: other browsers, proxies, slow networks, and each page in
// each state. Without a tag it is empty: make test-all sets all, make soak sets soak.
package all

import (
	"testing"

	"realtime/internal/visitor/browser"
)

func TestMain(m *testing.M) { browser.Main(m) }
