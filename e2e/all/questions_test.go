//go:build all

package all

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// A tab shares the number with those in its room, and a room ends with its last tab.
func TestRooms_TabsOfARoomShareWhatOthersDoNotHear(t *testing.T) {
	t.Parallel()
	p := visitor.StartNew(t, followed(t, "docs/rooms.md"))
	alice, bob, carol := visitor.New(t, p.URL), visitor.New(t, p.URL), visitor.New(t, p.URL)
	inTea, alsoInTea, inMilk := alice.Open("/likes?room=tea"), bob.Open("/likes?room=tea"), carol.Open("/likes?room=milk")
	second := alice.Open("/likes?room=tea")
	inTea.Shows("Here: 2")
	inMilk.Shows("Here: 1")
	inMilk.Settle()
	inMilk.StartHistory()
	inTea.Do("like", nil)
	bob.Post("/likes?room=tea", url.Values{"like": {""}})
	carol.OpenWithoutSocket("/likes?room=tea").Act("like", nil)
	for _, tb := range []*visitor.Tab{inTea, alsoInTea, second} {
		tb.Shows("Likes: 3 Here: 2") // carol was there for a moment
	}
	inMilk.Do("__navigate__", map[string]any{"room": "tea"})
	inMilk.Do("mount", map[string]any{"room": "tea"})
	inMilk.Settle()
	alsoInTea.Do("like", nil)
	inTea.Shows("Likes: 4 Here: 2")
	inMilk.Settle()
	assert.Len(t, inMilk.HasRead(), 1, "what a tab in another room has shown")

	for _, tb := range []*visitor.Tab{inTea, alsoInTea, second} {
		tb.Close()
	}
	require.Eventually(t, func() bool {
		return strings.Contains(carol.Get("/likes?room=tea"), "Likes: 0 Here: 1") // asking is being there for two seconds
	}, visitor.Soon, 3*time.Second, "the room ends")
	for _, name := range []string{"*", "a/*", "%20", "a:b"} {
		assert.Contains(t, carol.Get("/likes?room="+name), "There is no such room.", name)
		carol.Open("/likes?room=" + name).Shows("There is no such room.")
	}
}

func TestDatabase_X(t *testing.T) {
	t.Parallel()
	p := visitor.StartNew(t, followed(t, "docs/database.md"))
	alice, bob := visitor.New(t, p.URL).Open("/likes"), visitor.New(t, p.URL).Open("/likes")
	alice.Do("like", nil)
	alice.Shows("Likes: 1")
	bob.Shows("Likes: 1")
}
