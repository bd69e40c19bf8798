-- A hold as one statement, for pgbench: takes the unit, remembers the request id, writes reservation, line and event.
-- The unit first: a sold-out item must not use up the request id. `sku` is set by the benchmark (hot, or one of many).
WITH taken AS (
  UPDATE item SET remaining = remaining - 1, held = held + 1, revision = revision + 1, update_time = clock_timestamp()
  WHERE sku = :sku AND pool = '' AND tenant = 'bench' AND remaining >= 1
  RETURNING sku, pool, tenant, update_time AS now, update_time + interval '30 minutes' AS expire_time,
            gen_random_uuid() AS reservation_id
), claimed AS (
  INSERT INTO request (tenant, client, request_id, fingerprint, reservation_id, create_time)
  SELECT tenant, 'bench', gen_random_uuid()::text, '\x0123456789abcdef0123456789abcdef', reservation_id, now FROM taken
), reserved AS (
  INSERT INTO reservation (tenant, reservation_id, client, holder, reference, create_time, expire_time)
  SELECT tenant, reservation_id, 'bench', '', '', now, expire_time FROM taken
), lined AS (
  INSERT INTO reservation_line (tenant, reservation_id, sku, pool, quantity, expire_time)
  SELECT tenant, reservation_id, sku, pool, 1, expire_time FROM taken
), told AS (
  INSERT INTO event (tenant, type, client, reservation_id, sku, pool, quantity, occur_time)
  SELECT tenant, 1, 'bench', reservation_id, sku, pool, 1, now FROM taken
)
SELECT reservation_id, expire_time FROM taken;
