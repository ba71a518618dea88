package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
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
	leaving map[string]bool   // entries of members that leave
}

func newPeer(t *testing.T, url string) *peer {
	t.Helper()
	return newPeerWith(t, Options{URL: url, Lease: 600 * time.Millisecond, Renew: 200 * time.Millisecond})
}

func newPeerWith(t *testing.T, opts Options) *peer {
	t.Helper()
	p := &peer{t: t, log: &visitor.Log{}, entries: map[string]string{}, leaving: map[string]bool{}}
	opts.Log = p.log.Logger()
	m, err := New(opts)
	require.NoError(t, err)
	p.Member = m
	last := 0
	m.OnCounter(func(n int) {
		assert.Greater(t, n, last, "the counter never goes back")
		last = n
		p.mu.Lock()
		defer p.mu.Unlock()
		p.counter = max(p.counter, n)
		p.news++
	})
	m.OnLeave(func(id string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.leaving[id] = true
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

// Other members hear at once that one leaves, or when they start. Its entries stay for
// the grace period.
func TestLeave_KeepsEntriesForTheGracePeriod(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	opts := Options{URL: server.URL, Lease: time.Hour, Renew: 200 * time.Millisecond, Grace: 3 * time.Second}
	a, b := newPeerWith(t, opts), newPeerWith(t, opts)
	a.Set("1", "Alice")
	b.sees(map[string]string{"1": "Alice"})
	a.Set("2", "Bob") // on its way
	a.Leave(t.Context())
	assert.Positive(t, server.PTTL(t.Context(), a.key()).Val())
	assert.LessOrEqual(t, server.PTTL(t.Context(), a.key()).Val(), opts.Grace)
	late := newPeerWith(t, opts)
	for _, p := range []*peer{b, late} {
		p.sees(map[string]string{"1": "Alice", "2": "Bob"})
		assert.EventuallyWithT(t, func(check *assert.CollectT) {
			p.mu.Lock()
			defer p.mu.Unlock()
			assert.Len(check, p.leaving, 2)
		}, soon, time.Millisecond)
	}
	n, err := a.Increment()
	assert.NoError(t, err, "it goes on counting until Close")
	b.counts(n)
	assert.Zero(t, b.removed, "until the grace period is over")
	b.sees(nil)
	late.sees(nil)
	assert.Zero(t, server.Exists(t.Context(), a.key()).Val())
}

// A command that was given up long ago reaches Redis after its member has left. It
// brings nobody back.
func TestLeave_IsNotUndoneByALateCommand(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		late  *redis.Script
		grace time.Duration
	}{
		"renewal":              {compare, time.Minute},
		"change":               {change, time.Minute},
		"change, after all":    {change, 0},
		"all entries":          {rewrite, time.Minute},
		"all entries, and all": {rewrite, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := visitor.NewRedis(t)
			line := newLine(t, server.Addr)
			p := newPeerWith(t, Options{URL: line.url(), Lease: time.Hour, Renew: 100 * time.Millisecond, Grace: row.grace})
			p.Set("1", "Alice")
			require.Eventually(t, func() bool { return server.HExists(t.Context(), p.key(), "1").Val() }, soon, time.Millisecond)
			release := line.hold(row.late.Hash())
			if row.late == rewrite {
				server.Del(t.Context(), p.key())
			}
			p.Set("2", "Bob")
			p.isAway(true)
			p.isAway(false)
			p.Leave(t.Context())
			before := server.HGetAll(t.Context(), p.key()).Val()
			release()
			assert.Equal(t, before, server.HGetAll(t.Context(), p.key()).Val(), "what is known of the member")
			assert.LessOrEqual(t, server.PTTL(t.Context(), p.key()).Val(), row.grace)
		})
	}
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
	p := newPeer(t, line.url())
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

// A member that was cut off while Redis lost what it had knows more than Redis and
// the members that have counted since. When it is back, everything counts.
func TestIncrement_CountsBesideThoseOfAMemberThatReturns(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	line := newLine(t, server.Addr)
	away := newPeer(t, line.url())
	for range 5 {
		_, err := away.Increment()
		require.NoError(t, err)
	}
	line.refuse(true)
	away.isAway(true)
	require.NoError(t, server.FlushAll(t.Context()).Err())
	here := newPeer(t, server.URL) // knows nothing
	for range 3 {
		_, err := here.Increment()
		require.NoError(t, err)
	}
	line.refuse(false)
	away.counts(8)
	here.counts(8)
}

// Redis has restarted with what it had some time ago. The first increment that
// reaches it counts beside those that it has forgotten.
func TestIncrement_CountsBesideThoseThatRedisHasForgotten(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	line := newLine(t, server.Addr)
	quick, slow := newPeer(t, server.URL), newPeer(t, line.url())
	increment := func(n int) {
		for range n {
			_, err := quick.Increment()
			require.NoError(t, err)
		}
	}
	increment(3)
	backup := server.Backup()
	increment(2)
	slow.counts(5)
	quick.die() // it has not noticed yet that Redis has restarted
	line.refuse(true)
	server.Stop()
	server.Restore(backup)
	server.Start()
	for attempt := range 2 { // the first one, at most, finds a connection that is dead
		if _, err := quick.Increment(); err == nil {
			break
		} else {
			require.Zero(t, attempt, err)
		}
	}
	line.refuse(false)
	slow.counts(6)
	newPeer(t, server.URL).counts(6)
}

// A subscription that is dead without a word is noticed by what a member sends itself.
func TestSubscription_ThatIsDeadIsRenewed(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	line := newLine(t, server.Addr)
	a, b := newPeer(t, line.url()), newPeer(t, server.URL)
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
// a number that holds every increment that was answered, once.
func TestMembers_AgreeAfterAnything(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			h := newHistory(t, seed)
			for step := range 400 {
				switch step % 200 {
				case 50:
					h.restart()
				case 100:
					h.cutOff()
				case 150:
					h.reconnect()
				default:
					h.step(step)
				}
			}
			h.end()
		})
	}
}

// history is some members, and what they have done. A click is lost if Redis loses
// it and every member ends that knows it. That does not happen here: before a member
// ends, or Redis does, all know what was counted.
type history struct {
	t       *testing.T
	random  *rand.Rand
	server  *visitor.Redis
	lines   []*line // to Redis, one for each member
	peers   []*peer
	own     []map[string]string // entries of each
	cut     int                 // the member that is cut off; -1: none
	unheard bool                // Redis or a member has ended, and not all have heard of all increments since

	clicking         sync.WaitGroup
	counted, unknown atomic.Int64
}

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{t: t, random: rand.New(rand.NewPCG(seed, 7)), server: visitor.NewRedis(t), cut: -1}
	for range 3 {
		l := newLine(t, h.server.Addr)
		h.lines = append(h.lines, l)
		h.peers = append(h.peers, newPeer(t, l.url()))
		h.own = append(h.own, map[string]string{})
	}
	return h
}

func (h *history) step(step int) {
	i := h.random.IntN(len(h.peers))
	p, id := h.peers[i], fmt.Sprintf("%d of %p", h.random.IntN(20), h.peers[i])
	switch n := h.random.IntN(100); {
	case n < 40:
		h.own[i][id] = fmt.Sprint("guest ", step)
		p.Set(id, h.own[i][id])
	case n < 60:
		delete(h.own[i], id)
		p.Remove(id)
	case n < 90:
		h.click(p)
	case n < 93:
		h.server.ClientKillByFilter(h.t.Context(), "TYPE", "pubsub")
	case n < 94:
		h.server.ClientKillByFilter(h.t.Context(), "TYPE", "normal")
	case n < 96 && i != h.cut:
		h.replace(i)
	case n < 98:
		<-time.After(time.Duration(h.random.IntN(20)) * time.Millisecond)
	}
}

func (h *history) click(p *peer) {
	h.clicking.Go(func() {
		switch _, err := p.Increment(); {
		case err == nil:
			h.counted.Add(1)
		case errors.Is(err, ErrUnknown):
			h.unknown.Add(1)
		}
	})
}

// replace ends a member. Its successor knows nothing.
func (h *history) replace(i int) {
	if h.unheard {
		h.agree()
	}
	h.unheard = true
	if h.random.IntN(2) == 0 {
		h.peers[i].Leave(h.t.Context())
	} else {
		h.peers[i].die()
	}
	h.succeed(i)
}

// succeed starts the successor of a member that has ended.
func (h *history) succeed(i int) {
	h.peers[i], h.own[i] = newPeer(h.t, h.lines[i].url()), map[string]string{}
}

// restart restarts Redis among clicks, with what it had or with nothing.
func (h *history) restart() {
	h.agree()
	for range 10 {
		h.click(h.peers[h.random.IntN(len(h.peers))])
	}
	h.server.Stop()
	if h.random.IntN(2) == 0 {
		h.server.Erase()
	}
	h.server.Start()
	h.unheard = true
}

// cutOff cuts a member off for a long time, in which Redis loses everything and
// others end: what was counted before is known to that member alone.
func (h *history) cutOff() {
	h.agree()
	h.cut = h.random.IntN(len(h.peers))
	h.lines[h.cut].refuse(true)
	h.server.Stop()
	h.server.Erase()
	ended := map[int]bool{}
	for i, p := range h.peers {
		if i != h.cut && h.random.IntN(4) > 0 {
			ended[i] = true
			p.die()
		}
	}
	h.server.Start()
	for i := range ended {
		h.succeed(i)
	}
}

func (h *history) reconnect() {
	h.agree()
	for range 10 {
		h.click(h.peers[h.random.IntN(len(h.peers))])
	}
	<-time.After(2 * h.peers[h.cut].opts.Lease)
	h.clicking.Wait()
	h.lines[h.cut].refuse(false)
	h.cut = -1
	h.unheard = true
	h.agree()
}

// agree waits until all members, and Redis, know what was counted.
func (h *history) agree() {
	h.t.Helper()
	h.clicking.Wait()
	assert.EventuallyWithT(h.t, func(check *assert.CollectT) {
		inRedis := total(h.t, h.server)
		for i, p := range h.peers {
			if i != h.cut {
				p.mu.Lock()
				assert.Equal(check, inRedis, p.counter, "member %d, and Redis", i)
				p.mu.Unlock()
			}
		}
	}, soon, time.Millisecond)
	h.unheard = false
}

func (h *history) end() {
	h.agree()
	for _, p := range h.peers {
		p.isAway(false)
	}
	final, err := h.peers[0].Increment()
	require.NoError(h.t, err)
	assert.GreaterOrEqual(h.t, final, int(h.counted.Load())+1, "every click that was answered")
	assert.LessOrEqual(h.t, final, int(h.counted.Load()+h.unknown.Load())+1, "and no click twice")
	for i, p := range h.peers {
		others := map[string]string{}
		for j, entries := range h.own {
			if i != j {
				maps.Copy(others, entries)
			}
		}
		p.sees(others)
		p.counts(final)
	}
}

// total is what Redis has counted.
func total(t *testing.T, server *visitor.Redis) (total int) {
	for epoch, n := range server.HGetAll(t.Context(), clicksKey).Val() {
		number, err := strconv.Atoi(n)
		assert.True(t, err == nil || epoch == epochField)
		total += number
	}
	return total
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

func TestStart_TriesUntilRedisIsThere(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	server.Stop()
	m, err := New(Options{URL: server.URL})
	require.NoError(t, err)
	started := make(chan error)
	go func() { started <- m.Start(t.Context()) }()
	select {
	case err := <-started:
		require.Fail(t, "no Redis is there", "error: %v", err)
	case <-time.After(retry):
	}
	server.Start()
	assert.NoError(t, <-started)
	m.end()
	<-m.ended
	m.Close()
}

// Start says why, when its time is over or it is certain that it cannot.
func TestStart_SaysWhyItCannot(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { silent.Close() })
	rude := newLine(t, "127.0.0.1:1")
	const within = 3 * time.Second
	for name, row := range map[string]struct {
		url, want string
		certain   bool
	}{
		"no address":    {"here", "not valid", true},
		"no redis://":   {"http://127.0.0.1:6379/0", "not valid", true},
		"a password":    {"redis://:secret%zz@127.0.0.1:6379/0", "not valid", true},
		"nobody there":  {"redis://127.0.0.1:1/0", "redis at 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused", false},
		"no answer":     {"redis://" + silent.Addr().String() + "/0", "redis at " + silent.Addr().String() + ": ", false},
		"hangs up":      {rude.url(), "redis at " + rude.addr + ": ", false},
		"no such base":  {"redis://" + server.Addr + "/99", "redis at " + server.Addr + ": ", true},
		"wrong secrets": {"redis://me:secret@" + server.Addr + "/0", "redis at " + server.Addr + ": ", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			m, err := New(Options{URL: row.url})
			if err == nil {
				err = m.Start(ctx)
			}
			require.Error(t, err)
			assert.Equal(t, row.certain, ctx.Err() == nil, "it ends before its time is over")
			assert.Contains(t, err.Error(), row.want)
			assert.NotContains(t, err.Error(), "secret")
			assert.NotContains(t, err.Error(), "context deadline exceeded")
			assert.NotContains(t, err.Error(), "\n")
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
	held    *heldCommand // nil: none is
	refuses atomic.Bool
}

// heldCommand is a command that a line holds back.
type heldCommand struct {
	text     string // of the command
	release  chan bool
	executed chan bool
}

// url is the URL of the Redis at the end of the line.
func (l *line) url() string { return "redis://" + l.addr + "/0" }

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
			over := make(chan bool) // closed when Redis has ended the connection
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
					if held := l.takeHeld(buf[:n]); held != nil {
						<-held.release
						to.Write(buf[:n])
						to.(*net.TCPConn).CloseWrite()
						<-over
						close(held.executed)
						return
					}
					if !lost() {
						to.Write(buf[:n])
					}
				}
			}
			go relay(far, near, stalled.Load)
			go func() {
				defer close(over)
				relay(near, far, func() bool { return stalled.Load() || deaf.Load() })
			}()
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

// hold makes the line hold back the next command that contains text. release waits
// until Redis has executed it.
func (l *line) hold(text string) (release func()) {
	held := &heldCommand{text, make(chan bool), make(chan bool)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = held
	return func() {
		close(held.release)
		<-held.executed
	}
}

// takeHeld returns the command to hold back if this is it.
func (l *line) takeHeld(command []byte) *heldCommand {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.held
	if held == nil || !bytes.Contains(command, []byte(held.text)) {
		return nil
	}
	l.held = nil
	return held
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
