// Package e2e tests the built program: in browsers, with crowds and hostile peers, on
// several servers, and when it stops. It starts the program with flags, and looks inside
// only through metrics and profiles.
//
// make test runs this package. Tests that take longer, or need more than Chromium and
// Redis, are in subdirectories: all for make test-all and make soak, bench, and pictures.
package e2e

import (
	"testing"

	"realtime/internal/visitor/browser"
)

func TestMain(m *testing.M) { browser.Main(m) }
