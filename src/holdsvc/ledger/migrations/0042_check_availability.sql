-- What can be had of each item, lapsed holds counted; null where there is no such item. Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.check_availability(_tenant text, _sku text[], _pool text[], OUT available bigint[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdsvc, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
DECLARE
  _now timestamptz := wall_clock();
BEGIN
  -- One statement, so that a sweep between reading counter and lapsed lines counts no unit twice.
  -- greatest() skips nulls: an item that is not there would read as 0.
  SELECT array_agg(CASE WHEN i.free IS NOT NULL THEN greatest(0, i.free + i.lapsed) END ORDER BY x.ix) INTO available
  FROM unnest(_sku, _pool) WITH ORDINALITY x (sku, pool, ix)
  LEFT JOIN LATERAL (
    SELECT v.remaining + v.oversell_limit AS free, (
      SELECT coalesce(sum(l.quantity), 0)::bigint FROM reservation_line l
      WHERE hashtextextended(l.sku, hashtext(l.tenant)) = hashtextextended(x.sku, hashtext(_tenant))
        AND l.sku = x.sku AND l.pool = x.pool AND l.tenant = _tenant AND l.expire_time <= _now
    ) AS lapsed
    FROM item v WHERE v.sku = x.sku AND v.pool = x.pool AND v.tenant = _tenant AND v.delete_time IS NULL LIMIT 1
  ) i ON true;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.check_availability FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.check_availability TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.check_availability;
