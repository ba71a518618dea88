package edge

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"
)

// Ready answers load balancers: "ready", or "stopping" with 503 from the start of a stop. A
// server that is "degraded" is as good as any other: its pages are up.
type Ready struct {
	Degraded func() bool   // whether something that the pages need is missing
	Notice   time.Duration // how long balancers have to see that a stop has begun

	draining atomic.Bool
}

func (a *Ready) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	switch {
	case a.draining.Load():
		http.Error(w, "stopping", http.StatusServiceUnavailable)
	case a.Degraded():
		fmt.Fprintln(w, "degraded")
	default:
		fmt.Fprintln(w, "ready")
	}
}

// Drain begins a stop, and waits for as long as balancers have to see it, or until ctx ends.
func (a *Ready) Drain(ctx context.Context) {
	a.draining.Store(true)
	select {
	case <-time.After(a.Notice):
	case <-ctx.Done():
	}
}
