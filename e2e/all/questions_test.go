//go:build all

package all

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
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
	tb := browser.New(t).Open(p.URL + "/likes?room=milk")
	tb.WaitUntil(browser.Live, "a live page")
	tb.Click("like")
	inMilk.Shows("Likes: 1 Here: 2")
	tb.Eval(`document.querySelector("a[href='?room=tea']").click()`)
	tb.Shows("Likes: 0 Here: 1")
	inMilk.Shows("Likes: 1 Here: 1")
	for _, name := range []string{"*", "a/*", "%20", "a:b"} {
		assert.Contains(t, carol.Get("/likes?room="+name), "There is no such room", name)
		carol.Open("/likes?room=" + name).Shows("There is no such room")
	}
}

// The number outlives the program, and an error of the database is for the operator only.
func TestDatabase_KeepsTheNumberAndItsErrors(t *testing.T) {
	t.Parallel()
	exe, dir := followed(t, "docs/database.md"), t.TempDir()
	inDir := filepath.Join(t.TempDir(), "start")
	require.NoError(t, os.WriteFile(inDir, fmt.Appendf(nil, "#!/bin/sh\ncd %s && exec %s \"$@\"\n", dir, exe), 0o755))
	p := visitor.StartNew(t, inDir)
	alice, bob := visitor.New(t, p.URL).Open("/likes"), visitor.New(t, p.URL).Open("/likes")
	for range 20 {
		alice.Do("like", nil)
		bob.Do("like", nil)
	}
	alice.Shows("Likes: 40 ")
	bob.Shows("Likes: 40 ")
	require.Zero(t, p.Stop(os.Interrupt))

	p = visitor.StartNew(t, inDir)
	alice, bob = visitor.New(t, p.URL).Open("/likes"), visitor.New(t, p.URL).Open("/likes")
	alice.Shows("Likes: 40 ")
	file := filepath.Join(dir, "likes.db")
	whole, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, make([]byte, len(whole)), 0o600))
	alice.Do("like", nil)
	alice.Shows("Something went wrong.")
	bob.Shows("Something went wrong.")
	assert.Contains(t, bob.Visitor.Get("/likes"), "Something went wrong.")
	assert.Contains(t, p.Log(), "level=ERROR msg=database error=")
	assert.NotContains(t, alice.HTML()+alice.Visitor.Get("/likes"), "database")
	require.NoError(t, os.WriteFile(file, whole, 0o600))
	bob.Do("like", nil)
	alice.Shows("Likes: 41 ")
	alice.ShowsNoMore("Something went wrong.")
}

// A person is the same in all their browsers, and whoever has no session is the guest.
func TestLogin_APersonSharesTheNumberWithThemselves(t *testing.T) {
	t.Parallel()
	p := visitor.StartNew(t, followed(t, "docs/login.md"))
	ann, phone, bea, guest := loggedIn(t, p, "ann"), loggedIn(t, p, "ann"), loggedIn(t, p, "bea"), visitor.New(t, p.URL).Open("/likes")
	ann.Do("like", nil)
	phone.Shows("Likes: 1 ")
	phone.Visitor.Post("/likes", url.Values{"like": {""}})
	ann.Visitor.OpenWithoutSocket("/likes").Act("like", nil)
	ann.Shows("Likes: 3 ")
	phone.Shows("Likes: 3 ")
	forged := visitor.New(t, p.URL)
	forged.Client.Jar.SetCookies(&url.URL{Scheme: "http", Host: p.Addr()}, []*http.Cookie{{Name: "session", Value: "ann"}})
	forged.Post("/likes", url.Values{"like": {""}})
	guest.Shows("Likes: 1 ")
	bea.Settle()
	bea.Shows("Likes: 0 ")
}

// The guide says which line decides whom the number is shared with.
func TestLogin_OneLineMakesTheNumberEverybodys(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../../docs/login.md")
	require.NoError(t, err)
	line := regexp.MustCompile(`ctx\.SelfTopic\(\) // .*("everyone").*`)
	require.Regexp(t, line, string(guide))
	changed := filepath.Join(t.TempDir(), "login.md")
	require.NoError(t, os.WriteFile(changed, line.ReplaceAll(guide, []byte("$1")), 0o644))
	changed, err = filepath.Rel(visitor.Root(), changed)
	require.NoError(t, err)
	p := visitor.StartNew(t, followed(t, changed))
	ann, bea := loggedIn(t, p, "ann"), loggedIn(t, p, "bea")
	ann.Do("like", nil)
	bea.Shows("Likes: 1 ")
}

// loggedIn returns a tab in a browser of its own in which somebody has logged in.
func loggedIn(t *testing.T, p *visitor.Program, name string) *visitor.Tab {
	t.Helper()
	v := visitor.New(t, p.URL)
	resp, _ := v.Post("/login", url.Values{"name": {name}})
	require.Equal(t, "/likes", resp.Header.Get("Location"))
	return v.Open("/likes")
}
