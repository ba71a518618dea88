package site_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/site"
	"realtime/internal/visitor"
)

// What never changes is in the page, and costs no refresh and no connection.
func TestLivePages_SendOnlyWhatLives(t *testing.T) {
	server := newServer(t, site.Options{})
	for path, lives := range map[string]string{toyPage: "Lamps: "} {
		v := visitor.New(t, server)
		fixed := []string{"<!DOCTYPE html>", "<head>", "<h1>", "</html>"}
		_, page := v.Send(http.MethodGet, path, "", "")
		ws, err := v.Dial(path)
		require.NoError(t, err)
		defer ws.Close()
		_, first, err := ws.ReadMessage()
		require.NoError(t, err)
		assert.Contains(t, string(first), lives)
		for _, text := range append(fixed, lives) {
			assert.Equal(t, 1, strings.Count(page, text), "%s in the page", text)
		}
		for _, text := range fixed {
			escaped, _ := json.Marshal(text)
			assert.NotContains(t, string(first), strings.Trim(string(escaped), `"`))
		}
	}
}

func TestLivePages_TellHTMLFromJSON(t *testing.T) {
	server := newServer(t, site.Options{})
	for _, path := range []string{toyPage} {
		for accept, wantType := range map[string]string{
			"text/html":        "text/html; charset=utf-8",
			"application/json": "application/json",
		} {
			req, err := http.NewRequest(http.MethodGet, server+path, nil)
			require.NoError(t, err)
			req.Header.Set("Accept", accept)
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			resp.Body.Close()
			assert.Equal(t, wantType, resp.Header.Get("Content-Type"))
			assert.Contains(t, resp.Header.Values("Vary"), "Accept", "caches keep %s apart", accept)
			assert.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
		}
	}
}

func TestLivePages_RequestsLeaveNothingBehind(t *testing.T) {
	server := newServer(t, site.Options{})
	transport := &http.Transport{MaxIdleConnsPerHost: 1}
	posts := func(n int) {
		for i := range n / 4 {
			v := visitor.New(t, server)
			v.Client.Transport = transport
			press(v) // without a cookie
			press(v)
			tb := v.OpenWithoutSocket(toyPage)
			tb.Act("light", nil)
			tb.Act([]string{"light", "unknown"}[i%2], nil)
		}
	}
	posts(500)
	before := collected()
	posts(2000)
	after := collected()
	t.Logf("%d kB, then %d kB", before>>10, after>>10)
	assert.Less(t, after, before+300<<10, "150 bytes a post")
}

// For a visitor whom the authenticator does not identify, the self topic is that of
// the browser, also where no socket opens.
func TestPosts_ReachTheOtherTabsOfABrowserWithoutAnIdentity(t *testing.T) {
	server := newServer(t, site.Options{Authenticator: &livetemplate.AnonymousAuthenticator{}})
	v := visitor.New(t, server)
	one, two, stranger := v.Open(toyPage), v.Open(toyPage), visitor.New(t, server).Open(toyPage)
	session := v.Session()
	press(v)
	one.Shows("Lamps: 1 ")
	two.Shows("Lamps: 1 ")
	v.OpenWithoutSocket(toyPage).Act("light", nil)
	one.Shows("Lamps: 2 ")
	light(two)
	one.Shows("Lamps: 3 ")
	stranger.Settle()
	stranger.Never("Lamps: 3 ")
	assert.Equal(t, session, v.Session(), "the session stays")
}

func TestPosts_SetNoCookieInAnOpenSession(t *testing.T) {
	v := visitor.New(t, newServer(t, site.Options{}))
	v.Get(toyPage)
	for _, accept := range []string{"text/html", "application/json"} {
		resp, _ := v.Request(http.MethodPost, toyPage, accept, "application/json", `{"action":"light"}`)
		assert.Empty(t, resp.Header.Values("Set-Cookie"), accept)
	}
}

func TestAuthenticator_AsksForAPasswordAsItWould(t *testing.T) {
	server := newServer(t, site.Options{Authenticator: livetemplate.NewBasicAuthenticator(func(name, password string) (bool, error) {
		return name == "alice" && password == "secret", nil
	})})
	v := visitor.New(t, server)
	resp, _ := v.Send(http.MethodGet, toyPage, "", "")
	assert.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	assert.Contains(t, resp.Header.Get("WWW-Authenticate"), "Basic realm=")
	alice := visitor.New(t, strings.Replace(server, "http://", "http://alice:secret@", 1))
	resp, _ = alice.Post(toyPage, url.Values{"light": {""}})
	assert.Equal(t, http.StatusSeeOther, resp.StatusCode)
}

func TestPosts_AboveTheRateAreRefused(t *testing.T) {
	log := &visitor.Log{}
	s, server := serve(t, site.Options{Log: log.Logger(), ActionRate: 1, ActionBurst: 3})
	v, other := visitor.New(t, server), visitor.New(t, server)
	v.Get(toyPage)
	other.Get(toyPage)
	counted, refused, sentence := 0, &http.Response{}, ""
	for refused.StatusCode != http.StatusTooManyRequests && counted < 100 { // 3 at once, and more where the machine is slow
		refused, sentence = v.Request(http.MethodPost, toyPage, "application/json", "application/json", `{"action":"light"}`)
		if refused.StatusCode == http.StatusOK {
			counted++
		}
	}
	assert.GreaterOrEqual(t, counted, 3)
	require.Equal(t, http.StatusTooManyRequests, refused.StatusCode)
	assert.Equal(t, "1", refused.Header.Get("Retry-After"))
	assert.Equal(t, "Your form was not accepted: it was too fast.\n", sentence)
	assert.Equal(t, 1, metric(t, s, `realtime_requests_refused_total{reason="too_fast"}`))
	assert.Contains(t, log.String(), `msg="form refused" reason=too_fast remote_addr=`)
	press(other)
	assert.Contains(t, other.Get(toyPage), fmt.Sprintf("Lamps: %d ", counted+1), "another browser has a limit of its own, and what was refused does not count")
	assert.Eventually(t, func() bool {
		resp, _ := v.Post(toyPage, url.Values{"light": {""}})
		return resp.StatusCode == http.StatusSeeOther
	}, visitor.Soon, 100*time.Millisecond, "and after a second it goes on")
}

func TestPosts_AreLimitedAsDocumentedByDefault(t *testing.T) {
	assert.Equal(t, 50, site.DefaultActionRate)
	assert.Equal(t, 200, site.DefaultActionBurst)
	v := visitor.New(t, newServer(t, site.Options{}))
	v.Get(toyPage)
	var posting sync.WaitGroup
	var refused atomic.Int64
	began := time.Now()
	for range 20 {
		posting.Go(func() {
			for range 50 {
				resp, _ := v.Post(toyPage, url.Values{"light": {""}})
				if resp.StatusCode == http.StatusTooManyRequests {
					refused.Add(1)
				}
			}
		})
	}
	posting.Wait()
	counted := 1000 - refused.Load()
	assert.Contains(t, v.Get(toyPage), fmt.Sprintf("Lamps: %d ", counted))
	assert.GreaterOrEqual(t, counted, int64(200))
	assert.LessOrEqual(t, float64(counted), 200+50*time.Since(began).Seconds())
}

// A client that goes away while it sends is nothing to warn about.
func TestPosts_ThatAreAbortedAreNoWarning(t *testing.T) {
	log := &visitor.Log{}
	s, server := serve(t, site.Options{Log: log.Logger()})
	const header = "POST " + toyPage + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nligh"
	say(t, server, header).Close()
	half := say(t, server, header) // still reads
	require.NoError(t, half.(*net.TCPConn).CloseWrite())
	answer, err := io.ReadAll(half)
	require.NoError(t, err)
	assert.Contains(t, string(answer), "400 Bad Request")
	assert.Contains(t, string(answer), "Your form was not accepted: it was incomplete.")
	assert.Eventually(t, func() bool { return metric(t, s, `realtime_requests_refused_total{reason="incomplete"}`) == 2 }, visitor.Soon, 10*time.Millisecond)
	assert.Zero(t, metric(t, s, `realtime_requests_refused_total{reason="too_slow"}`))
	assert.Empty(t, log.String())
}

// The client reads nothing before it has sent everything.
func TestPosts_ThatAreTooLongAreAnsweredWhateverTheClientSends(t *testing.T) {
	server := newServer(t, site.Options{})
	const body = 3 << 20
	for name, sent := range map[string]string{
		"with a length": fmt.Sprintf("Content-Length: %d\r\n\r\n", body) + strings.Repeat("x", body),
		"in chunks":     "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("100000\r\n"+strings.Repeat("x", 1<<20)+"\r\n", 3) + "0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn := say(t, server, "POST "+toyPage+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+sent)
			answer, err := io.ReadAll(conn)
			require.NoError(t, err)
			assert.Contains(t, string(answer), "413 Request Entity Too Large")
			assert.Contains(t, string(answer), "Your form was not accepted: it was too long.")
		})
	}
}

func TestLivePages_RefuseFormsThatAreTooLong(t *testing.T) {
	var log bytes.Buffer
	v := visitor.New(t, newServer(t, site.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}))
	resp, body := v.Post(toyPage, url.Values{"username": {strings.Repeat("A", maxForm)}, "join": {""}})
	assert.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
	assert.Contains(t, body, "too long")
	assert.Equal(t, 1, strings.Count(log.String(), "form refused"), "the log:\n%s", log.String())
	resp, _ = v.Post(toyPage, url.Values{"username": {strings.Repeat("A", maxForm-1000)}, "join": {""}})
	assert.Equal(t, http.StatusSeeOther, resp.StatusCode)
}
