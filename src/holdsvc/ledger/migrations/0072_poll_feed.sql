-- Tells how far the feed has come. Event ids are drawn after the row locks, so a transaction that drew one has an xid;
-- hence: read the sequence, then take a transaction id as the mark; once no transaction before the mark is running, every
-- event id up to what the sequence said is there or never will be. (xmax of a snapshot as the mark loses events.)
-- _mark is that of the call before, passed whether it is reached, mark a new one, taken only when the last is reached and
-- there are ids beyond _value. For all tenants: it reads none of their data. Locks nothing; a transaction that writes
-- nothing costs no flush.

-- migrate:up
CREATE FUNCTION holdsvc.poll_feed(
  _value bigint, _mark text,
  OUT last_event_id bigint, OUT passed boolean, OUT mark text, OUT read_time timestamptz
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = holdsvc, pg_temp AS $$
BEGIN
  passed := _mark IS NOT NULL AND pg_snapshot_xmin(pg_current_snapshot()) >= _mark::xid8;
  SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END INTO last_event_id FROM event_id s;
  IF (_mark IS NULL OR passed) AND last_event_id > _value THEN
    mark := pg_current_xact_id()::text;
  END IF;
  read_time := wall_clock();
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.poll_feed FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.poll_feed TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.poll_feed;
