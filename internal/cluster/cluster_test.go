package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

const soon = 30 * time.Second

// peer is a member, and the copy that its callbacks keep.
type peer struct {
	*Member
	t   *testing.T
	log *visitor.Log

	mu      sync.Mutex
	counter int
	news    int               // how often it heard of another's increments
	entries map[string]string // of others
	told    map[string]string // the same, as of the last time that all was told
	removed int               // how often one was
}

func newPeer(t *testing.T, url string) *peer {
	t.Helper()
	return newPeerWith(t, Options{URL: url, Lease: 600 * time.Millisecond, Renew: 200 * time.Millisecond})
}

func newPeerWith(t *testing.T, opts Options) *peer {
	t.Helper()
	p := &peer{t: t, log: &visitor.Log{}, entries: map[string]string{}}
	opts.Log = p.log.Logger()
	m, err := New(opts)
	require.NoError(t, err)
	p.Member = m
	m.OnCounter(func(n int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.counter = max(p.counter, n)
		p.news++
	})
	m.OnEntries(func(id, value string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.entries[id] = value
	}, func(id string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.entries, id)
		p.removed++
	}, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.told = maps.Clone(p.entries)
	})
	require.NoError(t, m.Start(t.Context()))
	t.Cleanup(func() {
		p.die()
		p.Close()
	})
	return p
}

// Increment adds one, and keeps what it returns.
func (p *peer) Increment() (int, error) {
	n, err := p.Member.Increment()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counter = max(p.counter, n)
	return n, err
}

// die ends a member as kill -9 does: its lease runs on.
func (p *peer) die() {
	p.end()
	<-p.ended
}

// sees waits until the peer has been told of exactly these entries of others.
func (p *peer) sees(want map[string]string) {
	p.t.Helper()
	assert.EventuallyWithT(p.t, func(check *assert.CollectT) {
		p.mu.Lock()
		defer p.mu.Unlock()
		assert.Equal(check, len(want), len(p.told))
		assert.True(check, maps.Equal(want, p.told), "want %v, told %v", want, p.told)
	}, soon, time.Millisecond)
}

// counts waits until the peer knows that number.
func (p *peer) counts(want int) {
	p.t.Helper()
	assert.EventuallyWithT(p.t, func(check *assert.CollectT) {
		p.mu.Lock()
		defer p.mu.Unlock()
		assert.Equal(check, want, p.counter)
	}, soon, time.Millisecond)
}

func (p *peer) isAway(want bool) {
	p.t.Helper()
	require.Eventually(p.t, func() bool { return p.Away() == want }, soon, time.Millisecond)
}

func TestIncrement_OfAllMembersIsExact(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	peers := []*peer{newPeer(t, server.URL), newPeer(t, server.URL), newPeer(t, server.URL)}
	spent := server.Spent(func() {
		var clicking sync.WaitGroup
		for _, p := range peers {
			for range 20 {
				clicking.Go(func() {
					for range 50 {
						_, err := p.Increment()
						assert.NoError(t, err)
					}
				})
			}
		}
		clicking.Wait()
	})
	assert.Less(t, spent.Commands, 3000, "increments that come together are one")
	for _, p := range peers {
		p.counts(3000)
	}
	newPeer(t, server.URL).counts(3000)
}

// Increment returns what a member has counted itself, and nothing tells it again.
func TestIncrement_IsNewsToOtherMembersOnly(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	rarely := Options{URL: server.URL, Renew: time.Hour} // a renewal reads the counter as well
	here, there := newPeerWith(t, rarely), newPeerWith(t, rarely)
	const clicks = 200
	for range clicks {
		_, err := here.Increment()
		require.NoError(t, err)
	}
	there.counts(clicks)
	_, err := there.Increment() // comes after all else on the channel
	require.NoError(t, err)
	here.counts(clicks + 1)
	assert.Equal(t, 1, here.news, "of the other's increment")
	assert.Equal(t, clicks, there.news)
}

func TestEntries_AreThoseOfAllMembersThatLive(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	a, b := newPeer(t, server.URL), newPeer(t, server.URL)
	a.Set("1", "Alice")
	a.Set("2", "Bob")
	b.sees(map[string]string{"1": "Alice", "2": "Bob"})
	a.sees(nil)
	written := func() string { return server.HGet(t.Context(), a.key(), versionField).Val() }
	before := written()
	<-time.After(2 * a.opts.Lease)
	b.mu.Lock()
	assert.Zero(t, b.removed, "nobody is gone for a moment while leases are renewed")
	b.mu.Unlock()
	assert.Equal(t, before, written(), "a lease that is renewed does not end, so nothing is written again")
	a.Set("1", "Alicia")
	a.Remove("2")
	a.Remove("never there")
	b.sees(map[string]string{"1": "Alicia"})

	late := newPeer(t, server.URL)
	late.sees(map[string]string{"1": "Alicia"})
	late.Set("3", "Carol")
	a.sees(map[string]string{"3": "Carol"})
	b.sees(map[string]string{"1": "Alicia", "3": "Carol"})

	late.die()
	a.sees(nil)
	assert.Equal(t, 2, int(server.SCard(t.Context(), serversKey).Val()), "members that live")
	a.Leave(t.Context())
	b.sees(nil)
	assert.Zero(t, server.Exists(t.Context(), a.key(), late.key()).Val(), "nothing is left behind")
}

// A member that was stopped for longer than its lease writes all of its entries again.
func TestEntries_SurviveALostLease(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	rarely := Options{URL: server.URL, Renew: time.Hour}
	a := newPeerWith(t, rarely)
	a.Set("1", "Alice")
	newPeerWith(t, rarely).sees(map[string]string{"1": "Alice"})
	require.NoError(t, server.Del(t.Context(), a.key()).Err())
	a.Set("2", "Bob")
	newPeerWith(t, rarely).sees(map[string]string{"1": "Alice", "2": "Bob"})
	assert.Positive(t, server.PTTL(t.Context(), a.key()).Val(), "the lease")
	require.NoError(t, server.Del(t.Context(), a.key()).Err())
	a.look()
	newPeerWith(t, rarely).sees(map[string]string{"1": "Alice", "2": "Bob"})

	require.NoError(t, server.HSet(t.Context(), a.key(), versionField, 1).Err()) // an older state, from a backup
	require.NoError(t, server.HDel(t.Context(), a.key(), "2").Err())
	a.look()
	newPeerWith(t, rarely).sees(map[string]string{"1": "Alice", "2": "Bob"})
}

// A message that was missed makes a member read everything.
func TestEntries_AreReadAgainAfterAGap(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	a, b := newPeer(t, server.URL), newPeer(t, server.URL)
	a.Set("1", "Alice")
	b.sees(map[string]string{"1": "Alice"})
	b.die()
	a.Set("2", "Bob")
	require.Eventually(t, func() bool { return server.HLen(t.Context(), a.key()).Val() == 3 }, soon, time.Millisecond)
	assert.NoError(t, b.apply(t.Context(), message{Server: a.id, Version: b.others[a.id].version + 2, Set: map[string]string{"3": "Carol"}}))
	b.tellNews()
	b.sees(map[string]string{"1": "Alice", "2": "Bob"})
}

// What is announced while there is no subscription is found when there is one again.
func TestSubscription_ThatIsLostIsRenewed(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	rarely := Options{URL: server.URL, Renew: time.Hour}
	a, b := newPeerWith(t, rarely), newPeerWith(t, rarely)
	for n := 1; n <= 20; n++ {
		require.NoError(t, server.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err())
		b.Set(fmt.Sprint(n), "Bob")
		_, err := b.Increment()
		require.NoError(t, err)
		a.counts(n)
		assert.EventuallyWithT(t, func(check *assert.CollectT) {
			a.mu.Lock()
			defer a.mu.Unlock()
			assert.Len(check, a.told, n)
		}, soon, time.Millisecond)
	}
	assert.NotContains(t, a.log.String(), "level=WARN")
	assert.Contains(t, a.log.String(), "renewed")
}

// Leave takes effect at once: it does not wait for the lease to end.
func TestLeave_GivesTheLeaseBack(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	long := Options{URL: server.URL, Lease: time.Hour, Renew: time.Hour}
	a, b := newPeerWith(t, long), newPeerWith(t, long)
	a.Set("1", "Alice")
	b.sees(map[string]string{"1": "Alice"})
	a.Leave(t.Context())
	b.sees(nil)
	n, err := a.Increment()
	assert.NoError(t, err, "it goes on counting until Close")
	b.counts(n)
}

// A lease is one key, however many entries it holds.
func TestSync_CostsTheSameWithManyEntries(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	commands := func(entries int) int {
		p := newPeer(t, server.URL)
		watching := newPeer(t, server.URL)
		want := map[string]string{}
		for i := range entries {
			id := fmt.Sprint(i)
			want[id] = "guest"
			p.Set(id, "guest")
		}
		watching.sees(want)
		p.die()
		watching.die()
		spent := server.Spent(func() { assert.NoError(t, p.sync(t.Context())) })
		assert.NoError(t, p.giveBack(t.Context()))
		assert.NoError(t, watching.giveBack(t.Context()))
		return spent.Commands
	}
	assert.InDelta(t, commands(1), commands(5000), 3, "commands, with 1 and with 5,000 entries") // a new connection is one or two
}

// What changes while Redis is away is written when it is back, although the lease
// has not ended and everything before is there.
func TestSet_WhileRedisIsAwayIsWrittenLater(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	long := Options{URL: server.URL, Lease: time.Hour}
	a, b := newPeerWith(t, long), newPeerWith(t, long)
	a.Set("1", "Alice")
	b.sees(map[string]string{"1": "Alice"})
	server.Stop()
	a.isAway(true)
	a.Set("2", "Bob")
	a.Remove("1")
	require.Eventually(t, func() bool { return len(a.wake) == 0 }, soon, time.Millisecond)
	server.Start()
	b.sees(map[string]string{"2": "Bob"})
}

// Joins that come together are written together.
func TestSet_IsBatched(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	a, b := newPeerWith(t, Options{URL: server.URL, Renew: time.Hour}), newPeerWith(t, Options{URL: server.URL, Renew: time.Hour})
	want := map[string]string{}
	thaw := server.Freeze()
	for i := range 3 * maxBatch {
		id := fmt.Sprint(i)
		want[id] = "guest"
		a.Set(id, "guest")
	}
	thaw()
	spent := server.Spent(func() { b.sees(want) })
	assert.Less(t, spent.Commands, 100, "commands for 3,000 entries")
	a.Member.mu.Lock()
	defer a.Member.mu.Unlock()
	assert.Empty(t, a.changed, "what is left to write")
}

// A reply that is lost on its way must not make one click two.
func TestIncrement_IsNotTriedTwice(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	line := newLine(t, server.Addr)
	p := newPeer(t, "redis://"+line.addr+"/0")
	_, err := p.Increment() // Redis knows the script from here on
	require.NoError(t, err)
	line.loseReplies()
	_, err = p.Increment()
	assert.ErrorIs(t, err, ErrUnknown)
	p.counts(2)
	p.isAway(false)
	n, err := p.Increment()
	assert.NoError(t, err)
	assert.Equal(t, 3, n)
}

func TestIncrement_WhileRedisIsAwayCountsNothingAndTakesNoTime(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	p := newPeer(t, server.URL)
	_, err := p.Increment()
	require.NoError(t, err)
	server.Stop()
	p.isAway(true)
	begin := time.Now()
	for range 1000 {
		_, err := p.Increment()
		require.ErrorIs(t, err, ErrAway)
	}
	assert.Less(t, time.Since(begin), answerWithin/2, "a thousand")
	server.Start()
	p.isAway(false)
	n, err := p.Increment()
	assert.NoError(t, err)
	assert.Equal(t, 2, n)
	for line, times := range map[string]int{"redis is away": 1, "redis is back": 1, "level=WARN": 1} {
		assert.Equal(t, times, strings.Count(p.log.String(), line), "%s in the log:\n%s", line, p.log.String())
	}
}

// Redis is there, and cannot count: somebody hears of it.
func TestIncrement_ThatIsRefusedIsLogged(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	p := newPeer(t, server.URL)
	require.NoError(t, server.ConfigSet(t.Context(), "maxmemory", "1").Err())
	_, err := p.Increment()
	assert.ErrorIs(t, err, ErrAway)
	assert.Contains(t, p.log.String(), "redis refused them")
	require.NoError(t, server.ConfigSet(t.Context(), "maxmemory", "0").Err())
	require.Eventually(t, func() bool {
		n, err := p.Increment()
		return err == nil && n == 1
	}, soon, time.Millisecond)
}

// Redis has forgotten what it counted. A member that notices first may know less
// than others: it must not count on from there.
func TestIncrement_WaitsUntilAllHaveSaidWhatTheyKnow(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	rarely := Options{URL: server.URL, Renew: time.Hour} // and at once, when another says so
	behind := newPeerWith(t, rarely)
	line := newLine(t, server.Addr)
	rarely.URL = "redis://" + line.addr + "/0"
	ahead := newPeerWith(t, rarely)
	for range 5 {
		_, err := ahead.Increment()
		require.NoError(t, err)
	}
	behind.counts(5)
	behind.highest.Store(3) // as if the last two announcements had not reached it
	line.refuse(true)       // and the one ahead is back a moment later
	time.AfterFunc(pause/4, func() { line.refuse(false) })

	require.NoError(t, server.FlushAll(t.Context()).Err())
	counted := 5
	require.Eventually(t, func() bool {
		n, err := behind.Increment()
		if err != nil {
			require.ErrorIs(t, err, ErrAway)
			return false
		}
		counted++
		return assert.Equal(t, counted, n)
	}, soon, time.Millisecond)
	ahead.counts(6)
}

// A subscription that is dead without a word is noticed by what a member sends itself.
func TestSubscription_ThatIsDeadIsRenewed(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	line := newLine(t, server.Addr)
	a, b := newPeer(t, "redis://"+line.addr+"/0"), newPeer(t, server.URL)
	before := subscribers(t, server)
	require.Len(t, before, 2)
	<-time.After(10 * a.opts.Renew)
	require.Equal(t, before, subscribers(t, server), "those that live are kept")
	line.stallSubscriptions()
	b.Set("1", "Bob")
	a.sees(map[string]string{"1": "Bob"})
	assert.EventuallyWithT(t, func(check *assert.CollectT) {
		after := subscribers(t, server)
		assert.Len(check, after, 2)
		assert.NotEqual(check, before, after)
	}, soon, time.Millisecond)
}

// subscribers are the connections that have subscribed.
func subscribers(t *testing.T, server *visitor.Redis) (ids []string) {
	t.Helper()
	list, err := server.Do(t.Context(), "CLIENT", "LIST", "TYPE", "pubsub").Text()
	require.NoError(t, err)
	for _, client := range strings.Split(strings.TrimSpace(list), "\n") {
		id, _, _ := strings.Cut(client, " ")
		ids = append(ids, id)
	}
	return ids
}

// Whatever happens, all agree in the end: on the entries of those that live, and on
// a number that holds every increment that was answered.
func TestMembers_AgreeAfterAnything(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 7))
			server := visitor.NewRedis(t)
			peers := []*peer{newPeer(t, server.URL), newPeer(t, server.URL), newPeer(t, server.URL)}
			own := []map[string]string{{}, {}, {}}
			var counted, unknown atomic.Int64
			var clicking sync.WaitGroup
			for step := range 400 {
				i := random.IntN(len(peers))
				p, id := peers[i], fmt.Sprintf("%d of %p", random.IntN(20), peers[i])
				switch n := random.IntN(100); {
				case step%200 == 100:
					server.Stop()
					if random.IntN(2) == 0 {
						server.Erase()
					}
					server.Start()
				case n < 40:
					own[i][id] = fmt.Sprint("guest ", step)
					p.Set(id, own[i][id])
				case n < 60:
					delete(own[i], id)
					p.Remove(id)
				case n < 90:
					clicking.Go(func() {
						switch _, err := p.Increment(); {
						case err == nil:
							counted.Add(1)
						case errors.Is(err, ErrUnknown):
							unknown.Add(1)
						}
					})
				case n < 93:
					server.ClientKillByFilter(t.Context(), "TYPE", "pubsub")
				case n < 94:
					server.ClientKillByFilter(t.Context(), "TYPE", "normal")
				case n < 96: // its successor knows nothing
					if random.IntN(2) == 0 {
						p.Leave(t.Context())
					} else {
						p.die()
					}
					peers[i], own[i] = newPeer(t, server.URL), map[string]string{}
				case n < 98:
					<-time.After(time.Duration(random.IntN(20)) * time.Millisecond)
				}
			}
			clicking.Wait()
			for _, p := range peers {
				p.isAway(false)
			}
			final, err := peers[0].Increment()
			require.NoError(t, err)
			assert.GreaterOrEqual(t, final, int(counted.Load())+1, "every click that was answered")
			assert.LessOrEqual(t, final, int(counted.Load()+unknown.Load())+1, "and no click twice")
			for i, p := range peers {
				others := map[string]string{}
				for j, entries := range own {
					if i != j {
						maps.Copy(others, entries)
					}
				}
				p.sees(others)
				p.counts(final)
			}
		})
	}
}

// A stop does not wait for a Redis that does not answer.
func TestLeave_IsBounded(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	p := newPeer(t, server.URL)
	thaw := server.Freeze()
	defer thaw()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	p.Leave(ctx)
	assert.Less(t, time.Since(begin), answerWithin)
}

func TestStart_SaysWhyItCannot(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { silent.Close() })
	rude := newLine(t, "127.0.0.1:1")
	for name, row := range map[string]struct{ url, want string }{
		"no address":    {"here", "not valid"},
		"no redis://":   {"http://127.0.0.1:6379/0", "not valid"},
		"a password":    {"redis://:secret%zz@127.0.0.1:6379/0", "not valid"},
		"nobody there":  {"redis://127.0.0.1:1/0", "redis at 127.0.0.1:1: "},
		"no answer":     {"redis://" + silent.Addr().String() + "/0", "redis at " + silent.Addr().String() + ": "},
		"hangs up":      {"redis://" + rude.addr + "/0", "redis at " + rude.addr + ": "},
		"no such base":  {"redis://" + server.Addr + "/99", "redis at " + server.Addr + ": "},
		"wrong secrets": {"redis://me:secret@" + server.Addr + "/0", "redis at " + server.Addr + ": "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			defer cancel()
			begin := time.Now()
			m, err := New(Options{URL: row.url})
			if err == nil {
				err = m.Start(ctx)
			}
			require.Error(t, err)
			assert.Contains(t, err.Error(), row.want)
			assert.NotContains(t, err.Error(), "secret")
			assert.NotContains(t, err.Error(), "\n")
			assert.Less(t, time.Since(begin), 5*time.Second)
		})
	}
}

// line is a way to Redis that can break.
type line struct {
	addr string

	mu      sync.Mutex
	stalls  []func()
	ends    []func()
	deafen  []func()
	refuses atomic.Bool
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	l := &line{addr: listener.Addr().String()}
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			if l.refuses.Load() {
				near.Close()
				far.Close()
				continue
			}
			var subscribed, stalled, deaf atomic.Bool
			l.mu.Lock()
			l.stalls = append(l.stalls, func() { stalled.Store(subscribed.Load()) })
			l.ends = append(l.ends, func() { near.Close() })
			l.deafen = append(l.deafen, func() { deaf.Store(true) })
			l.mu.Unlock()
			relay := func(to, from net.Conn, lost func() bool) {
				defer to.Close()
				defer from.Close()
				buf := make([]byte, 4096)
				for {
					n, err := from.Read(buf)
					if err != nil {
						return
					}
					if bytes.Contains(buf[:n], []byte("subscribe")) {
						subscribed.Store(true)
					}
					if !lost() {
						to.Write(buf[:n])
					}
				}
			}
			go relay(far, near, stalled.Load)
			go relay(near, far, func() bool { return stalled.Load() || deaf.Load() })
		}
	}()
	return l
}

// refuse ends every connection there is, and takes no new one, until it is undone.
func (l *line) refuse(refuse bool) {
	l.refuses.Store(refuse)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, end := range l.ends {
		end()
	}
	l.ends = nil
}

// loseReplies makes every connection there is carry nothing back any more.
func (l *line) loseReplies() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, deafen := range l.deafen {
		deafen()
	}
}

// stallSubscriptions makes those there are carry nothing any more, without a word.
func (l *line) stallSubscriptions() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, stall := range l.stalls {
		stall()
	}
}
