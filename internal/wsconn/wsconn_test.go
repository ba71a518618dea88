package wsconn

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
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

// Tests run in a synctest bubble, where time passes only while every goroutine waits, and
// over a connection in memory, which buffers nothing.

// wire is the response to a request that came over a connection.
type wire struct {
	http.ResponseWriter
	conn net.Conn
}

func (w wire) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.conn, bufio.NewReadWriter(bufio.NewReader(w.conn), bufio.NewWriter(w.conn)), nil
}

// connect upgrades a connection in memory, and returns both ends.
func connect(t *testing.T, u *Upgrader) (c *conn, peer *websocket.Conn) {
	t.Helper()
	near, far := net.Pipe()
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

func TestUpgrade_IsNoErrorIfThePeerHasGone(t *testing.T) {
	near, far := net.Pipe()
	far.Close()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
	assert.PanicsWithValue(t, http.ErrAbortHandler, func() { quiet().Upgrade(wire{httptest.NewRecorder(), near}, r, nil) })
	r.Header.Del("Upgrade")
	_, err := quiet().Upgrade(wire{httptest.NewRecorder(), near}, r, nil)
	assert.Error(t, err)
}

// heard is what was read from a connection, when that ended, and why.
type heard struct {
	messages []string
	until    time.Time
	end      error
}

// hear reads from one end of a connection until that ends.
func hear(ws livetemplate.WSConn) <-chan heard {
	all := make(chan heard, 1)
	go func() {
		var h heard
		for h.end == nil {
			_, data, err := ws.ReadMessage()
			if h.end, h.until = err, time.Now(); err == nil {
				h.messages = append(h.messages, string(data))
			}
		}
		all <- h
	}()
	return all
}

// assertExpected checks that the framework logs no warning about the end of a connection.
func assertExpected(t *testing.T, end error) {
	t.Helper()
	assert.False(t, livetemplate.WSIsUnexpectedCloseError(end, livetemplate.WSCloseGoingAway), "the framework warns about %v", end)
}

func TestReadMessage_RefusesWhatIsNotAnAction(t *testing.T) {
	const text, binary = websocket.TextMessage, websocket.BinaryMessage
	long := strings.Repeat("x", MaxMessage)
	longest := `{"action":"x","data":{"a":"` + long[len(`{"action":"x","data":{"a":""}}`):] + `"}}`
	require.Len(t, longest, MaxMessage)
	for name, row := range map[string]struct {
		frameType int
		frame     string
		wantCode  int      // of the close frame; 0: the connection goes on
		refusals  [3]int64 // not text, too long, not an action
	}{
		"binary":               {binary, `{"action":"x"}`, 1003, [3]int64{1, 0, 0}},
		"not UTF-8":            {text, "{\"action\":\"\xff\"}", 1007, [3]int64{1, 0, 0}},
		"too long":             {text, long + "x", 1009, [3]int64{0, 1, 0}},
		"far too long":         {text, strings.Repeat(long, 8), 1009, [3]int64{0, 1, 0}},
		"not JSON":             {text, `{"action":`, 0, [3]int64{0, 0, 2}},
		"fields of wrong type": {text, `{"action":7,"data":"x"}`, 0, [3]int64{0, 0, 2}},
		"nested too deep":      {text, `{"data":{"x":` + strings.Repeat("[", 11000) + strings.Repeat("]", 11000) + `}}`, 0, [3]int64{0, 0, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				upgrader, log := recorded()
				c, peer := connect(t, upgrader)
				peer.SetCloseHandler(func(int, string) error { return nil }) // answers a close frame below
				taken, answers := hear(c), hear(peer)
				assert.NoError(t, peer.WriteMessage(row.frameType, []byte(row.frame)), "it is read to its end")
				peer.WriteMessage(row.frameType, []byte(row.frame))
				peer.WriteMessage(text, []byte(longest))
				synctest.Wait()
				peer.WriteMessage(websocket.CloseMessage, nil)
				got := <-taken
				assertExpected(t, got.end)
				assert.LessOrEqual(t, time.Since(began), closeWait)
				peer.Close()
				answer := <-answers
				if row.wantCode == 0 {
					const refused = `{"tree":{},"meta":{"success":false,"action":"refused"}}`
					assert.Equal(t, []string{refused, refused}, answer.messages)
					require.Len(t, got.messages, 1)
					assert.True(t, got.messages[0] == longest, "the longest allowed message arrives")
				} else {
					assert.True(t, websocket.IsCloseError(answer.end, row.wantCode), "the peer got: %v", answer.end)
					assert.Empty(t, got.messages, "nothing after it is read")
				}
				s := upgrader.Stats
				assert.Equal(t, row.refusals, [3]int64{s.NotText.Load(), s.TooLong.Load(), s.NotAction.Load()})
				assert.Equal(t, 1, strings.Count(log.String(), "refused"), "the log:\n%s", log)
				assert.NotContains(t, log.String(), "action=", "messages of a peer are not logged")
			})
		})
	}
}

// The connection of a peer that has gone no longer counts, and writing to it is no error.
func TestReadMessage_OrdinaryCloseIsGoingAway(t *testing.T) {
	for name, row := range map[string]struct {
		frame      []byte // with which the peer closes; nil: without one
		unexpected bool
	}{
		"normal closure": {websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), false},
		"without a code": {[]byte{}, false},
		"going away":     {websocket.FormatCloseMessage(websocket.CloseGoingAway, ""), false},
		"protocol error": {websocket.FormatCloseMessage(websocket.CloseProtocolError, ""), true},
		"no close frame": {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				upgrader := quiet()
				c, peer := connect(t, upgrader)
				connect(t, upgrader)
				ended := hear(c)
				if row.frame == nil {
					peer.Close()
				} else {
					hear(peer)
					peer.WriteMessage(websocket.CloseMessage, row.frame)
				}
				end := (<-ended).end
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

// By default, a peer has vanished if nothing arrives from it for 7 seconds. It may miss
// every other ping.
func TestHeartbeat_FindsPeersThatHaveVanishedAndKeepsAllOthers(t *testing.T) {
	const stays, vanished = 5*time.Minute + 1050*time.Millisecond, 7 * time.Second // it goes between two pings
	for name, row := range map[string]struct {
		answers int           // the peer answers every so many pings; 0: none
		sends   time.Duration // how often it sends a message; 0: never
		want    time.Duration // how long it is connected
	}{
		"an idle peer":                          {answers: 1, want: stays},
		"every other ping gets lost":            {answers: 2, want: stays},
		"a peer that sends but answers no ping": {sends: 6 * time.Second, want: stays},
		"a peer that has vanished":              {want: vanished},
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
				hear(peer)
				go func() {
					for row.sends > 0 && upgrader.Open() > 0 {
						time.Sleep(row.sends)
						peer.WriteMessage(websocket.TextMessage, []byte(`{"action":"busy"}`))
					}
				}()
				time.AfterFunc(stays, func() { peer.Close() })
				end := (<-hear(c)).end
				assert.Equal(t, row.want, time.Since(began))
				assert.Equal(t, row.want == vanished, errors.Is(end, io.ErrClosedPipe), "%v", end)
				assert.Zero(t, upgrader.Open())
				time.Sleep(row.sends) // the peer notices
			})
		})
	}
}

// A peer is not blamed for a pause of the server, however long: a stopped process, or an
// action that does not return. In a process that is only slow, all time counts.
func TestHeartbeat_APauseOfTheServerDisconnectsNobody(t *testing.T) {
	for name, row := range map[string]struct {
		write           []byte // a frame that the peer does not read
		paused, counted time.Duration
		limit           time.Duration
	}{
		"a silent peer":                {nil, time.Hour, 500 * time.Millisecond, DefaultTimeout},
		"a stuck frame":                {[]byte("frame"), time.Hour, 500 * time.Millisecond, DefaultWrite},
		"a silent peer, a slow server": {nil, 350 * time.Millisecond, 350 * time.Millisecond, DefaultTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				upgrader := quiet()
				upgrader.counting = true // though nobody does: the process is stopped
				c, peer := connect(t, upgrader)
				ended := hear(c)
				if row.write == nil {
					peer.SetPingHandler(func(string) error { return nil })
					hear(peer)
				} else {
					c.WriteMessage(websocket.TextMessage, row.write)
				}
				time.Sleep(row.paused)
				require.Equal(t, 1, upgrader.Open())

				resumed := time.Now()
				upgrader.countFrom(resumed.Add(-row.paused))
				<-ended
				assert.Equal(t, row.limit-row.counted, time.Since(resumed))
			})
		})
	}
	t.Run("an action", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, peer := connect(t, quiet())
			hear(peer)
			peer.SetPingHandler(func(string) error { return nil })
			go func() {
				for range 2 {
					peer.WriteMessage(websocket.TextMessage, []byte(`{"action":"x"}`))
				}
			}()
			for range 2 {
				_, _, err := c.ReadMessage()
				require.NoError(t, err)
				time.Sleep(time.Hour)
			}
		})
	})
}

// A peer that does not read blocks no writer and has a limited queue. It is disconnected
// at once when the queue is full, or when a frame takes 3 seconds, even a ping.
func TestWriteMessage_DoesNotWaitForAPeerThatDoesNotRead(t *testing.T) {
	for name, row := range map[string]struct {
		fill int // how much is written, in bytes
		want time.Duration
	}{
		"a full queue":  {2 * MaxQueued, 0},
		"a stuck frame": {MaxQueued / 2, 3 * time.Second},
		"a stuck ping":  {0, 6 * time.Second},
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

// A peer with a full queue gets the close frame of a server that stops, as any other does.
func TestWriteMessage_CloseFrameFitsIntoAFullQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		upgrader, log := recorded()
		c, peer := connect(t, upgrader)
		hear(c)
		for range 2 { // the first is being written
			c.WriteMessage(websocket.TextMessage, make([]byte, MaxQueued))
			synctest.Wait()
		}
		upgrader.CloseAll(t.Context(), 0)
		got := <-hear(peer)
		assert.Len(t, got.messages, 2)
		assert.True(t, websocket.IsCloseError(got.end, websocket.CloseGoingAway), "closed with: %v", got.end)
		assert.Zero(t, upgrader.Stats.SlowCloses.Load())
		assert.Empty(t, log.String())
	})
}

// queued returns the length of the queue, in bytes.
func queued(c *conn) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queued
}

// A peer may read its answers late. Meanwhile nothing more is read from it, and nothing
// is lost.
func TestReadMessage_WaitsForAPeerThatReadsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const answer = MaxQueued / 8
		c, peer := connect(t, quiet())
		go func() {
			for range MaxUnanswered {
				c.ReadMessage()
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

// Nothing more is read from a peer with many unanswered messages until one is answered, or
// clearly never will be. A refresh is not an answer.
func TestReadMessage_WaitsForAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const messages = 2 * MaxUnanswered
		c, peer := connect(t, quiet())
		hear(peer)
		var read atomic.Int64
		go func() {
			for i := range messages {
				peer.WriteMessage(websocket.TextMessage, []byte(`{"action":"message"}`))
				if i == 0 {
					time.Sleep(2 * noAnswer) // a slow action
				}
			}
		}()
		go func() {
			for range messages {
				c.ReadMessage()
				read.Add(1)
			}
		}()
		time.Sleep(2 * noAnswer)
		for answers, answer := range []string{
			`{"tree":{},"meta":{"success":true,"errors":{},"action":"message"}}`,
			`{"pong":true}`,
			`{"tree":null,"meta":{"success":false,"errors":{"_rate_limit":"Too many requests. Please slow down."}}}`,
			"",
		} {
			for _, other := range []string{
				`{"tree":{"s":["the page"]},"meta":{"success":true,"errors":{},"capabilities":["change"]}}`,
				`{"tree":{"0":"1"},"meta":{"success":true,"errors":null}}`,
				`{"tree":{},"meta":{"success":true,"errors":null}}`,
			} {
				c.WriteMessage(websocket.TextMessage, []byte(other))
				synctest.Wait()
				assert.EqualValues(t, MaxUnanswered+answers, read.Load())
			}
			c.WriteMessage(websocket.TextMessage, []byte(answer))
		}
		time.Sleep(noAnswer)
		synctest.Wait()
		assert.EqualValues(t, messages, read.Load())
	})
}

// A peer that floods and does not read costs little until it is disconnected or leaves.
func TestReadMessage_EndsForAPeerThatFloodsAndDoesNotRead(t *testing.T) {
	for name, row := range map[string]struct{ stays, want time.Duration }{
		"it stays":     {time.Hour, DefaultWrite},
		"it goes away": {time.Nanosecond, time.Nanosecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, peer := connect(t, quiet())
				go func() {
					for peer.WriteMessage(websocket.TextMessage, []byte(`{"action":"message"}`)) == nil {
					}
				}()
				time.AfterFunc(row.stays, func() { peer.Close() })
				began, read := time.Now(), 0
				for answer := make([]byte, 8<<10); ; read++ {
					if _, _, err := c.ReadMessage(); err != nil {
						break
					}
					c.WriteMessage(websocket.TextMessage, answer)
				}
				assert.LessOrEqual(t, read, muchQueued/(8<<10)+3, "messages that were read")
				assert.Equal(t, row.want, time.Since(began))
			})
		})
	}
}

func TestReadMessage_AnswersWhatItRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := connect(t, quiet())
		hear(peer)
		hear(c)
		for range 2 * MaxUnanswered {
			peer.WriteMessage(websocket.TextMessage, []byte("not an action"))
		}
		synctest.Wait()
		assert.Zero(t, c.unanswered)
	})
}

// A frame of any length is written, and later frames wait for it.
func TestClose_WritesTheQueueAndIsNeverAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := connect(t, quiet())
		large := strings.Repeat("a large live part", MaxQueued)
		frames := append([]string{large, large}, slices.Repeat([]string{"queued"}, 100)...)
		for i, frame := range frames {
			c.WriteMessage(websocket.TextMessage, []byte(frame))
			if i == 1 {
				peer.ReadMessage() // leaves the second to be written
				synctest.Wait()
			}
		}
		assert.NoError(t, c.Close())
		assert.NoError(t, c.Close(), "the framework closes twice")
		got := <-hear(peer)
		assert.True(t, strings.Join(frames[1:], "") == strings.Join(got.messages, ""))
		assert.True(t, websocket.IsUnexpectedCloseError(got.end), "ended with: %v", got.end)
	})
}

func TestCloseAll_SpreadsCloseFramesAndWaitsForNobody(t *testing.T) {
	const peers, over = 20, 400 * time.Millisecond
	for _, allowed := range []time.Duration{time.Hour, over / 2} {
		synctest.Test(t, func(t *testing.T) {
			upgrader, began := quiet(), time.Now()
			closed, ended := make(chan heard), make(chan heard)
			for range peers {
				c, peer := connect(t, upgrader)
				go func() { ended <- <-hear(c) }()
				go func() { closed <- <-hear(peer) }()
			}
			ctx, cancel := context.WithTimeout(t.Context(), allowed)
			defer cancel()
			go upgrader.CloseAll(ctx, over)
			for i := range peers {
				got := <-closed
				assert.True(t, websocket.IsCloseError(got.end, websocket.CloseGoingAway), "closed with: %v", got.end)
				assert.Equal(t, min(over/peers*time.Duration(i+1), allowed), got.until.Sub(began), "one after the other, or at once")
				assertExpected(t, (<-ended).end)
			}

			c, peer := connect(t, upgrader)
			go io.Copy(io.Discard, peer.NetConn()) // reads, but does not answer
			began = time.Now()
			upgrader.CloseAll(ctx, 0)
			assertExpected(t, (<-hear(c)).end)
			assert.InDelta(t, closeWait, time.Since(began), float64(upgrader.tick))
			assert.Zero(t, upgrader.Open())
		})
	}
}

func TestWriteMessage_DropsAndReplacesFramesAndReportsRefreshes(t *testing.T) {
	const (
		nothing = `{"tree":{},"meta":{"success":true,"errors":null}}`
		refresh = `{"tree":{"0":"1"},"meta":{"success":true,"errors":null}}`
		answer  = `{"tree":{"0":"1"},"meta":{"success":true,"errors":null,"action":"increment"}}`
		tooMany = `{"tree":null,"meta":{"success":false,"errors":{"_rate_limit":"Too many requests. Please slow down."}}}`
	)
	synctest.Test(t, func(t *testing.T) {
		upgrader, log := recorded()
		refreshes := 0
		upgrader.OnRefresh(func() { refreshes++ })
		c, peer := connect(t, upgrader)
		read := hear(peer)
		for _, frame := range []string{nothing, tooMany, tooMany, `{"pong":true}`, refresh, answer} {
			before := refreshes
			assert.NoError(t, c.WriteMessage(websocket.TextMessage, []byte(frame)))
			synctest.Wait()
			assert.Equal(t, frame == nothing || frame == refresh, refreshes > before, "a refresh: %s", frame)
		}
		c.Close()
		slowDown := `{"tree":{},"meta":{"success":false,"action":"slow-down"}}`
		assert.Equal(t, []string{slowDown, slowDown, `{"type":"error","code":"pong"}`, refresh, answer}, (<-read).messages)
		assert.Equal(t, 1, strings.Count(log.String(), "rate limit"), "the log:\n%s", log)
	})
}
