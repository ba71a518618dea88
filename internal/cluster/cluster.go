// Package cluster lets servers share a counter, and entries that each of them owns,
// through Redis. Every server keeps a copy of everything, and its pages read the
// copy: they never read Redis. A server writes its changes, hears of the changes of
// others on a channel, and compares its copy with Redis whenever it renews its
// lease. A lost message therefore costs time, and nothing else.
//
// The counter is a set of numbers that only grow, one for each epoch. An epoch is one
// life of the data in Redis: a Redis that has restarted, or lost its data, begins
// another. Servers tell Redis what it has lost, and of each epoch the larger number
// counts, so a server that returns with an old number takes no increment away. An
// increment that was answered is lost only if Redis loses it, and every server that
// has heard of it ends before it could tell Redis again. The server that has answered
// it is at first the only one that has.
//
// A server without Redis is a cluster of one: it counts by itself.
//
// The framework has a Redis broadcaster of its own, which does not fit. It carries
// actions but no state, loses what is sent while it is not connected, serves one
// page only, and would refresh every tab of every server at each click. Here one
// message per server is enough, and the fan-out of each server merges refreshes.
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
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// DefaultLease is how long the entries of a server that has died stay.
	DefaultLease = 6 * time.Second
	// DefaultRenew is how often a server renews its lease. Two renewals in a row
	// may fail.
	DefaultRenew = 2 * time.Second
)

const (
	answerWithin = 2 * time.Second // without an answer for so long, Redis is away
	retry        = time.Second     // longest time between two attempts to reach it
	maxBatch     = 1000            // most entries in one command
)

// Options configure a Member.
type Options struct {
	// URL is redis://[USER:PASSWORD@]HOST:PORT/DB, or rediss:// with TLS. Without
	// it, the Member is the only one.
	URL string
	// Log is for the operator. Default: slog.Default().
	Log *slog.Logger
	// Lease and Renew default to DefaultLease and DefaultRenew.
	Lease, Renew time.Duration
	// Grace is how long the entries of a server stay after Leave. Default: not at all.
	Grace time.Duration
}

// The errors of Increment are sentences for the person who clicked. In both cases
// the caller must not try again: the person has not asked for a second click.
const (
	// ErrAway means that Redis cannot be reached and nothing was counted.
	ErrAway = problem("The counter that all servers share could not be reached: your last click did not count.")
	// ErrUnknown means that Redis did not answer: it may have counted.
	ErrUnknown = problem("The counter that all servers share did not answer: your last click may or may not have counted.")
)

type problem string

func (p problem) Error() string { return string(p) }

// Member is one of the servers that share a Redis. Set its callbacks (OnCounter,
// OnEntries, OnStatus), then call Start. Its other methods are safe for concurrent
// use.
type Member struct {
	id    string // of this process; never used again
	opts  Options
	redis *redis.Client // nil in a cluster of one

	onCounter func(value int)
	onSet     func(id, value string)
	onRemove  func(id string)
	onEntries func()
	onLeave   func(id string)
	onStatus  []func()

	away    atomic.Bool
	failed  struct{ away, unknown atomic.Int64 } // increments, by their error
	counted atomic.Int64                         // increments of this server that were counted
	wake    chan struct{}                        // there is something to write or to check
	end     context.CancelFunc
	ended   chan struct{}

	counting sync.Mutex // held while an increment is under way

	mu      sync.Mutex
	next    *batch            // of increments that wait
	counts  map[string]int64  // of increments of all servers, by epoch
	total   int64             // of counts
	own     map[string]string // entries of this server
	changed map[string]bool   // IDs of own entries that have not been written to Redis

	// The goroutine that follows Redis owns these:
	version int64 // of own, as it was last sent to Redis
	others  map[string]*server
	epoch   string // of Redis, at the last sync
	news    bool   // entries of others have changed, and onEntries was not called yet
	sub     *redis.PubSub
	events  <-chan any // of sub; nil while Redis is away
	echoed  bool       // the subscription has delivered what the last sync published to it
	lost    time.Time  // when Redis went away
	gap     time.Time  // when Redis last began an epoch, or this server had no connection
}

// server is what is known about another server.
type server struct {
	version int64           // negative once it has left
	ids     map[string]bool // of its entries
}

// New returns a Member that is not started. An error means that the URL is not
// valid. It does not quote the URL, which may contain a password.
func New(opts Options) (*Member, error) {
	opts.Log = cmp.Or(opts.Log, slog.Default())
	if opts.URL == "" {
		return &Member{opts: opts}, nil
	}
	config, err := redis.ParseURL(opts.URL)
	if err != nil {
		return nil, errors.New("the address of redis is not valid: want redis://HOST:PORT/0")
	}
	config.MaxRetries = -1 // an increment whose answer was lost must not count twice
	config.DialerRetries = 1
	config.DialTimeout, config.ReadTimeout, config.WriteTimeout = answerWithin, answerWithin, answerWithin
	config.PoolTimeout = answerWithin
	config.ContextTimeoutEnabled = true
	config.DisableIdentity = true
	config.OnConnect = func(ctx context.Context, conn *redis.Conn) error {
		return greet.Run(ctx, conn, []string{clicksKey}, channel).Err()
	}
	opts.Lease, opts.Renew = cmp.Or(opts.Lease, DefaultLease), cmp.Or(opts.Renew, DefaultRenew)
	return &Member{
		id:      rand.Text(),
		opts:    opts,
		redis:   redis.NewClient(config),
		wake:    make(chan struct{}, 1),
		ended:   make(chan struct{}),
		onLeave: func(string) {},
		counts:  map[string]int64{},
		own:     map[string]string{},
		changed: map[string]bool{},
		others:  map[string]*server{},
	}, nil
}

// OnCounter sets a function to call with a value of the counter that is greater than
// every value before, after another server has counted. Increment may return a
// greater one at the same time.
func (m *Member) OnCounter(f func(value int)) { m.onCounter = f }

// OnEntries sets functions to call when other servers set or remove entries, and one
// to call after a series of such calls.
func (m *Member) OnEntries(set func(id, value string), remove func(id string), changed func()) {
	m.onSet, m.onRemove, m.onEntries = set, remove, changed
}

// OnLeave sets a function to call with each entry of a server that leaves. The entry
// is removed when the grace period of that server is over.
func (m *Member) OnLeave(f func(id string)) { m.onLeave = f }

// OnStatus adds a function to call when Redis goes away or comes back.
func (m *Member) OnStatus(f func()) { m.onStatus = append(m.onStatus, f) }

// Shared reports whether there is a Redis to share.
func (m *Member) Shared() bool { return m.redis != nil }

// Start reads everything from Redis, and follows it from then on. It tries again
// until ctx ends while Redis cannot be reached. An error means that Redis cannot be
// used.
func (m *Member) Start(ctx context.Context) error {
	if !m.Shared() {
		return nil
	}
	if err := m.reach(ctx); err != nil {
		m.redis.Close()
		return fmt.Errorf("redis at %s: %w", m.redis.Options().Addr, err)
	}
	m.opts.Log.Info("sharing state through redis", slog.String("address", m.redis.Options().Addr))
	following, end := context.WithCancel(context.Background())
	m.end = end
	go m.follow(following)
	return nil
}

// reach connects, and tries again until ctx ends.
func (m *Member) reach(ctx context.Context) (err error) {
	for {
		failed := m.connect(ctx)
		if failed == nil || cannotWork(failed) {
			return failed
		}
		if err == nil || ctx.Err() == nil { // otherwise failed says no more than that time is over
			err = failed
		}
		select {
		case <-time.After(wait()):
		case <-ctx.Done():
			return err
		}
	}
}

// Leave tells the other servers that this one stops, unless ctx ends before. They
// keep its entries for the grace period. Increment goes on working until Close.
func (m *Member) Leave(ctx context.Context) {
	if !m.Shared() {
		return
	}
	m.end()
	var err error
	select {
	case <-m.ended:
		if m.Away() {
			return
		}
		err = m.write(ctx) // what has changed last
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil {
		err = m.giveBack(ctx)
	}
	if err != nil {
		m.opts.Log.Warn("other servers could not be told that this one stops: they show its people until its lease ends", slog.Any("error", err))
	}
}

// Close closes every connection to Redis.
func (m *Member) Close() {
	if m.Shared() {
		m.redis.Close()
	}
}

// Away reports whether Redis cannot be reached. The copy of this server is then the
// last that is known.
func (m *Member) Away() bool { return m.away.Load() }

// Counted returns how many increments of this server were counted.
func (m *Member) Counted() int { return int(m.counted.Load()) }

// Increment adds one to the counter, and returns a value that includes it. It takes
// at most a few seconds, and returns at once while Redis is away. It never sends an
// increment twice. Its errors are ErrAway and ErrUnknown.
//
// One command is under way at a time. Increments that arrive meanwhile are combined
// into the next command, so that a crowd costs Redis little more than one person.
func (m *Member) Increment() (value int, err error) {
	if !m.Shared() {
		return int(m.counted.Add(1)), nil
	}
	m.mu.Lock()
	b := m.next
	if b == nil {
		b = &batch{}
		b.count = sync.OnceFunc(func() { m.count(b) })
		m.next = b
	}
	b.size++
	m.mu.Unlock()
	b.count()
	switch b.err {
	case ErrAway:
		m.failed.away.Add(1)
	case ErrUnknown:
		m.failed.unknown.Add(1)
	}
	return int(b.value), b.err
}

// Failed returns how many increments of this server have ended with ErrAway, and how
// many with ErrUnknown.
func (m *Member) Failed() (away, unknown int) {
	return int(m.failed.away.Load()), int(m.failed.unknown.Load())
}

// batch is a number of increments that are sent as one.
type batch struct {
	size  int64
	count func() // sends them, or waits until they have been sent
	value int64
	err   error
}

// count sends a batch, after the one before it.
func (m *Member) count(b *batch) {
	m.counting.Lock()
	defer m.counting.Unlock()
	m.mu.Lock()
	m.next = nil
	m.mu.Unlock()
	if m.away.Load() {
		b.err = ErrAway
		return
	}
	b.value, b.err = m.add(b.size)
	if b.err != nil {
		m.look() // Redis may be away
		return
	}
	m.counted.Add(b.size)
}

// add adds n to the counter in Redis, and announces the new value to other servers.
func (m *Member) add(n int64) (value int64, err error) {
	reply, err := increment.Run(context.Background(), m.redis, []string{clicksKey}, channel, n, m.id).Slice()
	var refused redis.Error
	switch {
	case err == nil:
		value, _ = m.merge(map[string]int64{reply[0].(string): reply[1].(int64)})
		return value, nil
	case notSent(err):
		return 0, ErrAway
	case errors.As(err, &refused):
		m.opts.Log.Warn("clicks did not count: redis refused them", slog.Int64("clicks", n), slog.Any("error", err))
		return 0, ErrAway
	default:
		m.opts.Log.Warn("clicks may or may not have counted: redis did not answer", slog.Int64("clicks", n), slog.Any("error", err))
		return 0, ErrUnknown
	}
}

// Set adds or changes an entry of this server. It does not wait for Redis.
func (m *Member) Set(id, value string) {
	if !m.Shared() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.own[id] = value
	m.changed[id] = true
	m.look()
}

// Remove removes an entry of this server. It does not wait for Redis.
func (m *Member) Remove(id string) {
	if !m.Shared() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.own, id)
	m.changed[id] = true
	m.look()
}

// look wakes the goroutine that follows Redis.
func (m *Member) look() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// merge takes over what others know of the counter: of each epoch, the larger number.
// It returns the sum of all epochs, and reports whether it has grown.
func (m *Member) merge(counts map[string]int64) (total int64, grown bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for epoch, n := range counts {
		if more := n - m.counts[epoch]; more > 0 {
			m.counts[epoch], m.total, grown = n, m.total+more, true
		}
	}
	return m.total, grown
}

// known is what this server knows of the counter: epochs, each with its number.
func (m *Member) known() (list []any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for epoch, n := range m.counts {
		list = append(list, epoch, n)
	}
	return list
}

// follow keeps this server's copy and what Redis has of this server up to date.
func (m *Member) follow(ctx context.Context) {
	defer close(m.ended)
	defer m.disconnect()
	due := time.NewTimer(m.opts.Renew)
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-due.C:
			if m.events == nil || !m.echoed {
				err = m.connect(ctx)
			} else {
				err = m.sync(ctx)
			}
			due.Reset(m.opts.Renew)
		case <-m.wake:
			if m.events == nil {
				continue
			}
			err = m.write(ctx)
		case event := <-m.events:
			err = m.hear(ctx, event)
		}
		m.tellNews()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			m.disconnect()
			due.Reset(wait())
		}
		m.tellStatus(err)
	}
}

// wait is the time to wait after a failed attempt. It is random, so that servers
// that have lost Redis together do not come back all at once.
func wait() time.Duration { return retry/2 + mathrand.N(retry/2) }

func (m *Member) tellNews() {
	if m.news {
		m.news = false
		m.onEntries()
	}
}

// tellStatus calls the callbacks when Redis has gone away or is back.
func (m *Member) tellStatus(err error) {
	if away := err != nil; away == m.away.Load() {
		return
	}
	if err != nil {
		m.lost = time.Now()
		m.opts.Log.Warn("redis is away: pages show the last known state, and clicks do not count", slog.Any("error", err))
	} else {
		m.opts.Log.Info("redis is back", slog.Duration("after", time.Since(m.lost)))
	}
	m.away.Store(err != nil)
	for _, f := range m.onStatus {
		f()
	}
}

// connect subscribes before it reads, so that no change in between is missed.
func (m *Member) connect(ctx context.Context) error {
	m.disconnect()
	m.gap = time.Now()
	sub := m.redis.Subscribe(ctx, channel, m.echo())
	_, err := sub.ReceiveTimeout(ctx, answerWithin)
	if err == nil {
		err = m.sync(ctx)
	}
	if err != nil {
		sub.Close()
		return err
	}
	m.sub = sub
	m.events = sub.ChannelWithSubscriptions(redis.WithChannelHealthCheckInterval(0)) // the echo is the health check
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.changed) > 0 { // while there was no connection
		m.look()
	}
	return nil
}

func (m *Member) disconnect() {
	if m.sub != nil {
		m.sub.Close()
	}
	m.sub, m.events = nil, nil
}

// message is what servers tell each other, as JSON.
type message struct {
	Counts map[string]int64 `json:"counts,omitempty"` // new numbers of increments, by epoch
	By     string           `json:"by,omitempty"`     // server that has counted
	Epoch  string           `json:"epoch,omitempty"`  // has begun: tell Redis everything, it may have lost data

	Server  string            `json:"server,omitempty"`  // server whose entries have changed
	Version int64             `json:"version,omitempty"` // of its entries; negative if it has left
	Set     map[string]string `json:"set,omitempty"`
	Removed []string          `json:"removed,omitempty"`
	Whole   bool              `json:"whole,omitempty"` // the changes are not in this message
}

// hear handles an event of the subscription.
func (m *Member) hear(ctx context.Context, event any) error {
	switch event := event.(type) {
	case *redis.Subscription: // anew, after a gap
		if event.Channel != channel {
			return nil
		}
		m.gap = time.Now()
		err := m.sync(ctx)
		if err == nil {
			m.opts.Log.Info("the subscription to redis was lost and renewed; everything was read again")
		}
		return err
	case *redis.Message:
		if event.Channel == m.echo() {
			m.echoed = true
			return nil
		}
		var msg message
		if err := json.Unmarshal([]byte(event.Payload), &msg); err != nil {
			m.opts.Log.Warn("message on the redis channel ignored: no server has sent it", slog.Any("error", err))
			return nil
		}
		return m.apply(ctx, msg)
	}
	return nil
}

func (m *Member) apply(ctx context.Context, msg message) error {
	if msg.By != m.id { // Increment has returned its own
		m.heard(msg.Counts)
	}
	if msg.Epoch != "" && msg.Epoch != m.epoch {
		return m.sync(ctx)
	}
	if msg.Server == "" || msg.Server == m.id {
		return nil
	}
	other := m.others[msg.Server]
	switch {
	case other == nil && msg.Version < 0: // it leaves before anything was read of it
	case msg.Version < 0:
		other.leave(msg.Version, m.onLeave)
	case other != nil && msg.Version <= other.version: // already known
	case other == nil || msg.Whole || msg.Version != other.version+1:
		return m.read(ctx, msg.Server)
	default:
		other.version, m.news = msg.Version, true
		for id, value := range msg.Set {
			other.ids[id] = true
			m.onSet(id, value)
		}
		for _, id := range msg.Removed {
			delete(other.ids, id)
			m.onRemove(id)
		}
	}
	return nil
}

// heard handles numbers of increments that others have made.
func (m *Member) heard(counts map[string]int64) {
	if total, grown := m.merge(counts); grown {
		m.onCounter(int(total))
	}
}

// leave notes that a server has left.
func (s *server) leave(version int64, onLeave func(id string)) {
	s.version = version
	for id := range s.ids {
		onLeave(id)
	}
}

// replace replaces all entries of another server.
func (m *Member) replace(id string, version int64, entries map[string]string) {
	before := m.others[id]
	after := &server{version, map[string]bool{}}
	m.others[id], m.news = after, true
	for entry, value := range entries {
		after.ids[entry] = true
		m.onSet(entry, value)
	}
	if version < 0 {
		after.leave(version, m.onLeave)
	}
	if before == nil {
		return
	}
	for entry := range before.ids {
		if !after.ids[entry] {
			m.onRemove(entry)
		}
	}
}

// drop forgets another server and its entries.
func (m *Member) drop(id string) {
	other := m.others[id]
	if other == nil {
		return
	}
	m.news = true
	delete(m.others, id)
	for entry := range other.ids {
		m.onRemove(entry)
	}
}

// changes takes up to a batch of the changes that have not been written to Redis.
func (m *Member) changes() (set map[string]string, removed []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	set = map[string]string{}
	for id := range m.changed {
		if len(set)+len(removed) == maxBatch {
			m.look() // for the rest
			break
		}
		if value, ok := m.own[id]; ok {
			set[id] = value
		} else {
			removed = append(removed, id)
		}
		delete(m.changed, id)
	}
	return set, removed
}

// all takes every entry of this server.
func (m *Member) all() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.changed)
	return maps.Clone(m.own)
}
