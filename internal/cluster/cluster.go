// Package cluster lets servers share a counter, and entries that each of them
// owns, through Redis. Every server has a copy of all of it, which its pages read;
// they never read Redis. A server writes what changes, hears on a channel what
// others have written, and compares its copy with Redis every time it renews its
// lease. So a message that is missed costs time, and nothing else.
//
// The framework has a Redis broadcaster of its own. It does not fit: it carries
// actions and no state, forgets what is sent while it is not connected, serves one
// page only, and would refresh every tab of every server for each click. Here one
// message for each server is enough, and the fan-out of each merges them.
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

// DefaultLease is how long the entries of a server stay when it has died, and
// DefaultRenew how often one that lives renews its lease. Two renewals in a row may
// fail.
const (
	DefaultLease = 6 * time.Second
	DefaultRenew = 2 * time.Second
)

const (
	answerWithin = 2 * time.Second // Redis, and then it is away
	retry        = time.Second     // at most, from one attempt to reach it to the next
	maxBatch     = 1000            // entries in one command
)

// Options say which Redis, and how often.
type Options struct {
	// URL is redis://[USER:PASSWORD@]HOST:PORT/DB, or rediss:// with TLS.
	URL string
	// Log is for the operator. Default: slog.Default().
	Log *slog.Logger
	// Lease and Renew default to DefaultLease and DefaultRenew.
	Lease, Renew time.Duration
}

// Errors of Increment. In both cases the caller must not try again: nobody asked
// for a second one.
var (
	ErrAway    = errors.New("redis is away: nothing was counted")
	ErrUnknown = errors.New("redis did not answer: it may have counted")
)

// Member is one of the servers that share a Redis. Set what it is to tell (OnCounter,
// OnEntries, OnStatus), then Start it. Its other methods are safe for concurrent
// use. A nil Member is a server that shares nothing.
type Member struct {
	id    string // of this process; never used again
	opts  Options
	redis *redis.Client

	onCounter func(value int)
	onSet     func(id, value string)
	onRemove  func(id string)
	onEntries func()
	onStatus  []func()

	away    atomic.Bool
	highest atomic.Int64           // value of the counter that this server knows of
	epoch   atomic.Pointer[string] // of Redis, which has what this server knows
	wake    chan struct{}          // there is something to write, or to look after
	end     context.CancelFunc
	ended   chan struct{}

	counting sync.Mutex // held while an increment is on its way

	mu      sync.Mutex
	next    *batch            // of increments that wait
	own     map[string]string // entries of this server
	changed map[string]bool   // those of them that Redis has otherwise, by ID

	// Of the goroutine that follows Redis:
	version int64 // of own, as it was last sent to Redis
	others  map[string]*server
	news    bool // of others, that nobody was told
	sub     *redis.PubSub
	events  <-chan any // of sub; nil while Redis is away
	echoed  bool       // the subscription has brought what the last sync sent through it
	lost    time.Time  // when it went away
	gap     time.Time  // when this server, and perhaps others, last had no connection
}

// server is what is known of another one.
type server struct {
	version int64
	ids     map[string]bool // of its entries
}

// New returns a Member that is not started. An error means that the URL is none;
// it does not quote it, since there may be a password in it.
func New(opts Options) (*Member, error) {
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
	opts.Log = cmp.Or(opts.Log, slog.Default())
	opts.Lease, opts.Renew = cmp.Or(opts.Lease, DefaultLease), cmp.Or(opts.Renew, DefaultRenew)
	return &Member{
		id:      rand.Text(),
		opts:    opts,
		redis:   redis.NewClient(config),
		wake:    make(chan struct{}, 1),
		ended:   make(chan struct{}),
		own:     map[string]string{},
		changed: map[string]bool{},
		others:  map[string]*server{},
	}, nil
}

// OnCounter makes f hear of values of the counter. One may come late, or again:
// the largest holds.
func (m *Member) OnCounter(f func(value int)) { m.onCounter = f }

// OnEntries makes set and remove hear of the entries of other servers, and changed
// when there is no more to tell for now.
func (m *Member) OnEntries(set func(id, value string), remove func(id string), changed func()) {
	m.onSet, m.onRemove, m.onEntries = set, remove, changed
}

// OnStatus makes f hear when Redis goes away, and when it is back.
func (m *Member) OnStatus(f func()) { m.onStatus = append(m.onStatus, f) }

// Start reads all there is, and follows it from then on. An error means that Redis
// cannot be used.
func (m *Member) Start(ctx context.Context) error {
	err := m.connect(ctx)
	for errors.Is(err, errRecovering) && ctx.Err() == nil {
		<-time.After(wait(err))
		err = m.connect(ctx)
	}
	if err != nil {
		m.redis.Close()
		return fmt.Errorf("redis at %s: %w", m.redis.Options().Addr, err)
	}
	m.opts.Log.Info("sharing state through redis", slog.String("address", m.redis.Options().Addr))
	following, end := context.WithCancel(context.Background())
	m.end = end
	go m.follow(following)
	return nil
}

// Leave gives the lease back, unless ctx ends before: other servers drop what this
// one owns, at once. Increment works on, until Close.
func (m *Member) Leave(ctx context.Context) {
	m.end()
	select {
	case <-m.ended:
	case <-ctx.Done():
	}
	if m.Away() {
		return
	}
	if err := m.giveBack(ctx); err != nil {
		m.opts.Log.Warn("other servers see until the lease ends what this one owns: it could not be given back", slog.Any("error", err))
	}
}

// Close ends every connection to Redis.
func (m *Member) Close() { m.redis.Close() }

// Away reports whether Redis cannot be reached, and the copies are the last that
// was known.
func (m *Member) Away() bool { return m != nil && m.away.Load() }

// Increment adds one to the counter, and returns a value of it that holds this one.
// It is never tried a second time. It takes at most a few seconds, and no time while
// Redis is away.
//
// One command is on its way at a time. Increments that come meanwhile become one,
// which is the next: a crowd that clicks costs Redis little more than one person.
func (m *Member) Increment() (value int, err error) {
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
	return int(b.value), b.err
}

// batch is increments that are made as one.
type batch struct {
	size  int64
	count func() // makes them, or waits until they are made
	value int64
	err   error
}

// count makes the increments of a batch, when the one before has been made.
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
	}
}

// add adds n to the counter in Redis, and announces it.
func (m *Member) add(n int64) (value int64, err error) {
	value, err = increment.Run(context.Background(), m.redis, []string{counterKey, epochKey}, *m.epoch.Load(), channel, n).Int64()
	var refused redis.Error
	switch {
	case err == nil && value > 0:
		m.raise(value)
		return value, nil
	case err == nil, notSent(err): // without an error, it may have lost something
		return 0, ErrAway
	case errors.As(err, &refused):
		m.opts.Log.Warn("clicks did not count: redis refused them", slog.Int64("clicks", n), slog.Any("error", err))
		return 0, ErrAway
	default:
		m.opts.Log.Warn("clicks may have counted or not: redis did not answer", slog.Int64("clicks", n), slog.Any("error", err))
		return 0, ErrUnknown
	}
}

// Set makes an entry of this server, or changes it. It does not wait.
func (m *Member) Set(id, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.own[id] = value
	m.changed[id] = true
	m.look()
}

// Remove removes an entry of this server. It does not wait.
func (m *Member) Remove(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.own, id)
	m.changed[id] = true
	m.look()
}

// look makes the goroutine that follows Redis look after it.
func (m *Member) look() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *Member) raise(n int64) {
	for {
		before := m.highest.Load()
		if n <= before || m.highest.CompareAndSwap(before, n) {
			return
		}
	}
}

// follow keeps the copy of this server, and what Redis has of it, up to date.
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
			due.Reset(wait(err))
		}
		m.tellStatus(err)
	}
}

// wait is how long to wait after an attempt that failed. Servers that lost Redis
// together do not come back all at once.
func wait(err error) time.Duration {
	if errors.Is(err, errRecovering) {
		return pause / 10
	}
	return retry/2 + mathrand.N(retry/2)
}

func (m *Member) tellNews() {
	if m.news {
		m.news = false
		m.onEntries()
	}
}

// tellStatus tells when Redis has gone away, or is back.
func (m *Member) tellStatus(err error) {
	if away := err != nil; away == m.away.Load() {
		return
	}
	if err != nil {
		m.lost = time.Now()
		m.opts.Log.Warn("redis is away: pages show the last that is known, and clicks do not count", slog.Any("error", err))
	} else {
		m.opts.Log.Info("redis is back", slog.Duration("after", time.Since(m.lost)))
	}
	m.away.Store(err != nil)
	for _, f := range m.onStatus {
		f()
	}
}

// connect subscribes, and then reads: what changes in between is heard of.
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
	m.events = sub.ChannelWithSubscriptions(redis.WithChannelHealthCheckInterval(0)) // it would write, and not read
	m.look()                                                                         // what changed while it was away
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
	Counter int64 `json:"counter,omitempty"` // its new value
	Epoch   bool  `json:"epoch,omitempty"`   // a new one: Redis is to be told what is known

	Server  string            `json:"server,omitempty"`  // whose entries have changed
	Version int64             `json:"version,omitempty"` // of its entries; 0: it has left
	Set     map[string]string `json:"set,omitempty"`
	Removed []string          `json:"removed,omitempty"`
	Whole   bool              `json:"whole,omitempty"` // what has changed is not in here
}

// hear takes in an event of the subscription.
func (m *Member) hear(ctx context.Context, event any) error {
	switch event := event.(type) {
	case *redis.Subscription: // anew, after a gap
		if event.Channel != channel {
			return nil
		}
		m.gap = time.Now()
		err := m.sync(ctx)
		if err == nil {
			m.opts.Log.Info("a subscription to redis was lost: renewed, and all of it read again")
		}
		return err
	case *redis.Message:
		if event.Channel == m.echo() {
			m.echoed = true
			return nil
		}
		var msg message
		if err := json.Unmarshal([]byte(event.Payload), &msg); err != nil {
			m.opts.Log.Warn("message on the redis channel that no server sent", slog.Any("error", err))
			return nil
		}
		return m.apply(ctx, msg)
	}
	return nil
}

func (m *Member) apply(ctx context.Context, msg message) error {
	if msg.Counter > 0 {
		m.counted(msg.Counter)
	}
	if msg.Epoch {
		return m.sync(ctx)
	}
	if msg.Server == "" || msg.Server == m.id {
		return nil
	}
	other := m.others[msg.Server]
	switch {
	case msg.Version == 0:
		m.drop(msg.Server)
	case other != nil && msg.Version <= other.version: // read already
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

func (m *Member) counted(n int64) {
	m.raise(n)
	m.onCounter(int(n))
}

// replace makes entries all that another server has.
func (m *Member) replace(id string, version int64, entries map[string]string) {
	before := m.others[id]
	m.others[id], m.news = &server{version, map[string]bool{}}, true
	for entry, value := range entries {
		m.others[id].ids[entry] = true
		m.onSet(entry, value)
	}
	if before == nil {
		return
	}
	for entry := range before.ids {
		if !m.others[id].ids[entry] {
			m.onRemove(entry)
		}
	}
}

// drop forgets another server, and its entries.
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

// changes takes out what Redis does not have yet, up to a batch.
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

// all takes out every entry of this server.
func (m *Member) all() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.changed)
	return maps.Clone(m.own)
}
