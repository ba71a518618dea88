package main

import "realtime/internal/presence"

// category is the heading that both pages stand under.
const category = "Real-Time & Multi-User"

// MultiUserSyncState is what one tab of the counter page shows.
type MultiUserSyncState struct {
	Title    string
	Category string
	Counter  int  // the shared value as this tab has last read it
	Away     bool // clicks on other servers are missing
}

// PresenceState is what one tab of the presence page shows. The fields from
// OnlineCount on are shared, as this tab has last read them. The others belong to
// this connection: no peer changes them, and nothing stores them.
type PresenceState struct {
	Title       string
	Category    string
	ID          string // this connection in the record of who is online; empty without a socket
	Username    string // the name it has joined under
	Joined      bool
	Draft       string // a name that was refused, as typed
	NameError   string // why it was refused
	OnlineCount int    // users, not tabs
	Online      presence.List
	Away        bool // changes on other servers are missing
}

// needsSocket is what Join answers to a plain request.
const needsSocket = "Joining needs a live connection. Without one, the server cannot tell when you leave."

// name returns the typed text as a name that this tab can join under, or the problem.
func (s PresenceState) name(typed string) (name, problem string) {
	if s.ID == "" {
		return "", needsSocket
	}
	return presence.Name(typed)
}
