-- Retention: detaches and drops the oldest daily partition of events that lies wholly more than _days_kept days back, or
-- none; events are never deleted row by row. Returns its day. One a call: a transaction each. Remembers the highest event
-- id dropped, in the same transaction, so that a reader who has not come so far is refused.
-- Locks: feed_state's row (whoever does not get it at once does nothing), then ACCESS EXCLUSIVE on event for an instant.
-- While that waits for transactions in flight every new one waits behind it, hence the short lock_timeout: on a miss the
-- next call tries again.

-- migrate:up
CREATE FUNCTION holdsvc.drop_event_partition(_days_kept integer) RETURNS date
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdsvc, pg_temp SET lock_timeout = '200ms' SET enable_seqscan = off AS $$
DECLARE
  _before date := (wall_clock() AT TIME ZONE 'UTC')::date - _days_kept;
  _name text;
  _day date;
  _last bigint;
BEGIN
  IF _days_kept < 1 THEN
    RAISE 'at least a day of events is kept, not %', _days_kept;
  END IF;
  PERFORM 1 FROM feed_state FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  SELECT c.relname, to_date(substr(c.relname, 7), 'YYYYMMDD') INTO _name, _day
  FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
  WHERE h.inhparent = 'holdsvc.event'::regclass AND c.relname ~ '^event_\d{8}$'
    AND to_date(substr(c.relname, 7), 'YYYYMMDD') < _before
  ORDER BY 2 LIMIT 1;
  IF _name IS NULL THEN
    RETURN NULL;
  END IF;
  EXECUTE format('SELECT max(event_id) FROM holdsvc.%I', _name) INTO _last;
  EXECUTE format('ALTER TABLE holdsvc.event DETACH PARTITION holdsvc.%I', _name);
  EXECUTE format('DROP TABLE holdsvc.%I', _name);
  UPDATE feed_state SET floor_event_id = greatest(floor_event_id, _last);
  RETURN _day;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.drop_event_partition FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.drop_event_partition TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.drop_event_partition;
