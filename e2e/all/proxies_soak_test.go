//go:build soak

package all

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
	"realtime/internal/visitor/browser"
)

// behindEach runs a test behind each proxy, one after the other.
func behindEach(t *testing.T, test func(t *testing.T, proxy string)) {
	for _, proxy := range visitor.Fronts {
		t.Run(proxy, func(t *testing.T) { test(t, proxy) })
	}
}

// nginx closes what is silent for 60 seconds, and HAProxy for 50. A live connection is
// never silent for so long.
func TestSoak_ProxiesKeepIdleTabs(t *testing.T) {
	behindEach(t, func(t *testing.T, proxy string) {
		t.Parallel()
		d := deploy(t, proxy, visitor.Build(t))
		person := browser.New(t)
		idle, joined := d.open(person, visitor.CounterPage), d.open(person, visitor.PresencePage)
		joined.Join("Alice")
		socket := visitor.New(t, d.URL).Open(visitor.PresencePage)
		socket.Shows("1 user(s) online")
		socket.StartHistory()
		<-time.After(75 * time.Second)
		socket.NoChange(visitor.Grace)
		assert.NoError(t, socket.Err())
		assert.Empty(t, outs([]*browser.Tab{idle, joined}))
	})
}

// A proxy that reloads its file, or starts again, gets every tab back.
func TestSoak_ProxiesReloadAndRestart(t *testing.T) {
	behindEach(t, func(t *testing.T, proxy string) {
		t.Parallel()
		d := deploy(t, proxy, visitor.Build(t))
		tabs := d.openMany(2)
		for _, step := range []struct {
			name string
			do   func()
		}{{"reload", d.Reload}, {"restart", d.Restart}} {
			before := len(outs(tabs))
			step.do()
			require.Eventually(t, func() bool { return len(outs(tabs)) >= before+len(tabs) }, visitor.Soon, 100*time.Millisecond,
				"every tab has a new socket after a %s", step.name)
			d.allAgree(tabs)
		}
		t.Logf("out for %v", outs(tabs))
	})
}

// While both servers restart one after the other, 30 tabs of real browsers go on: no
// click is lost, everybody is back, and no tab is out for long. The grace period is
// long, so that nobody is online only because they were quick enough.
func TestSoak_ProxiesRollingRestart(t *testing.T) {
	behindEach(t, func(t *testing.T, proxy string) {
		d := deployWith(t, []string{"-grace", "1m"}, proxy, visitor.BuildPlain(t))
		tabs := d.openMany(6)
		<-time.After(15 * time.Second) // Chromium goes on building its windows
		stopClicking := d.keepClicking()
		for i := range d.servers {
			d.restart(i)
			<-time.After(time.Second) // as long as an operator's script takes at least
		}
		clicked, failed := stopClicking()
		for _, tb := range tabs {
			tb.WaitUntil(browser.Live, "a live page")
		}
		counter := visitor.New(t, d.URL).Open(visitor.CounterPage).Counter()
		assert.GreaterOrEqual(t, counter, clicked)
		assert.LessOrEqual(t, counter, clicked+len(failed))
		for _, tb := range tabs {
			if tb.Has("[name=increment]") {
				tb.Shows(fmt.Sprintf("Counter: %d ", counter))
			} else {
				tb.Shows(fmt.Sprintf("%d user(s) online Logged in as Person", joined(tabs)))
				assert.EqualValues(t, joined(tabs), tb.Number(`least`), "fewest people online that a tab has shown")
			}
		}
		d.allAgree(tabs)
		out := outs(tabs)
		t.Logf("%d tabs were out %d times: median %v, worst %v; meanwhile %d clicks counted, and %d may have: %v",
			len(tabs), len(out), visitor.Percentile(out, 50), out[len(out)-1], clicked, len(failed), failed)
		assert.GreaterOrEqual(t, len(out), len(tabs), "every tab was on a server that restarted")
		assert.Less(t, out[len(out)-1], 1500*time.Millisecond)
	})
}

// openMany opens five tabs for each of so many people: two of the counter, and three in
// which they have joined under names of their own.
func (d *deployment) openMany(people int) (tabs []*browser.Tab) {
	d.t.Helper()
	for i := range people {
		person := browser.New(d.t)
		tabs = append(tabs, d.open(person, visitor.CounterPage), d.open(person, visitor.CounterPage))
		for n := range 3 {
			tb := d.open(person, visitor.PresencePage)
			tb.Join(fmt.Sprintf("Person %d-%d", i, n))
			tabs = append(tabs, tb)
		}
	}
	for _, tb := range tabs {
		if tb.Has("[name=increment]") {
			continue
		}
		tb.Shows(fmt.Sprintf("%d user(s) online", joined(tabs)))
		tb.Eval(`void (() => {
			window.least = Infinity;
			const look = () => { least = Math.min(least, parseInt(/\d+(?= user\(s\) online)/.exec(document.body.textContent))); };
			look();
			new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
		})()`)
	}
	return tabs
}

// joined returns how many of the tabs of openMany have joined.
func joined(tabs []*browser.Tab) int { return len(tabs) / 5 * 3 }

// allAgree checks that everybody who has joined is online and knows it, and that a
// click in one tab shows in all.
func (d *deployment) allAgree(tabs []*browser.Tab) {
	d.t.Helper()
	for _, tb := range tabs {
		if tb.Has("[name=increment]") {
			tb.Click("increment")
		}
	}
	shown := visitor.New(d.t, d.URL).Open(visitor.CounterPage).Counter()
	for _, tb := range tabs {
		if tb.Has("[name=increment]") {
			tb.Shows(fmt.Sprintf("Counter: %d ", shown))
		} else {
			tb.Shows(fmt.Sprintf("%d user(s) online Logged in as Person", joined(tabs)))
		}
	}
}

// keepClicking posts 5 clicks a second through the proxy until stop is called, which
// returns how many counted, and what the others were answered.
func (d *deployment) keepClicking() (stop func() (clicked int, failed []string)) {
	done := make(chan bool)
	var clicking sync.WaitGroup
	var clicked int
	var failed []string
	clicking.Go(func() {
		v := visitor.New(d.t, d.URL)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			resp, err := v.Client.PostForm(d.URL+visitor.CounterPage, url.Values{"increment": {""}})
			if err != nil {
				failed = append(failed, err.Error())
				continue
			}
			resp.Body.Close()
			if resp.StatusCode == http.StatusSeeOther {
				clicked++
			} else {
				failed = append(failed, resp.Status)
			}
		}
	})
	return func() (int, []string) {
		close(done)
		clicking.Wait()
		return clicked, failed
	}
}

// What no browser of the site's own pages sends gets a clear answer through each proxy.
func TestSoak_ProxiesAnswerOddRequests(t *testing.T) {
	behindEach(t, func(t *testing.T, proxy string) {
		t.Parallel()
		d := deploy(t, proxy, visitor.Build(t))
		for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
			v := visitor.New(t, d.URL)
			if protocol == "HTTP/1.1" {
				v = v.WithoutHTTP2()
			}
			status, err := d.getWithCookies(v, 15_000)
			require.NoError(t, err)
			assert.Equal(t, http.StatusOK, status, "%s with cookies of 15 kB", protocol)
			for _, size := range []int{28_000, 60_000} {
				status, err := d.getWithCookies(v, size)
				if proxy == "haproxy" && protocol == "HTTP/2" && size == 60_000 {
					assert.Error(t, err, "HAProxy answers now: docs/operating.md says that it does not")
					continue
				}
				require.NoError(t, err, "%s with cookies of %d bytes", protocol, size)
				assert.Contains(t, []int{http.StatusBadRequest, http.StatusRequestHeaderFieldsTooLarge}, status)
			}

			for _, kind := range []string{"application/x-www-form-urlencoded", "application/json"} {
				resp, err := v.Client.Post(d.URL+visitor.CounterPage, kind, bytes.NewReader(bytes.Repeat([]byte("x"), 3<<20)))
				if !assert.NoError(t, err, "%s with a form of 3 MB", protocol) {
					continue
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				t.Logf("%s with a form of 3 MB: %d %q", protocol, resp.StatusCode, body)
				assert.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
			}
		}
	})
}

// getWithCookies gets a page with cookies of so many bytes in all, as other apps on the
// same host may have set them.
func (d *deployment) getWithCookies(v *visitor.Visitor, size int) (status int, err error) {
	req, err := http.NewRequest(http.MethodGet, d.URL+visitor.CounterPage, nil)
	require.NoError(d.t, err)
	for i := range size / 3000 { // a browser stores at most 4 kB in one
		req.AddCookie(&http.Cookie{Name: fmt.Sprint("other", i), Value: strings.Repeat("x", 2990)})
	}
	resp, err := v.Client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// A proxy that compresses as well leaves alone what the app has compressed.
func TestSoak_ProxiesMayCompress(t *testing.T) {
	on := map[string][]string{
		"nginx":   {"gzip off;", "gzip on; gzip_proxied any; gzip_types *;"},
		"caddy":   {"reverse_proxy", "encode gzip\n\treverse_proxy"},
		"haproxy": {"default_backend", "compression algo gzip\n    default_backend"},
	}
	behindEach(t, func(t *testing.T, proxy string) {
		t.Parallel()
		d := deploy(t, proxy, visitor.Build(t), on[proxy]...)
		req, err := http.NewRequest(http.MethodGet, d.URL+visitor.CounterPage, nil)
		require.NoError(t, err)
		req.Header.Set("Accept-Encoding", "gzip")
		resp, err := visitor.New(t, d.URL).Client.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, "gzip", resp.Header.Get("Content-Encoding"))
		unzipped, err := gzip.NewReader(resp.Body)
		require.NoError(t, err)
		page, err := io.ReadAll(unzipped)
		require.NoError(t, err)
		assert.Contains(t, string(page), "Counter:")

		here, there := d.open(browser.New(t), visitor.CounterPage), d.open(browser.New(t), visitor.CounterPage)
		here.Click("increment")
		there.Shows("Counter: 1")
	})
}

// Where both servers are full a page says so and works by requests, through a proxy too.
func TestSoak_ProxiesServePagesOfFullServers(t *testing.T) {
	behindEach(t, func(t *testing.T, proxy string) {
		t.Parallel()
		d := deployWith(t, []string{"-max-connections", "2"}, proxy, visitor.Build(t))
		visitor.OpenCrowdOn(t, []string{d.servers[0].URL, d.servers[1].URL}, visitor.CounterPage, 4)
		tb := browser.New(t).Load(d.URL + visitor.CounterPage)
		tb.ExpectErrors("503")
		tb.ExpectErrors("WebSocket")
		tb.Shows("The server is full")
		for n := range 5 {
			tb.Click("increment")
			tb.Shows(fmt.Sprintf("Counter: %d ", n+1))
			assert.Contains(t, visitor.New(t, d.URL).Get(visitor.CounterPage), fmt.Sprintf("Counter: %d ", n+1))
		}
	})
}
