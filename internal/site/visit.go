package site

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
)

// visit is what is known about a request before it is handled.
type visit struct {
	id     string // identifies the request in the log, and in X-Request-Id for its sender
	secure bool   // the request came over TLS
}

type visitKey struct{}

func visitOf(ctx context.Context) visit {
	v, _ := ctx.Value(visitKey{}).(visit)
	return v
}

// scheme is that of the page that a request was sent to.
func (v visit) scheme() string {
	if v.secure {
		return "https"
	}
	return "http"
}

var requestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// received finds out who sends a request, and how. Forwarding headers count only
// if a proxy sets them: anybody could send them. From here on the host is as browsers
// write it, so that it can be compared with an origin.
func received(log *slog.Logger, trustProxy bool, next http.Handler) http.Handler {
	var warned atomic.Bool
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := visit{id: rand.Text(), secure: r.TLS != nil}
		host, addr := r.Host, r.RemoteAddr
		if trustProxy {
			if id := r.Header.Get("X-Request-Id"); requestID.MatchString(id) {
				v.id = id
			}
			if proto := forwarded(r, "X-Forwarded-Proto"); proto != "" {
				v.secure = slices.Contains([]string{"https", "wss"}, strings.ToLower(proto)) // wss of a socket through Traefik
			}
			if name := forwarded(r, "X-Forwarded-Host"); name != "" {
				host = name
			}
			if ip, ok := forwardedIP(forwarded(r, "X-Forwarded-For")); ok {
				addr = ip.String()
			}
		}
		if !trustProxy && comesThroughProxy(r) && !warned.Swap(true) {
			log.Warn("forwarding headers are ignored: -trust-proxy is for a proxy that sets or removes each of them", slog.String("remote_addr", addr))
		}
		r = r.WithContext(context.WithValue(r.Context(), visitKey{}, v))
		r.Host, r.RemoteAddr = canonicalHost(v.scheme(), host), addr
		w.Header().Set("X-Request-Id", v.id)
		next.ServeHTTP(w, r)
	})
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
