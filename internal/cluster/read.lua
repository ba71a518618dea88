-- Renews the lease of a server. Returns what is left of every lease, all entries of each
-- server of which another version is known, and all counts unless their sum is known.
local counts, servers, own = unpack(KEYS)
local lease, prefix, sum, known = unpack(ARGV)
known = cjson.decode(known)
local function hash(key, convert)
	local list, fields = redis.call('HGETALL', key), {}
	for i = 1, #list, 2 do fields[list[i]] = convert(list[i + 1]) end
	return fields
end

local found = {leases = {}, changed = {}}
for _, id in ipairs(redis.call('SMEMBERS', servers)) do
	local key = prefix .. id
	local version = tonumber(redis.call('HGET', key, 'version'))
	if not version then
		redis.call('SREM', servers, id)
	else
		if key == own then redis.call('PEXPIRE', own, lease) end
		found.leases[id] = redis.call('PTTL', key)
		if version ~= known[id] then
			found.changed[id] = {server = id, version = version, whole = true, entries = hash(key, tostring)}
			found.changed[id].entries.version = nil
		end
	end
end
if (redis.call('HGET', counts, 'sum') or '0') ~= sum then
	found.counts = hash(counts, function(n) return tonumber(n) or -1 end)
	found.counts.sum = nil
end
return cjson.encode(found)
