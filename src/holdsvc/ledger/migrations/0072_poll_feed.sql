-- Tells how far the feed has come. Event ids are drawn after the row locks, so a transaction that drew one has an xid;
-- hence: read the sequence, then take a transaction id as the mark; once no transaction before the mark is running, every
-- event id up to what the sequence said is there or never will be. (xmax of a snapshot as the mark loses events.)
-- _value and _mark are those of the call before, passed whether the mark is reached, mark a new one, taken only when the
-- last is reached and there are ids beyond _value. With passed comes complete_event_id: the highest event beyond _fence
-- (-1: unknown) up to _value, else _fence. Not _value itself: ids of transactions that were undone may be drawn again
-- after a crash, and a reader must never stand behind such a one; one that is visible is flushed.
-- For all tenants: it reads none of their data. Locks nothing; a transaction that writes nothing costs no flush.

-- migrate:up
CREATE FUNCTION holdsvc.poll_feed(
  _value bigint, _mark text, _fence bigint, _day date,
  OUT last_event_id bigint, OUT passed boolean, OUT complete_event_id bigint, OUT mark text, OUT read_time timestamptz
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = holdsvc, pg_temp
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
BEGIN
  passed := _mark IS NOT NULL AND pg_snapshot_xmin(pg_current_snapshot()) >= _mark::xid8;
  IF passed THEN
    SELECT e.event_id INTO complete_event_id FROM event e
    WHERE e.event_id > _fence AND e.event_id <= _value AND e.occur_day >= coalesce(_day - 1, '-infinity'::date)
    ORDER BY e.event_id DESC LIMIT 1;
    IF complete_event_id IS NULL THEN
      complete_event_id := CASE WHEN _fence < 0 THEN (SELECT s.floor_event_id FROM feed_state s) ELSE _fence END;
    END IF;
  END IF;
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
