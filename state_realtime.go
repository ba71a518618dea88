package main

import "realtime/internal/presence"

// category is the heading that both pages stand under.
const category = "Real-Time & Multi-User"

// MultiUserSyncState is what one tab of the counter page shows.
type MultiUserSyncState struct {
	Title    string
	Category string
	Counter  int    // the shared value as this tab last read it
	Away     bool   // it is the last known: the servers cannot reach what they share
	Problem  string // why this tab's last click did not count; no peer clears it
}

// PresenceState is what one tab of the presence page shows. The fields from
// OnlineCount on are shared, as this tab last read them. The others belong to
// this connection alone: no peer changes them, and nothing is persisted.
type PresenceState struct {
	Title       string
	Category    string
	ID          string // this connection in the record of who is online; empty before the first Join
	Username    string // the name it joined under
	Joined      bool
	Draft       string // a name that was refused, as typed
	NameError   string // why it was refused
	OnlineCount int    // users, not tabs
	Online      []presence.Listed
	More        int  // users who are not in Online
	Away        bool // all of this is the last known
}
