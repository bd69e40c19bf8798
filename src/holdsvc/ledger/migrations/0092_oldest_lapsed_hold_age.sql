-- For how long the oldest hold that has lapsed, and that no sweep has returned yet, waits: of one tenant or of all. Null
-- when there is none. A sweep that works keeps it near the sweep's interval. Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.oldest_lapsed_hold_age(tenant text DEFAULT NULL) RETURNS interval
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdsvc, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  _tenant text := tenant;
  _now timestamptz := wall_clock();
BEGIN
  RETURN (
    SELECT _now - v.expire_time FROM reservation v
    WHERE v.state = 1 AND v.expire_time <= _now AND (_tenant IS NULL OR v.tenant = _tenant)
    ORDER BY v.expire_time
    LIMIT 1
  );
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.oldest_lapsed_hold_age FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.oldest_lapsed_hold_age TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.oldest_lapsed_hold_age;
