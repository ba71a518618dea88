package wsconn

import (
	"context"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// pageState is that of a page whose template fails if Row is not 0.
type pageState struct {
	Shared int64
	Rows   []string
	Row    int
}

type page struct{ shared atomic.Int64 }

func (c *page) Mount(s pageState, ctx *livetemplate.Context) (pageState, error) {
	s.Shared = c.shared.Load()
	return s, ctx.Subscribe(ctx.SelfTopic())
}

func (c *page) Press(s pageState, ctx *livetemplate.Context) (pageState, error) {
	s.Shared = c.shared.Add(1)
	return s, ctx.Publish(ctx.SelfTopic(), "Changed", nil)
}

func (c *page) ChangeNothing(s pageState, ctx *livetemplate.Context) (pageState, error) {
	return s, ctx.Publish(ctx.SelfTopic(), "Changed", nil)
}

func (c *page) Refuse(s pageState, _ *livetemplate.Context) (pageState, error) {
	return s, livetemplate.FieldError{Field: "name", Message: "refused"}
}

func (c *page) Break(s pageState, _ *livetemplate.Context) (pageState, error) {
	s.Row = 1
	return s, nil
}

func (c *page) Changed(s pageState, _ *livetemplate.Context) (pageState, error) {
	s.Shared = c.shared.Load()
	return s, nil
}

// openTwo opens two sockets of one visitor on a page of the stock framework, and reads
// their first frame.
func openTwo(t *testing.T, rate float64, burst int) (tab, peer *websocket.Conn) {
	t.Helper()
	file := fstest.MapFS{"page.tmpl": {Data: []byte(`<!DOCTYPE html><html><head><title>Page</title></head><body>` +
		`<p>{{.Shared}} {{index .Rows .Row}}</p></body></html>`)}}
	tmpl, err := livetemplate.New("page", livetemplate.WithParseFS(file, "page.tmpl"), livetemplate.WithMessageRateLimit(rate, burst))
	require.NoError(t, err)
	handler := tmpl.Handle(&page{}, livetemplate.AsState(&pageState{Rows: []string{"only"}}))
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		handler.Shutdown(ctx)
	})
	v := visitor.New(t, server.URL)
	v.Get("/") // for its cookie
	for _, ws := range []**websocket.Conn{&tab, &peer} {
		*ws, err = v.Dial("/")
		require.NoError(t, err)
		t.Cleanup(func() { (*ws).Close() })
		require.NoError(t, (*ws).SetReadDeadline(time.Now().Add(visitor.Soon)))
		require.Empty(t, next(*ws), "the first frame is of no kind")
	}
	return tab, peer
}

// next returns the kind of the next frame, or the frame if it has none.
func next(ws *websocket.Conn) string {
	_, data, err := ws.ReadMessage()
	if err != nil {
		return "no frame: " + err.Error()
	}
	return kindOf(data).name
}

// It is a canary for every kind of frame, and for one answer to each message.
func TestFramework_FramesAreThoseThatWsconnKnows(t *testing.T) {
	seen := map[string]bool{}
	follows := func(want, got, after string) {
		t.Helper()
		seen[got] = true
		assert.Equal(t, want, got, "The framework sends another frame now after %s: %s in internal/wsconn must follow "+
			"(nothingChanged may go if there is no frame).", after, want)
	}
	tab, peer := openTwo(t, 1e6, 1e6)
	const press = `{"action":"press"}`
	for _, row := range []struct {
		message string
		own     string // the kind of its answer; none if empty
		peers   string // the kind of the refresh that it makes; none if empty
	}{
		{press, "action", "noAction"},
		{`{"action":"changeNothing"}`, "action", "nothingChanged"},
		{`{"action":"refuse"}`, "action", ""},
		{`{"action":"unknown"}`, "action", ""},
		{`{"action":"x\",\"errors\":null}}"}`, "action", ""},
		{`{"action":"x","data":{"errors":null}}`, "action", ""},
		{`{"action":"__navigate__"}`, "action", ""},
		{`{"action":"mount"}`, "action", ""},
		{`{}`, "action", ""},
		{`{"action":"__ping__"}`, "pong", ""},
		{`{"action":"upload_complete","upload_name":"x","entry_ids":["x"]}`, "", ""}, // hence noAnswer
		{`{"action":"break"}`, "", ""},                                               // likewise
	} {
		t.Log(row.message)
		require.NoError(t, tab.WriteMessage(websocket.TextMessage, []byte(row.message)))
		if row.own != "" {
			follows(row.own, next(tab), row.message)
		}
		require.NoError(t, visitor.Act(tab, "__ping__", nil))
		follows("pong", next(tab), "a ping behind "+row.message)
		if row.peers != "" {
			follows(row.peers, next(peer), row.message)
		}
	}

	tab, _ = openTwo(t, 1e-9, 1)
	for _, want := range []string{"action", "tooFast", "tooFast"} {
		require.NoError(t, visitor.Act(tab, "press", nil))
		follows(want, next(tab), "a message above the rate limit")
	}
	for _, k := range kinds {
		assert.True(t, seen[k.name], "%s of kinds is not covered", k.name)
	}
}
