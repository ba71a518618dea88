package main

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

	"realtime/internal/cluster"
	"realtime/internal/fanout"
	"realtime/internal/wsconn"
)

// metrics are what an operator can watch, of both pages.
type metrics struct {
	registry           *prometheus.Registry
	connectionsRefused *prometheus.CounterVec
	requestsRefused    *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		connectionsRefused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "realtime_connections_refused_total", Help: "Live connections refused.",
		}, []string{"reason"}),
		requestsRefused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "realtime_requests_refused_total", Help: "Form posts refused.",
		}, []string{"reason"}),
	}
	for _, reason := range []string{stopping, full, sessionFull, foreign} {
		m.connectionsRefused.WithLabelValues(reason)
	}
	for _, reason := range []string{crossSite, tooLong, tooSlow} {
		m.requestsRefused.WithLabelValues(reason)
	}
	m.registry.MustRegister(m.connectionsRefused, m.requestsRefused,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) gauge(name, help string, labels prometheus.Labels, value func() int) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels},
		func() float64 { return float64(value()) }))
}

func (m *metrics) counter(name, help string, labels prometheus.Labels, value func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, value))
}

// page registers what every live page has. What the framework counts of it is
// published where it is true: many of its metrics are always 0.
func (m *metrics) page(name string, handler livetemplate.LiveHandler, connections func() int) {
	labels := prometheus.Labels{"page": name}
	m.gauge("realtime_connections", "Live connections open now.", labels, connections)
	for _, c := range []struct{ name, help, framework string }{
		{"realtime_refreshes_sent_total", "Refreshes handed to a connection.", "livetemplate_publishes_sent_total"},
		{"realtime_dispatch_drops_total", "Refreshes left out because one was waiting for the connection already.", "livetemplate_websocket_dispatch_dropped_total"},
	} {
		m.counter(c.name, c.help, labels, func() float64 { return frameworkMetric(handler, c.framework) })
	}
}

// refresh registers what the fan-out counts.
func (m *metrics) refresh(action string, r *fanout.Refresh) {
	labels := prometheus.Labels{"action": action}
	m.counter("realtime_refreshes_asked_total", "Changes that asked for a refresh.", labels,
		func() float64 { return float64(r.Asked.Load()) })
	m.counter("realtime_refreshes_merged_total", "Changes for which a refresh that was waiting already will do.", labels,
		func() float64 { return float64(r.Merged.Load()) })
}

// sockets registers what the upgrader counts. The framework closes who is too
// slow as well, when its own queue is full.
func (m *metrics) sockets(stats *wsconn.Stats, handlers []livetemplate.LiveHandler) {
	for reason, count := range map[string]*atomic.Int64{
		"too fast":  &stats.TooFast,
		"too long":  &stats.TooLong,
		"not text":  &stats.NotText,
		"no action": &stats.NotAction,
	} {
		m.counter("realtime_messages_refused_total", "Messages refused.", prometheus.Labels{"reason": reason},
			func() float64 { return float64(count.Load()) })
	}
	m.counter("realtime_slow_closes_total", "Connections closed because their peer did not read.", nil, func() float64 {
		closes := float64(stats.SlowCloses.Load())
		for _, h := range handlers {
			closes += frameworkMetric(h, "livetemplate_websocket_slow_client_closes_total")
		}
		return closes
	})
}

// redis registers whether this server can share.
func (m *metrics) redis(servers *cluster.Member) {
	m.gauge("realtime_redis_up", "1 while Redis can be reached.", nil, func() int {
		if servers.Away() {
			return 0
		}
		return 1
	})
}

// frameworkMetric is the value of one of the framework's own metrics, which can
// only be had as text.
func frameworkMetric(handler livetemplate.LiveHandler, name string) float64 {
	text := &answer{ResponseWriter: discard{http.Header{}}}
	handler.MetricsHandler().ServeHTTP(text, &http.Request{Method: http.MethodGet})
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(&text.body)
	if err != nil || families[name] == nil {
		return 0
	}
	return families[name].Metric[0].GetCounter().GetValue()
}

// admin is for the operator alone: metrics and profiles.
func (m *metrics) admin() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}
