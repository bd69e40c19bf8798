-- How far the relay of this name has come; no row: it has not begun. Reads no tenant's data. Locks nothing.
CREATE FUNCTION relay_position(_name text, OUT _epoch text, OUT _event_id bigint, OUT _event_day date)
RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT r.epoch, r.event_id, r.event_day FROM relay r WHERE r.name = _name
$$;

-- Remembers how far a relay has come in the history _epoch, if that is the present one: a place read before a failover
-- is not written after it, so what stands here is of events that this database has. Within a history the position
-- never decreases, also when two relays of one name run. Touches no tenant's data. Locks: the relay's row.
CREATE FUNCTION save_relay_position(_name text, _epoch text, _event_id bigint, _event_day date) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
  INSERT INTO relay AS r (name, epoch, event_id, event_day, update_time)
  SELECT _name, _epoch, _event_id, _event_day, wall_clock() WHERE _epoch = feed_history()
  ON CONFLICT (name) DO UPDATE SET
    epoch = excluded.epoch, event_id = excluded.event_id, event_day = excluded.event_day,
    update_time = excluded.update_time
  WHERE r.epoch <> excluded.epoch OR r.event_id <= excluded.event_id
$$;
