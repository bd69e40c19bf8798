-- Remembers how far a relay has come. Within an epoch it never goes back, also when two relays of one name run at once.
-- For all tenants: it touches none of their data. Locks: the relay's row.

-- migrate:up
CREATE FUNCTION holdsvc.save_relay_position(_name text, _epoch text, _event_id bigint, _event_day date) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = holdsvc, pg_temp AS $$
  INSERT INTO relay AS r (name, epoch, event_id, event_day, update_time)
  VALUES (_name, _epoch, _event_id, _event_day, wall_clock())
  ON CONFLICT (name) DO UPDATE SET
    epoch = excluded.epoch, event_id = excluded.event_id, event_day = excluded.event_day,
    update_time = excluded.update_time
  WHERE r.epoch <> excluded.epoch OR r.event_id <= excluded.event_id
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.save_relay_position FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.save_relay_position TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.save_relay_position;
