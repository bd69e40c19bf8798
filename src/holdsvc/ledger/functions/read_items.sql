-- Reads items by name: one row for each, in order; capacity is null where there is no such item. Locks nothing.
CREATE FUNCTION get_items(_tenant text, _sku text[], _pool text[]) RETURNS SETOF item_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
BEGIN
  RETURN QUERY SELECT * FROM answer_items(
    _tenant, array_fill(NULL::text, ARRAY[cardinality(_sku)]), _sku, _pool, NULL, NULL);
END
$$;

-- Lists items in order of sku and pool from (_from_sku, _from_pool) to _last_sku, those of these pools (null: of all).
-- At most _looked_max are looked at, see items_looked_to. Locks nothing.
CREATE FUNCTION list_items(
  _tenant text, _from_sku text, _from_pool text, _last_sku text, _pools text[], _limit integer, _looked_max integer
) RETURNS SETOF item_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET jit = off AS $$
BEGIN
  RETURN QUERY
  SELECT NULL::integer, NULL::text, NULL::bigint, NULL::bigint, i.sku::text, i.pool::text, i.display_name, i.capacity,
         i.remaining, i.held, i.confirmed, i.oversell_limit, i.sale_state, i.buffer,
         i.low_at, i.return_pool::text, i.return_time, i.waitlist_policy, i.waiting, i.revision, i.create_time,
         i.update_time, i.count_time
  FROM (
    SELECT * FROM item v
    WHERE v.tenant = _tenant AND (v.sku, v.pool) >= (_from_sku, _from_pool) AND v.sku <= _last_sku
    ORDER BY v.sku, v.pool LIMIT _looked_max
  ) i
  WHERE i.delete_time IS NULL AND (_pools IS NULL OR i.pool = ANY (_pools))
  ORDER BY i.sku, i.pool
  LIMIT _limit;
END
$$;

-- The last item that list_items looks at where there are as many as it may; null where it looks at all. Locks nothing.
CREATE FUNCTION items_looked_to(
  _tenant text, _from_sku text, _from_pool text, _last_sku text, _looked_max integer, OUT _sku text, OUT _pool text
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET jit = off AS $$
BEGIN
  SELECT v.sku, v.pool INTO _sku, _pool FROM item v
  WHERE v.tenant = _tenant AND (v.sku, v.pool) >= (_from_sku, _from_pool) AND v.sku <= _last_sku
  ORDER BY v.sku, v.pool OFFSET _looked_max - 1 LIMIT 1;
END
$$;

-- What a new hold can have of an item with this gate and as much free, lapsed holds counted; null: there is no such
-- item. Nothing where its sale is closed, where what is free or lapsed is due to entries that wait, and where one
-- waits and the policy is STRICT.
CREATE FUNCTION available_units(
  _gate smallint, _free bigint, _lapsed bigint, _waitlist_policy smallint, _serve_time timestamptz, _now timestamptz
) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
  -- greatest() skips nulls: an item that is not there would read as 0.
  SELECT CASE
    WHEN _gate & 1 = 1 OR (_gate & 2 = 2 AND (_waitlist_policy = 3 OR _lapsed > 0 OR _serve_time <= _now)) THEN 0
    WHEN _free IS NOT NULL THEN greatest(0, _free + _lapsed)
  END
$$;

-- The available units of each item, see available_units; null where there is no such item. Locks nothing.
CREATE FUNCTION check_availability(_tenant text, _sku text[], _pool text[], OUT _available bigint[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
DECLARE
  _now timestamptz := wall_clock();
BEGIN
  -- One statement, so that a sweep between reading counter and lapsed lines counts no unit twice.
  SELECT array_agg(available_units(i.gate, i.free, i.lapsed, i.waitlist_policy, i.serve_time, _now) ORDER BY x.ix)
  INTO _available
  FROM unnest(_sku, _pool) WITH ORDINALITY x (sku, pool, ix)
  LEFT JOIN LATERAL (
    SELECT v.free, v.gate, v.waitlist_policy, v.serve_time, (
      SELECT coalesce(sum(l.quantity), 0)::bigint FROM reservation_line l
      WHERE hashtextextended(l.sku, hashtext(l.tenant)) = hashtextextended(x.sku, hashtext(_tenant))
        AND l.sku = x.sku AND l.pool = x.pool AND l.tenant = _tenant AND l.expire_time <= _now
        AND NOT EXISTS (SELECT 1 FROM quarantine q WHERE q.reservation_id = l.reservation_id AND q.tenant = _tenant)
    ) AS lapsed
    FROM item v WHERE v.sku = x.sku AND v.pool = x.pool AND v.tenant = _tenant AND v.delete_time IS NULL LIMIT 1
  ) i ON true;
END
$$;

-- Reads items by name for a watcher: one row for each that exists or existed. Of a deleted one (outcome DELETED) only
-- the revision has a meaning. Locks nothing.
CREATE FUNCTION watch_items(_tenant text, _sku text[], _pool text[]) RETURNS SETOF item_answer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
BEGIN
  RETURN QUERY
  SELECT x.ix::integer, CASE WHEN i.delete_time IS NOT NULL THEN 'DELETED' END, NULL::bigint, NULL::bigint, x.sku,
         x.pool, i.display_name, i.capacity, i.remaining, i.held, i.confirmed, i.oversell_limit, i.sale_state, i.buffer,
         i.low_at, i.return_pool::text, i.return_time, i.waitlist_policy, i.waiting, i.revision,
         i.create_time, i.update_time, i.count_time
  FROM unnest(_sku, _pool) WITH ORDINALITY x (sku, pool, ix)
  CROSS JOIN LATERAL (
    SELECT * FROM item v WHERE v.sku = x.sku AND v.pool = x.pool AND v.tenant = _tenant LIMIT 1
  ) i
  ORDER BY x.ix;
END
$$;

-- The present items for a watcher, as list_items. Deleted ones (outcome DELETED) too: a watcher that reads again must
-- learn of them. Locks nothing.
CREATE FUNCTION list_watched_items(
  _tenant text, _from_sku text, _from_pool text, _last_sku text, _pools text[], _limit integer, _looked_max integer
) RETURNS SETOF item_answer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET jit = off AS $$
BEGIN
  RETURN QUERY
  SELECT NULL::integer, CASE WHEN i.delete_time IS NOT NULL THEN 'DELETED' END, NULL::bigint, NULL::bigint, i.sku::text,
         i.pool::text, i.display_name, i.capacity, i.remaining, i.held, i.confirmed, i.oversell_limit, i.sale_state,
         i.buffer, i.low_at, i.return_pool::text, i.return_time, i.waitlist_policy, i.waiting, i.revision,
         i.create_time, i.update_time, i.count_time
  FROM (
    SELECT * FROM item v
    WHERE v.tenant = _tenant AND (v.sku, v.pool) >= (_from_sku, _from_pool) AND v.sku <= _last_sku
    ORDER BY v.sku, v.pool LIMIT _looked_max
  ) i
  WHERE _pools IS NULL OR i.pool = ANY (_pools)
  ORDER BY i.sku, i.pool
  LIMIT _limit;
END
$$;
