-- How far a relay has come, by its name; no row: it has not begun. A relay serves all tenants; this reads none of their
-- data. Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.relay_position(_name text, OUT epoch text, OUT event_id bigint, OUT event_day date)
RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = holdsvc, pg_temp AS $$
  SELECT r.epoch, r.event_id, r.event_day FROM relay r WHERE r.name = _name
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.relay_position FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.relay_position TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.relay_position;
