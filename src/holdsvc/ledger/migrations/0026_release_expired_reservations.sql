-- The sweep: expires at most max_count lapsed holds, of one tenant or of all, oldest first, and gives their units back.
-- The background sweep and Cleanup call it, and operators may, in SQL. SKIP LOCKED: any number of sweeps share the work.
-- Locks: reservations (those that nobody else has), then tenant by tenant the items in (sku, pool) order.

-- migrate:up
CREATE FUNCTION holdsvc.release_expired_reservations(
  tenant text DEFAULT NULL, max_count integer DEFAULT 1000,
  OUT expired_count bigint, OUT released_quantity bigint, OUT more boolean
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdsvc, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
#variable_conflict use_column
DECLARE
  _tenant text := tenant;
  _now timestamptz := wall_clock();
  _r record;
BEGIN
  expired_count := 0;
  released_quantity := 0;
  FOR _r IN
    SELECT l.tenant, array_agg(l.reservation_id ORDER BY l.reservation_id) AS ids
    FROM (
      SELECT v.tenant, v.reservation_id FROM reservation v
      WHERE v.state = 1 AND v.expire_time <= _now AND (_tenant IS NULL OR v.tenant = _tenant)
      ORDER BY v.expire_time
      LIMIT max_count
      FOR NO KEY UPDATE SKIP LOCKED
    ) l
    GROUP BY l.tenant ORDER BY l.tenant
  LOOP
    expired_count := expired_count + cardinality(_r.ids);
    released_quantity := released_quantity + expire_locked(_r.tenant, _r.ids);
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
