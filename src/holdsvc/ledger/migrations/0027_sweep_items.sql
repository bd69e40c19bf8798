-- The sweep on demand: expires at most _max_count lapsed holds that lie on these items, for a call that is short of
-- them. It waits for locks: with SKIP LOCKED it would pass over what the background sweep is just releasing, and the
-- sale would fail. Returns how many it expired. Locks: reservations in id order, items in (sku, pool) order.

-- migrate:up
CREATE FUNCTION holdsvc.sweep_items(_tenant text, _sku text[], _pool text[], _max_count integer DEFAULT 1000)
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdsvc, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
DECLARE
  _now timestamptz := wall_clock();
  _lapsed uuid[];
  _id uuid[];
BEGIN
  SELECT array_agg(DISTINCT l.reservation_id) INTO _lapsed
  FROM unnest(_sku, _pool) x (sku, pool)
  CROSS JOIN LATERAL (
    SELECT w.reservation_id FROM reservation_line w
    WHERE hashtextextended(w.sku, hashtext(w.tenant)) = hashtextextended(x.sku, hashtext(_tenant))
      AND w.sku = x.sku AND w.pool = x.pool AND w.tenant = _tenant AND w.expire_time <= _now
    ORDER BY w.expire_time
    LIMIT _max_count
  ) l;
  SELECT array_agg(v.reservation_id ORDER BY v.reservation_id) INTO _id
  FROM (SELECT u.id FROM unnest(_lapsed) u (id) ORDER BY u.id LIMIT _max_count) x
  CROSS JOIN LATERAL (
    SELECT w.reservation_id FROM reservation w
    WHERE w.reservation_id = x.id AND w.tenant = _tenant AND w.state = 1 AND w.expire_time <= _now
    FOR NO KEY UPDATE
  ) v;
  IF _id IS NOT NULL THEN
    PERFORM return_held(_tenant, 4::smallint, _id, '{}', '{}', '{}', '{}', NULL);
  END IF;
  RETURN coalesce(cardinality(_id), 0);
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.sweep_items FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.sweep_items TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.sweep_items;
