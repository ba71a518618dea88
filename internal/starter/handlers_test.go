package main

import (
	"context"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"realtime/internal/site"
)

// Two browsers have the page open. A press in one shows in both, and to whoever comes later.
func TestLikes_EveryVisitorSeesALike(t *testing.T) {
	s := newSite(site.Options{CloseOver: time.Millisecond})
	server := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Shutdown(context.Background())
		server.Close()
	})
	alice, bob := open(t, server.URL), open(t, server.URL)
	alice.receives(`Likes: `)
	bob.receives(`Likes: `)
	alice.socket.WriteJSON(map[string]string{"action": "like"})
	alice.receives(`"0":"1"`)
	bob.receives(`"0":"1"`)
	resp, err := alice.client.Post(server.URL+"/likes", "application/x-www-form-urlencoded", strings.NewReader("like="))
	if err != nil || !strings.Contains(body(resp), "Likes: <strong>2</strong>") {
		t.Error("a form without scripts did not count:", err)
	}
	bob.receives(`"0":"2"`)
}

// visitor is a browser with the page open.
type visitor struct {
	t      *testing.T
	client *http.Client
	socket *websocket.Conn
}

func open(t *testing.T, server string) *visitor {
	t.Helper()
	jar, _ := cookiejar.New(nil)
	v := &visitor{t: t, client: &http.Client{Jar: jar}}
	if _, err := v.client.Get(server + "/likes"); err != nil {
		t.Fatal(err)
	}
	dialer := websocket.Dialer{Jar: jar}
	var err error
	if v.socket, _, err = dialer.Dial("ws"+strings.TrimPrefix(server, "http")+"/likes", http.Header{"Origin": {server}}); err != nil {
		t.Fatal(err)
	}
	v.socket.SetReadDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() { v.socket.Close() })
	return v
}

// receives waits for a frame that contains a text.
func (v *visitor) receives(want string) {
	v.t.Helper()
	for {
		_, frame, err := v.socket.ReadMessage()
		if err != nil {
			v.t.Fatalf("no %s: %v", want, err)
		}
		if strings.Contains(string(frame), want) {
			return
		}
	}
}

func body(resp *http.Response) string {
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return string(text)
}
