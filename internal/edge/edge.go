// Package edge sees every request first. It gives each an ID, and reads what a proxy says
// about it.
package edge

import (
	"crypto/rand"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"realtime/internal/logging"
	"realtime/internal/origin"
)

// Handler handles requests, and hands them on. From then on the host is as browsers write
// it, so that it can be compared with an origin; the scheme of the URL is that of the page;
// and messages that are logged with the context have the ID, as the answer has.
type Handler struct {
	next       http.Handler
	log        *slog.Logger
	trustProxy bool
	warned     atomic.Bool
}

// New returns a Handler. With trustProxy it believes X-Forwarded-Proto, X-Forwarded-Host,
// X-Forwarded-For and X-Request-Id. Every request must then come through a proxy that sets or
// removes each of them: what it passes on, any client can set.
func New(next http.Handler, log *slog.Logger, trustProxy bool) *Handler {
	return &Handler{next: next, log: log, trustProxy: trustProxy}
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.next.ServeHTTP(w, h.received(w, r)) // a socket keeps this frame on its stack
}

func (h *Handler) received(w http.ResponseWriter, r *http.Request) *http.Request {
	id, scheme, host, addr := rand.Text(), "http", r.Host, r.RemoteAddr
	if r.TLS != nil {
		scheme = "https"
	}
	if h.trustProxy {
		if sent := r.Header.Get("X-Request-Id"); requestID.MatchString(sent) {
			id = sent
		}
		if proto := forwarded(r, "X-Forwarded-Proto"); proto != "" {
			scheme = pageScheme(proto)
		}
		if name := forwarded(r, "X-Forwarded-Host"); name != "" {
			host = name
		}
		if ip, ok := forwardedIP(forwarded(r, "X-Forwarded-For")); ok {
			addr = ip.String()
		}
	}
	if !h.trustProxy && comesThroughProxy(r) && !h.warned.Swap(true) {
		h.log.Warn("forwarding headers are ignored: -trust-proxy is for a proxy that sets or removes each of them", slog.String("remote_addr", addr))
	}
	r = r.WithContext(logging.With(r.Context(), slog.String("request_id", id)))
	url := *r.URL
	url.Scheme = scheme
	r.URL, r.Host, r.RemoteAddr = &url, origin.Host(scheme, host), addr
	w.Header().Set("X-Request-Id", id)
	return r
}

var requestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// pageScheme returns the scheme of a page. Traefik reports that of its socket.
func pageScheme(proto string) string {
	if slices.Contains([]string{"https", "wss"}, strings.ToLower(proto)) {
		return "https"
	}
	return "http"
}

// comesThroughProxy reports whether a request looks as if a proxy had forwarded it.
func comesThroughProxy(r *http.Request) bool {
	h := r.Header
	return h.Get("X-Forwarded-Proto")+h.Get("X-Forwarded-Host")+h.Get("X-Forwarded-For") != ""
}

// forwarded returns the value that the nearest proxy has set. Proxies append to a
// value that they receive.
func forwarded(r *http.Request, header string) string {
	values := strings.Split(strings.Join(r.Header.Values(header), ","), ",")
	return strings.TrimSpace(values[len(values)-1])
}

// forwardedIP returns the address of a client, which some proxies write with a port, and
// an IPv6 address in brackets.
func forwardedIP(text string) (ip netip.Addr, ok bool) {
	if withPort, err := netip.ParseAddrPort(text); err == nil {
		return withPort.Addr().Unmap().WithZone(""), true
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	return ip.Unmap().WithZone(""), err == nil // a zone is any text
}
