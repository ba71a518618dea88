package wsconn

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/livetemplate/livetemplate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Most tests run in a bubble of synctest, where time passes only while everybody
// waits, and over a connection in memory, which takes nothing that nobody reads.

// wire is the answer to a request that came over a connection.
type wire struct {
	http.ResponseWriter
	conn net.Conn
}

func (w wire) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.conn, bufio.NewReadWriter(bufio.NewReader(w.conn), bufio.NewWriter(w.conn)), nil
}

// connect upgrades a connection in memory, and returns both of its ends.
func connect(t *testing.T, u *Upgrader) (c *conn, peer *websocket.Conn) {
	t.Helper()
	near, far := net.Pipe()
	return upgrade(t, u, near, far)
}

func upgrade(t *testing.T, u *Upgrader, near, far net.Conn) (c *conn, peer *websocket.Conn) {
	t.Helper()
	upgraded := make(chan livetemplate.WSConn, 1)
	go func() {
		r, err := http.ReadRequest(bufio.NewReader(near))
		assert.NoError(t, err)
		c, err := u.Upgrade(wire{httptest.NewRecorder(), near}, r, nil)
		assert.NoError(t, err)
		upgraded <- c
	}()
	dialer := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return far, nil }}
	peer, _, err := dialer.Dial("ws://server", nil)
	require.NoError(t, err)
	c = (<-upgraded).(*conn)
	t.Cleanup(func() {
		peer.Close()
		c.cut()
	})
	return c, peer
}

// quiet returns an Upgrader without a log.
func quiet() *Upgrader { return New(Options{Log: slog.New(slog.DiscardHandler)}) }

// recorded returns an Upgrader, and its log.
func recorded() (*Upgrader, *bytes.Buffer) {
	var log bytes.Buffer
	return New(Options{Log: slog.New(slog.NewTextHandler(&log, nil))}), &log
}

// readAll reads until the connection ends, and returns why.
func readAll(ws interface {
	ReadMessage() (int, []byte, error)
}) (messages []string, end error) {
	for {
		_, data, err := ws.ReadMessage()
		if err != nil {
			return messages, err
		}
		messages = append(messages, string(data))
	}
}

// assertExpected checks that the framework logs no warning about the end of a connection.
func assertExpected(t *testing.T, end error) {
	t.Helper()
	assert.False(t, livetemplate.WSIsUnexpectedCloseError(end, livetemplate.WSCloseGoingAway), "the framework warns about %v", end)
}

// Over TCP: a connection that is closed before everything is read would be reset, and
// the peer would not get its close frame.
func TestReadMessage_RefusesWhatIsNoAction(t *testing.T) {
	long := strings.Repeat("x", MaxMessage)
	longest := `{"action":"x","data":{"a":"` + long[len(`{"action":"x","data":{"a":""}}`):] + `"}}`
	require.Len(t, longest, MaxMessage)
	notText := func(s *Stats) *atomic.Int64 { return &s.NotText }
	tooLong := func(s *Stats) *atomic.Int64 { return &s.TooLong }
	notAction := func(s *Stats) *atomic.Int64 { return &s.NotAction }
	for name, row := range map[string]struct {
		frameType int
		frame     string
		wantCode  int // of the close frame; 0: the connection goes on
		refusals  func(*Stats) *atomic.Int64
	}{
		"binary":               {websocket.BinaryMessage, `{"action":"x"}`, 1003, notText},
		"not UTF-8":            {websocket.TextMessage, "{\"action\":\"\xff\"}", 1007, notText},
		"too long":             {websocket.TextMessage, long + "x", 1009, tooLong},
		"far too long":         {websocket.TextMessage, strings.Repeat(long, 8), 1009, tooLong},
		"no JSON":              {websocket.TextMessage, `{"action":`, 0, notAction},
		"no object":            {websocket.TextMessage, `[1,2,3]`, 0, notAction},
		"fields of wrong kind": {websocket.TextMessage, `{"action":7,"data":"x"}`, 0, notAction},
		"deeply nested":        {websocket.TextMessage, `{"data":` + strings.Repeat("[", MaxMessage/2), 0, notAction},
		"nested too deep":      {websocket.TextMessage, `{"data":{"x":` + strings.Repeat("[", 11000) + strings.Repeat("]", 11000) + `}}`, 0, notAction},
	} {
		t.Run(name, func(t *testing.T) {
			upgrader, log := recorded()
			near, far := tcp(t)
			c, peer := upgrade(t, upgrader, near, far)
			peer.SetReadDeadline(time.Now().Add(30 * time.Second)) // ends a wait that would never end
			var got []string
			ended := make(chan error)
			go func() {
				var end error
				got, end = readAll(c)
				ended <- end
			}()
			assert.NoError(t, peer.WriteMessage(row.frameType, []byte(row.frame)), "it is read to its end")
			peer.WriteMessage(row.frameType, []byte(row.frame))
			peer.WriteMessage(websocket.TextMessage, []byte(longest))
			if row.wantCode == 0 {
				for range 2 {
					_, answer, err := peer.ReadMessage()
					require.NoError(t, err)
					assert.Equal(t, `{"tree":{},"meta":{"success":false,"action":"refused"}}`, string(answer))
				}
				peer.WriteMessage(websocket.CloseMessage, nil)
				assertExpected(t, <-ended)
				require.Len(t, got, 1)
				assert.True(t, got[0] == longest, "the longest message that is allowed arrives")
				assert.EqualValues(t, 2, row.refusals(upgrader.Stats).Load())
			} else {
				_, _, end := peer.ReadMessage()
				assert.True(t, websocket.IsCloseError(end, row.wantCode), "the peer got: %v", end)
				peer.Close()
				assertExpected(t, <-ended)
				assert.Empty(t, got, "what came after it is not read")
				assert.EqualValues(t, 1, row.refusals(upgrader.Stats).Load())
			}
			assert.Equal(t, 1, strings.Count(log.String(), "refused"), "the log:\n%s", log)
			assert.NotContains(t, log.String(), "action=", "what a peer sends is not for the log")
		})
	}
}

// tcp returns both ends of a TCP connection.
func tcp(t *testing.T) (near, far net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	far, err = net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	near, err = listener.Accept()
	require.NoError(t, err)
	return near, far
}

// The connection of a peer that has gone is counted no more, and what is still on its way
// to it is no error.
func TestReadMessage_OrdinaryCloseIsGoingAway(t *testing.T) {
	closing := func(frame []byte) func(*websocket.Conn) {
		return func(ws *websocket.Conn) { ws.WriteMessage(websocket.CloseMessage, frame) }
	}
	for name, row := range map[string]struct {
		leave      func(*websocket.Conn)
		unexpected bool
	}{
		"normal closure": {closing(websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")), false},
		"without a code": {closing(nil), false},
		"going away":     {closing(websocket.FormatCloseMessage(websocket.CloseGoingAway, "")), false},
		"protocol error": {closing(websocket.FormatCloseMessage(websocket.CloseProtocolError, "")), true},
		"without a word": {func(ws *websocket.Conn) { ws.Close() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				upgrader := quiet()
				c, peer := connect(t, upgrader)
				connect(t, upgrader)
				go readAll(peer)
				go row.leave(peer)
				_, end := readAll(c)
				unexpected := livetemplate.WSIsUnexpectedCloseError(end, livetemplate.WSCloseGoingAway, livetemplate.WSCloseAbnormalClosure)
				assert.Equal(t, row.unexpected, unexpected, "whether the framework warns about %v", end)
				assert.Equal(t, 1, upgrader.Open(), "the other one")
				assert.Equal(t, 2, upgrader.Opened())
				for range 3 {
					assert.NoError(t, c.WriteMessage(websocket.TextMessage, []byte("still on its way")))
				}
			})
		})
	}
}

// With the defaults: a peer has vanished if nothing arrives from it for 7 seconds. Every
// other ping may get lost.
func TestHeartbeat_FindsPeersThatHaveVanishedAndKeepsAllOthers(t *testing.T) {
	const stays = 5 * time.Minute
	for name, row := range map[string]struct {
		answers int           // of so many pings the peer answers the last; 0: none
		sends   time.Duration // how often it sends a message; 0: never
		stays   bool
	}{
		"an idle peer":                          {answers: 1, stays: true},
		"every other ping gets lost":            {answers: 2, stays: true},
		"a peer that sends but answers no ping": {sends: 6 * time.Second, stays: true},
		"a peer that has vanished":              {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				upgrader, began := quiet(), time.Now()
				c, peer := connect(t, upgrader)
				answer, pings := peer.PingHandler(), 0
				peer.SetPingHandler(func(data string) error {
					if pings++; row.answers == 0 || pings%row.answers != 0 {
						return nil
					}
					return answer(data)
				})
				go readAll(peer)
				go func() {
					for row.sends > 0 && upgrader.Open() > 0 {
						time.Sleep(row.sends)
						peer.WriteMessage(websocket.TextMessage, []byte(`{"action":"busy"}`))
					}
				}()
				time.AfterFunc(stays, func() { peer.Close() })
				_, end := readAll(c)
				if row.stays {
					assert.Equal(t, stays, time.Since(began))
				} else {
					assert.Equal(t, 7*time.Second, time.Since(began))
					assert.True(t, isTimeout(end), "%v", end)
				}
				assert.Zero(t, upgrader.Open())
				time.Sleep(row.sends) // the peer notices
			})
		})
	}
}

// A peer that does not read holds up nobody who writes to it, makes only so much wait,
// and is closed: at once when that is full, or after 3 seconds for one frame, a ping too.
func TestWriteMessage_DoesNotWaitForAPeerThatDoesNotRead(t *testing.T) {
	for name, row := range map[string]struct {
		fill int // how much is written, in bytes
		want time.Duration
	}{
		"a full queue":  {2 * MaxQueued, 0},
		"a frame stuck": {MaxQueued / 2, 3 * time.Second},
		"a ping stuck":  {0, 6 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				upgrader, log := recorded()
				c, _ := connect(t, upgrader)
				began, frame := time.Now(), make([]byte, 8<<10)
				for range row.fill / len(frame) {
					assert.NoError(t, c.WriteMessage(websocket.TextMessage, frame))
					synctest.Wait() // the first frame is being written
					assert.LessOrEqual(t, queued(c), MaxQueued)
				}
				assert.Zero(t, time.Since(began), "writing does not wait")
				_, _, err := c.ReadMessage()
				assert.Error(t, err)
				assert.Equal(t, row.want, time.Since(began))
				assert.Zero(t, upgrader.Open())
				synctest.Wait()
				assert.EqualValues(t, 1, upgrader.Stats.SlowCloses.Load())
				assert.Equal(t, 1, strings.Count(log.String(), "the peer does not read"), "the log:\n%s", log)
			})
		})
	}
}

// queued returns how much waits to be written, in bytes.
func queued(c *conn) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queued
}

// A peer may be slow to read what it has asked for. No more is taken from it
// meanwhile, and nothing is lost.
func TestReadMessage_WaitsForAPeerThatReadsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const answer = MaxQueued / 8
		c, peer := connect(t, quiet())
		go func() {
			for {
				if _, _, err := c.ReadMessage(); err != nil {
					return
				}
				c.WriteMessage(websocket.TextMessage, make([]byte, answer))
			}
		}()
		go func() {
			for range MaxUnanswered {
				peer.WriteMessage(websocket.TextMessage, []byte(`{"action":"x"}`))
			}
		}()
		synctest.Wait()
		assert.Equal(t, muchQueued+answer, queued(c))
		for range MaxUnanswered {
			_, _, err := peer.ReadMessage()
			require.NoError(t, err)
		}
	})
}

// A peer that sends more than is answered is not read until there are answers, or until
// it is clear that there will be none.
func TestReadMessage_WaitsForAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const messages = 2 * MaxUnanswered
		c, peer := connect(t, quiet())
		go readAll(peer)
		go func() {
			for range messages {
				peer.WriteMessage(websocket.TextMessage, []byte(`{"action":"message"}`))
			}
		}()
		var read atomic.Int64
		go func() {
			for range messages {
				c.ReadMessage()
				read.Add(1)
			}
		}()
		for answers := range 3 {
			synctest.Wait()
			assert.EqualValues(t, MaxUnanswered+answers, read.Load())
			c.WriteMessage(websocket.TextMessage, []byte("answer"))
		}
		time.Sleep(noAnswer)
		synctest.Wait()
		assert.EqualValues(t, messages, read.Load())
	})
}

func TestClose_WritesWhatIsQueuedAndIsNeverAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := connect(t, quiet())
		for range 100 {
			c.WriteMessage(websocket.TextMessage, []byte("queued"))
		}
		assert.NoError(t, c.Close())
		assert.NoError(t, c.Close(), "the framework closes twice")
		got, end := readAll(peer)
		assert.Equal(t, strings.Repeat("queued", 100), strings.Join(got, ""))
		assert.True(t, websocket.IsUnexpectedCloseError(end), "then the end: %v", end)
	})
}

func TestCloseAll_IsSpreadOverATimeAndWaitsForNobody(t *testing.T) {
	const peers, over = 20, 400 * time.Millisecond
	for name, row := range map[string]struct{ timeout, want time.Duration }{
		"all of the time": {time.Hour, over},
		"no more time":    {over / 2, over / 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				upgrader, began := quiet(), time.Now()
				closed, ended := make(chan time.Duration, peers), make(chan error, peers+1)
				for i := range peers + 1 {
					c, peer := connect(t, upgrader)
					go func() {
						_, end := readAll(c)
						ended <- end
					}()
					if i == peers {
						go io.Copy(io.Discard, peer.NetConn()) // answers nothing
						continue
					}
					go func() {
						_, end := readAll(peer)
						assert.True(t, websocket.IsCloseError(end, websocket.CloseGoingAway), "closed with: %v", end)
						closed <- time.Since(began)
					}()
				}
				ctx, cancel := context.WithTimeout(t.Context(), row.timeout)
				defer cancel()
				upgrader.CloseAll(ctx, over)
				assert.Equal(t, row.want, time.Since(began))
				gap, last := time.Duration(0), time.Duration(0)
				for range peers {
					at := <-closed
					gap, last = max(gap, at-last), at
				}
				assert.Less(t, gap, over/8, "one after the other")
				for range peers + 1 {
					assertExpected(t, <-ended)
				}
				assert.LessOrEqual(t, time.Since(began), row.want+closeWait, "the one that does not answer")
				assert.Zero(t, upgrader.Open())
			})
		})
	}
}

func TestWriteMessage_ImprovesOnTheFrameworkAndTellsOfRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		upgrader, log := recorded()
		refreshes := 0
		upgrader.OnRefresh(func() { refreshes++ })
		c, peer := connect(t, upgrader)
		got := make(chan string, 10)
		go func() {
			for {
				_, frame, err := peer.ReadMessage()
				if err != nil {
					return
				}
				got <- string(frame)
			}
		}()
		const tooMany = `{"tree":null,"meta":{"success":false,"errors":{"_rate_limit":"Too many requests. Please slow down."}}}`
		const slowDown = `{"tree":{},"meta":{"success":false,"action":"slow-down"}}`
		const refresh = `{"tree":{"0":"1"},"meta":{"success":true,"errors":null}}`
		const answer = `{"tree":{"0":"1"},"meta":{"success":true,"errors":null,"action":"increment"}}`
		for _, row := range []struct {
			frame, want string // an empty want: no frame is sent
			refresh     bool
		}{
			{`{"tree":{},"meta":{"success":true,"errors":null}}`, "", true}, // is not sent, and was rendered all the same
			{tooMany, slowDown, false},
			{tooMany, slowDown, false},
			{`{"pong":true}`, `{"type":"error","code":"pong"}`, false},
			{refresh, refresh, true},
			{answer, answer, false},
		} {
			before := refreshes
			assert.NoError(t, c.WriteMessage(websocket.TextMessage, []byte(row.frame)))
			synctest.Wait()
			assert.Equal(t, row.refresh, refreshes > before, "a refresh: %s", row.frame)
			if row.want != "" {
				assert.Equal(t, row.want, <-got, "for %s", row.frame)
			}
			assert.Empty(t, got, "for %s", row.frame)
		}
		assert.Equal(t, 1, strings.Count(log.String(), "rate limit"), "the log:\n%s", log)
	})
}
