package site

import (
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
)

// The reasons for which a live connection is refused.
const (
	stopping    = "stopping"
	full        = "full"
	sessionFull = "session full"
	foreign     = "foreign origin"
)

// The reasons for which a form is refused.
const (
	crossSite = "cross-site"
	tooLong   = "too long"
	tooSlow   = "too slow"
)

// refuse notes that a request was refused, for the operator.
type refuse func(r *http.Request, why string)

// refusals counts and logs refused requests of a kind.
func refusals(log *slog.Logger, registry prometheus.Registerer, kind, metric, help string, reasons ...string) refuse {
	count := prometheus.NewCounterVec(prometheus.CounterOpts{Name: metric, Help: help}, []string{"reason"})
	for _, reason := range reasons {
		count.WithLabelValues(reason)
	}
	registry.MustRegister(count)
	return func(r *http.Request, why string) {
		count.WithLabelValues(why).Inc()
		log.WarnContext(r.Context(), kind+" refused", slog.String("reason", why),
			slog.String("remote_addr", r.RemoteAddr), slog.String("origin", r.Header.Get("Origin")))
	}
}
