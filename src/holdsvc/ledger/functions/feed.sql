-- Which history of events this database has: the epoch, and the timeline that the server writes; the key that signs its
-- resume tokens, and the highest event id that retention has dropped. A copy and a restore change the epoch: event ids
-- of one epoch mean nothing in another. A failover changes the timeline: ids mean the same as far as nothing was lost.
-- The timeline is that of the WAL being written; the control file's is out of date until the first checkpoint after a
-- promotion. Reads no tenant's data. Locks nothing.
CREATE FUNCTION feed_identity(OUT _epoch text, OUT _timeline text, OUT _token_key text, OUT _floor bigint)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT (SELECT c.system_identifier FROM pg_control_system() c) || '-'
         || (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) || '-' || s.restore_mark,
         left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), s.token_key, s.floor_event_id
  FROM feed_state s
$$;

-- The epoch with the timeline: another one means that what was read before has to be proven. Locks nothing.
CREATE FUNCTION feed_history() RETURNS text
LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
  SELECT i._epoch || '-' || i._timeline FROM feed_identity() i
$$;

-- What tells an event from another one to which its id was given after a failover that lost it. It never changes.
CREATE FUNCTION event_hash(
  _event_id bigint, _occur_time timestamptz, _reservation_id uuid, _sku text, _pool text, _revision bigint
) RETURNS bigint
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT AS $$
  SELECT hashtextextended(
    _event_id || ' ' || extract(epoch FROM _occur_time) || ' ' || _revision || ' '
      || coalesce(_reservation_id::text, '') || ' ' || coalesce(_pool, '') || ' ' || coalesce(_sku, ''), 0
  )
$$;

-- The earliest day that an event after a position may have, for a position with this day; -infinity: any. That is the
-- feed's day before _day: a transaction may have read it just before _day began. Two days back is impossible, see
-- create_event_partitions.
CREATE FUNCTION first_day_after(_day date) RETURNS date
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
  SELECT coalesce((SELECT d.day FROM feed_day d WHERE d.day < _day ORDER BY d.day DESC LIMIT 1), '-infinity'::date)
$$;

-- Tells how far the feed has come. Event ids are drawn after the row locks, so a transaction that drew one has a
-- transaction id. Hence: read the sequence, then take a transaction id as the mark; once no transaction from before the
-- mark is running, every event id up to what the sequence said is there or never will be. (The xmax of a snapshot as
-- the mark loses events.) _previous_value and _previous_mark are those of the call before; _passed says whether that
-- mark is reached. _mark is a new one, taken only when the previous one is reached and there are ids beyond
-- _previous_value. With _passed comes _complete_event_id: the highest event beyond _fence (-1: unknown) up to
-- _previous_value, with its hash, else _fence without one. Not _previous_value itself: ids of undone transactions may
-- be drawn again after a crash, and a reader must never stand behind such an id; an event that is visible is flushed.
-- _feed_day is the feed's day, _day that of _fence.
-- For all tenants: it reads none of their data. Locks nothing; a transaction that writes nothing costs no flush.
CREATE FUNCTION poll_feed(
  _previous_value bigint, _previous_mark text, _fence bigint, _day date,
  OUT _last_event_id bigint, OUT _passed boolean, OUT _complete_event_id bigint, OUT _mark text,
  OUT _complete_hash bigint, OUT _read_time timestamptz, OUT _history text, OUT _feed_day date
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  _from date := first_day_after(_day);
BEGIN
  _history := feed_history();
  SELECT d.day INTO _feed_day FROM feed_day d ORDER BY d.day DESC LIMIT 1;
  _passed := _previous_mark IS NOT NULL AND pg_snapshot_xmin(pg_current_snapshot()) >= _previous_mark::xid8;
  IF _passed THEN
    SELECT e.event_id, event_hash(e.event_id, e.occur_time, e.reservation_id, e.line_sku[1], e.line_pool[1], e.revision)
    INTO _complete_event_id, _complete_hash
    FROM event e
    WHERE e.event_id > _fence AND e.event_id <= _previous_value AND e.occur_day >= _from
    ORDER BY e.event_id DESC LIMIT 1;
    IF _complete_event_id IS NULL THEN
      _complete_event_id := CASE WHEN _fence < 0 THEN (SELECT s.floor_event_id FROM feed_state s) ELSE _fence END;
    END IF;
  END IF;
  SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END INTO _last_event_id FROM event_id s;
  IF (_previous_mark IS NULL OR _passed) AND _last_event_id > _previous_value THEN
    _mark := pg_current_xact_id()::text;
  END IF;
  _read_time := wall_clock();
END
$$;

-- Which items the events after _after touched, as far as they are visible now, and those events among _missing (ids
-- that an earlier call did not find: their transactions were running). In order of event_id, _limit of them. A partial
-- confirm also moves units of lines that its event does not name, so its items are those of the reservation.
-- For all tenants, by the one reader of a process: it yields names of items, which the tenant's own function then
-- reads. _day is that of a position before all of these events. Locks nothing.
CREATE FUNCTION read_item_changes(_after bigint, _missing bigint[], _day date, _limit integer)
RETURNS SETOF item_change_answer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET jit = off AS $$
DECLARE
  _from date := first_day_after(_day);
BEGIN
  RETURN QUERY
  SELECT array_agg(c.event_id), c.tenant, c.line_sku, c.line_pool
  FROM (
    SELECT e.event_id, e.tenant::text,
           coalesce(l.sku, e.line_sku) AS line_sku, coalesce(l.pool, e.line_pool) AS line_pool
    FROM (
      (SELECT v.event_id, v.tenant, v.type, v.reservation_id, v.line_sku, v.line_pool
       FROM event v WHERE v.event_id > _after AND v.occur_day >= _from ORDER BY v.event_id LIMIT _limit)
      UNION ALL
      SELECT v.event_id, v.tenant, v.type, v.reservation_id, v.line_sku, v.line_pool
      FROM event v WHERE v.event_id = ANY (_missing) AND v.occur_day >= _from
    ) e
    LEFT JOIN LATERAL (
      SELECT array_agg(m.sku) AS sku, array_agg(m.pool) AS pool FROM reservation_line m
      WHERE m.reservation_id = e.reservation_id AND m.tenant = e.tenant
    ) l ON e.type = 2
  ) c
  GROUP BY c.tenant, c.line_sku, c.line_pool;
END
$$;

-- The events with _after < event_id <= _upto in order, _limit of them, that at least one filter wants. A filter is one
-- element of each array: the tenant (null: all, for the relay), the client whose reservations it shows (null: all), the
-- types, each between commas (null: all), and the pools, as sees_reservation takes them (null: all).
-- The caller has made sure that the feed is complete up to _upto, keeps that range short (few events among many that no
-- filter wants are not found by an index) and looks at the floor afterwards. _day is that of the position _after.
-- For the one reader of a process, which hands each tenant its own. Locks nothing.
CREATE FUNCTION read_events(
  _tenant text[], _client text[], _types text[], _pools text[], _after bigint, _upto bigint, _day date, _limit integer
) RETURNS SETOF event_answer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  _from date := first_day_after(_day);
BEGIN
  RETURN QUERY
  SELECT e.event_id, e.occur_day, e.tenant::text, e.type, e.client::text, e.key_id, e.request_id, e.reason,
         e.occur_time, e.revision, e.line_sku, e.line_pool, e.line_quantity, e.reservation_id, e.state,
         e.expire_time, e.refunded_quantity, e.fulfilled_quantity, e.returned_quantity, e.written_off_quantity,
         e.restored_quantity, e.snapshot, e.display_name, e.capacity, e.remaining, e.held, e.confirmed,
         e.oversell_limit,
         e.sale_state, e.buffer, e.count_time, e.low_at, e.return_pool, e.return_time, e.from_level, e.to_level,
         e.waitlist_policy, e.waiting, e.entry,
         event_hash(e.event_id, e.occur_time, e.reservation_id, e.line_sku[1], e.line_pool[1], e.revision),
         w.filters
  FROM event e
  CROSS JOIN LATERAL (
    SELECT array_agg(f.number::integer - 1) AS filters
    FROM unnest(_tenant, _client, _types, _pools) WITH ORDINALITY f (tenant, client, types, pools, number)
    WHERE (f.tenant IS NULL OR f.tenant = e.tenant)
      AND (f.types IS NULL OR strpos(f.types, ',' || e.type || ',') > 0)
      AND (f.client IS NULL OR CASE
        WHEN e.entry IS NOT NULL THEN f.client = e.entry ->> 'client'
        WHEN e.reservation_id IS NULL THEN true
        ELSE f.client = coalesce(e.snapshot -> 'removed' ->> 'client', (
          SELECT r.client FROM reservation r
          WHERE r.reservation_id = e.reservation_id AND r.tenant = e.tenant LIMIT 1
        ))
      END)
      AND (f.pools IS NULL OR CASE
        WHEN e.reservation_id IS NULL OR e.entry IS NOT NULL THEN NOT EXISTS (
          SELECT 1 FROM unnest(e.line_pool) l (pool) WHERE strpos(f.pools, chr(31) || l.pool || chr(31)) = 0
        )
        WHEN e.snapshot -> 'removed' IS NOT NULL THEN NOT EXISTS (
          SELECT 1 FROM jsonb_array_elements_text(e.snapshot -> 'removed' -> 'pools') p (name)
          WHERE strpos(f.pools, chr(31) || p.name || chr(31)) = 0
        )
        ELSE sees_reservation(e.tenant, f.pools, e.reservation_id)
      END)
  ) w
  WHERE e.event_id > _after AND e.event_id <= _upto AND e.occur_day >= _from AND w.filters IS NOT NULL
  ORDER BY e.event_id
  LIMIT _limit;
END
$$;

-- Of the events that read_events answers for one filter: how many there are, and their hashes, xored. It proves what a
-- reader was told before a failover. Locks nothing.
CREATE FUNCTION sum_events(
  _tenant text, _client text, _types text, _pools text, _after bigint, _upto bigint, _day date,
  OUT _number bigint, OUT _digest bigint
)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT count(*), coalesce(bit_xor(r.hash), 0)
  FROM read_events(ARRAY[_tenant], ARRAY[_client], ARRAY[_types], ARRAY[_pools], _after, _upto, _day, 2147483647) r
$$;
