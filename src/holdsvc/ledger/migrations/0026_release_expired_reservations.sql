-- The sweep: expires at most max_count lapsed holds, of one tenant or of all, oldest first, and gives their units back.
-- The background sweep and Cleanup call it, and operators may, in SQL. SKIP LOCKED: any number of sweeps share the work.
-- Locks: reservations (those that nobody else has), then tenant by tenant the items in (sku, pool) order. It waits for
-- an item a quarter of a second at most, for it has the locks of others in hand: then it fails, and is called again with
-- skip_busy, which goes round such items and waits for none. A hot item would be passed over each time, so it waits first.

-- migrate:up
CREATE FUNCTION holdsvc.release_expired_reservations(
  tenant text DEFAULT NULL, max_count integer DEFAULT 1000, skip_busy boolean DEFAULT false,
  OUT expired_count bigint, OUT released_quantity bigint, OUT more boolean
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdsvc, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off SET lock_timeout = '250ms' AS $$
#variable_conflict use_column
DECLARE
  _tenant text := tenant;
  _now timestamptz := wall_clock();
  _r record;
  _ids uuid[];
BEGIN
  expired_count := 0;
  released_quantity := 0;
  FOR _r IN
    SELECT l.tenant, array_agg(l.reservation_id ORDER BY l.reservation_id) AS ids
    FROM (
      SELECT v.tenant, v.reservation_id FROM reservation v
      WHERE v.state = 1 AND v.expire_time <= _now AND (_tenant IS NULL OR v.tenant = _tenant)
      ORDER BY v.expire_time
      -- The oldest may all lie on the one item that is busy: look further then.
      LIMIT max_count * CASE WHEN skip_busy THEN 10 ELSE 1 END
      FOR NO KEY UPDATE SKIP LOCKED
    ) l
    GROUP BY l.tenant ORDER BY l.tenant
  LOOP
    _ids := CASE WHEN skip_busy THEN on_free_items(_r.tenant, _r.ids) ELSE _r.ids END;
    _ids := _ids[1 : (max_count - expired_count)::integer];
    CONTINUE WHEN coalesce(cardinality(_ids), 0) = 0;
    expired_count := expired_count + cardinality(_ids);
    released_quantity := released_quantity + return_held(_r.tenant, 4::smallint, _ids, '{}', '{}', '{}', '{}', NULL);
  END LOOP;
  more := EXISTS (
    SELECT 1 FROM reservation v
    WHERE v.state = 1 AND v.expire_time <= _now AND (_tenant IS NULL OR v.tenant = _tenant)
    LIMIT 1
  );
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.release_expired_reservations FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.release_expired_reservations TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.release_expired_reservations;
