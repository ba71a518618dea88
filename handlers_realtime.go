package main

import (
	"context"
	"crypto/rand"
	"log/slog"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/livetemplate/livetemplate"
)

// The pattern of both pages: shared state lives in the controller behind a
// mutex. An action changes it, puts the result into its own tab's state, and
// publishes. A refresh carries no data: every other tab reads the shared state
// again, so a refresh that is merged or dropped leaves no tab wrong as long as
// one runs after the last change.

// MultiUserSyncController owns the counter that every tab shows.
type MultiUserSyncController struct {
	mu      sync.Mutex
	counter int
}

func multiUserSyncHandler(opts []livetemplate.Option) (livetemplate.LiveHandler, error) {
	tmpl, err := liveTemplate("multi-user-sync", opts)
	if err != nil {
		return nil, err
	}
	state := &MultiUserSyncState{Title: "Multi-User Refresh", Category: category}
	return tmpl.Handle(&MultiUserSyncController{}, livetemplate.AsState(state)), nil
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
	return s, ctx.Publish(ctx.SelfTopic(), "RefreshCounter", nil)
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
	mu     sync.Mutex
	online map[string]bool // by connection ID
	live   publisher       // announces a leave that no action made
}

// publisher is the part of a LiveHandler that publishes outside an action.
type publisher interface {
	Publish(topic, action string, data map[string]any) error
}

func newPresenceController() *PresenceController {
	return &PresenceController{online: map[string]bool{}}
}

func presenceHandler(opts []livetemplate.Option) (livetemplate.LiveHandler, error) {
	tmpl, err := liveTemplate("presence", opts)
	if err != nil {
		return nil, err
	}
	c := newPresenceController()
	handler := tmpl.Handle(c, livetemplate.AsState(&PresenceState{Title: "Presence Tracking", Category: category}))
	c.live = handler
	return handler, nil
}

// Mount subscribes before it reads, like the counter's.
func (c *PresenceController) Mount(s PresenceState, ctx *livetemplate.Context) (PresenceState, error) {
	err := ctx.Subscribe(ctx.SelfTopic())
	s.OnlineCount = c.count()
	return s, err
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
		// After add: a socket that has ended by now leaves at once.
		defer c.leaveWithSocket(ctx, s.ID)
	}
	s.Username, s.Joined = name, true
	s.Draft, s.NameError = "", ""
	s.OnlineCount = c.add(s.ID)
	return s, ctx.Publish(ctx.SelfTopic(), "PresenceChanged", nil)
}

// Leave takes this connection offline.
func (c *PresenceController) Leave(s PresenceState, ctx *livetemplate.Context) (PresenceState, error) {
	s.Username, s.Joined = "", false
	_, s.OnlineCount = c.remove(s.ID)
	return s, ctx.Publish(ctx.SelfTopic(), "PresenceChanged", nil)
}

// PresenceChanged runs in every other tab after a Join or a leave. It reads only
// what is shared: the name belongs to the tab.
func (c *PresenceController) PresenceChanged(s PresenceState, _ *livetemplate.Context) (PresenceState, error) {
	s.OnlineCount = c.count()
	return s, nil
}

// leaveWithSocket makes the end of a connection that has joined its leave. An
// action's context ends with its socket, whether the tab was closed or crashed,
// and no action can run there any more: this publishes from outside one.
func (c *PresenceController) leaveWithSocket(ctx *livetemplate.Context, id string) {
	topic := ctx.SelfTopic()
	context.AfterFunc(ctx, func() {
		if wasOnline, _ := c.remove(id); !wasOnline {
			return
		}
		if err := c.live.Publish(topic, "PresenceChanged", nil); err != nil {
			slog.Error("a leave was not announced", slog.Any("error", err))
		}
	})
}

func (c *PresenceController) add(id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.online[id] = true
	return len(c.online)
}

func (c *PresenceController) remove(id string) (wasOnline bool, count int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wasOnline = c.online[id]
	delete(c.online, id)
	return wasOnline, len(c.online)
}

func (c *PresenceController) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.online)
}

// What a person reads when Join refuses.
const (
	noName   = "Please enter a name."
	longName = "Please use at most 40 characters."
	notLive  = "Joining needs a live connection: without one, nobody could tell when you leave."
)

// cleanName is the typed name without the space around it, or the problem with it.
func cleanName(typed string) (name, problem string) {
	name = strings.TrimSpace(typed)
	switch {
	case name == "":
		return "", noName
	case utf8.RuneCountInString(name) > 40:
		return "", longName
	}
	return name, ""
}
