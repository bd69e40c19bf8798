-- How many holds run and how many have lapsed but are not yet swept, for the metrics: by tenant, of one or of all, those
-- that end after _after, at most about _limit (all that end at the same moment are counted together). last_expire_time is
-- where the next part begins; null: this was the last. Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.hold_totals(
  tenant text DEFAULT NULL, _after timestamptz DEFAULT '-infinity', _limit integer DEFAULT 20000,
  OUT tenants text[], OUT active bigint[], OUT lapsed bigint[], OUT last_expire_time timestamptz
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdsvc, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  _tenant text := tenant;
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
  INTO tenants, active, lapsed, last_expire_time
  FROM counted;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.hold_totals FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.hold_totals TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.hold_totals;
