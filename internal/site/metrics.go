package site

import (
	"net/http"
	"net/http/pprof"
	"sync/atomic"

	"github.com/livetemplate/livetemplate"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"realtime/internal/wsconn"
)

// Metrics are what an operator can watch.
type Metrics struct{ registry *prometheus.Registry }

func newMetrics() Metrics {
	m := Metrics{prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Gauge adds a metric whose value goes up and down.
func (m Metrics) Gauge(name, help string, labels map[string]string, value func() int) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels},
		func() float64 { return float64(value()) }))
}

// Counter adds a metric whose value only grows.
func (m Metrics) Counter(name, help string, labels map[string]string, value func() int) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels},
		func() float64 { return float64(value()) }))
}

// page adds the metrics of a live page. Of the framework's own metrics it takes the
// ones that are maintained: many are always 0.
func (m Metrics) page(name string, handler livetemplate.LiveHandler, connections func() int) {
	labels := map[string]string{"page": name}
	m.Gauge("realtime_connections", "Live connections open now.", labels, connections)
	for _, c := range []struct{ name, help, framework string }{
		{"realtime_refreshes_sent_total", "Refreshes handed to a connection.", "livetemplate_publishes_sent_total"},
		{"realtime_dispatch_drops_total", "Refreshes dropped because another was already waiting for the connection.", "livetemplate_websocket_dispatch_dropped_total"},
	} {
		m.Counter(c.name, c.help, labels, func() int { return frameworkMetric(handler, c.framework) })
	}
}

// sockets adds the metrics of all connections. The framework closes slow ones as
// well, when its own queue is full.
func (m Metrics) sockets(stats *wsconn.Stats, handlers func() []livetemplate.LiveHandler) {
	for reason, count := range map[string]*atomic.Int64{
		"too fast":  &stats.TooFast,
		"too long":  &stats.TooLong,
		"not text":  &stats.NotText,
		"no action": &stats.NotAction,
	} {
		m.Counter("realtime_messages_refused_total", "Messages refused.", map[string]string{"reason": reason},
			func() int { return int(count.Load()) })
	}
	m.Counter("realtime_slow_closes_total", "Connections closed because their peer did not read.", nil, func() int {
		closes := int(stats.SlowCloses.Load())
		for _, h := range handlers() {
			closes += frameworkMetric(h, "livetemplate_websocket_slow_client_closes_total")
		}
		return closes
	})
}

// frameworkMetric returns one of the framework's metrics, which it offers as text
// only.
func frameworkMetric(handler livetemplate.LiveHandler, name string) int {
	text := newRecorder(http.Header{})
	handler.MetricsHandler().ServeHTTP(text, &http.Request{Method: http.MethodGet})
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(&text.body)
	if err != nil || families[name] == nil {
		return 0
	}
	return int(families[name].Metric[0].GetCounter().GetValue())
}

// admin serves metrics and profiles.
func (m Metrics) admin() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}
