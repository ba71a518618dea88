package main

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/livetemplate/livetemplate"

	"realtime/internal/fanout"
	"realtime/internal/presence"
)

// The pattern of both pages: shared state lives in the controller behind a
// mutex. An action changes it, puts the result into its own tab's state, and
// publishes. A refresh carries no data: every other tab reads the shared state
// again. So refreshes can be merged, as package fanout does, and no tab is wrong
// as long as one runs after the last change.

// What a refresh of one tab costs in CPU time, from the dispatch to the socket,
// measured with 500 tabs and more. The more tabs are open, the further apart it
// keeps their refreshes.
const (
	counterCost  = 50 * time.Microsecond
	presenceCost = 400 * time.Microsecond // with a full list of names; with one name 140
)

// MultiUserSyncController owns the counter that every tab shows.
type MultiUserSyncController struct {
	refreshCounter *fanout.Refresh

	mu      sync.Mutex
	counter int
}

func multiUserSyncHandler(p pages) (livetemplate.LiveHandler, error) {
	c := &MultiUserSyncController{}
	state := &MultiUserSyncState{Title: "Multi-User Refresh", Category: category}
	page, err := newLivePage(p, "multi-user-sync", c, state)
	if err != nil {
		return nil, err
	}
	c.refreshCounter = p.refresh(page, "RefreshCounter", counterCost)
	p.metrics.counter("realtime_clicks_total", "Clicks that counted.", nil, func() float64 { return float64(c.read()) })
	return page, nil
}

// Mount runs for the page and again for its socket. It subscribes before it
// reads: a change in between is then read or announced, never missed.
func (c *MultiUserSyncController) Mount(s MultiUserSyncState, ctx *livetemplate.Context) (MultiUserSyncState, error) {
	err := ctx.Subscribe(ctx.SelfTopic())
	s.Counter = c.read()
	return s, err
}

// Increment adds one for everyone.
func (c *MultiUserSyncController) Increment(s MultiUserSyncState, ctx *livetemplate.Context) (MultiUserSyncState, error) {
	s.Counter = c.increment()
	return s, c.refreshCounter.Publish(ctx)
}

// RefreshCounter runs in every other tab after an Increment.
func (c *MultiUserSyncController) RefreshCounter(s MultiUserSyncState, _ *livetemplate.Context) (MultiUserSyncState, error) {
	s.Counter = c.read()
	return s, nil
}

func (c *MultiUserSyncController) increment() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counter++
	return c.counter
}

func (c *MultiUserSyncController) read() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counter
}

// PresenceController owns the record of who is online: the connections that
// joined, have not left, and are still open.
type PresenceController struct {
	presenceChanged *fanout.Refresh
	online          *presence.Record // locks for itself
}

func newPresenceController(grace time.Duration) *PresenceController {
	return &PresenceController{online: presence.New(grace)}
}

func presenceHandler(grace time.Duration, p pages) (livetemplate.LiveHandler, error) {
	c := newPresenceController(grace)
	state := &PresenceState{Title: "Presence Tracking", Category: category}
	page, err := newLivePage(p, "presence", c, state)
	if err != nil {
		return nil, err
	}
	c.presenceChanged = p.refresh(page, "PresenceChanged", presenceCost)
	p.metrics.gauge("realtime_users_online", "Users online, each in one tab or more.", nil, c.online.Count)
	return page, nil
}

// Mount subscribes before it reads, like the counter's.
func (c *PresenceController) Mount(s PresenceState, ctx *livetemplate.Context) (PresenceState, error) {
	err := ctx.Subscribe(ctx.SelfTopic())
	return c.read(s), err
}

// Join puts this connection online under the typed name. A refused name stays in
// the state, with the reason, because an update from a peer clears an error that
// an action returned.
func (c *PresenceController) Join(s PresenceState, ctx *livetemplate.Context) (PresenceState, error) {
	typed := formText(ctx, "username")
	if ctx.IsHTTP() {
		ctx.SetFlash("username", typed) // back into the field of the page that answers
		return s, livetemplate.FieldError{Field: "join", Message: notLive}
	}
	name, problem := cleanName(typed)
	if problem != "" {
		s.Draft, s.NameError = typed, problem
		return s, nil
	}
	if s.ID == "" {
		s.ID = rand.Text()
		defer c.leaveWithSocket(ctx, s.ID) // after Join: the socket may have ended by now
	}
	s.Username, s.Joined = name, true
	s.Draft, s.NameError = "", ""
	c.online.Join(s.ID, presence.User{Session: ctx.GroupID(), Name: name})
	return c.read(s), c.presenceChanged.Publish(ctx)
}

// Leave takes this connection offline, and no other.
func (c *PresenceController) Leave(s PresenceState, ctx *livetemplate.Context) (PresenceState, error) {
	s.Username, s.Joined = "", false
	c.online.Leave(s.ID)
	return c.read(s), c.presenceChanged.Publish(ctx)
}

// PresenceChanged runs in every other tab after a Join or a leave. It reads only
// what is shared: the name belongs to the tab.
func (c *PresenceController) PresenceChanged(s PresenceState, _ *livetemplate.Context) (PresenceState, error) {
	return c.read(s), nil
}

// leaveWithSocket makes the end of a connection that has joined its leave, after
// a grace period that a reload fits into. An action's context ends with its
// socket, whether the tab was closed or crashed, and no action can run there any
// more: this publishes from outside one.
func (c *PresenceController) leaveWithSocket(ctx *livetemplate.Context, id string) {
	topic := ctx.SelfTopic()
	context.AfterFunc(ctx, func() {
		c.online.Disconnect(id, func() { c.presenceChanged.PublishTo(topic) })
	})
}

// listed is how many names the page shows; it says how many more there are.
const listed = 20

func (c *PresenceController) read(s PresenceState) PresenceState {
	s.OnlineCount, s.Online = c.online.View(s.ID, listed)
	s.More = s.OnlineCount - len(s.Online)
	return s
}
