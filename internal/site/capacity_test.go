package site_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"

	"realtime/internal/site"
	"realtime/internal/visitor"
)

// When many connect at once, exactly as many are taken in as there is room for.
func TestCapacity_IsExactForACrowd(t *testing.T) {
	const knocks, room = 40, 7
	for name, row := range map[string]struct {
		limits site.Options
		opened int
		why    string
	}{
		"of all":         {site.Options{MaxConnections: room}, room, "full"},
		"of one browser": {site.Options{MaxPerSession: room}, knocks/2 + room, "session_full"},
	} {
		t.Run(name, func(t *testing.T) {
			s, server := serve(t, row.limits)
			cookie := http.Header{"Cookie": {visitor.SessionCookie + "=" + madeUp()}}
			for round := range 3 {
				sockets := make([]*websocket.Conn, knocks)
				var knocking sync.WaitGroup
				for i := range sockets {
					header := http.Header{} // half of them are somebody else
					if i%2 == 0 {
						header = cookie
					}
					knocking.Go(func() { sockets[i], _ = visitor.Knock(t, server, toyPage, header) })
				}
				knocking.Wait()
				opened := 0
				for _, ws := range sockets {
					if ws != nil {
						opened++
						ws.Close()
					}
				}
				assert.Equal(t, row.opened, opened)
				assert.Equal(t, (round+1)*(knocks-row.opened), metric(t, s, `realtime_connections_refused_total{reason="`+row.why+`"}`))
				assert.Eventually(t, func() bool { return metric(t, s, `realtime_connections{page="toy"}`) == 0 }, visitor.Soon, time.Millisecond)
			}
		})
	}
}
