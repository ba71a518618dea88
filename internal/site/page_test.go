package site_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/site"
	"realtime/internal/visitor"
)

// What never changes is in the page, and costs no refresh and no connection.
func TestLivePages_SendOnlyWhatLives(t *testing.T) {
	_, server := serve(t, site.Options{})
	v := visitor.New(t, server)
	_, page := v.Send(http.MethodGet, toyPage, "", "")
	ws, err := v.Dial(toyPage)
	require.NoError(t, err)
	defer ws.Close()
	_, first, err := ws.ReadMessage()
	require.NoError(t, err)
	for text, lives := range map[string]bool{"<!DOCTYPE html>": false, "<head>": false, "<h1>": false, "</html>": false, "Lamps: ": true} {
		assert.Equal(t, 1, strings.Count(page, text), "%s in the page", text)
		escaped, _ := json.Marshal(text)
		assert.Equal(t, lives, strings.Contains(string(first), strings.Trim(string(escaped), `"`)), "%s on the socket", text)
	}
}

func TestLivePages_TellHTMLFromJSON(t *testing.T) {
	s := newSite(t, site.Options{})
	for accept, want := range map[string]string{"text/html": "text/html; charset=utf-8", "application/json": "application/json"} {
		answer := ask(s, http.MethodGet, toyPage, http.Header{"Accept": {accept}}, "")
		assert.Equal(t, want, answer.Header().Get("Content-Type"))
		assert.Contains(t, answer.Header().Values("Vary"), "Accept", "caches keep %s apart", accept)
		assert.Equal(t, "no-store", answer.Header().Get("Cache-Control"))
	}
}

// Requests leave no memory behind, whatever cookie they have.
func TestLivePages_RequestsLeaveNothingBehind(t *testing.T) {
	s := newSite(t, site.Options{})
	requests := func(times int) (inUse int) {
		for range times {
			ask(s, http.MethodPost, toyPage, nil, "light=")
			ask(s, http.MethodPost, toyPage, session(strings.Repeat("x", 10<<10)), "light=")
			browser := session(visitor.MadeUpSession())
			ask(s, http.MethodPost, toyPage, browser, "light=")
			for _, action := range []string{"light", "unknown"} {
				ask(s, http.MethodPost, toyPage, with(browser, asks), `{"action":"`+action+`"}`)
			}
		}
		return collected()
	}
	before := requests(30)
	assert.Less(t, requests(150), before+150<<10, "bytes in use, 200 a request more than the %d before", before)
}

// For a visitor whom the authenticator does not identify, the self topic is that of
// the browser, also where no socket opens.
func TestPosts_ReachTheOtherTabsOfABrowserWithoutAnIdentity(t *testing.T) {
	_, server := serve(t, site.Options{Authenticator: &livetemplate.AnonymousAuthenticator{}})
	v := visitor.New(t, server)
	one, two, stranger := v.Open(toyPage), v.Open(toyPage), visitor.New(t, server).Open(toyPage)
	v.Post(toyPage, map[string][]string{"light": {""}})
	one.Shows("Lamps: 1 ")
	two.Shows("Lamps: 1 ")
	v.OpenWithoutSocket(toyPage).Act("light", nil)
	one.Shows("Lamps: 2 ")
	light(two)
	one.Shows("Lamps: 3 ")
	stranger.Settle()
	stranger.Never("Lamps: 3 ")
}

func TestAuthenticator_AsksForAPasswordAsItWould(t *testing.T) {
	s := newSite(t, site.Options{Authenticator: livetemplate.NewBasicAuthenticator(func(name, password string) (bool, error) {
		return name == "alice" && password == "secret", nil
	})})
	answer := ask(s, http.MethodGet, toyPage, nil, "")
	assert.Equal(t, http.StatusUnauthorized, answer.Code)
	assert.Contains(t, answer.Header().Get("WWW-Authenticate"), "Basic realm=")
	answer = ask(s, http.MethodPost, toyPage, http.Header{"Authorization": {"Basic YWxpY2U6c2VjcmV0"}}, "light=")
	assert.Equal(t, http.StatusSeeOther, answer.Code)
}

// By default a browser may post 200 times at once, and 50 times a second.
func TestPosts_AboveTheRateAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &visitor.Log{}
		s := newSite(t, site.Options{Log: log.Logger()})
		mine, others := session(visitor.MadeUpSession()), session(visitor.MadeUpSession())
		post := func(browser http.Header) int { return ask(s, http.MethodPost, toyPage, browser, "light=").Code }
		for i := range 200 {
			assert.Equal(t, http.StatusSeeOther, post(mine), "post %d", i+1)
		}
		refused := ask(s, http.MethodPost, toyPage, mine, "light=")
		assert.Equal(t, http.StatusTooManyRequests, refused.Code)
		assert.Equal(t, "1", refused.Header().Get("Retry-After"))
		assert.Equal(t, "Your form was not accepted: it was too fast.\n", refused.Body.String())
		assert.Equal(t, 1, metric(t, s, `realtime_requests_refused_total{reason="too_fast"}`))
		assert.Contains(t, log.String(), `msg="form refused" reason=too_fast remote_addr=`)
		assert.Equal(t, http.StatusSeeOther, post(others), "another browser has a limit of its own")
		time.Sleep(20 * time.Millisecond)
		assert.Equal(t, http.StatusSeeOther, post(mine), "it goes on")
		assert.Equal(t, http.StatusTooManyRequests, post(mine))
		assert.Equal(t, 202, lamps(s), "what was refused does not count")
	})
}

// say opens a connection to a server and sends bytes that need not be a request.
func say(t testing.TB, server, bytes string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(server, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = io.WriteString(conn, bytes)
	require.NoError(t, err)
	return conn
}

// A client that goes away while it sends is nothing to warn about.
func TestPosts_ThatAreAbortedAreNoWarning(t *testing.T) {
	log := &visitor.Log{}
	s, server := serve(t, site.Options{Log: log.Logger()})
	const header = "POST " + toyPage + " HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n" +
		"Content-Type: application/x-www-form-urlencoded\r\n\r\nligh"
	say(t, server, header).Close()
	half := say(t, server, header) // still reads
	require.NoError(t, half.(*net.TCPConn).CloseWrite())
	answer, err := io.ReadAll(half)
	require.NoError(t, err)
	assert.Contains(t, string(answer), "400 Bad Request")
	assert.Contains(t, string(answer), "Your form was not accepted: it was incomplete.")
	refused := func() bool { return metric(t, s, `realtime_requests_refused_total{reason="incomplete"}`) == 2 }
	assert.Eventually(t, refused, visitor.Soon, tick)
	assert.Zero(t, metric(t, s, `realtime_requests_refused_total{reason="too_slow"}`))
	assert.Empty(t, log.String())
}

// A form may have 16 kB. The client of a longer one reads nothing before it has sent
// everything, and gets an answer.
func TestPosts_ThatAreTooLongAreRefusedAndAnswered(t *testing.T) {
	const longest, body, button = 16 << 10, 3 << 20, "light=&text="
	log := &visitor.Log{}
	s, server := serve(t, site.Options{Log: log.Logger()})
	assert.Equal(t, http.StatusSeeOther, ask(s, http.MethodPost, toyPage, nil, button+strings.Repeat("x", longest-len(button))).Code)
	assert.Equal(t, http.StatusRequestEntityTooLarge, ask(s, http.MethodPost, toyPage, nil, button+strings.Repeat("x", longest-len(button)+1)).Code)
	for name, sent := range map[string]string{
		"with a length": fmt.Sprintf("Content-Length: %d\r\n\r\n", body) + strings.Repeat("x", body),
		"in chunks":     "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("100000\r\n"+strings.Repeat("x", 1<<20)+"\r\n", 3) + "0\r\n\r\n",
	} {
		conn := say(t, server, "POST "+toyPage+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+sent)
		answer, err := io.ReadAll(conn)
		require.NoError(t, err, name)
		assert.Contains(t, string(answer), "413 Request Entity Too Large", name)
		assert.Contains(t, string(answer), "Your form was not accepted: it was too long.", name)
	}
	assert.Equal(t, 3, strings.Count(log.String(), `msg="form refused" reason=too_long`), log)
	assert.Equal(t, 1, lamps(s))
}
