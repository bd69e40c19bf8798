-- The events with _after < event_id <= _upto in order, _limit of them, of a tenant or (null) of all: those of all are for
-- the one reader of a process, which hands each tenant its own, and for the relay. The caller has made sure that the feed
-- is complete up to _upto, keeps that range short (a tenant with few events among others' many is not found by an index)
-- and looks at the floor afterwards. Days before the one before _day are pruned, null: none. Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.read_events(
  _tenant text, _after bigint, _upto bigint, _day date, _types smallint[], _limit integer
) RETURNS SETOF holdsvc.event
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = holdsvc, pg_temp
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
BEGIN
  RETURN QUERY
  SELECT e.* FROM event e
  WHERE e.event_id > _after AND e.event_id <= _upto AND e.occur_day >= coalesce(_day - 1, '-infinity'::date)
    AND (_tenant IS NULL OR e.tenant = _tenant) AND (_types IS NULL OR e.type = ANY (_types))
  ORDER BY e.event_id
  LIMIT _limit;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.read_events FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.read_events TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.read_events;
