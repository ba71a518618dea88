// Package cluster shares a counter and entries between servers, through Redis. Each server
// holds a copy of everything, so reads are local. Without Redis, a server is a cluster of one.
//
// The counter is grow-only: the sum of one count per life of a process, which only that
// process raises. So a count can be written twice, and the larger of two is right. Entries
// belong to their server, under a lease. A change applies only to the version before it, so
// a late one does nothing. A server writes and publishes its changes, receives those of the
// others, and compares everything with Redis when it renews its lease.
package cluster

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"time"

	"realtime/internal/dial"
)

// Options configure a Member. The zero value is a cluster of one.
type Options struct {
	URL    string                         // redis://[USER:PASSWORD@]HOST:PORT/DB, rediss:// with TLS, or unix://PATH
	Prefix string                         // of all names in Redis, before a colon
	Log    *slog.Logger                   // default: slog.Default()
	Keep   func(life string, count int64) // saves a count before it returns; default: counts are not saved
	Kept   map[string]int64               // counts of earlier lives of the process
	Lease  time.Duration                  // how long entries outlive a server that dies; default: 6 seconds
	Renew  time.Duration                  // time between renewals of a lease, and timeout of Redis; default: 2 seconds
	Grace  time.Duration                  // how long entries stay after Leave
}

// Member is one of the servers that share a Redis. Its methods are safe for concurrent use.
type Member struct {
	opts   Options
	own    *own
	link   *link // nil in a cluster of one
	others *others
	end    context.CancelFunc
	ended  chan struct{}
}

// New returns a Member that has not started. An error means that the URL is invalid.
func New(opts Options) (m *Member, err error) {
	opts.Log = cmp.Or(opts.Log, slog.Default())
	opts.Lease, opts.Renew = cmp.Or(opts.Lease, 6*time.Second), cmp.Or(opts.Renew, 2*time.Second)
	m = &Member{opts: opts, own: newOwn(rand.Text()), ended: make(chan struct{})}
	if opts.URL != "" {
		m.link, err = newLink(opts, m.own.id)
	}
	return m, err
}

// Start reads everything, and follows Redis from then on. It retries until ctx ends while
// Redis cannot be reached; an error means that Redis cannot be used. From then on the Member
// calls counted with the sum of the other counts when that has grown, changed when entries
// have changed, and both when Away has changed.
func (m *Member) Start(ctx context.Context, counted func(elsewhere int), entries Entries, changed func()) error {
	m.others = &others{Entries: entries, own: m.own.id, counted: counted, changed: changed, counts: map[string]int64{},
		versions: map[string]int64{}, ids: map[string]map[string]bool{}, alive: map[string]time.Time{}}
	m.others.merge(m.opts.Kept)
	if m.link == nil {
		return nil
	}
	if err := m.reach(ctx); err != nil {
		m.link.Close()
		return fmt.Errorf("redis at %s: %w", m.link.Options().Addr, err)
	}
	m.opts.Log.Info("sharing state through redis", slog.String("address", m.link.Options().Addr))
	m.own.tell(func() { m.own.sharing = true })
	ctx, m.end = context.WithCancel(context.Background())
	go m.follow(ctx)
	return nil
}

// reach connects, and retries until ctx ends.
func (m *Member) reach(ctx context.Context) (err error) {
	for {
		failed := m.sync(ctx)
		if failed == nil {
			return nil
		}
		m.link.unsubscribe()
		timeout := errors.Is(failed, os.ErrDeadlineExceeded) || ctx.Err() != nil // perhaps only that of ctx
		failed, retry := dial.Explain(failed, m.link.Client)
		if err == nil || !timeout {
			err = failed
		}
		if !retry || ctx.Err() != nil {
			return err
		}
		time.Sleep(m.opts.Renew / 3)
	}
}

// Leave tells the other servers that this one shuts down, unless ctx ends first. They keep its
// entries for the grace period. Later changes stay on this server.
func (m *Member) Leave(ctx context.Context) {
	if m.link == nil {
		return
	}
	defer m.link.Close()
	defer m.own.tell(func() { m.own.sharing = false })
	m.end()
	err := context.Canceled
	select {
	case <-m.ended:
		if err = m.write(ctx, nil); err == nil {
			_, err = m.link.write(ctx, message{Server: m.own.id, Version: -m.own.version}, m.opts.Grace)
		}
	case <-ctx.Done():
	}
	if err != nil {
		m.opts.Log.Warn("other servers could not be told that this one stops: they keep its entries until its lease ends", slog.Any("error", err))
	}
}

// Count raises the count of this Member to n. It returns once Keep has saved it and Redis has
// it, or Redis is away and gets it later. Concurrent counts share one command.
func (m *Member) Count(n int) {
	m.own.change(func() { m.own.count = max(m.own.count, int64(n)) })
	if m.opts.Keep != nil {
		m.opts.Keep(m.own.id, int64(n))
	}
	m.own.wait(int64(n))
}

// Set adds or changes an entry of this Member, without waiting for Redis.
func (m *Member) Set(id, value string) {
	m.own.change(func() { m.own.entries[id], m.own.changed[id] = &value, &value })
}

// Remove removes an entry of this Member, without waiting for Redis.
func (m *Member) Remove(id string) {
	m.own.change(func() { delete(m.own.entries, id); m.own.changed[id] = nil })
}

// Counted returns the count of this Member.
func (m *Member) Counted() (n int) {
	m.own.locked(func() { n = int(m.own.count) })
	return n
}

// Away reports whether Redis cannot be reached or refuses writes. Changes of other servers are
// then missing here, and changes of this one are missing there.
func (m *Member) Away() (away bool) {
	m.own.locked(func() { away = m.link != nil && !m.own.sharing })
	return away
}

// Ignored returns how many messages and counts were ignored: no Member can have written them.
func (m *Member) Ignored() int { return int(m.others.ignored.Load()) }

// follow keeps this server and Redis in step until ctx ends.
func (m *Member) follow(ctx context.Context) {
	defer close(m.ended)
	defer m.link.unsubscribe()
	due := time.NewTimer(m.opts.Renew)
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-due.C:
			err = m.sync(ctx)
			due.Reset(m.opts.Renew)
		case <-m.own.wake:
			if m.Away() {
				continue
			}
			err = m.write(ctx, nil)
		case heard := <-m.link.heard:
			var msg message
			json.Unmarshal([]byte(heard.Payload), &msg) // apply ignores what is invalid
			if !m.others.apply(msg) {
				err = m.sync(ctx)
			}
		}
		if err != nil {
			m.link.unsubscribe()
			due.Reset(m.opts.Renew / 3)
		}
		m.note(ctx, err)
	}
}

// note logs it when Redis goes away or comes back, and calls counted and changed.
func (m *Member) note(ctx context.Context, err error) {
	if away := err != nil; away == m.Away() || ctx.Err() != nil {
		return
	}
	switch {
	case err == nil:
		m.opts.Log.Info("redis is back")
	case dial.Refused(err):
		m.opts.Log.Warn("redis refuses writes: until it accepts them, servers do not see each other's changes", slog.Any("error", err))
	default:
		m.opts.Log.Warn("redis is away: until it is back, servers do not see each other's changes", slog.Any("error", err))
	}
	m.own.tell(func() { m.own.sharing = err == nil })
	m.others.counted(int(m.others.total))
	m.others.changed()
}

// sync renews the lease and reconciles this server with Redis. It subscribes before it reads,
// so that no change in between is missed.
func (m *Member) sync(ctx context.Context) error {
	sum, gap := m.others.total, m.link.heard == nil
	m.own.locked(func() { sum += m.own.inRedis; m.others.versions[m.own.id] = m.own.version })
	if gap {
		sum = -1 // read all counts: after a gap an equal sum proves nothing
		if err := m.link.subscribe(ctx); err != nil {
			return err
		}
	}
	f, err := m.link.read(ctx, m.opts.Lease, sum, m.others.versions)
	if err != nil {
		return err
	}
	m.own.tell(func() {
		if f.Counts != nil {
			m.own.inRedis = f.Counts[m.own.id]
		}
		m.own.whole = m.own.whole || f.Leases[m.own.id] == 0 || f.Changed[m.own.id].Whole
	})
	return m.write(ctx, m.others.compare(f, m.opts, gap))
}

// write writes and publishes the changes of this server, and counts that Redis lacks. If Redis
// has not applied them, or may not have, it gets all entries next time.
func (m *Member) write(ctx context.Context, missing map[string]int64) error {
	msg := m.own.next()
	maps.Copy(msg.Counts, missing)
	if msg.Server == "" && len(msg.Counts) == 0 {
		return nil
	}
	applied, err := m.link.write(ctx, msg, m.opts.Lease)
	if applied {
		m.own.tell(func() { m.own.inRedis = max(m.own.inRedis, msg.Counts[m.own.id]) })
	} else {
		m.own.change(func() { m.own.whole = m.own.whole || msg.Server != "" })
	}
	return err
}
