-- The audit trail of one reservation, oldest first, after the event _after. Its events lie in the partitions from the day
-- of its creation on.

-- migrate:up
CREATE FUNCTION holdsvc.list_reservation_events(_tenant text, _reservation_id uuid, _after bigint, _limit integer)
RETURNS SETOF holdsvc.event
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdsvc, pg_temp SET enable_seqscan = off SET jit = off AS $$
BEGIN
  RETURN QUERY
  SELECT e.* FROM event e
  WHERE e.reservation_id = _reservation_id AND e.tenant = _tenant AND e.event_id > _after
    AND e.occur_day >= (
      SELECT (v.create_time AT TIME ZONE 'UTC')::date FROM reservation v
      WHERE v.reservation_id = _reservation_id AND v.tenant = _tenant
    )
  ORDER BY e.event_id
  LIMIT _limit;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.list_reservation_events FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.list_reservation_events TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.list_reservation_events;
