-- Applies a message and publishes it, or returns 0 if its version does not follow the one here.
local counts, servers, own, left = unpack(KEYS)
local channel, text, lease = unpack(ARGV)
local message = cjson.decode(text)
for life, n in pairs(message.counts or {}) do
	local before, sum = unpack(redis.call('HMGET', counts, life, 'sum'))
	local more = n - (tonumber(before) or 0)
	if more > 0 then redis.call('HSET', counts, life, n, 'sum', (tonumber(sum) or 0) + more) end
end
if message.server then
	local version = tonumber(redis.call('HGET', own, 'version') or 0)
	if message.version < 0 then
		redis.call('SET', left, '', 'EX', 60) -- longer than a command can be in transit
		if version ~= -message.version then return 0 end
	elseif message.whole then
		if version < 0 or version >= message.version or redis.call('EXISTS', left) == 1 then return 0 end
		redis.call('DEL', own)
		redis.call('SADD', servers, message.server)
	elseif version ~= message.version - 1 then
		return 0
	end
	for id, value in pairs(message.entries or {}) do
		if value == cjson.null then redis.call('HDEL', own, id) else redis.call('HSET', own, id, value) end
	end
	redis.call('HSET', own, 'version', message.version)
	redis.call('PEXPIRE', own, lease)
end
redis.call('PUBLISH', channel, text)
return 1
