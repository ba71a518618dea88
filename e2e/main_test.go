// Package e2e tests the built program as people meet it: in browsers, in crowds,
// among hostile peers, on several servers, and when it stops. It starts the program
// with flags, and looks inside it by its metrics and profiles only.
//
// make test runs this package. What takes longer, or needs more than Chromium and
// Redis, is in the folders: all for make test-all and make soak, bench, and pictures.
package e2e

import (
	"testing"

	"realtime/internal/visitor/browser"
)

func TestMain(m *testing.M) { browser.Main(m) }
