package metrics

import (
	"sync/atomic"

	"realtime/internal/cluster"
	"realtime/internal/fanout"
	"realtime/internal/site"
)

// WatchSite adds the metrics of a site, and of the pages that it has by now.
func (m *Metrics) WatchSite(s *site.Site) {
	m.Gauge("realtime_connections_limit", "Most live connections that may be open.", nil, s.MaxConnections)
	m.Counter("realtime_slow_closes_total", "Connections closed because their peer did not read.", nil, s.SlowCloses)
	m.byReason("realtime_messages_refused_total", "Messages refused.", map[string]*atomic.Int64{
		"too_fast": &s.Stats.TooFast, "too_long": &s.Stats.TooLong, "not_text": &s.Stats.NotText, "not_action": &s.Stats.NotAction})
	m.byReason("realtime_connections_refused_total", "Live connections refused.", s.RefusedConnections)
	m.byReason("realtime_requests_refused_total", "Form posts refused.", s.RefusedForms)
	for _, p := range s.Pages() {
		labels := map[string]string{"page": p.Name()}
		m.Gauge("realtime_connections", "Live connections open now.", labels, p.Connections)
		m.Counter("realtime_connections_opened_total", "Live connections opened.", labels, p.Opened)
		m.Counter("realtime_refreshes_sent_total", "Refreshes handed to a connection.", labels, p.Refreshed)
		m.Counter("realtime_dispatch_drops_total", "Actions dropped because another was waiting for the connection. A refresh that waits covers those that are dropped.", labels, p.Dropped)
	}
}

func (m *Metrics) byReason(name, help string, counts map[string]*atomic.Int64) {
	for reason, count := range counts {
		m.Counter(name, help, map[string]string{"reason": reason}, func() int { return int(count.Load()) })
	}
}

// WatchPeers adds the metrics of a page's refreshes, which are all of one action.
func (m *Metrics) WatchPeers(peers *fanout.Peers, action string) {
	labels := map[string]string{"action": action}
	m.Counter("realtime_refreshes_asked_total", "Changes that asked for a refresh.", labels, peers.Asked)
	m.Counter("realtime_refreshes_merged_total", "Changes covered by a refresh that was already waiting.", labels, peers.Merged)
	peers.OnRefreshed(m.Histogram("realtime_refresh_duration_seconds",
		"Time from a change until 95 % of the connections open then have rendered and written the refresh that it asked for: "+
			"the wait for the interval is part of it, one slow peer is not.", labels))
}

// WatchServers adds the metrics of what this server has counted, and of the Redis that it
// shares, if it does.
func (m *Metrics) WatchServers(servers *cluster.Member, shared bool) {
	m.Counter("realtime_clicks_total", "Clicks on this server.", nil, servers.Counted)
	if !shared {
		return
	}
	m.Counter("realtime_redis_ignored_total", "Messages and counts in Redis that no server can have written.", nil, servers.Ignored)
	up := map[bool]int{true: 1, false: 0}
	m.Gauge("realtime_redis_up", "1 while servers share through Redis: it can be reached, and takes what they write.", nil,
		func() int { return up[!servers.Away()] })
}
