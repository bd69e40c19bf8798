-- The tenants here that have items or keys, for commands and metrics that read all of them. Locks nothing.
CREATE FUNCTION tenants() RETURNS SETOF text
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
  WITH RECURSIVE t AS (
    SELECT (SELECT min(i.tenant) FROM item i) AS tenant
    UNION ALL
    SELECT (SELECT min(i.tenant) FROM item i WHERE i.tenant > t.tenant) FROM t WHERE t.tenant IS NOT NULL
  )
  SELECT a.tenant
  FROM (SELECT t.tenant FROM t WHERE t.tenant IS NOT NULL UNION SELECT k.tenant FROM api_key k) a
  WHERE NOT EXISTS (SELECT 1 FROM tenant_state s WHERE s.tenant = a.tenant AND s.state IN ('COPYING', 'MOVED'))
  ORDER BY 1
$$;

-- The totals of the next _limit items of a tenant after (_after_sku, _after_pool), for metrics, and the _top of these
-- items with the most units held. It reads a part of the items, so that no snapshot stays open for long. Locks nothing.
CREATE FUNCTION stock_totals(
  _tenant text, _after_sku text, _after_pool text, _limit integer, _top integer,
  OUT _items bigint, OUT _held bigint, OUT _confirmed bigint, OUT _remaining bigint,
  OUT _closed bigint, OUT _low bigint, OUT _sold_out bigint,
  OUT _last_sku text, OUT _last_pool text,
  OUT _top_sku text[], OUT _top_pool text[], OUT _top_held bigint[], OUT _top_confirmed bigint[],
  OUT _top_remaining bigint[]
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
  WITH part AS MATERIALIZED (
    SELECT i.sku, i.pool, i.held, i.confirmed, i.remaining, i.sale_state,
           CASE WHEN i.low_at IS NOT NULL THEN stock_level(i.free, i.low_at) END AS level, i.delete_time FROM item i
    WHERE i.tenant = _tenant AND (i.sku, i.pool) > (_after_sku, _after_pool)
    ORDER BY i.sku, i.pool
    LIMIT _limit
  ), living AS (
    SELECT * FROM part WHERE part.delete_time IS NULL
  ), best AS (
    SELECT * FROM living WHERE living.held > 0 OR living.confirmed > 0
    ORDER BY living.held DESC, living.confirmed DESC, living.sku, living.pool
    LIMIT _top
  )
  SELECT a.items, a.held, a.confirmed, a.remaining, a.closed, a.low, a.sold_out, z.sku, z.pool, b.sku, b.pool, b.held,
         b.confirmed, b.remaining
  INTO _items, _held, _confirmed, _remaining, _closed, _low, _sold_out, _last_sku, _last_pool,
       _top_sku, _top_pool, _top_held, _top_confirmed, _top_remaining
  FROM (
    SELECT count(*) AS items, coalesce(sum(living.held), 0)::bigint AS held,
           coalesce(sum(living.confirmed), 0)::bigint AS confirmed,
           coalesce(sum(living.remaining), 0)::bigint AS remaining,
           count(*) FILTER (WHERE living.sale_state = 2) AS closed, count(*) FILTER (WHERE living.level = 2) AS low,
           count(*) FILTER (WHERE living.level = 3) AS sold_out
    FROM living
  ) a
  CROSS JOIN (
    SELECT coalesce(array_agg(best.sku::text), '{}') AS sku, coalesce(array_agg(best.pool::text), '{}') AS pool,
           coalesce(array_agg(best.held), '{}') AS held, coalesce(array_agg(best.confirmed), '{}') AS confirmed,
           coalesce(array_agg(best.remaining), '{}') AS remaining
    FROM best
  ) b
  -- Null when the part was short: it was the last.
  LEFT JOIN LATERAL (
    SELECT part.sku, part.pool FROM part OFFSET _limit - 1 LIMIT 1
  ) z ON true;
END
$$;

-- How many holds run, and how many have lapsed but are not swept yet, by tenant, for metrics: of one tenant or of all
-- (null), of the holds that end after _after about _limit (all that end at the same moment are counted together).
-- _last_expire_time is where the next part begins; null: this was the last. Locks nothing.
CREATE FUNCTION hold_totals(
  _tenant text, _after timestamptz, _limit integer,
  OUT _tenants text[], OUT _active bigint[], OUT _lapsed bigint[], OUT _last_expire_time timestamptz
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  _now timestamptz := wall_clock();
BEGIN
  WITH part AS MATERIALIZED (
    SELECT v.tenant, v.expire_time FROM reservation v
    WHERE v.state = 1 AND v.expire_time > _after
    ORDER BY v.expire_time
    FETCH FIRST _limit ROWS WITH TIES
  ), counted AS (
    SELECT part.tenant, count(*) FILTER (WHERE part.expire_time > _now) AS active,
           count(*) FILTER (WHERE part.expire_time <= _now) AS lapsed
    FROM part
    WHERE _tenant IS NULL OR part.tenant = _tenant
    GROUP BY part.tenant
  )
  SELECT coalesce(array_agg(counted.tenant::text), '{}'), coalesce(array_agg(counted.active), '{}'),
         coalesce(array_agg(counted.lapsed), '{}'),
         (SELECT CASE WHEN count(*) >= _limit THEN max(part.expire_time) END FROM part)
  INTO _tenants, _active, _lapsed, _last_expire_time
  FROM counted;
END
$$;

-- For how long the oldest lapsed hold of one tenant or of all (null) waits for a sweep; null when there is none. A
-- sweep that works keeps it near the sweep's interval. Locks nothing.
CREATE FUNCTION oldest_lapsed_hold_age(_tenant text) RETURNS interval
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  _now timestamptz := wall_clock();
BEGIN
  RETURN (
    SELECT _now - v.expire_time FROM reservation v
    WHERE v.state = 1 AND v.expire_time <= _now AND (_tenant IS NULL OR v.tenant = _tenant)
      AND NOT EXISTS (SELECT 1 FROM quarantine q WHERE q.reservation_id = v.reservation_id AND q.tenant = v.tenant)
    ORDER BY v.expire_time
    LIMIT 1
  );
END
$$;

-- For how long the oldest writing transaction and the oldest snapshot of the cluster have been open, prepared
-- transactions counted; null: there is none. The feed waits for the oldest writer; the oldest snapshot keeps dead
-- versions of hot rows. Sessions of other roles show only if the owner is a superuser or a member of pg_read_all_stats.
-- Locks nothing.
CREATE FUNCTION oldest_transactions(OUT _writer_age interval, OUT _snapshot_age interval)
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT greatest(
           max(clock_timestamp() - a.xact_start) FILTER (WHERE a.backend_xid IS NOT NULL),
           (SELECT max(clock_timestamp() - p.prepared) FROM pg_prepared_xacts p)
         ),
         max(clock_timestamp() - a.xact_start) FILTER (WHERE a.backend_xmin IS NOT NULL)
  FROM pg_stat_activity a
  WHERE a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
$$;
