package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// What is in Redis. The braces keep all of it on one node of a Redis cluster.
const (
	clicksKey  = "{realtime}:clicks"  // a hash: each epoch with its number of increments, and the present epoch
	serversKey = "{realtime}:servers" // a set of the servers that have or had a lease
	serverKey  = "{realtime}:server:" // followed by an ID: a hash of that server's entries, which expires with its lease
	leftKey    = "{realtime}:left:"   // followed by an ID: exists for a while after that server has left
	channel    = "{realtime}:changes"
	echoPrefix = "{realtime}:echo:" // followed by an ID: the channel on which that server hears itself

	epochField   = "epoch"   // in clicksKey
	versionField = "version" // in the hash of a server: how often it has changed; negative once it has left
)

// inTransit is longer than a command is on its way to Redis.
const inTransit = time.Minute

// presentEpoch is a function for scripts. An epoch ends with the process of Redis or
// with its data: another one then begins, and all servers hear of it.
const presentEpoch = `
local clicks, channel = KEYS[1], ARGV[1]
local function present_epoch()
	local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
	local epoch = redis.call('HGET', clicks, 'epoch')
	if not epoch or string.sub(epoch, 1, #run) ~= run then
		epoch = run .. ' ' .. table.concat(redis.call('TIME'), '.')
		redis.call('HSET', clicks, 'epoch', epoch)
		redis.call('PUBLISH', channel, '{"epoch":"' .. epoch .. '"}')
	end
	return epoch
end
`

// greet is the first command on every connection. A connection is to one process of
// Redis, so increments need not ask again which: that would cost more than counting.
var greet = redis.NewScript(presentEpoch + `return present_epoch()`)

// increment adds to the number of this epoch and announces the result in one step.
// It returns the epoch and its number.
var increment = redis.NewScript(presentEpoch + `
local n, by = ARGV[2], ARGV[3]
local epoch = redis.call('HGET', clicks, 'epoch') or present_epoch()
n = redis.call('HINCRBY', clicks, epoch, n)
redis.call('PUBLISH', channel, string.format('{"counts":{"%s":%.0f},"by":"%s"}', epoch, n, by))
return {epoch, n}`)

// compare renews a lease, raises each epoch's number to what the server knows, and
// publishes an echo to the server's own subscription. It returns the present epoch,
// all epochs with their numbers, and each server with the version of its entries.
var compare = redis.NewScript(presentEpoch + `
local epoch = present_epoch()
local _, servers, own = unpack(KEYS)
local _, lease, echo, prefix, version = unpack(ARGV)
local raised = {}
for i = 6, #ARGV, 2 do
	if tonumber(ARGV[i + 1]) > tonumber(redis.call('HGET', clicks, ARGV[i]) or 0) then
		redis.call('HSET', clicks, ARGV[i], ARGV[i + 1])
		raised[#raised + 1] = '"' .. ARGV[i] .. '":' .. ARGV[i + 1]
	end
end
if #raised > 0 then
	redis.call('PUBLISH', channel, '{"counts":{' .. table.concat(raised, ',') .. '}}')
end
redis.call('PUBLISH', echo, '')
local versions = {}
for _, id in ipairs(redis.call('SMEMBERS', servers)) do
	local v = redis.call('HGET', prefix .. id, version)
	if not v then
		redis.call('SREM', servers, id)
	else
		versions[#versions + 1] = id
		versions[#versions + 1] = v
	end
	if v and prefix .. id == own and tonumber(v) > 0 then
		redis.call('PEXPIRE', own, lease)
	end
end
return {epoch, redis.call('HGETALL', clicks), versions}`)

// change writes changes of a server's entries: the number of entries to set, the
// entries with their values, then the entries to remove. It returns 0 if the lease of
// the server has ended, or if it has left.
var change = redis.NewScript(`
local own = KEYS[1]
local sets = tonumber(ARGV[5])
if tonumber(redis.call('HGET', own, ARGV[3]) or 0) <= 0 then return 0 end
redis.call('HSET', own, ARGV[3], ARGV[4], unpack(ARGV, 6, 5 + 2 * sets))
if #ARGV > 5 + 2 * sets then redis.call('HDEL', own, unpack(ARGV, 6 + 2 * sets)) end
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1`)

// rewrite writes every entry of a server, under a new lease. It does nothing if the
// server has left: the command was late then.
var rewrite = redis.NewScript(`
local own, servers, left = unpack(KEYS)
local channel, message, id, lease = unpack(ARGV, 1, 4)
if redis.call('EXISTS', left) == 1 then return 0 end
redis.call('DEL', own)
for i = 5, #ARGV, 1000 do
	redis.call('HSET', own, unpack(ARGV, i, math.min(i + 999, #ARGV)))
end
redis.call('PEXPIRE', own, lease)
redis.call('SADD', servers, id)
redis.call('PUBLISH', channel, message)
return 1`)

// leave shortens a lease, and announces that the server has left.
var leave = redis.NewScript(`
local own, left = unpack(KEYS)
local channel, id, grace, transit, version = unpack(ARGV)
redis.call('SET', left, '', 'PX', transit)
local v = tonumber(redis.call('HGET', own, version) or 0)
if v > 0 then
	redis.call('HSET', own, version, -v)
	redis.call('PEXPIRE', own, grace)
	redis.call('PUBLISH', channel, string.format('{"server":"%s","version":%.0f}', id, -v))
end
return 1`)

// sync renews the lease, and makes this server and Redis agree with each other.
func (m *Member) sync(ctx context.Context) error {
	m.echoed = false
	args := []any{channel, m.opts.Lease.Milliseconds(), m.echo(), serverKey, versionField}
	reply, err := compare.Run(ctx, m.redis, []string{clicksKey, serversKey, m.key()}, append(args, m.known()...)...).Slice()
	if err != nil {
		return err
	}
	if epoch := reply[0].(string); epoch != m.epoch {
		m.epoch, m.gap = epoch, time.Now()
	}
	counts, versions := numbers(reply[1]), numbers(reply[2])
	delete(counts, epochField)
	m.heard(counts)
	if version, ok := versions[m.id]; !ok || version != m.version {
		if err := m.writeAll(ctx); err != nil {
			return err
		}
	}
	delete(versions, m.id)
	m.dropAllBut(versions)
	return m.readAll(ctx, versions)
}

// dropAllBut drops servers that Redis does not know, unless they may be about to come
// back: after a gap each has the time of a lease for that.
func (m *Member) dropAllBut(versions map[string]int64) {
	for id, other := range m.others {
		if _, ok := versions[id]; !ok && (other.version < 0 || time.Since(m.gap) > m.opts.Lease) {
			m.drop(id)
		}
	}
}

// readAll reads the entries of servers that have changed. Those that have left come
// first, because their people may be back on one that has not.
func (m *Member) readAll(ctx context.Context, versions map[string]int64) error {
	byVersion := func(a, b string) int { return cmp.Compare(versions[a], versions[b]) }
	for _, id := range slices.SortedFunc(maps.Keys(versions), byVersion) {
		if m.others[id] != nil && m.others[id].version == versions[id] {
			continue
		}
		if err := m.read(ctx, id); err != nil {
			return err
		}
	}
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
	if !done { // Redis has lost data, or this server was away for longer than its lease
		return m.sync(ctx)
	}
	return nil
}

// writeAll writes every entry of this server, under a new lease.
func (m *Member) writeAll(ctx context.Context) error {
	m.version++
	args := []any{channel, announcement(message{Server: m.id, Version: m.version, Whole: true}), m.id, m.opts.Lease.Milliseconds(),
		versionField, m.version}
	for id, value := range m.all() {
		args = append(args, id, value)
	}
	return rewrite.Run(ctx, m.redis, []string{m.key(), serversKey, leftKey + m.id}, args...).Err()
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

// giveBack shortens the lease to the grace period.
func (m *Member) giveBack(ctx context.Context) error {
	return leave.Run(ctx, m.redis, []string{m.key(), leftKey + m.id},
		channel, m.id, m.opts.Grace.Milliseconds(), inTransit.Milliseconds(), versionField).Err()
}

func (m *Member) key() string  { return serverKey + m.id }
func (m *Member) echo() string { return echoPrefix + m.id }

func announcement(msg message) string {
	text, _ := json.Marshal(msg) // of text and numbers: it cannot fail
	return string(text)
}

// numbers are names with numbers, as a script returns them.
func numbers(list any) map[string]int64 {
	named := map[string]int64{}
	for pair := range slices.Chunk(list.([]any), 2) {
		named[pair[0].(string)], _ = strconv.ParseInt(pair[1].(string), 10, 64)
	}
	return named
}

// cannotWork reports errors that trying again does not mend: the address has a wrong
// password, or a database that there is not.
func cannotWork(err error) bool {
	return redis.IsAuthError(err) || redis.IsPermissionError(err) || redis.HasErrorPrefix(err, "DB index")
}

// notSent reports errors after which Redis cannot have done anything, because there
// was no connection.
func notSent(err error) bool {
	var network *net.OpError
	return errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, redis.ErrClosed) || errors.As(err, &network) && network.Op == "dial"
}

// The client logs several lines for every lost connection. A Member logs what an
// operator should know.
func init() { redis.SetLogger(silence{}) }

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}
