-- Makes the event table's daily partitions (UTC) from yesterday to _days_ahead days from today, where they are missing,
-- and moves the feed's day on to today. The service calls it every ten minutes, and at once when the day has changed.
-- The feed's day is that of the partition which new events go to. It never goes back, whatever the clock does, and its
-- partition is there before it begins; so no change fails for want of a partition, and readers leave out earlier days
-- safely. It moves only when no transaction runs that may still write events of the day before the present one: the
-- transaction id `mark` was taken after the present day had been committed, and none from before it runs any more.
-- A mark beyond all transaction ids comes from another cluster, by a restore, and is taken anew.
-- Locks: SHARE UPDATE EXCLUSIVE on event for an instant, only when a partition is missing; feed_state's row.
CREATE FUNCTION create_event_partitions(_days_ahead integer DEFAULT 7) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  _today date := (wall_clock() AT TIME ZONE 'UTC')::date;
  _day date;
  _present date;
  _mark xid8;
  _name text;
  _made integer := 0;
BEGIN
  FOR _day IN SELECT d::date FROM generate_series(_today - 1, _today + _days_ahead, interval '1 day') d LOOP
    _name := 'event_' || to_char(_day, 'YYYYMMDD');
    CONTINUE WHEN to_regclass('holdsvc.' || _name) IS NOT NULL;
    BEGIN
      -- A table of its own first, then attached: CREATE … PARTITION OF would stop every writer.
      EXECUTE format('CREATE TABLE holdsvc.%I (LIKE holdsvc.event INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', _name);
      EXECUTE format('ALTER TABLE holdsvc.event ATTACH PARTITION holdsvc.%I FOR VALUES FROM (%L) TO (%L)',
                     _name, _day, _day + 1);
      _made := _made + 1;
    EXCEPTION
      -- Another replica makes it at this very moment.
      WHEN duplicate_table OR unique_violation THEN NULL;
    END;
  END LOOP;
  PERFORM 1 FROM feed_state FOR UPDATE SKIP LOCKED;
  IF FOUND THEN
    SELECT d.day, d.mark::xid8 INTO _present, _mark FROM feed_day d ORDER BY d.day DESC LIMIT 1;
    IF _mark IS NULL OR _mark > pg_snapshot_xmax(pg_current_snapshot()) THEN
      UPDATE feed_day d SET mark = pg_current_xact_id()::text WHERE d.day = _present;
    ELSIF _today > _present AND pg_snapshot_xmin(pg_current_snapshot()) >= _mark THEN
      INSERT INTO feed_day (day) VALUES (_today);
    END IF;
  END IF;
  RETURN _made;
END
$$;

-- Retention: detaches and drops the oldest daily partition of events that lies more than _days_kept days back, and
-- returns its day; null: there is none. Never that of the feed's day, nor one whose last event is younger. A call drops
-- one, in a transaction of its own. It remembers the highest event id dropped, so that a reader who has not come so far
-- is refused.
-- Locks: feed_state's row (a call that does not get it at once does nothing), then ACCESS EXCLUSIVE on event for an
-- instant. New transactions queue up behind a wait for that lock, so lock_timeout is short: after a miss the next call
-- tries again.
CREATE FUNCTION drop_event_partition(_days_kept integer) RETURNS date
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '200ms' SET enable_seqscan = off AS $$
DECLARE
  _before date := (wall_clock() AT TIME ZONE 'UTC')::date - _days_kept;
  _name text;
  _day date;
  _last bigint;
  _last_time timestamptz;
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
    AND to_date(substr(c.relname, 7), 'YYYYMMDD') < least(_before, (SELECT max(d.day) FROM feed_day d))
  ORDER BY 2 LIMIT 1;
  IF _name IS NULL THEN
    RETURN NULL;
  END IF;
  EXECUTE format('SELECT event_id, occur_time FROM holdsvc.%I ORDER BY event_id DESC LIMIT 1', _name)
    INTO _last, _last_time;
  IF (_last_time AT TIME ZONE 'UTC')::date >= _before THEN
    RETURN NULL;
  END IF;
  EXECUTE format('ALTER TABLE holdsvc.event DETACH PARTITION holdsvc.%I', _name);
  EXECUTE format('DROP TABLE holdsvc.%I', _name);
  UPDATE feed_state SET floor_event_id = greatest(floor_event_id, _last);
  RETURN _day;
END
$$;

-- The days of which there are events, oldest first, with their number and size, without the size of those that tenants
-- have brought from other cells: for `holdsvc events`, by the owner. Of all tenants. Locks nothing.
CREATE FUNCTION event_days() RETURNS SETOF event_day_answer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  _r record;
  _found event_day_answer;
BEGIN
  FOR _r IN
    SELECT p.oid, coalesce(p.day, h.day) AS day, coalesce(h.event_count, 0) AS event_count
    FROM (
      SELECT c.oid, to_date(substr(c.relname, 7), 'YYYYMMDD') AS day
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
      WHERE i.inhparent = 'holdsvc.event'::regclass AND c.relname ~ '^event_\d{8}$'
    ) p
    FULL JOIN (SELECT e.occur_day AS day, count(*) AS event_count FROM event_history e GROUP BY e.occur_day) h
      ON h.day = p.day
    ORDER BY 2
  LOOP
    _found.day := _r.day;
    _found.event_count := _r.event_count;
    _found.size_bytes := coalesce(pg_total_relation_size(_r.oid), 0);
    IF _r.oid IS NOT NULL THEN
      EXECUTE format('SELECT %s + count(*) FROM %s', _r.event_count, _r.oid::regclass) INTO _found.event_count;
    END IF;
    IF _found.event_count > 0 THEN
      RETURN NEXT _found;
    END IF;
  END LOOP;
END
$$;

-- The next _limit events of one day after the event _after, in order: for `holdsvc events export`, by the owner. Of all
-- tenants. Locks nothing.
CREATE FUNCTION read_events_of_day(_day date, _after bigint, _limit integer) RETURNS SETOF event_answer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
BEGIN
  RETURN QUERY
  SELECT e.event_id, e.occur_day, e.tenant::text, e.type, e.client::text, e.key_id, e.request_id, e.reason,
         e.occur_time, e.revision, e.line_sku, e.line_pool, e.line_quantity, e.reservation_id, e.state,
         e.expire_time, e.refunded_quantity, e.fulfilled_quantity, e.returned_quantity, e.written_off_quantity,
         e.restored_quantity, e.snapshot, e.display_name, e.capacity, e.remaining, e.held, e.confirmed,
         e.oversell_limit,
         e.sale_state, e.buffer, e.count_time, e.low_at, e.return_pool, e.return_time, e.from_level, e.to_level,
         e.waitlist_policy, e.waiting, e.entry,
         NULL::bigint, NULL::integer[]
  FROM event e
  WHERE e.occur_day = _day AND e.event_id > _after
  ORDER BY e.event_id
  LIMIT _limit;
END
$$;

-- The same of events that tenants have brought from other cells, in order of tenant and id, after these. Locks nothing.
CREATE FUNCTION read_history_of_day(_day date, _after_tenant text, _after bigint, _limit integer)
RETURNS SETOF event_answer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
BEGIN
  RETURN QUERY
  SELECT e.event_id, e.occur_day, e.tenant::text, e.type, e.client::text, e.key_id, e.request_id, e.reason,
         e.occur_time, e.revision, e.line_sku, e.line_pool, e.line_quantity, e.reservation_id, e.state,
         e.expire_time, e.refunded_quantity, e.fulfilled_quantity, e.returned_quantity, e.written_off_quantity,
         e.restored_quantity, e.snapshot, e.display_name, e.capacity, e.remaining, e.held, e.confirmed,
         e.oversell_limit,
         e.sale_state, e.buffer, e.count_time, e.low_at, e.return_pool, e.return_time, e.from_level, e.to_level,
         e.waitlist_policy, e.waiting, e.entry,
         NULL::bigint, NULL::integer[]
  FROM event_history e
  WHERE e.occur_day = _day AND (e.tenant, e.event_id) > (_after_tenant, _after)
  ORDER BY e.tenant, e.event_id
  LIMIT _limit;
END
$$;

-- Retention of events that tenants have brought from other cells: removes at most _max_count that lie more than
-- _days_kept days back, of all tenants here, and returns how many. Locks: those rows.
CREATE FUNCTION purge_event_history(_days_kept integer, _max_count integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off
SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
  _before date := (wall_clock() AT TIME ZONE 'UTC')::date - _days_kept;
  _away text[] := tenants_away();
  _purged integer;
BEGIN
  DELETE FROM event_history e
  USING (
    SELECT w.ctid AS place, w.tenant FROM event_history w
    WHERE w.occur_day < _before AND w.tenant <> ALL (_away) LIMIT _max_count FOR UPDATE SKIP LOCKED
  ) x
  WHERE e.ctid = x.place AND e.tenant IS NOT DISTINCT FROM x.tenant;
  GET DIAGNOSTICS _purged = ROW_COUNT;
  RETURN _purged;
END
$$;

-- Says that this database was restored or copied: resume tokens and relay positions of before are refused from now on,
-- and processes that know a later timeline, or another cluster, take this one for the primary. The mark is a time, so
-- that it is above that of every other copy; where a clock was put back, it still grows.
-- The feed itself notices another timeline or another cluster. The key of tokens is another one afterwards, except in a
-- cell: cells share theirs. By the owner.
-- Locks: feed_state's row.
CREATE FUNCTION begin_epoch() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
  UPDATE feed_state SET
    token_key = CASE WHEN EXISTS (SELECT FROM cell c WHERE c.name IS NOT NULL) THEN token_key
      ELSE gen_random_uuid()::text || gen_random_uuid()::text END,
    restore_mark = greatest(restore_mark + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
$$;
