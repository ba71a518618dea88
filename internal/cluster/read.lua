-- Renews the lease of a server. Returns the time left of each lease, the entries of servers whose
-- version differs from the known one, and the counts unless their sum is the known one.
local counts, servers, own = unpack(KEYS)
local lease, prefix, sum, known = unpack(ARGV)
local versions, found = cjson.decode(known), {leases = {}, changed = {}}
local function hash(key, without, convert)
	local list, fields = redis.call('HGETALL', key), {}
	for i = 1, #list, 2 do fields[list[i]] = convert(list[i + 1]) end
	fields[without] = nil
	return fields
end
for _, id in ipairs(redis.call('SMEMBERS', servers)) do
	local version = tonumber(redis.call('HGET', prefix .. id, 'version'))
	if version then
		if prefix .. id == own and version > 0 then redis.call('PEXPIRE', own, lease) end
		found.leases[id] = redis.call('PTTL', prefix .. id)
		if version ~= versions[id] then
			found.changed[id] = {server = id, version = version, whole = true, entries = hash(prefix .. id, 'version', tostring)}
		end
	else
		redis.call('SREM', servers, id)
	end
end
if (redis.call('HGET', counts, 'sum') or '0') ~= sum then
	found.counts = hash(counts, 'sum', function(n) return tonumber(n) or -1 end)
end
return cjson.encode(found)
