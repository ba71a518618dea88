package visitor

import (
	"encoding/json"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A page is read as the browser client renders it: from the first tree, and the
// updates that came after it.
func TestTree_IsRenderedAfterUpdates(t *testing.T) {
	var tree any
	for _, step := range []struct{ update, want string }{
		{`{"s":["<p>","</p>",""],"0":"1","1":""}`, "1"},
		{`{"0":"2"}`, "2"},
		{`{}`, "2"},
		{`{"1":{"s":["<ul>","</ul>"],"0":{"s":[" <li>","</li>"],"d":[{"0":"a"},{"0":"b"}],"m":{"idKey":"0"}}}}`, "2 a b"},
		{`{"1":{"0":[["a",[{"0":"c"}]]]}}`, "2 a b c"},
		{`{"1":{"0":[["r","b"]]}}`, "2 a c"},
		{`{"1":""}`, "2"},
	} {
		var update map[string]any
		require.NoError(t, json.Unmarshal([]byte(step.update), &update))
		tree = merge(tree, update)
		assert.Equal(t, step.want+" ", Readable(render(tree))+" ", "after %s", step.update)
	}
}

func TestBroken_FindsWhatMustNotBeInALog(t *testing.T) {
	assert.NotRegexp(t, broken, "level=INFO msg=stopping\nlevel=WARN msg=\"live connection refused\"\n")
	for _, log := range []string{
		"all well\n==================\nWARNING: DATA RACE\nWrite at 0x00c000\n",
		"panic: runtime error: index out of range\n",
		"level=ERROR msg=\"http: panic serving 127.0.0.1:1: nil\"\n",
		"fatal error: concurrent map writes\n",
	} {
		assert.Regexp(t, broken, log)
	}
}

// A network that holds up nothing would pass for a fast page.
func TestNetwork_HoldsUpAndLosesNothing(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer echo.Close()
	go func() {
		for conn, err := echo.Accept(); err == nil; conn, err = echo.Accept() {
			go io.Copy(conn, conn)
		}
	}()
	for name, row := range map[string]struct {
		hold func(*Network)
		size int
		want time.Duration
	}{
		"delay":    {func(n *Network) { n.Delay(100 * time.Millisecond) }, 1 << 20, 400 * time.Millisecond}, // two round trips
		"throttle": {func(n *Network) { n.Throttle(100 << 10) }, 50 << 10, 500 * time.Millisecond},
	} {
		n, begin := NewNetwork(t, echo.Addr().String()), time.Now()
		row.hold(n)
		conn, err := net.Dial("tcp", n.Addr())
		require.NoError(t, err)
		defer conn.Close()
		go conn.Write(make([]byte, row.size))
		_, err = io.ReadFull(conn, make([]byte, row.size))
		assert.NoError(t, err, name)
		assert.GreaterOrEqual(t, time.Since(begin), row.want, name)
	}
}
