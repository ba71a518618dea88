package site

import (
	"bufio"
	"cmp"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// answered measures and logs every request once it is answered. A live connection is
// not measured: it is not answered before it ends. A handshake that is refused is.
func answered(log *slog.Logger, seconds prometheus.ObserverVec, route func(*http.Request) string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		a := &answer{ResponseWriter: w}
		next.ServeHTTP(a, r)
		took, status := time.Since(began), cmp.Or(a.status, http.StatusOK)
		if status != http.StatusSwitchingProtocols {
			seconds.WithLabelValues(route(r), knownMethod(r.Method), strconv.Itoa(status)).Observe(took.Seconds())
		}
		log.DebugContext(r.Context(), "request", slog.String("method", r.Method), slog.String("path", r.URL.Path),
			slog.Int("status", status), slog.Duration("took", took), slog.String("remote_addr", r.RemoteAddr))
	})
}

// knownMethod returns the method as a label: anybody can send any.
func knownMethod(method string) string {
	if slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodPost}, method) {
		return method
	}
	return "other"
}

// route returns the part of the site that a request is for, as a label: the path of
// a page, "/static/" for every file, or "other".
func (s *Site) route(r *http.Request) string {
	switch _, pattern := s.mux.Handler(r); pattern {
	case "/", "":
		return "other"
	default:
		return cmp.Or(strings.TrimSuffix(pattern, "/{$}"), "/")
	}
}

// answer notes the status of an answer. It is 101 once a WebSocket connection has
// taken over.
type answer struct {
	http.ResponseWriter
	status int // 0: none was set, which means 200
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController find the rest of the ResponseWriter.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// Hijack implements http.Hijacker, which a WebSocket upgrade asks for.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffer, err := http.NewResponseController(a.ResponseWriter).Hijack()
	if err == nil {
		a.status = http.StatusSwitchingProtocols
	}
	return conn, buffer, err
}
