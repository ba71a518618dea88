//go:build all

package all

import (
	"testing"

	"realtime/internal/visitor/browser"
	"realtime/internal/visitor/walk"
)

func TestEngines_EachTakesEveryStep(t *testing.T) {
	t.Parallel()
	for name, open := range browser.Others {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := walk.Start(t, open)
			for _, step := range walk.Steps {
				step(w)
			}
			walk.HiddenTabIsLiveWhenShown(w)
			if name == "Firefox" { // which has a setting for it
				walk.WithoutSiteDataNothingIsLost(w, browser.NewFirefox(t, browser.Preferences{"network.cookie.cookieBehavior": 2}))
			}
			walk.KilledBrowserLeaves(w)
		})
	}
}
