package metrics

import (
	"bufio"
	"cmp"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// measured measures and logs every request once it is answered. A live connection is not
// measured: it is not answered before it ends. A refused handshake is.
type measured struct {
	*Metrics
	next  http.Handler
	route func(*http.Request) string
}

// Requests returns a handler that measures and logs the requests that it hands on. route
// returns what a request is for, as a label.
func (m *Metrics) Requests(next http.Handler, route func(*http.Request) string) http.Handler {
	return &measured{m, next, route}
}

func (m *measured) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began, answer := time.Now(), &statusWriter{ResponseWriter: w}
	m.next.ServeHTTP(answer, r)
	m.answered(r, cmp.Or(answer.status, http.StatusOK), time.Since(began)) // not here: a socket keeps this frame on its stack
}

func (m *measured) answered(r *http.Request, status int, took time.Duration) {
	if status != http.StatusSwitchingProtocols {
		m.requests.WithLabelValues(m.route(r), knownMethod(r.Method), strconv.Itoa(status)).Observe(took.Seconds())
	}
	m.log.DebugContext(r.Context(), "request", slog.String("method", r.Method), slog.String("path", r.URL.Path),
		slog.Int("status", status), slog.Duration("took", took), slog.String("remote_addr", r.RemoteAddr))
}

// knownMethod returns the method as a label: anybody can send any.
func knownMethod(method string) string {
	if slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodPost}, method) {
		return method
	}
	return "other"
}

// statusWriter keeps the status of an answer. It is 101 once a WebSocket connection has
// taken over.
type statusWriter struct {
	http.ResponseWriter
	status int // 0: none was set, which means 200
}

func (s *statusWriter) WriteHeader(status int) {
	if s.status == 0 && status >= http.StatusOK {
		s.status = status
	}
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController find the rest of the ResponseWriter.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// Hijack implements http.Hijacker, which a WebSocket upgrade asks for.
func (s *statusWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffer, err := http.NewResponseController(s.ResponseWriter).Hijack()
	if err == nil {
		s.status = http.StatusSwitchingProtocols
	}
	return conn, buffer, err
}
