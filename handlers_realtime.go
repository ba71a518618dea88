package main

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livetemplate/livetemplate"

	"realtime/internal/cluster"
	"realtime/internal/fanout"
	"realtime/internal/presence"
)

// The pattern of both pages: shared state lives in the controller behind a
// mutex. An action changes it, puts the result into its own tab's state, and
// publishes. A refresh carries no data: every other tab reads the shared state
// again. So refreshes can be merged, as package fanout does, and no tab is wrong
// as long as one runs after the last change.
//
// With more than one server, that state is a copy of what all of them share:
// package cluster keeps it up to date, and a change from elsewhere publishes too.

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
	servers        *cluster.Member // nil: this server is the only one
	clicks         atomic.Int64    // that counted here

	mu      sync.Mutex
	counter int
}

func multiUserSyncHandler(p pages) (livetemplate.LiveHandler, error) {
	c := &MultiUserSyncController{servers: p.servers}
	state := &MultiUserSyncState{Title: "Multi-User Refresh", Category: category}
	page, err := newLivePage(p, "multi-user-sync", c, state)
	if err != nil {
		return nil, err
	}
	c.refreshCounter = p.refresh(page, "RefreshCounter", counterCost)
	p.metrics.counter("realtime_clicks_total", "Clicks on this server that counted.", nil, func() float64 { return float64(c.clicks.Load()) })
	if p.servers != nil {
		p.servers.OnCounter(func(value int) {
			if c.raise(value) {
				c.refreshCounter.PublishTo(allTabs)
			}
		})
		p.servers.OnStatus(func() { c.refreshCounter.PublishTo(allTabs) })
	}
	return page, nil
}

// Mount runs for the page and again for its socket. It subscribes before it
// reads: a change in between is then read or announced, never missed.
func (c *MultiUserSyncController) Mount(s MultiUserSyncState, ctx *livetemplate.Context) (MultiUserSyncState, error) {
	err := ctx.Subscribe(ctx.SelfTopic())
	return c.read(s), err
}

// Increment adds one for everyone, unless what they share cannot be reached.
func (c *MultiUserSyncController) Increment(s MultiUserSyncState, ctx *livetemplate.Context) (MultiUserSyncState, error) {
	if err := c.increment(); err != nil {
		return notCounted(s, ctx, err)
	}
	s.Problem = ""
	return c.read(s), c.refreshCounter.Publish(ctx)
}

// RefreshCounter runs in every other tab after an Increment.
func (c *MultiUserSyncController) RefreshCounter(s MultiUserSyncState, _ *livetemplate.Context) (MultiUserSyncState, error) {
	return c.read(s), nil
}

// notCounted tells the person. It stays in the state, because an update from a peer
// clears an error that an action returned; where no socket opens, there is no state
// that stays.
func notCounted(s MultiUserSyncState, ctx *livetemplate.Context, err error) (MultiUserSyncState, error) {
	s.Problem = unreachable
	if errors.Is(err, cluster.ErrUnknown) {
		s.Problem = unknown
	}
	if ctx.IsHTTP() {
		return s, livetemplate.FieldError{Field: "increment", Message: s.Problem}
	}
	return s, nil
}

// increment counts here or, with more than one server, where they all count.
func (c *MultiUserSyncController) increment() error {
	if c.servers == nil {
		c.add()
	} else {
		value, err := c.servers.Increment()
		if err != nil {
			return err
		}
		c.raise(value)
	}
	c.clicks.Add(1)
	return nil
}

func (c *MultiUserSyncController) add() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counter++
}

// raise takes over a value that all servers share, unless the one here is newer:
// it only grows.
func (c *MultiUserSyncController) raise(value int) (raised bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	raised = value > c.counter
	c.counter = max(c.counter, value)
	return raised
}

func (c *MultiUserSyncController) read(s MultiUserSyncState) MultiUserSyncState {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Counter, s.Away = c.counter, c.servers.Away()
	return s
}

// PresenceController owns the record of who is online: the connections that
// joined, have not left, and are still open.
type PresenceController struct {
	presenceChanged *fanout.Refresh
	servers         *cluster.Member  // nil: this server is the only one
	online          *presence.Record // locks for itself
}

func newPresenceController(grace time.Duration) *PresenceController {
	return &PresenceController{online: presence.New(grace)}
}

func presenceHandler(grace time.Duration, p pages) (livetemplate.LiveHandler, error) {
	c := newPresenceController(grace)
	c.servers = p.servers
	state := &PresenceState{Title: "Presence Tracking", Category: category}
	page, err := newLivePage(p, "presence", c, state)
	if err != nil {
		return nil, err
	}
	c.presenceChanged = p.refresh(page, "PresenceChanged", presenceCost)
	p.metrics.gauge("realtime_users_online", "Users online, on all servers, each in one tab or more.", nil, c.online.Count)
	if p.servers != nil {
		c.online.Announce(p.servers)
		p.servers.OnEntries(c.online.SetElsewhere, c.online.Leave, c.changed)
		p.servers.OnStatus(c.changed)
	}
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
	c.online.Join(s.ID, presence.NewUser(ctx.GroupID(), name))
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
	context.AfterFunc(ctx, func() { c.online.Disconnect(id, c.changed) })
}

// changed publishes what no action has changed.
func (c *PresenceController) changed() { c.presenceChanged.PublishTo(allTabs) }

// listed is how many names the page shows; it says how many more there are.
const listed = 20

func (c *PresenceController) read(s PresenceState) PresenceState {
	s.OnlineCount, s.Online = c.online.View(s.ID, listed)
	s.More, s.Away = s.OnlineCount-len(s.Online), c.servers.Away()
	return s
}
