package site

import (
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
)

// The reasons for which a live connection is refused.
const (
	stopping     = "stopping"
	full         = "full"
	sessionFull  = "session_full"
	foreign      = "foreign_origin"
	noUpgrade    = "no_upgrade"
	badHandshake = "bad_handshake"
)

// The reasons for which a form is refused.
const (
	crossSite  = "cross_site"
	tooFast    = "too_fast"
	tooLong    = "too_long"
	tooSlow    = "too_slow"
	incomplete = "incomplete"
)

// words returns a reason as people read it.
func words(reason string) string { return strings.ReplaceAll(reason, "_", " ") }

// refusals counts and logs refused requests of a kind.
type refusals struct {
	kind   string
	log    *slog.Logger
	counts map[string]*atomic.Int64 // by reason
}

func newRefusals(log *slog.Logger, kind string, reasons ...string) refusals {
	counts := map[string]*atomic.Int64{}
	for _, reason := range reasons {
		counts[reason] = &atomic.Int64{}
	}
	return refusals{kind, log, counts}
}

// add counts and logs a refused request, and the origin that it should have come from.
func (f refusals) add(r *http.Request, expected, why string, details ...slog.Attr) {
	f.count(why)
	details = append([]slog.Attr{slog.String("reason", why), slog.String("remote_addr", r.RemoteAddr),
		slog.String("origin", r.Header.Get("Origin")), slog.String("expected_origin", expected)}, details...)
	f.log.LogAttrs(r.Context(), slog.LevelWarn, f.kind+" refused", details...)
}

// count counts a refused request.
func (f refusals) count(why string) { f.counts[why].Add(1) }
