-- Inserts reservations as complete histories: line, request id, order, events, and counters that add up. They have the
-- numbers first to last; every tenth is of the hot item; states alternate. Their ids are of a time before the service's
-- own, so that reservations made by the service can be counted.
WITH made AS MATERIALIZED (
  SELECT ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid AS id,
         (%(states)s::smallint[])[1 + n %% cardinality(%(states)s::smallint[])] AS state,
         CASE WHEN n %% 10 = 0 THEN 'hot' ELSE 'item-' || lpad((n * 7919 %% %(items)s)::text, 5, '0') END AS sku,
         md5(n::text) || '-bulk' AS request_id,
         'order-' || n AS order_id,
         %(create_time)s::timestamptz AS create_time,
         %(expire_time)s::timestamptz AS expire_time
  FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
), reservations AS (
  INSERT INTO holdsvc.reservation (
    tenant, reservation_id, client, holder, reference, state, order_id, create_time, expire_time,
    confirm_time, cancel_time, refund_time, revision
  )
  SELECT %(tenant)s, m.id, 'bench', '', '', m.state, CASE WHEN m.state IN (2, 5) THEN m.order_id END, m.create_time,
         m.expire_time, CASE WHEN m.state IN (2, 5) THEN m.create_time END, CASE WHEN m.state = 3 THEN m.create_time END,
         CASE WHEN m.state = 5 THEN m.create_time END, CASE WHEN m.state = 1 THEN 1 ELSE 2 END
  FROM made m
), lines AS (
  INSERT INTO holdsvc.reservation_line (
    tenant, reservation_id, line_number, sku, pool, quantity, confirmed_quantity, refunded_quantity, expire_time
  )
  SELECT %(tenant)s, m.id, 1, m.sku, '', 1, CASE WHEN m.state IN (2, 5) THEN 1 ELSE 0 END,
         CASE WHEN m.state = 5 THEN 1 ELSE 0 END, CASE WHEN m.state = 1 THEN m.expire_time END
  FROM made m
), requests AS (
  INSERT INTO holdsvc.request (tenant, request_key, rpc, fingerprint, reservation_id, create_time)
  SELECT %(tenant)s, md5(m.request_id)::uuid, 'Reserve', '\x0123456789abcdef0123456789abcdef', m.id, m.create_time
  FROM made m
), orders AS (
  INSERT INTO holdsvc.sales_order (
    tenant, order_id, reservation_id, customer_name, customer_email, create_time
  )
  SELECT %(tenant)s, m.order_id, m.id, 'A Customer', 'customer@example.com', m.create_time
  FROM made m WHERE m.state IN (2, 5)
), events AS (
  INSERT INTO holdsvc.event (
    occur_day, tenant, type, client, key_id, request_id, occur_time, revision,
    line_sku, line_pool, line_quantity, reservation_id, from_state, state, expire_time
  )
  SELECT (now() AT TIME ZONE 'UTC')::date, %(tenant)s, e.state, 'bench', '', CASE WHEN e.state = 1 THEN m.request_id END,
         now(), CASE WHEN e.state = 1 THEN 1 ELSE 2 END, ARRAY[m.sku], ARRAY[''], ARRAY[1], m.id,
         CASE WHEN e.state = 1 THEN 0 ELSE 1 END, e.state, m.expire_time
  FROM made m CROSS JOIN LATERAL (SELECT 1::smallint AS state UNION SELECT m.state) e
)
UPDATE holdsvc.item i SET
  remaining = i.remaining - x.held - x.confirmed,
  held = i.held + x.held,
  confirmed = i.confirmed + x.confirmed,
  revision = i.revision + 1
FROM (
  SELECT m.sku, count(*) FILTER (WHERE m.state = 1) AS held, count(*) FILTER (WHERE m.state = 2) AS confirmed
  FROM made m GROUP BY m.sku
) x
WHERE i.sku = x.sku AND i.pool = '' AND i.tenant = %(tenant)s;
