package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// Two browsers have the page open, and a third has no scripts. Each sees every like.
func TestLikes_EveryVisitorSeesALike(t *testing.T) {
	s := newSite()
	server := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Shutdown(context.Background())
		server.Close()
	})
	alice, bob := open(t, server.URL), open(t, server.URL)
	receives(t, alice, "Likes: ")
	receives(t, bob, "Likes: ")
	alice.WriteJSON(map[string]string{"action": "like"})
	receives(t, alice, `"0":"1"`)
	receives(t, bob, `"0":"1"`)

	if _, err := http.PostForm(server.URL+"/likes", url.Values{"like": {""}}); err != nil { // without a script
		t.Fatal(err)
	}
	receives(t, bob, `"0":"2"`)
}

// open opens the socket of the page. It has no cookie, as in a browser of its own.
func open(t *testing.T, server string) *websocket.Conn {
	t.Helper()
	socket, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(server, "http")+"/likes", nil)
	if err != nil {
		t.Fatal(err)
	}
	socket.SetReadDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() { socket.Close() })
	return socket
}

// receives waits for a frame that contains a text.
func receives(t *testing.T, socket *websocket.Conn, want string) {
	t.Helper()
	for frame := ""; !strings.Contains(frame, want); {
		_, text, err := socket.ReadMessage()
		if err != nil {
			t.Fatalf("no %s: %v", want, err)
		}
		frame = string(text)
	}
}
