-- The hold in Redis: unit, request id, reservation with line, expiry, event. KEYS: item, stream; ARGV: request id.
local replayed = redis.call('GET', 'request:' .. ARGV[1])
if replayed then
  return replayed
end
if tonumber(redis.call('HGET', KEYS[1], 'remaining')) < 1 then
  return redis.error_reply('sold out')
end
redis.call('HINCRBY', KEYS[1], 'remaining', -1)
redis.call('HINCRBY', KEYS[1], 'held', 1)
redis.call('HINCRBY', KEYS[1], 'revision', 1)
local now = redis.call('TIME')
local expire_time = tonumber(now[1]) + 1800
local id = 'reservation:' .. ARGV[1]
redis.call('HSET', id, 'client', 'bench', 'state', 1, 'sku', KEYS[1], 'quantity', 1, 'create_time', now[1], 'expire_time',
  expire_time)
redis.call('ZADD', 'expiry', expire_time, id)
redis.call('SET', 'request:' .. ARGV[1], id, 'EX', 172800)
redis.call('XADD', KEYS[2], '*', 'type', 1, 'reservation', id, 'sku', KEYS[1], 'quantity', 1)
return id
