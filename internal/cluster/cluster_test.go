package cluster

import (
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

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"realtime/internal/visitor"
)

// entries are values by ID.
type entries = map[string]string

// peer is a member, and the copy that its callbacks keep.
type peer struct {
	*Member
	t   *testing.T
	log *visitor.Log

	mu      sync.Mutex
	counter int
	news    int             // how often it heard of another's increments
	entries entries         // of others
	told    entries         // the same, as of the last time that all was told
	removed int             // how often one was
	leaving map[string]bool // entries of members that leave
}

// shortLease is for members whose lease has to end, or to be renewed, in a test.
func shortLease(url string) Options {
	return Options{URL: url, Lease: 2 * time.Second, Renew: 200 * time.Millisecond}
}

// longLease is for members that may be slow. They reach Redis only when they have to.
func longLease(url string) Options {
	return Options{URL: url, Lease: time.Hour, Renew: time.Hour, Grace: time.Hour}
}

func newPeer(t *testing.T, opts Options) *peer {
	t.Helper()
	p := &peer{t: t, log: &visitor.Log{}, entries: entries{}, told: entries{}, leaving: map[string]bool{}}
	opts.Log = p.log.Logger()
	m, err := New(opts)
	require.NoError(t, err)
	p.Member = m
	locked := func(do func()) {
		p.mu.Lock()
		defer p.mu.Unlock()
		do()
	}
	last := 0
	m.OnCounter(func(n int) {
		assert.Greater(t, n, last, "the counter never goes back")
		last = n
		locked(func() { p.counter, p.news = max(p.counter, n), p.news+1 })
	})
	m.OnLeave(func(id string) { locked(func() { p.leaving[id] = true }) })
	m.OnEntries(
		func(id, value string) { locked(func() { p.entries[id] = value }) },
		func(id string) { locked(func() { delete(p.entries, id); p.removed++ }) },
		func() { locked(func() { p.told = maps.Clone(p.entries) }) },
	)
	require.NoError(t, m.Start(t.Context()))
	t.Cleanup(func() {
		p.die()
		p.Close()
	})
	return p
}

// alone starts a member on a Redis of its own, for a test that runs beside others.
func alone(t *testing.T, opts func(url string) Options) (*visitor.Redis, *peer) {
	t.Helper()
	t.Parallel()
	server := visitor.NewRedis(t)
	return server, newPeer(t, opts(server.URL))
}

// pair is alone for two members.
func pair(t *testing.T, opts func(url string) Options) (server *visitor.Redis, a, b *peer) {
	t.Helper()
	server, a = alone(t, opts)
	return server, a, newPeer(t, opts(server.URL))
}

// Increment adds one, and keeps what it returns.
func (p *peer) Increment() (int, error) {
	n, err := p.Member.Increment()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counter = max(p.counter, n)
	return n, err
}

// increment adds n, one by one.
func (p *peer) increment(n int) {
	p.t.Helper()
	for range n {
		_, err := p.Increment()
		require.NoError(p.t, err)
	}
}

// die ends a member as kill -9 does: its lease runs on.
func (p *peer) die() {
	p.end()
	<-p.ended
}

// sees waits until the peer has been told of exactly these entries of others.
func (p *peer) sees(want entries) {
	p.t.Helper()
	p.waits(want, func() any { return p.told })
}

// counts waits until the peer knows that number.
func (p *peer) counts(want int) {
	p.t.Helper()
	p.waits(want, func() any { return p.counter })
}

// waits waits until what the peer keeps is as it should be.
func (p *peer) waits(want any, what func() any) {
	p.t.Helper()
	right := func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return assert.ObjectsAreEqual(want, what())
	}
	if !assert.Eventually(p.t, right, visitor.Soon, time.Millisecond) {
		p.mu.Lock()
		defer p.mu.Unlock()
		require.Equal(p.t, want, what())
	}
}

func (p *peer) isAway(want bool) {
	p.t.Helper()
	eventually(p.t, func() bool { return p.Away() == want })
}

func eventually(t *testing.T, what func() bool) {
	t.Helper()
	require.Eventually(t, what, visitor.Soon, time.Millisecond)
}

// Increment returns what a member has counted itself, and nothing tells it again.
func TestIncrement_IsNewsToOtherMembersOnly(t *testing.T) {
	_, here, there := pair(t, longLease) // a renewal reads the counter as well
	const clicks = 200
	here.increment(clicks)
	there.counts(clicks)
	there.increment(1) // comes after all else on the channel
	here.counts(clicks + 1)
	assert.Equal(t, 1, here.news, "of the other's increment")
	assert.Equal(t, clicks, there.news)
}

// While leases are renewed, nobody is gone for a moment, nothing is written again, and
// nothing is connected again.
func TestEntries_StayWhileTheLeaseIsRenewed(t *testing.T) {
	server, a, b := pair(t, func(url string) Options { return Options{URL: url, Lease: time.Hour, Renew: time.Second} })
	a.Set("1", "Alice")
	b.sees(entries{"1": "Alice"})
	version := server.HGet(t.Context(), a.key(), versionField)
	connections := server.InfoMap(t.Context(), "stats").Val()["Stats"]["total_connections_received"]
	for range 3 {
		require.True(t, server.Expire(t.Context(), a.key(), time.Minute).Val())
		eventually(t, func() bool { return server.TTL(t.Context(), a.key()).Val() > time.Minute })
	}
	assert.Equal(t, version.Val(), server.HGet(t.Context(), a.key(), versionField).Val())
	assert.Equal(t, connections, server.InfoMap(t.Context(), "stats").Val()["Stats"]["total_connections_received"])
	b.mu.Lock()
	defer b.mu.Unlock()
	assert.Zero(t, b.removed)
}

// A member that was stopped for longer than its lease writes all of its entries again.
func TestEntries_SurviveALostLease(t *testing.T) {
	server, a := alone(t, longLease)
	a.Set("1", "Alice")
	eventually(t, func() bool { return server.HExists(t.Context(), a.key(), "1").Val() })
	for _, lose := range []func(){
		func() { server.Del(t.Context(), a.key()); a.Set("2", "Bob") },
		func() { server.Del(t.Context(), a.key()); a.look() },
		func() { // an older state, from a backup
			server.HSet(t.Context(), a.key(), versionField, 1)
			server.HDel(t.Context(), a.key(), "2")
			a.look()
		},
	} {
		lose()
		newPeer(t, longLease(server.URL)).sees(entries{"1": "Alice", "2": "Bob"})
		assert.Positive(t, server.PTTL(t.Context(), a.key()).Val(), "the lease")
	}
}

// A message that was missed makes a member read everything.
func TestEntries_AreReadAgainAfterAGap(t *testing.T) {
	server, a, b := pair(t, longLease)
	a.Set("1", "Alice")
	b.sees(entries{"1": "Alice"})
	b.die()
	a.Set("2", "Bob")
	eventually(t, func() bool { return server.HExists(t.Context(), a.key(), "2").Val() })
	assert.NoError(t, b.apply(t.Context(), message{Server: a.id, Version: b.others[a.id].version + 2, Set: entries{"3": "Carol"}}))
	b.tellNews()
	b.sees(entries{"1": "Alice", "2": "Bob"})
}

// What is announced while there is no subscription is found when there is one again.
func TestSubscription_ThatIsLostIsRenewed(t *testing.T) {
	server, a, b := pair(t, longLease)
	want := entries{}
	for n := 1; n <= 20; n++ {
		require.NoError(t, server.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err())
		id := fmt.Sprint(n)
		want[id] = "Bob"
		b.Set(id, "Bob")
		b.increment(1)
		a.counts(n)
		a.sees(want)
	}
	assert.NotContains(t, a.log.String(), "level=WARN")
	assert.Contains(t, a.log.String(), "renewed")
}

// A subscription that brings nothing is noticed by what a member sends itself.
func TestSubscription_ThatIsDeadIsRenewed(t *testing.T) {
	server, a := alone(t, shortLease)
	subscriber := func() string {
		list, _ := server.Do(t.Context(), "CLIENT", "LIST", "TYPE", "pubsub").Text()
		id, _, _ := strings.Cut(list, " ")
		return id
	}
	before := subscriber()
	require.NoError(t, a.sub.Unsubscribe(t.Context(), channel, a.echo()))
	eventually(t, func() bool { now := subscriber(); return now != "" && now != before })
}

// Other members hear at once that one leaves, or when they start. Its entries stay for
// the grace period.
func TestLeave_KeepsEntriesForTheGracePeriod(t *testing.T) {
	opts := func(url string) Options {
		return Options{URL: url, Lease: 2 * time.Hour, Renew: 100 * time.Millisecond, Grace: time.Hour}
	}
	server, a, b := pair(t, opts)
	a.Set("1", "Alice")
	b.sees(entries{"1": "Alice"})
	a.Set("2", "Bob") // on its way
	a.Leave(t.Context())
	late := newPeer(t, opts(server.URL))
	for _, p := range []*peer{b, late} {
		p.sees(entries{"1": "Alice", "2": "Bob"})
		p.waits(map[string]bool{"1": true, "2": true}, func() any { return p.leaving })
	}
	a.increment(1) // it goes on counting until Close
	b.counts(1)
	assert.Zero(t, b.removed, "until the grace period is over")
	assert.InDelta(t, time.Hour, server.PTTL(t.Context(), a.key()).Val(), float64(time.Hour)/2, "its lease")
	require.NoError(t, server.PExpire(t.Context(), a.key(), time.Millisecond).Err()) // now it is over
	b.sees(entries{})
	late.sees(entries{})
}

// A command that was given up long ago reaches Redis after its member has left. It
// brings nobody back.
func TestLeave_IsNotUndoneByALateCommand(t *testing.T) {
	t.Parallel()
	for _, grace := range []time.Duration{0, time.Minute} {
		server := visitor.NewRedis(t)
		opts := longLease(server.URL)
		opts.Grace = grace
		p := newPeer(t, opts)
		p.Set("1", "Alice")
		eventually(t, func() bool { return server.HExists(t.Context(), p.key(), "1").Val() })
		p.Leave(t.Context())
		before := server.HGetAll(t.Context(), p.key()).Val()
		p.Set("2", "Bob")
		assert.NoError(t, p.write(t.Context()), "a change; a renewal after it; all entries after that")
		assert.Equal(t, before, server.HGetAll(t.Context(), p.key()).Val(), "what is known of the member")
		assert.LessOrEqual(t, server.PTTL(t.Context(), p.key()).Val(), grace)
	}
}

// Joins that come together are written together. A lease is one key, however many
// entries it holds.
func TestSet_CostsLittleWithManyEntries(t *testing.T) {
	server, a, b := pair(t, longLease)
	want := entries{}
	thaw := server.Freeze()
	for i := range 3 * maxBatch {
		want[fmt.Sprint(i)] = "guest"
		a.Set(fmt.Sprint(i), "guest")
	}
	thaw()
	spent := server.Spent(func() { b.sees(want) })
	assert.Less(t, spent.Commands, 100, "commands for 3,000 entries")
	a.die()
	spent = server.Spent(func() { assert.NoError(t, a.sync(t.Context())) })
	assert.Less(t, spent.Commands, 30, "commands for a renewal")
}

// What changes while Redis is away is written when it is back, although the lease
// has not ended and everything before is there.
func TestSet_WhileRedisIsAwayIsWrittenLater(t *testing.T) {
	server, a, b := pair(t, func(url string) Options { return Options{URL: url, Lease: time.Hour} })
	a.Set("1", "Alice")
	b.sees(entries{"1": "Alice"})
	server.Stop()
	a.isAway(true)
	a.Set("2", "Bob")
	a.Remove("1")
	eventually(t, func() bool { return len(a.wake) == 0 })
	server.Start()
	b.sees(entries{"2": "Bob"})
}

// An answer that does not come must not make one click two.
func TestIncrement_IsNotTriedTwice(t *testing.T) {
	server, p := alone(t, shortLease)
	p.increment(1)                                    // Redis knows the script from here on
	time.AfterFunc(7*answerWithin/4, server.Freeze()) // a second attempt would be under way by then
	_, err := p.Increment()
	assert.ErrorIs(t, err, ErrUnknown)
	away, unknown := p.Failed()
	assert.Equal(t, []int{0, 1}, []int{away, unknown}, "how many are away, and unknown")
	p.counts(2)
	p.isAway(false)
	p.increment(1)
	p.counts(3)
}

func TestIncrement_WhileRedisIsAwayCountsNothingAndTakesNoTime(t *testing.T) {
	server, p := alone(t, shortLease)
	p.increment(1)
	thaw := server.Freeze()
	p.isAway(true)
	began := time.Now()
	for range 50 {
		_, err := p.Increment()
		require.ErrorIs(t, err, ErrAway)
	}
	assert.Less(t, time.Since(began), 10*answerWithin, "none of the 50 waits for an answer")
	thaw()
	p.isAway(false)
	p.increment(1)
	p.counts(2)
	for _, line := range []string{"redis is away", "redis is back", "level=WARN"} {
		assert.Equal(t, 1, strings.Count(p.log.String(), line), "%s in the log:\n%s", line, p.log.String())
	}
}

// Redis is there, and cannot count: somebody hears of it.
func TestIncrement_ThatIsRefusedIsLogged(t *testing.T) {
	server, p := alone(t, shortLease)
	require.NoError(t, server.ConfigSet(t.Context(), "maxmemory", "1").Err())
	_, err := p.Increment()
	assert.ErrorIs(t, err, ErrAway)
	assert.Contains(t, p.log.String(), "redis refused them")
	require.NoError(t, server.ConfigSet(t.Context(), "maxmemory", "0").Err())
	eventually(t, func() bool {
		n, err := p.Increment()
		return err == nil && n == 1
	})
}

// Redis has restarted with what it had some time ago, or with nothing. The first
// increment that reaches it counts beside those that it has forgotten. The only member
// that follows Redis and knows them is cut off meanwhile.
func TestIncrement_CountsBesideThoseThatRedisHasForgotten(t *testing.T) {
	t.Parallel()
	for _, erased := range []bool{false, true} {
		t.Run(fmt.Sprint("everything ", erased), func(t *testing.T) {
			t.Parallel()
			server := visitor.NewRedis(t)
			network := visitor.NewNetwork(t, server.Addr)
			quick, slow := newPeer(t, longLease(server.URL)), newPeer(t, shortLease("redis://"+network.Addr()+"/0"))
			quick.increment(3)
			earlier := server.HGetAll(t.Context(), clicksKey).Val()
			quick.increment(2)
			slow.counts(5)
			quick.die() // it has not noticed yet that Redis has restarted
			release := network.Swallow()
			require.NoError(t, server.FlushAll(t.Context()).Err())
			if !erased {
				require.NoError(t, server.HSet(t.Context(), clicksKey, earlier).Err())
			}
			server.Stop()
			server.Start()
			if _, err := quick.Increment(); err != nil { // by a connection that is dead
				quick.increment(1)
			}
			release()
			slow.counts(6)
			newPeer(t, longLease(server.URL)).counts(6)
		})
	}
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
				if step%100 == 50 {
					h.restart()
				}
				h.step(step)
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
	members []*member
	unheard bool // Redis or a member has ended, and not all have heard of all increments since

	clicking         sync.WaitGroup
	counted, unknown atomic.Int64
}

// member is a peer with its entries.
type member struct {
	*peer
	own entries
}

func newHistory(t *testing.T, seed uint64) *history {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat it with: go test -race -run '^TestMembers_AgreeAfterAnything$/^seed_%d$' ./internal/cluster", seed)
		}
	})
	h := &history{t: t, random: rand.New(rand.NewPCG(seed, 7)), server: visitor.NewRedis(t), members: make([]*member, 3)}
	for i := range h.members {
		h.begin(i)
	}
	return h
}

// begin starts a member, the first one or the successor of one that has ended.
func (h *history) begin(i int) {
	opts := Options{URL: h.server.URL, Lease: 600 * time.Millisecond, Renew: 200 * time.Millisecond}
	h.members[i] = &member{newPeer(h.t, opts), entries{}}
}

func (h *history) step(step int) {
	i := h.random.IntN(len(h.members))
	m := h.members[i]
	id := fmt.Sprintf("%d of %p", h.random.IntN(20), m)
	switch n := h.random.IntN(100); {
	case n < 40:
		m.own[id] = fmt.Sprint("guest ", step)
		m.Set(id, m.own[id])
	case n < 60:
		delete(m.own, id)
		m.Remove(id)
	case n < 90:
		h.click(m)
	case n < 93:
		h.server.ClientKillByFilter(h.t.Context(), "TYPE", "pubsub")
	case n < 94:
		h.server.ClientKillByFilter(h.t.Context(), "TYPE", "normal")
	case n < 96:
		h.replace(i)
	case n < 98:
		<-time.After(time.Duration(h.random.IntN(20)) * time.Millisecond)
	}
}

func (h *history) click(m *member) {
	h.clicking.Go(func() {
		switch _, err := m.Increment(); {
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
		h.members[i].Leave(h.t.Context())
	} else {
		h.members[i].die()
	}
	h.begin(i)
}

// restart restarts Redis among clicks, with what it had or with nothing.
func (h *history) restart() {
	h.agree()
	for i := range 10 {
		h.click(h.members[i%len(h.members)])
	}
	h.server.Stop()
	if h.random.IntN(2) == 0 {
		h.server.Erase()
	}
	h.server.Start()
	h.unheard = true
}

// agree waits until all members, and Redis, know what was counted.
func (h *history) agree() {
	h.t.Helper()
	h.clicking.Wait()
	require.EventuallyWithT(h.t, func(check *assert.CollectT) {
		inRedis := total(h.t, h.server)
		for i, m := range h.members {
			m.mu.Lock()
			assert.Equal(check, inRedis, m.counter, "member %d, and Redis", i)
			m.mu.Unlock()
		}
	}, visitor.Soon, time.Millisecond)
	h.unheard = false
}

func (h *history) end() {
	h.agree()
	h.members[0].isAway(false)
	final, err := h.members[0].Increment()
	require.NoError(h.t, err)
	assert.GreaterOrEqual(h.t, final, int(h.counted.Load())+1, "every click that was answered")
	assert.LessOrEqual(h.t, final, int(h.counted.Load()+h.unknown.Load())+1, "and no click twice")
	keys := []string{}
	for _, m := range h.members {
		keys = append(keys, m.key())
		others := entries{}
		for _, other := range h.members {
			if other != m {
				maps.Copy(others, other.own)
			}
		}
		m.sees(others)
		m.counts(final)
	}
	assert.EventuallyWithT(h.t, func(check *assert.CollectT) { // nothing of those that have ended is left
		assert.ElementsMatch(check, keys, h.server.Keys(h.t.Context(), serverKey+"*").Val())
		assert.EqualValues(check, len(keys), h.server.SCard(h.t.Context(), serversKey).Val())
	}, visitor.Soon, time.Millisecond)
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
func TestLeave_EndsWithItsContext(t *testing.T) {
	server, p := alone(t, longLease)
	defer server.Freeze()()
	p.Set("1", "Alice")
	eventually(t, func() bool { return len(p.wake) == 0 }) // it is being written
	ctx, cancel := context.WithTimeout(t.Context(), answerWithin/20)
	defer cancel()
	began := time.Now()
	p.Leave(ctx)
	assert.Less(t, time.Since(began), answerWithin/2)
}

func TestStart_TriesUntilRedisIsThere(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	server.Stop()
	started := make(chan *peer, 1)
	go func() {
		defer close(started)
		started <- newPeer(t, longLease(server.URL))
	}()
	<-time.After(retry) // for attempts in vain
	assert.Empty(t, started)
	server.Start()
	require.NotNil(t, <-started)
}

// Start says why, when its time is over or it is certain that it cannot.
func TestStart_SaysWhyItCannot(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { silent.Close() })
	rude := visitor.NewNetwork(t, "127.0.0.1:1")
	for name, row := range map[string]struct {
		url, want string
		certain   bool
	}{
		"no address":    {"here", "not valid", true},
		"a password":    {"redis://:secret%zz@127.0.0.1:6379/0", "not valid", true},
		"nobody there":  {"redis://127.0.0.1:1/0", "redis at 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused", false},
		"no answer":     {"redis://" + silent.Addr().String() + "/0", "redis at " + silent.Addr().String() + ": ", false},
		"hangs up":      {"redis://" + rude.Addr() + "/0", "redis at " + rude.Addr() + ": ", false},
		"no such base":  {"redis://" + server.Addr + "/99", "redis at " + server.Addr + ": ", true},
		"wrong secrets": {"redis://me:secret@" + server.Addr + "/0", "redis at " + server.Addr + ": ", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			within := 3 * answerWithin // time for a first attempt
			if row.certain {
				within = visitor.Soon
			}
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
