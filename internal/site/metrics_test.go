package site

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"

	"realtime/internal/wsconn"
)

// asked counts how often the framework is asked for its metrics.
type asked struct {
	livetemplate.LiveHandler
	times int
}

func (a *asked) MetricsHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		a.times++
		io.WriteString(w, "# TYPE livetemplate_publishes_sent_total counter\nlivetemplate_publishes_sent_total 3\n"+
			"# TYPE livetemplate_websocket_slow_client_closes_total counter\nlivetemplate_websocket_slow_client_closes_total 2\n")
	})
}

func TestMetrics_AskTheFrameworkOnceAScrape(t *testing.T) {
	one, two := &asked{}, &asked{}
	stats := &wsconn.Stats{}
	stats.SlowCloses.Add(1)
	m := newMetrics()
	m.registry.MustRegister(&framework{stats: stats, pages: func() []*Page {
		return []*Page{{path: "/a/one", handler: one}, {path: "/a/two", handler: two}}
	}})
	w := httptest.NewRecorder()
	m.admin().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		`realtime_refreshes_sent_total{page="one"} 3`,
		`realtime_refreshes_sent_total{page="two"} 3`,
		`realtime_dispatch_drops_total{page="one"} 0`,
		"\nrealtime_slow_closes_total 5\n",
	} {
		assert.Contains(t, w.Body.String(), want)
	}
	assert.Equal(t, 1, one.times)
	assert.Equal(t, 1, two.times)
}
