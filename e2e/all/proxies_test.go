//go:build all || soak

package all

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// deployment is two servers that share a Redis, behind a real proxy, as the files in
// docs/deploy set them up.
type deployment struct {
	*visitor.Front
	t       testing.TB
	exe     string
	args    []string
	servers []*visitor.Program
}

// deploy starts two servers behind a proxy. The pairs in changes are replaced in the
// file of the proxy.
func deploy(t testing.TB, proxy, exe string, changes ...string) *deployment {
	t.Helper()
	return deployWith(t, nil, proxy, exe, changes...)
}

// deployWith is deploy with more flags for the servers.
func deployWith(t testing.TB, flags []string, proxy, exe string, changes ...string) *deployment {
	t.Helper()
	d := &deployment{t: t, exe: exe}
	d.args = append([]string{"-trust-proxy", "-log-level", "debug", "-redis", visitor.NewRedis(t).URL}, flags...)
	for range 2 {
		d.servers = append(d.servers, visitor.StartExe(t, exe, d.args...))
	}
	d.Front = visitor.NewFront(t, proxy, d.servers, changes...)
	return d
}

// restart stops a server and starts it again. It returns when the server is ready.
func (d *deployment) restart(i int) {
	d.t.Helper()
	addr := d.servers[i].Addr()
	require.Equal(d.t, 0, d.servers[i].Stop(syscall.SIGTERM))
	d.servers[i] = visitor.StartExe(d.t, d.exe, append(d.args, "-addr", addr)...)
}

// open opens a page in a window, and notes for how long it is not live.
func (d *deployment) open(b *browser.Browser, page string) *browser.Tab {
	d.t.Helper()
	tb := b.OpenWindow(d.URL + page)
	for _, text := range []string{"net::ERR_", "502", "503", "504", "WebSocket"} {
		tb.ExpectErrors(text) // what the browser says about a server that is away
	}
	tb.Eval(`void (() => {
		let down = 0;
		window.outs = [];
		document.addEventListener("live", (event) => {
			if (event.detail !== "up") down ||= performance.now();
			else if (down) { outs.push(performance.now() - down); down = 0; }
		});
	})()`)
	return tb
}

// outs returns for how long tabs were not live, each time, the shortest first.
func outs(tabs []*browser.Tab) (times []time.Duration) {
	for _, tb := range tabs {
		for text := range strings.SplitSeq(tb.Eval(`outs.map((ms) => ms + "ms").join(" ")`), " ") {
			if took, err := time.ParseDuration(text); err == nil {
				times = append(times, took)
			}
		}
	}
	slices.Sort(times)
	return times
}

// Two people see each other through each proxy, and a server that restarts costs
// nobody anything.
func TestProxies_ServeLivePages(t *testing.T) {
	t.Parallel()
	for _, proxy := range visitor.Fronts {
		t.Run(proxy, func(t *testing.T) {
			t.Parallel()
			d := deploy(t, proxy, visitor.Build(t))
			alice, bob := browser.New(t), browser.New(t)
			counter, other := d.open(alice, visitor.CounterPage), d.open(bob, visitor.CounterPage)
			presence := d.open(alice, visitor.PresencePage)
			tabs := []*browser.Tab{counter, other, presence}
			presence.Join("Alice")
			counter.Click("increment")
			other.Shows("Counter: 1")
			d.believesOnlyTheProxy()
			d.refusesOtherSites()

			for i := range d.servers {
				d.restart(i)
				other.Click("increment")
			}
			counter.Shows("Counter: 3")
			other.Shows("Counter: 3")
			presence.Shows("1 user(s) online Logged in as Alice")
			for _, tb := range tabs {
				tb.WaitUntil(browser.Live, "a live page")
			}
			out := outs(tabs)
			assert.GreaterOrEqual(t, len(out), len(tabs), "every tab was on a server that restarted")
			t.Logf("tabs were out for %v", out)
			assert.Less(t, out[len(out)-1], 5*time.Second)
		})
	}
}

// believesOnlyTheProxy checks that nothing in a client's forwarding headers counts, and
// that the site knows that it is visited over TLS.
func (d *deployment) believesOnlyTheProxy() {
	d.t.Helper()
	forged := http.Header{
		"X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"other.example"},
		"X-Forwarded-For": {"192.0.2.1"}, "X-Request-Id": {"forged"},
	}
	v := visitor.New(d.t, d.URL)
	req, err := http.NewRequest(http.MethodGet, d.URL+visitor.CounterPage, nil)
	require.NoError(d.t, err)
	req.Header = forged.Clone()
	resp, err := v.Client.Do(req)
	require.NoError(d.t, err)
	resp.Body.Close()
	assert.Equal(d.t, 2, resp.ProtoMajor, "HTTP/2")
	assert.Equal(d.t, "max-age=31536000", resp.Header.Get("Strict-Transport-Security"))
	require.Len(d.t, resp.Cookies(), 1)
	assert.True(d.t, resp.Cookies()[0].Secure)
	assert.NotEqual(d.t, "forged", resp.Header.Get("X-Request-Id"))
	assert.NotEmpty(d.t, resp.Header.Get("X-Request-Id"))
	assert.Len(d.t, resp.Header.Values("X-Request-Id"), 1)
	for _, s := range d.servers {
		assert.False(d.t, strings.Contains(s.Log(), "192.0.2.1"), "the log has the address that a client claims")
	}

	forged.Set("Origin", "https://other.example")
	_, resp = visitor.Knock(d.t, d.URL, visitor.CounterPage, forged)
	assert.Equal(d.t, http.StatusForbidden, resp.StatusCode, "a client says what the site is called")

	plain := visitor.New(d.t, d.Plain)
	resp, _ = plain.Send(http.MethodGet, visitor.CounterPage, "", "")
	assert.Contains(d.t, []int{http.StatusMovedPermanently, http.StatusPermanentRedirect}, resp.StatusCode)
	assert.True(d.t, strings.HasPrefix(resp.Header.Get("Location"), "https://"))
	assert.Empty(d.t, resp.Cookies())
}

// refusesOtherSites checks that pages of other sites get no socket and post no form.
func (d *deployment) refusesOtherSites() {
	d.t.Helper()
	_, resp := visitor.Knock(d.t, d.URL, visitor.CounterPage, http.Header{"Origin": {"https://other.example"}})
	assert.Equal(d.t, http.StatusForbidden, resp.StatusCode, "a socket")

	v := visitor.New(d.t, d.URL)
	for header, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://other.example"} {
		req, err := http.NewRequest(http.MethodPost, d.URL+visitor.CounterPage, strings.NewReader(url.Values{"increment": {""}}.Encode()))
		require.NoError(d.t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set(header, value)
		resp, err := v.Client.Do(req)
		require.NoError(d.t, err)
		resp.Body.Close()
		assert.Equal(d.t, http.StatusForbidden, resp.StatusCode, "a form with %s", header)
	}
}
