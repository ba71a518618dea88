package e2e

import (
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

func TestLivePages_TabsOfOneBrowserWithoutSocketsStayApart(t *testing.T) {
	t.Parallel()
	v := visitor.New(t, visitor.Serve(t))
	v.Get(visitor.PresencePage) // for its cookie
	join := func(tb *visitor.RequestTab, name string) {
		tb.Act("join", map[string]any{"username": name})
		assert.Contains(t, tb.HTML(), `id="username" name="username" value="`+template.HTMLEscapeString(name)+`" placeholder=`)
		assert.Contains(t, tb.Text(), visitor.NotLive)
	}

	first, second := v.OpenWithoutSocket(visitor.PresencePage), v.OpenWithoutSocket(visitor.PresencePage)
	for _, name := range []string{"Alice", `" onfocus="alert(1)`} { // in turn
		join(first, name)
		second.Act("presenceChanged", nil)
		assert.NotContains(t, second.Text(), visitor.NotLive)
		join(second, name+"!")
		first.Act("leave", nil)
		assert.NotContains(t, first.Text(), visitor.NotLive)
		v.Post(visitor.PresencePage, url.Values{"username": {"Carol"}, "join": {""}}) // and one without scripts
	}
	var tabs sync.WaitGroup
	for _, tb := range []*visitor.RequestTab{first, second} { // at once
		tabs.Go(func() {
			for i := range 20 {
				join(tb, fmt.Sprint(i))
			}
		})
	}
	tabs.Wait()

	one, two := v.OpenWithoutSocket(visitor.CounterPage), v.OpenWithoutSocket(visitor.CounterPage)
	one.Act("increment", nil)
	two.Act("increment", nil)
	assert.Contains(t, two.Text(), "Counter: 2 ")
	one.Act("increment", nil)
	assert.Contains(t, one.Text(), "Counter: 3 ")
}

// While the answer to one click is on its way from Redis, clicks of other browsers are
// not held up: they wait for the next command together. Redis is far away here.
func TestRequests_PostsOfManyBrowsersDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	const posters = 100
	redis := visitor.NewRedis(t)
	far := visitor.NewNetwork(t, redis.Addr)
	server := visitor.Serve(t, "-redis", "redis://"+far.Addr()+"/0")
	browsers := make([]*visitor.Visitor, posters)
	for i := range browsers {
		browsers[i] = visitor.New(t, server)
		browsers[i].Get(visitor.CounterPage) // for its cookie
	}
	far.Delay(100 * time.Millisecond)
	spent := redis.Spent(func() {
		var posting sync.WaitGroup
		for _, v := range browsers {
			posting.Go(v.Click)
		}
		posting.Wait()
	})
	far.Delay(0)
	assert.Contains(t, browsers[0].Get(visitor.CounterPage), "Counter: 100 ")
	assert.Less(t, spent.Commands, posters, "several for each click if clicks wait for each other")
}

// The server ends what is slow, what is huge, and a peer that says nothing any more.
func TestRequests_HaveLimits(t *testing.T) {
	t.Parallel()
	server := visitor.Serve(t)
	watching := visitor.New(t, server).Open(visitor.PresencePage)
	silent, err := visitor.New(t, server).Dial(visitor.PresencePage)
	require.NoError(t, err)
	defer silent.Close()
	require.NoError(t, visitor.Act(silent, "join", map[string]any{"username": "silent"}))
	watching.Shows(" 1 user(s) online") // from here on the silent end reads and writes nothing

	const post = "POST " + visitor.CounterPage + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
	var requests sync.WaitGroup
	for name, row := range map[string]struct{ sent, want string }{
		"no request":    {"", ""},
		"a slow header": {"GET / HTTP/1.1\r\nHost: x\r\n", ""},
		"a slow body":   {post + "Content-Length: 100\r\n\r\nincr", "408 Request Timeout"},
		"a huge header": {"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + strings.Repeat("x", 32<<10) + "\r\n\r\n", "431 Request Header Fields Too Large"},
	} {
		requests.Go(func() {
			conn, err := net.Dial("tcp", strings.TrimPrefix(server, "http://"))
			if !assert.NoError(t, err) {
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(4 * visitor.Soon)) // the server itself takes up to 10 seconds
			go io.WriteString(conn, row.sent)
			answer, err := io.ReadAll(conn)
			assert.NotErrorIs(t, err, os.ErrDeadlineExceeded, name)
			assert.Contains(t, string(answer), row.want, name)
		})
	}
	// A browser sends the cookies of all applications that share a host name.
	many := http.Header{"Cookie": {visitor.SessionCookie + "=" + visitor.MadeUpSession() + "; other=" + strings.Repeat("x", 15_000)}}
	ws, _ := visitor.Knock(t, server, visitor.CounterPage, many)
	assert.NotNil(t, ws)
	requests.Wait()
	watching.Shows(" 0 user(s) online")
}
