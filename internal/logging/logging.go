// Package logging makes a log that neither a crowd nor a stuck reader can turn against the
// server. It counts repeated messages instead of writing them, drops lines that nobody
// reads, keeps session cookies out, and lowers what the framework logs in the ordinary
// course of events.
package logging

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"maps"
	"regexp"
	"strings"
	"sync"
	"time"

	"realtime/internal/lossy"
)

// A message that repeats is logged RepeatsLogged times in RepeatsWithin. The rest
// are counted, and logged as one.
const (
	RepeatsLogged = 5
	RepeatsWithin = 10 * time.Second
)

// flushWithin is how long the end of the program may wait for the reader of its log.
const flushWithin = 200 * time.Millisecond

// New returns a logger that writes messages of a level and above to w, as text or as JSON.
// A reader of w that is stuck stops nobody: the lines it misses are counted. Call flush at
// the end, to log what was not logged yet.
func New(w io.Writer, level slog.Level, asJSON bool) (logger *slog.Logger, flush func()) {
	lines := lossy.New(w, func(n int) []byte {
		var line bytes.Buffer
		r := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines were dropped: nobody has read them in time", 0)
		r.AddAttrs(slog.Int("dropped", n))
		newHandler(&line, slog.LevelWarn, asJSON).Handle(context.Background(), r)
		return line.Bytes()
	})
	seen := &repeats{counts: map[message]*repeated{}}
	return slog.New(handler{newHandler(lines, level, asJSON), seen}), func() { seen.flush(); lines.Flush(flushWithin) }
}

func newHandler(w io.Writer, level slog.Level, asJSON bool) slog.Handler {
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: tidy}
	if asJSON {
		return slog.NewJSONHandler(w, opts)
	}
	return slog.NewTextHandler(w, opts)
}

// tidy removes the session cookie, which the framework logs as group_id, and writes a
// duration as "1.5s" in JSON as well, where it would be a number without a unit.
func tidy(_ []string, a slog.Attr) slog.Attr {
	switch {
	case a.Key == "group_id":
		return slog.Attr{}
	case a.Value.Kind() == slog.KindDuration:
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

type attrKey struct{}

// With returns a context whose messages have an attribute more.
func With(ctx context.Context, attr slog.Attr) context.Context {
	return context.WithValue(ctx, attrKey{}, attr)
}

// handler lowers to debug level what the framework logs whenever somebody comes or goes, a
// refresh is dropped, or the server stops, and counts repeated messages.
type handler struct {
	slog.Handler
	seen *repeats
}

// Refresh tells a logger, if it is from New, that an action is a refresh: one that is dropped
// is nothing to warn of.
func Refresh(logger *slog.Logger, action string) {
	if h, ok := logger.Handler().(handler); ok {
		h.seen.refreshes.Store(action, true)
	}
}

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	switch r.Message {
	case "dispatch channel full, dropping broadcast action":
		if !h.seen.refresh(r) {
			break
		}
		fallthrough
	case "Client connected", "Client disconnected",
		"Starting graceful shutdown", "Closing active connections", "All connections closed gracefully", "Shutdown complete":
		r.Level = slog.LevelDebug
		if !h.Enabled(ctx, r.Level) {
			return nil
		}
	case "Upload action error": // its attributes quote what a visitor has sent
		r = slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	}
	if r.Level > slog.LevelDebug && h.seen.tooOften(h.Handler, r) {
		return nil
	}
	if attr, ok := ctx.Value(attrKey{}).(slog.Attr); ok {
		r = r.Clone()
		r.AddAttrs(attr)
	}
	return h.Handler.Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs), h.seen}
}

func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.Handler.WithGroup(name), h.seen}
}

// repeats counts how often each message was logged recently.
type repeats struct {
	refreshes sync.Map // actions of which no dropped one is missed

	mu     sync.Mutex
	counts map[message]*repeated
}

// refresh reports whether a record is about such an action.
func (s *repeats) refresh(r slog.Record) (known bool) {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "action" {
			_, known = s.refreshes.Load(a.Value.String())
		}
		return true
	})
	return known
}

type message struct {
	level slog.Level
	text  string
}

// address matches a host and a port.
var address = regexp.MustCompile(`(\d+\.\d+\.\d+\.\d+|\[[0-9a-fA-F:.]+(%\w+)?\]):\d+`)

// withoutPeer returns the part of a message by which repeats are counted. Messages of
// net/http name the peer, and that of a panic goes on with a stack.
func withoutPeer(text string) string {
	if !strings.HasPrefix(text, "http: ") {
		return text
	}
	text, _, _ = strings.Cut(text, "\n")
	return address.ReplaceAllString(text, "ADDRESS")
}

type repeated struct {
	handler slog.Handler
	times   int
}

// tooOften counts a record, and reports whether to leave it out.
func (s *repeats) tooOften(h slog.Handler, r slog.Record) bool {
	m := message{r.Level, withoutPeer(r.Message)}
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.counts[m]
	if seen == nil {
		seen = &repeated{handler: h}
		s.counts[m] = seen
		time.AfterFunc(RepeatsWithin, func() { s.report(m, seen) })
	}
	seen.times++
	return seen.times > RepeatsLogged
}

// report logs how many records of a message were left out, and forgets the message.
func (s *repeats) report(m message, seen *repeated) {
	s.mu.Lock()
	if s.counts[m] != seen { // reported by flush
		s.mu.Unlock()
		return
	}
	delete(s.counts, m)
	leftOut := seen.times - RepeatsLogged
	s.mu.Unlock()
	if leftOut > 0 {
		r := slog.NewRecord(time.Now(), m.level, m.text, 0)
		r.AddAttrs(slog.Int("left_out", leftOut))
		seen.handler.Handle(context.Background(), r)
	}
}

// flush reports every message now.
func (s *repeats) flush() {
	s.mu.Lock()
	counts := maps.Clone(s.counts)
	s.mu.Unlock()
	for m, seen := range counts {
		s.report(m, seen)
	}
}
