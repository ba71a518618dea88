package main

import (
	"context"
	"io"
	"log/slog"
)

// newLogger logs to w, as text or as JSON, from a level on.
func newLogger(w io.Writer, level slog.Level, asJSON bool) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: dropSessionCookie}
	if asJSON {
		return slog.New(quietVisits{slog.NewJSONHandler(w, opts)})
	}
	return slog.New(quietVisits{slog.NewTextHandler(w, opts)})
}

// dropSessionCookie keeps the visitor's session cookie, which the framework
// logs as group_id, out of the log.
func dropSessionCookie(_ []string, a slog.Attr) slog.Attr {
	if a.Key == "group_id" {
		return slog.Attr{}
	}
	return a
}

// quietVisits logs at debug level what the framework logs at info level every
// time somebody comes or goes.
type quietVisits struct {
	slog.Handler
}

func (h quietVisits) Handle(ctx context.Context, r slog.Record) error {
	switch r.Message {
	case "Client connected", "Client disconnected", "Created new session group":
		r.Level = slog.LevelDebug
		if !h.Enabled(ctx, r.Level) {
			return nil
		}
	}
	return h.Handler.Handle(ctx, r)
}

func (h quietVisits) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quietVisits{h.Handler.WithAttrs(attrs)}
}

func (h quietVisits) WithGroup(name string) slog.Handler {
	return quietVisits{h.Handler.WithGroup(name)}
}
