package site

import (
	"net/http"
	"net/http/pprof"
	"sync/atomic"
	"time"

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
	b := ThisBuild()
	m.Gauge("realtime_build_info", "Always 1. The labels say what was built.",
		map[string]string{"version": b.Version, "revision": b.Revision, "go_version": b.Go}, func() int { return 1 })
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

// buckets are the upper bounds of durations, in seconds. The first ones are what
// an answer takes in memory, and the last ones what a broken Redis makes of it.
var buckets = []float64{0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// Histogram adds a metric of durations. The name ends in _seconds.
func (m Metrics) Histogram(name, help string, labels map[string]string) (observe func(time.Duration)) {
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, ConstLabels: labels, Buckets: buckets})
	m.registry.MustRegister(seconds)
	return func(d time.Duration) { seconds.Observe(d.Seconds()) }
}

// requests adds the metric of all requests.
func (m Metrics) requests() prometheus.ObserverVec {
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "realtime_request_duration_seconds",
		Help:    "Time until a request was answered. Refused handshakes are requests, live connections are not.",
		Buckets: buckets,
	}, []string{"route", "method", "status"})
	m.registry.MustRegister(seconds)
	return seconds
}

// connectionMetrics adds the metrics of all live connections, and of what they send.
func (s *Site) connectionMetrics() {
	m := s.Metrics
	m.Gauge("realtime_connections_limit", "Most live connections that may be open.", nil, func() int { return s.admission.max })
	for reason, count := range map[string]*atomic.Int64{
		"too_fast":   &s.stats.TooFast,
		"too_long":   &s.stats.TooLong,
		"not_text":   &s.stats.NotText,
		"not_action": &s.stats.NotAction,
	} {
		m.Counter("realtime_messages_refused_total", "Messages refused.", map[string]string{"reason": reason},
			func() int { return int(count.Load()) })
	}
	m.registry.MustRegister(&framework{pages: func() []*Page { return s.pages }, stats: s.stats})
}

// pageMetrics adds the metrics of a live page.
func (s *Site) pageMetrics(p *Page) {
	labels := map[string]string{"page": p.name()}
	s.Metrics.Gauge("realtime_connections", "Live connections open now.", labels, func() int { return s.admission.on(p.path) })
	s.Metrics.Counter("realtime_connections_opened_total", "Live connections opened.", labels, p.upgrader.Opened)
}

// framework collects those of the framework's own metrics that are maintained: many
// are always 0. The framework offers them as text, which is parsed once a scrape.
type framework struct {
	pages func() []*Page
	stats *wsconn.Stats
}

var (
	refreshesSent = prometheus.NewDesc("realtime_refreshes_sent_total", "Refreshes handed to a connection.", []string{"page"}, nil)
	dispatchDrops = prometheus.NewDesc("realtime_dispatch_drops_total",
		"Refreshes dropped because another was already waiting for the connection.", []string{"page"}, nil)
	slowCloses = prometheus.NewDesc("realtime_slow_closes_total", "Connections closed because their peer did not read.", nil, nil)
)

// Describe implements prometheus.Collector.
func (*framework) Describe(all chan<- *prometheus.Desc) {
	all <- refreshesSent
	all <- dispatchDrops
	all <- slowCloses
}

// Collect implements prometheus.Collector.
func (f *framework) Collect(all chan<- prometheus.Metric) {
	slow := float64(f.stats.SlowCloses.Load()) // the framework closes slow connections as well, when its own queue is full
	for _, p := range f.pages() {
		values := frameworkMetrics(p.handler.MetricsHandler())
		all <- prometheus.MustNewConstMetric(refreshesSent, prometheus.CounterValue, values["livetemplate_publishes_sent_total"], p.name())
		all <- prometheus.MustNewConstMetric(dispatchDrops, prometheus.CounterValue, values[dropped], p.name())
		slow += values["livetemplate_websocket_slow_client_closes_total"]
	}
	all <- prometheus.MustNewConstMetric(slowCloses, prometheus.CounterValue, slow)
}

// dropped is the framework's counter of actions that found no room.
const dropped = "livetemplate_websocket_dispatch_dropped_total"

// frameworkMetrics returns the framework's counters of a page, by name. They are all
// absent if the text cannot be parsed.
func frameworkMetrics(handler http.Handler) map[string]float64 {
	text := newRecorder(http.Header{})
	handler.ServeHTTP(text, &http.Request{Method: http.MethodGet})
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, _ := parser.TextToMetricFamilies(&text.body)
	values := map[string]float64{}
	for name, family := range families {
		values[name] = family.Metric[0].GetCounter().GetValue()
	}
	return values
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
