package edge

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"realtime/internal/visitor"
)

// send sends a request with a header through a Handler.
func send(h http.Handler, header, value string) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set(header, value)
	h.ServeHTTP(httptest.NewRecorder(), r)
}

// Some proxies add a port to the client's address.
func TestProxy_ReportsTheClientAddress(t *testing.T) {
	var addr string
	h := New(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { addr = r.RemoteAddr }), slog.Default(), true)
	for forwarded, want := range map[string]string{
		"203.0.113.9":                    "203.0.113.9",
		"203.0.113.9:51234":              "203.0.113.9",
		"2001:db8::1":                    "2001:db8::1",
		"[2001:db8::2]":                  "2001:db8::2",
		"[2001:db8::3]:443":              "2001:db8::3",
		"fe80::1%any":                    "fe80::1",
		"::ffff:203.0.113.8":             "203.0.113.8",
		"192.0.2.7, 203.0.113.7:51234":   "203.0.113.7",
		"192.0.2.8, unknown":             "192.0.2.1:1234", // of the connection
		"192.0.2.8, 203.0.113.9:no port": "192.0.2.1:1234",
	} {
		send(h, "X-Forwarded-For", forwarded)
		assert.Equal(t, want, addr, forwarded)
	}
}

func TestProxy_UntrustedOneIsLoggedOnce(t *testing.T) {
	for header, value := range map[string]string{"X-Forwarded-Proto": "https", "X-Forwarded-Host": "public.example", "X-Forwarded-For": "203.0.113.9"} {
		for trust, want := range map[bool]int{false: 1, true: 0} {
			log := &visitor.Log{}
			h := New(http.NotFoundHandler(), log.Logger(), trust)
			for range 3 {
				send(h, header, value)
			}
			assert.Equal(t, want, strings.Count(log.String(), "-trust-proxy"), "%s, trusted: %v", header, trust)
		}
	}
}
