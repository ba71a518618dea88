package site_test

import (
	"net/http"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/site"
	"realtime/internal/visitor"
)

// The session of a socket is that of its cookie. A socket that has none that the server
// could have made is given one.
func TestSession_OfASocketIsThatOfItsCookie(t *testing.T) {
	s := newSite(t, site.Options{})
	_, err := site.Live(s, "/who", "who.tmpl", who{}, &whoState{})
	require.NoError(t, err)
	server := serveOn(t, s)
	browserOf := func(cookie string) string {
		ws, _ := visitor.Knock(t, server, "/who", http.Header{"Cookie": {visitor.SessionCookie + "=" + cookie}})
		require.NotNil(t, ws)
		_, frame, err := ws.ReadMessage()
		require.NoError(t, err)
		return regexp.MustCompile(`[A-Za-z0-9_-]{43}=`).FindString(string(frame))
	}
	made := madeUp()
	assert.Equal(t, made, browserOf(made))
	assert.Equal(t, made, browserOf(made))
	assert.NotEqual(t, browserOf("admin"), browserOf("admin"), "a cookie that anybody can guess is nobody's")

	v := visitor.New(t, server)
	for range 3 { // the first is given a cookie, and the others come back with it
		ws, err := v.Dial("/who")
		require.NoError(t, err)
		_, frame, err := ws.ReadMessage()
		require.NoError(t, err)
		require.Regexp(t, cookieValue, v.Session())
		assert.Contains(t, string(frame), v.Session())
		ws.Close()
	}
}
