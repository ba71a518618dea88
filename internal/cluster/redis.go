package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// What is in Redis. The braces keep all of it on one node of a Redis cluster.
const (
	counterKey = "{realtime}:counter" // a number
	serversKey = "{realtime}:servers" // a set of the servers that have or had a lease
	serverKey  = "{realtime}:server:" // followed by an ID: a hash of that server's entries, which expires with its lease
	epochKey   = "{realtime}:epoch"   // changes when Redis may have lost data
	pauseKey   = "{realtime}:pause"   // exists while servers write what Redis may have lost
	channel    = "{realtime}:changes"
	echoPrefix = "{realtime}:echo:" // followed by an ID: the channel on which that server hears itself

	versionField = "version" // in the hash of a server: how often it has changed
)

// pause is how long a Redis that may have lost data is only told what servers know,
// and how long to wait for a server whose lease has ended meanwhile. It is longer
// than a server takes to notice that Redis is back.
const pause = 2 * time.Second

// errRecovering means that Redis is reachable, but may not know everything yet.
var errRecovering = errors.New("it has restarted, and servers are still telling it what they know")

// increment adds to the counter and announces the result in one step. It returns 0
// to a server that has not told Redis what it knows in this epoch: a number from now
// on may be one that was given out before.
var increment = redis.NewScript(`
local counter, epoch = KEYS[1], KEYS[2]
if redis.call('GET', epoch) ~= ARGV[1] then return 0 end
local n = redis.call('INCRBY', counter, ARGV[3])
redis.call('PUBLISH', ARGV[2], string.format('{"counter":%.0f,"by":"%s"}', n, ARGV[4]))
return n`)

// change writes changes of a server's entries: the number of entries to set, the
// entries with their values, then the entries to remove. It returns 0 if the lease of
// the server has ended.
var change = redis.NewScript(`
local own = KEYS[1]
local sets = tonumber(ARGV[5])
if redis.call('EXISTS', own) == 0 then return 0 end
redis.call('HSET', own, ARGV[3], ARGV[4], unpack(ARGV, 6, 5 + 2 * sets))
if #ARGV > 5 + 2 * sets then redis.call('HDEL', own, unpack(ARGV, 6 + 2 * sets)) end
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1`)

// compare renews a lease, raises the counter to what the server knows, and publishes
// an echo to the server's own subscription. It returns the epoch, whether Redis is
// recovering, the counter, and each server with the version of its entries. An epoch
// ends with the process of Redis or with its data.
var compare = redis.NewScript(`
local counter, servers, epoch, pause, own = unpack(KEYS)
local known, lease, recovery, channel, echo, prefix, version = unpack(ARGV)
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local now = redis.call('GET', epoch) or ''
if string.sub(now, 1, #run) ~= run then
	now = run .. ' ' .. table.concat(redis.call('TIME'), '.')
	redis.call('SET', epoch, now)
	redis.call('SET', pause, '', 'PX', recovery)
	redis.call('PUBLISH', channel, '{"epoch":true}')
end
local n = redis.call('GET', counter) or '0'
if tonumber(known) > tonumber(n) then
	n = known
	redis.call('SET', counter, n)
	redis.call('PUBLISH', channel, '{"counter":' .. n .. '}')
end
redis.call('PEXPIRE', own, lease)
redis.call('PUBLISH', echo, '')
local result = {now, redis.call('EXISTS', pause), n}
for _, id in ipairs(redis.call('SMEMBERS', servers)) do
	local v = redis.call('HGET', prefix .. id, version)
	if v then
		result[#result + 1] = id
		result[#result + 1] = v
	else
		redis.call('SREM', servers, id)
	end
end
return result`)

// sync renews the lease, and makes this server and Redis agree with each other.
func (m *Member) sync(ctx context.Context) error {
	m.echoed = false
	reply, err := compare.Run(ctx, m.redis,
		[]string{counterKey, serversKey, epochKey, pauseKey, m.key()},
		m.highest.Load(), m.opts.Lease.Milliseconds(), pause.Milliseconds(), channel, m.echo(), serverKey, versionField).Slice()
	if err != nil {
		return err
	}
	epoch, recovering := reply[0].(string), reply[1].(int64) == 1
	m.heard(number(reply[2]))
	versions := map[string]int64{}
	for i := 3; i < len(reply); i += 2 {
		versions[reply[i].(string)] = number(reply[i+1])
	}
	if version, ok := versions[m.id]; !ok || version != m.version {
		if err := m.writeAll(ctx); err != nil {
			return err
		}
	}
	if recovering {
		m.gap = time.Now()
	}
	for id := range m.others {
		if _, ok := versions[id]; !ok && time.Since(m.gap) > pause { // otherwise its server may be about to come back
			m.drop(id)
		}
	}
	for id, version := range versions {
		if id == m.id || m.others[id] != nil && m.others[id].version == version {
			continue
		}
		if err := m.read(ctx, id); err != nil {
			return err
		}
	}
	if recovering {
		return errRecovering
	}
	m.epoch.Store(&epoch)
	return nil
}

// write writes and announces the changes of this server's entries.
func (m *Member) write(ctx context.Context) error {
	set, removed := m.changes()
	if len(set)+len(removed) == 0 {
		return m.sync(ctx) // an increment has failed
	}
	m.version++
	args := []any{channel, announcement(message{Server: m.id, Version: m.version, Set: set, Removed: removed}),
		versionField, m.version, len(set)}
	for id, value := range set {
		args = append(args, id, value)
	}
	for _, id := range removed {
		args = append(args, id)
	}
	done, err := change.Run(ctx, m.redis, []string{m.key()}, args...).Bool()
	if err != nil {
		return err
	}
	if !done {
		return m.writeAll(ctx)
	}
	return nil
}

// writeAll writes every entry of this server, under a new lease.
func (m *Member) writeAll(ctx context.Context) error {
	m.version++
	args := []any{versionField, m.version}
	for id, value := range m.all() {
		args = append(args, id, value)
	}
	_, err := m.redis.TxPipelined(ctx, func(tx redis.Pipeliner) error {
		tx.Del(ctx, m.key())
		tx.HSet(ctx, m.key(), args...)
		tx.PExpire(ctx, m.key(), m.opts.Lease)
		tx.SAdd(ctx, serversKey, m.id)
		tx.Publish(ctx, channel, announcement(message{Server: m.id, Version: m.version, Whole: true}))
		return nil
	})
	return err
}

// read reads every entry of another server.
func (m *Member) read(ctx context.Context, id string) error {
	entries, err := m.redis.HGetAll(ctx, serverKey+id).Result()
	if err != nil {
		return err
	}
	version, err := strconv.ParseInt(entries[versionField], 10, 64)
	if err != nil { // its lease has just ended
		return nil
	}
	delete(entries, versionField)
	m.replace(id, version, entries)
	return nil
}

// giveBack ends the lease.
func (m *Member) giveBack(ctx context.Context) error {
	_, err := m.redis.TxPipelined(ctx, func(tx redis.Pipeliner) error {
		tx.Del(ctx, m.key())
		tx.SRem(ctx, serversKey, m.id)
		tx.Publish(ctx, channel, announcement(message{Server: m.id}))
		return nil
	})
	return err
}

func (m *Member) key() string  { return serverKey + m.id }
func (m *Member) echo() string { return echoPrefix + m.id }

func announcement(msg message) string {
	text, _ := json.Marshal(msg) // of text and numbers: it cannot fail
	return string(text)
}

// number is a number that a script returned as text.
func number(text any) int64 {
	n, _ := strconv.ParseInt(text.(string), 10, 64)
	return n
}

// notSent reports errors after which Redis cannot have done anything, because there
// was no connection.
func notSent(err error) bool {
	var network *net.OpError
	return errors.Is(err, redis.ErrPoolTimeout) || errors.As(err, &network) && network.Op == "dial"
}

// The client logs several lines for every lost connection. A Member logs what an
// operator should know.
func init() { redis.SetLogger(silence{}) }

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}
