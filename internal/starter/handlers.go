package main

import (
	"net/http"
	"sync"

	"github.com/livetemplate/livetemplate"

	"realtime/internal/fanout"
)

// everyone gives all visitors one identity, so that their SelfTopic is one. By default it
// reaches the tabs of one browser.
type everyone struct {
	*livetemplate.AnonymousAuthenticator
}

func (everyone) Identify(*http.Request) (string, error) { return "everyone", nil }

// LikesState is what one tab shows.
type LikesState struct {
	Title string
	Likes int
}

// LikesController owns what all tabs share.
type LikesController struct {
	peers *fanout.Peers // all other tabs
	mu    sync.Mutex    // guards likes
	likes int
}

// Mount subscribes before it reads, so that no change in between is missed.
func (c *LikesController) Mount(s LikesState, ctx *livetemplate.Context) (LikesState, error) {
	err := ctx.Subscribe(ctx.SelfTopic())
	return c.read(s), err
}

// Like adds one for everybody.
func (c *LikesController) Like(s LikesState, ctx *livetemplate.Context) (LikesState, error) {
	c.mu.Lock()
	c.likes++
	c.mu.Unlock()
	return c.read(s), c.peers.Publish(ctx, ctx.SelfTopic(), "LikesChanged")
}

// LikesChanged runs in every other tab.
func (c *LikesController) LikesChanged(s LikesState, _ *livetemplate.Context) (LikesState, error) {
	return c.read(s), nil
}

func (c *LikesController) read(s LikesState) LikesState {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Likes = c.likes
	return s
}
