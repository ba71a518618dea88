// Package metrics tells an operator what happens: metrics for Prometheus, profiles, and a
// line in the log for every request.
package metrics

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are what an operator can watch.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
	log      *slog.Logger
	server   *http.Server
}

// New returns metrics of what was built, which the labels say, of the process and of all
// requests.
func New(log *slog.Logger, built map[string]string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), log: log, requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "realtime_request_duration_seconds",
		Help:    "Time until a request was answered. Refused handshakes are requests, live connections are not.",
		Buckets: buckets,
	}, []string{"route", "method", "status"})}
	m.registry.MustRegister(m.requests, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.Gauge("realtime_build_info", "Always 1. The labels say what was built.", built, func() int { return 1 })
	m.server = &http.Server{Handler: m.Handler(), ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError)}
	return m
}

// Gauge adds a metric whose value goes up and down.
func (m *Metrics) Gauge(name, help string, labels map[string]string, value func() int) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels},
		func() float64 { return float64(value()) }))
}

// Counter adds a metric whose value only grows.
func (m *Metrics) Counter(name, help string, labels map[string]string, value func() int) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels},
		func() float64 { return float64(value()) }))
}

// buckets are the upper bounds of durations, in seconds. The first ones are what
// an answer takes in memory, and the last ones what a broken Redis makes of it.
var buckets = []float64{0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// Histogram adds a metric of durations. The name ends in _seconds.
func (m *Metrics) Histogram(name, help string, labels map[string]string) (observe func(time.Duration)) {
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, ConstLabels: labels, Buckets: buckets})
	m.registry.MustRegister(seconds)
	return func(d time.Duration) { seconds.Observe(d.Seconds()) }
}

// Handler serves /metrics and /debug/pprof/. It is not for visitors.
func (m *Metrics) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// Serve serves them until Close, and returns the error of the listener.
func (m *Metrics) Serve(l net.Listener) error { return m.server.Serve(l) }

// Close closes all connections.
func (m *Metrics) Close() error { return m.server.Close() }
