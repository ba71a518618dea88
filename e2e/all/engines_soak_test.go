//go:build soak

package all

import (
	"testing"
	"time"

	"realtime/internal/visitor/browser"
)

// The same steps with the machine to itself: breaks are too short to be shown, and pages
// are live in time after a minute without sockets.
func TestSoak_Engines(t *testing.T) {
	for _, e := range browser.Engines() {
		t.Run(e.Name, func(t *testing.T) {
			w := startWalk(t, e)
			w.undisturbed, w.blockedFor = true, time.Minute
			w.takeEveryStep()
		})
	}
}
