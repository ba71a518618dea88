package visitor

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Without this, tests of slow networks might run on a fast one.
func TestNetwork_DelaysAndLosesNothing(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(make([]byte, 50<<10))
	}))
	defer server.Close()
	for name, row := range map[string]struct {
		hold func(*Network)
		want time.Duration
	}{
		"delay":    {func(n *Network) { n.Delay(100 * time.Millisecond) }, 400 * time.Millisecond}, // two round trips
		"throttle": {func(n *Network) { n.Throttle(100 << 10) }, 500 * time.Millisecond},
		"swallow":  {func(n *Network) { time.AfterFunc(300*time.Millisecond, n.Swallow()) }, 300 * time.Millisecond},
	} {
		n, begin := NewNetwork(t, server.URL), time.Now()
		row.hold(n)
		resp, err := http.Get(n.URL)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		assert.NoError(t, err, name)
		assert.Len(t, body, 50<<10, name)
		assert.GreaterOrEqual(t, time.Since(begin), row.want, name)
	}
}
