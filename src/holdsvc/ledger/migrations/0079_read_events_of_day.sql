-- The events of one day after the event _after in order, _limit of them: what `holdsvc events export` writes before
-- retention drops the day. For all tenants, by the owner. Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.read_events_of_day(_day date, _after bigint, _limit integer) RETURNS SETOF holdsvc.event
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = holdsvc, pg_temp
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
BEGIN
  RETURN QUERY
  SELECT e.* FROM event e WHERE e.occur_day = _day AND e.event_id > _after ORDER BY e.event_id LIMIT _limit;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.read_events_of_day FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.read_events_of_day;
