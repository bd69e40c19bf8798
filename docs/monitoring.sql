-- Queries for operators, for psql as the schema's owner. Each stands alone; `:'tenant'` and the like are psql variables:
--
--   holdsvc psql -- --set tenant=default --set reference=cart-42 --file docs/monitoring.sql
--
-- They only read, and most use an index. Those marked (scan) read a whole table: run them on a standby, or outside of
-- peak hours. A hold whose time is over counts as EXPIRED, whether it is swept or not, as it does for callers.
SET statement_timeout = '30s';

-- reservations of a reference: the state of one order or cart
SELECT v.reservation_id, v.client,
       CASE WHEN v.state = 1 AND v.expire_time <= clock_timestamp() THEN 'EXPIRED'
            ELSE (ARRAY['HELD', 'CONFIRMED', 'CANCELLED', 'EXPIRED', 'REFUNDED', 'FULFILLED'])[v.state] END AS state,
       v.create_time, v.expire_time, v.order_id, v.reason
FROM holdsvc.reservation v
WHERE v.reference = :'reference' AND v.tenant = :'tenant'
ORDER BY v.reservation_id DESC
LIMIT 100;

-- references by state: how many reservations each reference has in each state, those with most first (scan)
SELECT v.reference,
       count(*) FILTER (WHERE v.state = 1 AND v.expire_time > clock_timestamp()) AS held,
       count(*) FILTER (WHERE v.state = 2) AS confirmed,
       count(*) FILTER (WHERE v.state = 3) AS cancelled,
       count(*) FILTER (WHERE v.state = 4 OR v.state = 1 AND v.expire_time <= clock_timestamp()) AS expired,
       count(*) FILTER (WHERE v.state = 5) AS refunded,
       count(*) FILTER (WHERE v.state = 6) AS fulfilled
FROM holdsvc.reservation v
WHERE v.tenant = :'tenant' AND v.reference <> ''
GROUP BY v.reference
ORDER BY count(*) DESC, v.reference
LIMIT 100;

-- most reserved items: units held and confirmed now, and how full each item is
SELECT i.sku, i.pool, i.held, i.confirmed, i.remaining, i.capacity, i.oversell_limit,
       round(100.0 * (i.held + i.confirmed) / nullif(i.capacity + i.oversell_limit, 0), 1) AS percent_taken
FROM holdsvc.item i
WHERE i.tenant = :'tenant' AND i.delete_time IS NULL
ORDER BY i.held + i.confirmed DESC, i.sku, i.pool
LIMIT 20;

-- most reserved items of the last hour: by units asked for in holds that were taken
SELECT l.sku, l.pool, sum(l.quantity) AS units, count(DISTINCT l.reservation_id) AS holds
FROM holdsvc.reservation v
JOIN holdsvc.reservation_line l ON l.reservation_id = v.reservation_id AND l.tenant = v.tenant
WHERE v.tenant = :'tenant' AND v.create_time > clock_timestamp() - interval '1 hour'
GROUP BY l.sku, l.pool
ORDER BY units DESC, l.sku, l.pool
LIMIT 20;

-- conversion by client: outcomes of the holds of the last day (scan)
SELECT v.client, count(*) AS holds,
       round(100.0 * count(*) FILTER (WHERE v.state IN (2, 5, 6)) / count(*), 1) AS percent_confirmed,
       round(100.0 * count(*) FILTER (WHERE v.state = 3) / count(*), 1) AS percent_cancelled,
       round(100.0 * count(*) FILTER (WHERE v.state = 4 OR v.state = 1 AND v.expire_time <= clock_timestamp())
             / count(*), 1) AS percent_expired
FROM holdsvc.reservation v
WHERE v.tenant = :'tenant' AND v.create_time > clock_timestamp() - interval '1 day'
GROUP BY v.client
ORDER BY holds DESC;

-- lapsed holds: those that no sweep has returned yet, the oldest first
SELECT v.tenant, v.reservation_id, v.client, clock_timestamp() - v.expire_time AS late
FROM holdsvc.reservation v
WHERE v.state = 1 AND v.expire_time <= clock_timestamp()
ORDER BY v.expire_time
LIMIT 20;

-- who blocks whom: each session that waits for a lock, and those that it waits for
SELECT w.pid AS waiting_pid, w.application_name AS waiting, clock_timestamp() - w.query_start AS waits,
       left(w.query, 60) AS waiting_query,
       b.pid AS blocking_pid, b.usename AS blocking_user, b.application_name AS blocking, b.state AS blocking_state,
       clock_timestamp() - b.xact_start AS open_for, left(b.query, 60) AS blocking_query
FROM pg_stat_activity w
CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) x (pid)
JOIN pg_stat_activity b ON b.pid = x.pid
ORDER BY open_for DESC;

-- old transactions: what holds the event feed (writes) and keeps dead rows (snapshot), open for ten seconds and more
SELECT a.pid, a.usename, a.application_name, a.state, clock_timestamp() - a.xact_start AS open_for,
       a.backend_xid IS NOT NULL AS writes, a.backend_xmin IS NOT NULL AS snapshot, left(a.query, 60) AS query
FROM pg_stat_activity a
WHERE a.xact_start < clock_timestamp() - interval '10 seconds' AND a.backend_type = 'client backend'
ORDER BY a.xact_start;

-- prepared transactions: forgotten ones stop the event feed
SELECT p.gid, p.owner, p.database, clock_timestamp() - p.prepared AS open_for FROM pg_prepared_xacts p ORDER BY p.prepared;

-- connections by state
SELECT a.application_name, a.state, count(*) FROM pg_stat_activity a
WHERE a.datname = current_database() GROUP BY 1, 2 ORDER BY 3 DESC;

-- tables: size, dead rows, when they were last vacuumed
SELECT s.relname, pg_size_pretty(pg_total_relation_size(s.relid)) AS size, s.n_live_tup AS rows, s.n_dead_tup AS dead,
       round(100.0 * s.n_tup_hot_upd / nullif(s.n_tup_upd, 0), 1) AS percent_hot,
       greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed
FROM pg_stat_user_tables s
WHERE s.schemaname = 'holdsvc'
ORDER BY pg_total_relation_size(s.relid) DESC
LIMIT 20;

-- partitions of the events: one for each day, made a week ahead
SELECT c.relname, pg_size_pretty(pg_total_relation_size(c.oid)) AS size, pg_get_expr(c.relpartbound, c.oid) AS days
FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
WHERE h.inhparent = 'holdsvc.event'::regclass
ORDER BY c.relname DESC
LIMIT 20;

-- request ids: how many are remembered, and since when (scan)
SELECT count(*) AS remembered, min(r.create_time) AS since FROM holdsvc.request r;
