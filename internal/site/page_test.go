package site_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"

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
	visits := func() {
		for i := range 1000 {
			v := visitor.New(t, server)
			v.Client.Transport = transport
			press(v) // without a cookie
			if i%2 == 0 {
				press(v)
				v.OpenWithoutSocket(toyPage).Act("light", nil)
			}
		}
	}
	visits()
	before := collected()
	visits()
	after := collected()
	t.Logf("%d kB, then %d kB", before>>10, after>>10)
	assert.Less(t, after, before+300<<10, "300 bytes a visit")
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
