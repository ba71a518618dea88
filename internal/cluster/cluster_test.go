package cluster

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"realtime/internal/visitor"
)

// entries are values by ID.
type entries = map[string]string

// tester is a test, or a check of rapid.
type tester interface {
	require.TestingT
	Helper()
	Fatalf(format string, args ...any)
}

// peer is a member with what it was told about the others.
type peer struct {
	*Member
	t   tester
	log *visitor.Log

	mu        sync.Mutex
	elsewhere int
	known     entries
	told      entries // known, as of the last change
	removed   int
	leaving   []string
}

// shortLease is for members whose lease may expire in a test. On a busy machine, commands
// may time out.
func shortLease(url string) Options {
	return Options{URL: url, Lease: 1500 * time.Millisecond, Renew: 500 * time.Millisecond}
}

// renewing is for members that renew their lease every 3 seconds, with timeouts long enough
// for a slow machine.
func renewing(url string) Options {
	return Options{URL: url, Lease: time.Hour, Renew: 3 * time.Second, Grace: 30 * time.Minute}
}

// longLease is for members that talk to Redis only when there is something to write.
func longLease(url string) Options {
	return Options{URL: url, Lease: time.Hour, Renew: time.Hour, Grace: time.Hour}
}

func newPeer(t tester, opts Options) *peer {
	t.Helper()
	p := &peer{t: t, log: &visitor.Log{}, known: entries{}, told: entries{}}
	opts.Log = p.log.Logger()
	m, err := New(opts)
	require.NoError(t, err)
	p.Member = m
	require.NoError(t, m.Start(context.Background(), p.counted, p, func() {
		p.locked(func() { p.told = maps.Clone(p.known) })
	}))
	return p
}

func (p *peer) locked(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
}

func (p *peer) counted(elsewhere int) {
	p.locked(func() {
		assert.GreaterOrEqual(p.t, elsewhere, p.elsewhere, "the number never decreases")
		p.elsewhere = elsewhere
	})
}

func (p *peer) SetElsewhere(id, value string) { p.locked(func() { p.known[id] = value }) }

func (p *peer) Leave(id string) bool {
	p.locked(func() { delete(p.known, id); p.removed++ })
	return true
}

func (p *peer) Disconnect(id string, _ func()) {
	p.locked(func() { p.leaving = append(p.leaving, id) })
}

// click counts one more and waits, as the action of a page does.
func (p *peer) click() { p.Count(p.Counted() + 1) }

// die ends a member as kill -9 does: its lease remains.
func (p *peer) die() {
	p.end()
	<-p.ended
	p.own.tell(func() { p.own.sharing = false })
}

// sees waits until the peer was told exactly these entries of others.
func (p *peer) sees(want entries) {
	p.t.Helper()
	p.waits(want, func() any { return p.told })
}

// counts waits until the peer knows this sum of all counts.
func (p *peer) counts(want int) {
	p.t.Helper()
	p.waits(want, func() any { return p.elsewhere + p.Counted() })
}

func (p *peer) waits(want any, what func() any) {
	p.t.Helper()
	var got any
	for end := time.Now().Add(visitor.Soon); time.Now().Before(end); time.Sleep(time.Millisecond) {
		p.locked(func() { got = what() })
		if assert.ObjectsAreEqual(want, got) {
			return
		}
	}
	p.t.Fatalf("it knows %.500s, want %.500s; its log:\n%s", fmt.Sprint(got), fmt.Sprint(want), p.log)
}

func (p *peer) isAway(want bool) {
	p.t.Helper()
	p.waits(want, func() any { return p.Away() })
}

// alone starts a member on a Redis of its own, in a parallel test.
func alone(t *testing.T, opts func(url string) Options) (*visitor.Redis, *peer) {
	t.Helper()
	t.Parallel()
	server := visitor.NewRedis(t)
	return server, another(t, opts(server.URL))
}

func another(t *testing.T, opts Options) *peer {
	t.Helper()
	p := newPeer(t, opts)
	if opts.URL != "" {
		t.Cleanup(p.die)
	}
	return p
}

// pair is alone for two members.
func pair(t *testing.T, opts func(url string) Options) (server *visitor.Redis, a, b *peer) {
	t.Helper()
	server, a = alone(t, opts)
	return server, a, another(t, opts(server.URL))
}

// pairOnline is pair with an entry on the first.
func pairOnline(t *testing.T, opts func(url string) Options) (server *visitor.Redis, a, b *peer) {
	t.Helper()
	server, a, b = pair(t, opts)
	a.Set("1", "Alice")
	b.sees(entries{"1": "Alice"})
	return server, a, b
}

// acl sets the permissions of a Redis user.
func acl(t require.TestingT, server *visitor.Redis, user string, rules ...string) {
	args := []any{"ACL", "SETUSER", user}
	for _, rule := range rules {
		args = append(args, rule)
	}
	require.NoError(t, server.Do(context.Background(), args...).Err(), rules)
}

// Whatever happens, all members agree in the end: on the entries of those that run, and on
// a number that counts every click once. No click waits forever, and no number decreases.
// A killed server loses only clicks that nobody else knew of.
func TestMembers_AgreeAfterAnything(t *testing.T) {
	t.Parallel()
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		checks.Value.Set("4") // more with -rapid.checks
	}
	flag.Set("rapid.steps", "60")
	flag.Set("rapid.nofailfile", "true") // the failure message has the seed and all steps
	server := visitor.NewRedis(t)
	happened := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		h := &history{T: rt, t: t, server: server, prefix: fmt.Sprint("history", happened["histories"])}
		happened["histories"]++
		for range 3 {
			h.begins()
		}
		defer func() {
			for _, m := range h.members {
				m.die()
			}
		}()
		do := map[string]func(){
			"a click":            func() { h.clicks(h.any()) },
			"a crowd":            func() { h.crowd() },
			"an entry":           func() { h.sets(h.any()) },
			"another entry":      func() { h.sets(h.any()) },
			"an entry removed":   func() { h.removes(h.any()) },
			"time":               func() { time.Sleep(time.Duration(rapid.IntRange(0, 300).Draw(rt, "ms")) * time.Millisecond) },
			"killed":             func() { h.ends((*peer).die) },
			"stopped":            func() { h.ends(func(p *peer) { p.Member.Leave(context.Background()) }) },
			"subscriptions cut":  func() { h.thaw(); server.ClientKillByFilter(context.Background(), "TYPE", "pubsub") },
			"commands cut":       func() { h.thaw(); server.ClientKillByFilter(context.Background(), "TYPE", "normal") },
			"cut off":            func() { h.any().network.Cut() },
			"nothing arrives":    func() { m := h.any(); m.release(); m.release = m.network.Swallow() },
			"paused":             func() { h.thaw(); h.thawed = server.Freeze() },
			"restarted":          func() { h.thaw(); server.Stop(); server.Start() },
			"restarted empty":    func() { h.thaw(); server.Stop(); server.Erase(); server.Start() },
			"emptied":            func() { h.thaw(); server.FlushAll(context.Background()) },
			"an older state":     func() { h.thaw(); h.restore() },
			"full":               func() { h.thaw(); server.ConfigSet(context.Background(), "maxmemory", "1") },
			"may not publish":    func() { h.thaw(); acl(rt, server, "default", "-publish") },
			"a lease expires":    func() { h.thaw(); server.Del(context.Background(), h.any().link.keys[2]) },
			"a state to restore": func() { h.thaw(); h.save() },
			"all is well":        func() { h.heals() },
		}
		steps := map[string]func(*rapid.T){}
		for what, act := range do {
			steps[what] = func(*rapid.T) { happened[what]++; act() }
		}
		rt.Repeat(steps)
		for _, m := range h.members { // a single click must reach everybody too
			h.clicks(m)
		}
		h.agrees(0, 0)
	})
	t.Log("steps: ", happened)
}

// history is some members on one Redis, and what they have done.
type history struct {
	*rapid.T
	t        *testing.T
	server   *visitor.Redis
	prefix   string
	members  []*member
	dead     int               // counted by members that have ended
	thawed   func()            // ends a pause of Redis
	saved    map[string]func() // restores a key of Redis
	clicking sync.WaitGroup
}

// member is a peer with what it has done.
type member struct {
	*peer
	network *visitor.Network
	release func() // lets the network carry bytes again
	own     entries
}

func (h *history) begins() {
	h.heals()
	m := &member{network: visitor.NewNetwork(h.t, h.server.Addr), release: func() {}, own: entries{}}
	opts := shortLease("redis://" + m.network.Addr() + "/0")
	opts.Prefix = h.prefix
	m.peer = newPeer(h.T, opts)
	h.members = append(h.members, m)
}

func (h *history) any() *member { return rapid.SampledFrom(h.members).Draw(h.T, "member") }

func (h *history) clicks(m *member) {
	n := 0
	m.Member.own.change(func() { m.Member.own.count++; n = int(m.Member.own.count) })
	h.clicking.Go(func() { m.Count(n) })
}

func (h *history) crowd() {
	for i := range 50 {
		h.clicks(h.members[i%len(h.members)])
	}
}

// entry is one of a member's ten IDs.
func (h *history) entry(m *member) string {
	return fmt.Sprint(rapid.IntRange(0, 9).Draw(h.T, "entry"), " of ", m.Member.own.id)
}

func (h *history) sets(m *member) {
	id := h.entry(m)
	m.own[id] = fmt.Sprint("guest ", rapid.IntRange(0, 99).Draw(h.T, "guest"))
	m.Set(id, m.own[id])
}

func (h *history) removes(m *member) {
	id := h.entry(m)
	delete(m.own, id)
	m.Remove(id)
}

// ends ends a member, and begins another. What any other member knew of its count by then
// must not be lost.
func (h *history) ends(how func(*peer)) {
	m := h.any()
	how(m.peer)
	h.members = slices.DeleteFunc(h.members, func(other *member) bool { return other == m })
	least := 0
	for _, other := range h.members {
		other.die() // so that it does not change while it is read
		least = max(least, int(other.others.counts[m.Member.own.id]))
		other.follows()
	}
	h.begins()
	h.dead += h.agrees(least, m.Counted())
}

// follows undoes die.
func (p *peer) follows() {
	ctx, end := context.WithCancel(context.Background())
	p.Member.end, p.ended = end, make(chan struct{})
	p.own.tell(func() { p.own.sharing = true })
	go p.follow(ctx)
}

func (h *history) thaw() {
	if h.thawed != nil {
		h.thawed()
		h.thawed = nil
	}
}

// heals ends every fault.
func (h *history) heals() {
	h.thaw()
	h.server.ConfigSet(context.Background(), "maxmemory", "0")
	acl(h, h.server, "default", "+publish")
	for _, m := range h.members {
		m.release()
	}
}

func (h *history) save() {
	h.saved = map[string]func(){}
	for _, key := range h.server.Keys(context.Background(), h.prefix+":*").Val() {
		dump, left := h.server.Dump(context.Background(), key).Val(), max(0, h.server.PTTL(context.Background(), key).Val())
		h.saved[key] = func() { h.server.RestoreReplace(context.Background(), key, left, dump) }
	}
}

func (h *history) restore() {
	h.server.FlushAll(context.Background())
	for _, restore := range h.saved {
		restore()
	}
}

// agrees waits until all members know every entry and every click. Of a member that has just
// ended, between least and most clicks count; agrees returns how many.
func (h *history) agrees(least, most int) (counted int) {
	h.heals()
	h.clicking.Wait()
	sure := h.dead
	for _, m := range h.members {
		sure += m.Counted()
	}
	for _, m := range h.members {
		others := entries{}
		for _, other := range h.members {
			if other != m {
				maps.Copy(others, other.own)
			}
		}
		m.sees(others)
	}
	h.members[0].waits(true, func() any {
		sums := map[int]bool{}
		for _, m := range h.members {
			if m != h.members[0] {
				m.mu.Lock()
				defer m.mu.Unlock()
			}
			counted = m.elsewhere + m.Counted() - sure
			sums[counted] = true
		}
		return len(sums) == 1 && least <= counted && counted <= most
	})
	for _, m := range h.members {
		if m.Ignored() > 0 {
			h.Fatalf("%d messages were ignored", m.Ignored())
		}
	}
	return counted
}

// A command that timed out may arrive late, after later ones and after the server has left.
// It must change nothing: nobody comes back, and nobody is lost.
func TestEntries_LateCommandChangesNothing(t *testing.T) {
	server, p := alone(t, longLease)
	p.die()
	ctx := t.Context()
	state := func() [2]map[string]string {
		return [2]map[string]string{server.HGetAll(ctx, p.link.keys[2]).Val(), server.HGetAll(ctx, p.link.keys[0]).Val()}
	}
	applies := func(msg message) bool {
		applied, err := p.link.write(ctx, msg, time.Hour)
		require.NoError(t, err)
		return applied
	}
	var sent []message
	arriveLate := func() {
		before := state()
		for _, late := range slices.Backward(sent) {
			assert.False(t, applies(late), "%v after %d", late, len(sent))
		}
		assert.Equal(t, before, state())
	}
	for _, change := range []func(){
		func() { p.Set("1", "Alice") },
		func() { p.own.locked(func() { p.own.whole = true }) }, // as after a lost answer
		func() { p.Remove("1") },
		func() { p.Set("2", "Bob") },
		func() { p.own.locked(func() { p.own.whole = true }) },
		func() { p.Set("3", "Carol") },
	} {
		change()
		p.click()
		msg := p.own.next()
		require.True(t, applies(msg))
		sent = append(sent, msg)
		arriveLate()
	}
	another(t, longLease(server.URL)).sees(entries{"2": "Bob", "3": "Carol"})

	require.True(t, applies(message{Server: p.own.id, Version: -p.own.version}))
	for range 2 { // while its entries are kept, and after that
		arriveLate()
		server.Del(ctx, p.link.keys[2])
	}
}

// Leases expire early when the clock of Redis is set, or its memory is full. An entry goes
// only after its server was not seen for a whole lease, and its server restores it.
func TestEntries_OutliveALeaseThatExpiresEarly(t *testing.T) {
	server, a, b := pairOnline(t, longLease)
	a.die()
	b.die()
	for _, lose := range []func(){
		func() { server.Del(t.Context(), a.link.keys[2]) },
		func() { server.FlushAll(t.Context()) },
	} {
		lose()
		require.NoError(t, b.sync(t.Context()))
		assert.Zero(t, b.removed, "after one answer without them")
		require.NoError(t, a.sync(t.Context()))
		another(t, longLease(server.URL)).sees(entries{"1": "Alice"})
		assert.Positive(t, server.PTTL(t.Context(), a.link.keys[2]).Val(), "the lease")
	}
	server.Del(t.Context(), a.link.keys[2])
	b.others.alive[a.own.id] = time.Now().Add(-time.Hour)
	require.NoError(t, b.sync(t.Context()))
	b.sees(entries{})
}

// The entries of a killed server go when its lease expires, not a lease after it was last
// seen.
func TestEntries_EndWithTheLease(t *testing.T) {
	server, a, b := pairOnline(t, longLease)
	a.die()
	b.die()
	server.PExpire(t.Context(), a.link.keys[2], time.Minute) // it was renewed 59 minutes ago
	require.NoError(t, b.sync(t.Context()))                  // it subscribes, and takes everybody for just seen
	b.others.alive[a.own.id] = time.Time{}
	require.NoError(t, b.sync(t.Context()))
	assert.WithinDuration(t, time.Now().Add(-59*time.Minute), b.others.alive[a.own.id], time.Minute/2)
}

// An answered click survives its server. A slow connection to Redis that is lost once does
// not count as Redis being away.
func TestCount_ReturnsWhenRedisHasIt(t *testing.T) {
	t.Parallel()
	server := visitor.NewRedis(t)
	network := visitor.NewNetwork(t, server.Addr)
	p := another(t, longLease("redis://"+network.Addr()+"/0"))
	network.Delay(50 * time.Millisecond)
	p.Count(7)
	assert.Equal(t, "7", server.HGet(t.Context(), p.link.keys[0], p.own.id).Val())

	network.Delay(300 * time.Millisecond)
	time.AfterFunc(150*time.Millisecond, network.Cut)
	p.Count(8)
	assert.Equal(t, "8", server.HGet(t.Context(), p.link.keys[0], p.own.id).Val())
	assert.NotContains(t, p.log.String(), "level=WARN")
}

// A count that Redis has lost or rolled back is written again, even if no other server
// knows it.
func TestCount_IsRestoredAfterRedisLosesIt(t *testing.T) {
	server, p := alone(t, longLease)
	p.Count(7)
	p.die()
	other := fmt.Sprintf("%026d", 1)
	for _, row := range []struct {
		lose func(counts string)
		want map[string]string
	}{
		{func(string) { server.FlushAll(t.Context()) }, map[string]string{p.own.id: "7", "sum": "7"}},
		{func(counts string) { server.HSet(t.Context(), counts, p.own.id, 3, "sum", 3) }, map[string]string{p.own.id: "7", "sum": "7"}},
		{func(counts string) { server.HSet(t.Context(), counts, p.own.id, 3, other, 4, "sum", 7) }, map[string]string{p.own.id: "7", other: "4", "sum": "11"}},
	} {
		row.lose(p.link.keys[0])
		p.link.unsubscribe()
		require.NoError(t, p.sync(t.Context()))
		assert.Equal(t, row.want, server.HGetAll(t.Context(), p.link.keys[0]).Val())
	}
}

// Renewing a lease rewrites no entries and opens no connections.
func TestEntries_StayWhileTheLeaseIsRenewed(t *testing.T) {
	server, a, b := pairOnline(t, renewing)
	state := func() []any {
		info := server.InfoMap(t.Context(), "stats").Val()["Stats"]["total_connections_received"]
		return []any{info, server.HGetAll(t.Context(), a.link.keys[2]).Val()}
	}
	before := state()
	for range 2 {
		require.True(t, server.Expire(t.Context(), a.link.keys[2], time.Minute).Val())
		a.waits(true, func() any { return server.TTL(t.Context(), a.link.keys[2]).Val() > time.Minute })
	}
	assert.Equal(t, before, state())
	b.locked(func() { assert.Zero(t, b.removed) })
}

// A member that has missed a message reads everything.
func TestEntries_AreReadAgainAfterAGap(t *testing.T) {
	_, a, b := pairOnline(t, longLease)
	b.die()
	a.Set("2", "Bob")
	a.waits(0, func() any { a.own.mu.Lock(); defer a.own.mu.Unlock(); return len(a.own.changed) })
	a.click() // arrives after it
	carol := "Carol"
	assert.False(t, b.others.apply(message{Server: a.own.id, Version: 9, Entries: map[string]*string{"3": &carol}}))
	require.NoError(t, b.sync(t.Context()))
	b.sees(entries{"1": "Alice", "2": "Bob"})
}

// Other members learn at once that one leaves, or when they start. Its entries stay for
// the grace period.
func TestLeave_KeepsEntriesForTheGracePeriod(t *testing.T) {
	server, a, b := pairOnline(t, renewing)
	a.Set("2", "Bob") // not written yet
	a.Count(1)
	a.Member.Leave(t.Context())
	late := another(t, renewing(server.URL))
	for _, p := range []*peer{b, late} {
		p.sees(entries{"1": "Alice", "2": "Bob"})
		p.waits(2, func() any { return len(p.leaving) })
		assert.Zero(t, p.removed, "before the grace period ends")
		p.counts(1)
	}
	assert.InDelta(t, a.opts.Grace, server.PTTL(t.Context(), a.link.keys[2]).Val(), float64(a.opts.Grace/2), "its lease")
	require.NoError(t, server.PExpire(t.Context(), a.link.keys[2], time.Millisecond).Err()) // ends it
	b.sees(entries{})
	late.sees(entries{})
}

// A shutdown does not wait for a Redis that does not answer.
func TestLeave_EndsWithItsContext(t *testing.T) {
	server, p := alone(t, longLease)
	defer server.Freeze()()
	p.Set("1", "Alice")
	p.waits(0, func() any { return len(p.own.wake) }) // it is being written
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	p.Member.Leave(ctx)
	assert.Contains(t, p.log.String(), "could not be told")
}

// Simultaneous clicks and joins are batched. A sync reads only what has changed, however
// many servers there ever were.
func TestMember_BatchesWritesAndReadsOnlyChanges(t *testing.T) {
	server, a, b := pair(t, longLease)
	for life := range 1000 {
		server.HSet(t.Context(), a.link.keys[0], fmt.Sprintf("%026d", life), 1)
	}
	server.HSet(t.Context(), a.link.keys[0], "sum", 1000)
	a.die()
	require.NoError(t, a.sync(t.Context()))
	a.follows()

	want := entries{}
	thaw := server.Freeze()
	var clicking sync.WaitGroup
	for i := range 1000 {
		want[fmt.Sprint(i)] = "guest"
		a.Set(fmt.Sprint(i), "guest")
		clicking.Go(func() { a.Count(i + 1) })
	}
	a.waits(1000, func() any { return a.Counted() })
	thaw()
	spent := server.Spent(func() { b.sees(want); clicking.Wait() })
	assert.Less(t, spent.Commands-1000, 50, "commands besides one for each entry")

	a.die()
	sum := a.others.total + a.own.inRedis
	assert.EqualValues(t, 2000, sum)
	found, err := a.link.read(t.Context(), time.Hour, sum, map[string]int64{a.own.id: a.own.version, b.own.id: 1})
	require.NoError(t, err)
	assert.Nil(t, found.Counts)
	assert.Empty(t, found.Changed)
	assert.Len(t, found.Leases, 2)
}

// While Redis refuses writes, that is logged once and no click waits. Later everything is
// written.
func TestMember_RetriesRefusedWrites(t *testing.T) {
	server, a, b := pair(t, renewing)
	may := func(rule string) { acl(t, server, "default", rule) }
	memory := func(limit string) { require.NoError(t, server.ConfigSet(t.Context(), "maxmemory", limit).Err()) }
	for said, switches := range map[string][2]func(){
		"OOM command not allowed":       {func() { memory("1") }, func() { memory("0") }},
		"The user executing the script": {func() { may("-publish") }, func() { may("+publish") }},
	} {
		switches[0]()
		for range 20 {
			a.click()
			a.Set(fmt.Sprint(a.Counted()), "guest")
			a.isAway(true)
			time.Sleep(a.opts.Renew / 20) // in all, until after a retry: it must not log again
		}
		assert.Equal(t, 1, strings.Count(a.log.String(), said), a.log.String())
		switches[1]()
		a.isAway(false)
		b.counts(a.Counted())
		b.waits(a.Counted(), func() any { return len(b.told) })
	}
	assert.Equal(t, 2, strings.Count(a.log.String(), "level=WARN"), a.log.String())
}

// Clicks count at once while Redis is away.
func TestMember_CountsWhileRedisIsAway(t *testing.T) {
	server, a, b := pair(t, renewing)
	a.click()
	server.Stop()
	a.isAway(true)
	began := time.Now()
	for range 500 {
		a.click()
		a.Set(fmt.Sprint(a.Counted()), "guest")
	}
	assert.Less(t, time.Since(began), 50*a.opts.Renew, "no click waits for a timeout")
	server.Start()
	b.counts(501)
	b.waits(500, func() any { return len(b.told) })
	for _, line := range []string{"redis is away", "redis is back", "level=WARN"} {
		assert.Equal(t, 1, strings.Count(a.log.String(), line), "%s in the log:\n%s", line, a.log.String())
	}
}

// A lost connection loses no click, and does not count as Redis being away.
func TestMember_ReconnectsWithoutAWarning(t *testing.T) {
	server, a, b := pair(t, renewing)
	for n := 1; n <= 6; n++ {
		require.NoError(t, server.ClientKillByFilter(t.Context(), "TYPE", []string{"normal", "pubsub"}[n%2]).Err())
		a.Set("1", fmt.Sprint(n))
		a.click()
		b.counts(n)
		b.sees(entries{"1": fmt.Sprint(n)})
	}
	assert.NotContains(t, a.log.String()+b.log.String(), "level=WARN")
}

// Two installations on one Redis, with a database or a prefix each, never meet. Foreign
// messages and counts are ignored, and counted.
func TestMember_IgnoresOtherInstallations(t *testing.T) {
	server, a, b := pair(t, longLease)
	other, base := longLease(server.URL), longLease(strings.TrimSuffix(server.URL, "0")+"1")
	other.Prefix = "another"
	strangers := []*peer{another(t, other), another(t, base)}
	for i, p := range append(strangers, a) {
		p.Set(fmt.Sprint(i), "guest")
		p.Count(100 * (i + 1))
	}
	b.counts(300)
	b.sees(entries{"2": "guest"})
	for i, p := range strangers {
		p.counts(100 * (i + 1))
		p.sees(entries{})
	}
	id := a.own.id
	for _, text := range []string{
		"hello", "", "{}", `{"counts":{"` + id + `":-1}}`, `{"counts":{"` + id + `":100000000000000}}`, `{"counts":{"sum":7}}`, `{"server":"me","version":7}`, `[1]`,
	} {
		require.NoError(t, server.Publish(t.Context(), a.link.channel, text).Err())
	}
	server.HSet(t.Context(), a.link.keys[0], "theirs", "100", "sum", 0)
	a.click()
	b.counts(301)
	assert.Equal(t, 8, b.Ignored())
	late := another(t, longLease(server.URL))
	late.counts(301)
	assert.Equal(t, 1, late.Ignored())
}

// Without Redis, a member passes its count to Keep, and waits for it.
func TestMember_KeepsItsCount(t *testing.T) {
	kept := map[string]int64{fmt.Sprintf("%026d", 1): 12}
	p := another(t, Options{Kept: kept, Keep: func(life string, n int64) { kept[life] = n }})
	p.counts(12)
	p.click()
	assert.EqualValues(t, 1, kept[p.own.id])
	p.counts(13)
	assert.False(t, p.Away())
	another(t, Options{Kept: kept}).counts(13)
}

// Start explains its error, and returns at once if retrying cannot fix it. The permissions
// that the documentation lists suffice, and Start names a missing one.
func TestStart_ExplainsWhyItFails(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "socket")
	// By default a node listens on a second port, the first plus 10,000, which may not exist.
	_, second, _ := net.SplitHostPort(visitor.FreeAddr(t))
	server, node := visitor.NewRedis(t, "--unixsocket", socket), visitor.NewRedis(t, "--cluster-enabled", "yes", "--cluster-port", second)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { silent.Close() })
	rude, foreign := visitor.NewNetwork(t, "127.0.0.1:1"), httptest.NewTLSServer(nil)
	t.Cleanup(foreign.Close)
	operating, err := os.ReadFile("../../docs/operating.md")
	require.NoError(t, err)
	rules := strings.Fields(regexp.MustCompile(`ACL SETUSER realtime (.*)`).FindStringSubmatch(string(operating))[1])
	user := func(name string, rules []string) { acl(t, server, name, append(rules, "on", ">secret")...) }
	at := "redis at " + server.Addr + ": "
	type row struct {
		url, want string
		final     bool // retrying cannot fix it
	}
	rows := map[string]row{
		"no address":    {"here", "invalid", true},
		"a password":    {"redis://:secret%zz@127.0.0.1:6379/0", "invalid", true},
		"nobody there":  {"redis://127.0.0.1:1/0", "redis at 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused", false},
		"no answer":     {"redis://" + silent.Addr().String() + "/0", "redis at " + silent.Addr().String() + ": ", false},
		"hangs up":      {"redis://" + rude.Addr() + "/0", "want rediss:// if it speaks TLS", false},
		"no such base":  {"redis://" + server.Addr + "/99", at, true},
		"wrong secrets": {"redis://me:secret@" + server.Addr + "/0", at, true},
		"plain":         {"rediss://" + server.Addr + "/0", at + "it does not speak TLS: want redis:// instead of rediss://", false},
		"foreign CA":    {"rediss" + strings.TrimPrefix(foreign.URL, "https"), "SSL_CERT_FILE", true},
		"a node":        {"redis://" + node.Addr + "/0", "a Redis Cluster, which is not supported", true},
		"all rights":    {"redis://all:secret@" + server.Addr + "/1", "", true},
		"a socket":      {"unix://" + socket, "", true},
	}
	user("all", rules)
	for i, right := range []string{"+subscribe", "+evalsha", "+hset", "+publish", "&realtime:*", "~realtime:*"} {
		require.Contains(t, rules, right)
		name := fmt.Sprint("without", i)
		user(name, slices.DeleteFunc(slices.Clone(rules), func(r string) bool { return r == right }))
		rows["without "+right] = row{"redis://" + name + ":secret@" + server.Addr + "/0", "docs/operating.md lists the permissions", true}
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			within := 6 * time.Second // enough for a first attempt
			if row.final {
				within = visitor.Soon
			}
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			m, err := New(Options{URL: row.url, Prefix: "realtime"})
			if err == nil {
				err = m.Start(ctx, func(int) {}, &peer{known: entries{}}, func() {})
			}
			if row.want == "" {
				require.NoError(t, err)
				m.Set("1", "Alice")
				m.Count(1)
				m.Remove("1")
				m.Count(2)
				m.Leave(t.Context())
				assert.EqualValues(t, 2, m.own.inRedis)
				return
			}
			require.Error(t, err)
			assert.Equal(t, row.final, ctx.Err() == nil, "it returns before its timeout")
			assert.Contains(t, err.Error(), row.want)
			assert.NotContains(t, err.Error(), "secret")
			assert.NotContains(t, err.Error(), "context deadline exceeded")
			assert.NotContains(t, err.Error(), "\n")
		})
	}
}
