package site_test

import (
	"context"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"realtime/internal/site"
	"realtime/internal/visitor"
)

// Once balancers have had their time, nobody new is admitted. The tabs that are open
// work until they are told to go elsewhere.
func TestStop_RefusesNewConnectionsBeforeItClosesTheOpenOnes(t *testing.T) {
	s, server := serve(t, site.Options{Drain: 100 * time.Millisecond})
	v := visitor.New(t, server)
	tabs := []*visitor.Tab{v.Open(toyPage), visitor.New(t, server).Open(toyPage)}
	noTime, cancel := context.WithCancel(t.Context())
	cancel()
	s.Drain(noTime)

	for _, path := range []string{"/readyz", "/healthz"} {
		resp, body := v.Send(http.MethodGet, path, "", "")
		assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode, path)
		assert.Equal(t, "stopping\n", body, path)
	}
	_, resp := visitor.Knock(t, server, toyPage, nil)
	assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	light(tabs[0])
	v.Post(toyPage, url.Values{"light": {""}})
	for _, tb := range tabs {
		tb.Shows("Lamps: 2 ")
	}

	assert.NoError(t, s.Shutdown(t.Context()))
	for _, tb := range tabs {
		<-tb.Ended
		assert.EqualError(t, tb.Err(), "websocket: close 1001 (going away): the server is stopping")
	}
	assert.Contains(t, v.Get(toyPage), "Lamps: 2 ", "pages are served to the end")
}
