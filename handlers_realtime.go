package main

import (
	"net/http"
	"sync"

	"github.com/livetemplate/livetemplate"

	"realtime/internal/cluster"
	"realtime/internal/fanout"
	"realtime/internal/presence"
	"realtime/internal/site"
)

// everyone gives all visitors one identity, so that their SelfTopic is one, allTabs. By
// default it reaches one browser, and others hear of nothing.
type everyone struct {
	*livetemplate.AnonymousAuthenticator
}

func (everyone) Identify(*http.Request) (string, error) { return "everyone", nil }

var allTabs = livetemplate.UserTopic("everyone")

// MultiUserSyncController owns the counter. An action changes it and publishes; its peers,
// the other tabs, then read it again. A refresh carries no data, so refreshes can be merged.
type MultiUserSyncController struct {
	peers     *fanout.Peers
	servers   *cluster.Member // a single server is a cluster of one
	mu        sync.Mutex      // guards the rest
	counter   int             // counted on this server
	elsewhere int             // counted on others, and in earlier lives of this one
}

// Mount subscribes before it reads, so that no change in between is missed.
func (c *MultiUserSyncController) Mount(s MultiUserSyncState, ctx *livetemplate.Context) (MultiUserSyncState, error) {
	err := ctx.Subscribe(ctx.SelfTopic())
	s, _ = c.RefreshCounter(s, ctx)
	return s, err
}

// Increment adds one for everybody.
func (c *MultiUserSyncController) Increment(s MultiUserSyncState, ctx *livetemplate.Context) (MultiUserSyncState, error) {
	c.mu.Lock()
	c.counter++
	here := c.counter
	s.Counter = here + c.elsewhere
	c.mu.Unlock()
	c.servers.Count(here)
	return s, c.peers.Publish(ctx, ctx.SelfTopic(), "RefreshCounter")
}

// RefreshCounter runs in every other tab.
func (c *MultiUserSyncController) RefreshCounter(s MultiUserSyncState, _ *livetemplate.Context) (MultiUserSyncState, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Counter, s.Away = c.counter+c.elsewhere, c.servers.Away()
	return s, nil
}

// counted is called when another server has counted, or Away has changed.
func (c *MultiUserSyncController) counted(elsewhere int) {
	c.mu.Lock()
	c.elsewhere = elsewhere
	c.mu.Unlock()
	c.peers.PublishTo(allTabs, "RefreshCounter")
}

// PresenceController owns the record of who is online.
type PresenceController struct {
	peers   *fanout.Peers
	servers *cluster.Member
	online  *presence.Record // has a lock of its own
}

// Mount subscribes before it reads. A socket gets an ID, and leaves when it ends.
func (c *PresenceController) Mount(s PresenceState, ctx *livetemplate.Context) (PresenceState, error) {
	if ctx.IsNewConnect() || ctx.IsReconnect() {
		s.ID = c.online.Connect(ctx, c.changed)
	}
	err := ctx.Subscribe(ctx.SelfTopic())
	return c.read(s), err
}

// Join puts this tab online under the typed name, or says why it cannot.
func (c *PresenceController) Join(s PresenceState, ctx *livetemplate.Context) (PresenceState, error) {
	s.Draft = site.Text(ctx, "username")
	name, problem := s.name(s.Draft)
	if s.NameError = problem; problem != "" {
		return s, site.Refuse(ctx, s, problem)
	}
	c.online.Join(s.ID, presence.NewUser(site.Browser(ctx), name))
	s.Username, s.Joined, s.Draft = name, true, ""
	return c.read(s), c.peers.Publish(ctx, ctx.SelfTopic(), "PresenceChanged")
}

// Leave takes this tab offline, and no other.
func (c *PresenceController) Leave(s PresenceState, ctx *livetemplate.Context) (PresenceState, error) {
	s.Username, s.Joined = "", false
	if !c.online.Leave(s.ID) {
		return c.read(s), nil
	}
	return c.read(s), c.peers.Publish(ctx, ctx.SelfTopic(), "PresenceChanged")
}

// PresenceChanged runs in every other tab. It reads only what is shared.
func (c *PresenceController) PresenceChanged(s PresenceState, _ *livetemplate.Context) (PresenceState, error) {
	return c.read(s), nil
}

func (c *PresenceController) changed() { c.peers.PublishTo(allTabs, "PresenceChanged") }

func (c *PresenceController) read(s PresenceState) PresenceState {
	s.OnlineCount, s.Online = c.online.View(s.ID)
	s.Away = c.servers.Away()
	return s
}
