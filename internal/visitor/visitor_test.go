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

func TestReadable_IsWhatAPersonReads(t *testing.T) {
	for markup, want := range map[string]string{
		"<p>one</p>\n  <p>two</p>":            "one two",
		"<b>bold</b>er":                       "bolder",
		"&lt;img&gt; &amp; so on":             "<img> & so on",
		`<input value="not text">`:            "",
		"1&nbsp;000":                          "1\u00a0000",
		"<p>one</p><script>two</script> left": "onetwo left",
	} {
		assert.Equal(t, want, Readable(markup), "of %s", markup)
	}
}

func TestJudge_FindsWhatMustNotBeInALog(t *testing.T) {
	assert.NoError(t, judge("level=INFO msg=stopping\nlevel=WARN msg=\"live connection refused\"\n"))
	for _, log := range []string{
		"all well\n==================\nWARNING: DATA RACE\nWrite at 0x00c000\n",
		"panic: runtime error: index out of range\n",
		"level=ERROR msg=\"http: panic serving 127.0.0.1:1: nil\"\n",
		"fatal error: concurrent map writes\n",
	} {
		assert.Error(t, judge(log), log)
	}
}

// echo is a server that sends back what it is sent, through a network.
func echo(t testing.TB) *Network {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for conn, err := listener.Accept(); err == nil; conn, err = listener.Accept() {
			go io.Copy(conn, conn)
		}
	}()
	return NewNetwork(t, listener.Addr().String())
}

// sendAndGet returns how long it takes until bytes are back, over a new connection.
func sendAndGet(t testing.TB, n *Network, size int) time.Duration {
	t.Helper()
	begin := time.Now()
	conn, err := net.Dial("tcp", n.Addr())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(begin.Add(Soon)))
	go conn.Write(make([]byte, size))
	_, err = io.ReadFull(conn, make([]byte, size))
	require.NoError(t, err)
	return time.Since(begin)
}

func TestNetwork_DelayKeepsTheBandwidth(t *testing.T) {
	n := echo(t)
	n.Delay(100 * time.Millisecond)
	took := sendAndGet(t, n, 1<<20)                // 256 chunks
	assert.Greater(t, took, 399*time.Millisecond)  // two round trips
	assert.Less(t, took, 100*100*time.Millisecond) // less than one delay for each chunk
	n.Delay(time.Hour)
	n.Delay(0)
	sendAndGet(t, n, 1)
}

func TestNetwork_ThrottleIsSharedByAllConnections(t *testing.T) {
	n := echo(t)
	n.Throttle(100 << 10)
	other := make(chan time.Duration)
	go func() { other <- sendAndGet(t, n, 25<<10) }()
	assert.Greater(t, max(sendAndGet(t, n, 25<<10), <-other), 490*time.Millisecond)
}

func TestNetwork_StallHoldsUpAndLosesNothing(t *testing.T) {
	n := echo(t)
	n.Stall(300*time.Millisecond, time.Hour)
	assert.Greater(t, sendAndGet(t, n, 10<<10), 290*time.Millisecond)
	n.Stall(time.Hour, time.Hour)
	n.Stall(0, 0)
	sendAndGet(t, n, 1)
}

func TestSeed_CommandRepeatsATest(t *testing.T) {
	assert.NotZero(t, Seed(t))
	assert.Regexp(t, `^go test (-race )?-count=1 -run '\^TestX\$/\^a_\\\(b\\\)\$' ./internal/visitor -seed 7$`, repeat("TestX/a_(b)", 7))
}
