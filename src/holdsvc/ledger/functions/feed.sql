-- Which history of the feed this is, the key that signs its resume tokens, and the highest event id that retention has
-- dropped. A copy, a failover to another timeline and a restore change the epoch: event ids of one epoch mean nothing in
-- another. The timeline is that of the WAL being written: the control file's is one checkpoint old after a promotion.
-- For all tenants: it reads none of their data. Locks nothing.
CREATE FUNCTION feed_identity(OUT _epoch text, OUT _token_key text, OUT _floor bigint)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT (SELECT c.system_identifier FROM pg_control_system() c) || '-'
         || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '-'
         || (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) || '-' || s.restore_count,
         s.token_key, s.floor_event_id
  FROM feed_state s
$$;

-- Tells how far the feed has come. Event ids are drawn after the row locks, so a transaction that drew one has an xid;
-- hence: read the sequence, then take a transaction id as the mark; once no transaction before the mark is running, every
-- event id up to what the sequence said is there or never will be. (xmax of a snapshot as the mark loses events.)
-- _previous_value and _previous_mark are those of the call before, passed whether the mark is reached, mark a new one, taken only when the
-- last is reached and there are ids beyond _previous_value. With passed comes _complete_event_id: the highest event beyond _fence
-- (-1: unknown) up to _previous_value, else _fence. Not _previous_value itself: ids of transactions that were undone may be drawn again
-- after a crash, and a reader must never stand behind such a one; one that is visible is flushed.
-- For all tenants: it reads none of their data. Locks nothing; a transaction that writes nothing costs no flush.
CREATE FUNCTION poll_feed(
  _previous_value bigint, _previous_mark text, _fence bigint, _day date,
  OUT _last_event_id bigint, OUT _passed boolean, OUT _complete_event_id bigint, OUT _mark text, OUT _read_time timestamptz
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
BEGIN
  _passed := _previous_mark IS NOT NULL AND pg_snapshot_xmin(pg_current_snapshot()) >= _previous_mark::xid8;
  IF _passed THEN
    SELECT e.event_id INTO _complete_event_id FROM event e
    WHERE e.event_id > _fence AND e.event_id <= _previous_value AND e.occur_day >= coalesce(_day - 1, '-infinity'::date)
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
-- For all tenants, by the one reader of a process: it yields names of items, which the tenant's own function then reads.
-- Days before the one before _day are pruned: nobody draws an id a day after reading the clock. Locks nothing.
CREATE FUNCTION read_item_changes(_after bigint, _missing bigint[], _day date, _limit integer)
RETURNS SETOF item_change_answer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET jit = off AS $$
BEGIN
  RETURN QUERY
  SELECT array_agg(c.event_id), c.tenant, c.line_sku, c.line_pool
  FROM (
    SELECT e.event_id, e.tenant::text,
           CASE WHEN e.type = 2 THEN l.sku ELSE e.line_sku END AS line_sku,
           CASE WHEN e.type = 2 THEN l.pool ELSE e.line_pool END AS line_pool
    FROM (
      (SELECT v.event_id, v.tenant, v.type, v.reservation_id, v.line_sku, v.line_pool
       FROM event v WHERE v.event_id > _after AND v.occur_day >= _day - 1 ORDER BY v.event_id LIMIT _limit)
      UNION ALL
      SELECT v.event_id, v.tenant, v.type, v.reservation_id, v.line_sku, v.line_pool
      FROM event v WHERE v.event_id = ANY (_missing) AND v.occur_day >= _day - 1
    ) e
    LEFT JOIN LATERAL (
      SELECT array_agg(m.sku) AS sku, array_agg(m.pool) AS pool FROM reservation_line m
      WHERE m.reservation_id = e.reservation_id AND m.tenant = e.tenant
    ) l ON e.type = 2
  ) c
  GROUP BY c.tenant, c.line_sku, c.line_pool;
END
$$;

-- The events with _after < event_id <= _upto in order, _limit of them, of a tenant or (null) of all: those of all are for
-- the one reader of a process, which hands each tenant its own, and for the relay. The caller has made sure that the feed
-- is complete up to _upto, keeps that range short (a tenant with few events among others' many is not found by an index)
-- and looks at the floor afterwards. Days before the one before _day are pruned, null: none. Locks nothing.
CREATE FUNCTION read_events(
  _tenant text, _after bigint, _upto bigint, _day date, _types smallint[], _limit integer
) RETURNS SETOF event_answer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
BEGIN
  RETURN QUERY
  SELECT e.event_id, e.occur_day, e.tenant::text, e.type, e.client::text, e.key_id, e.request_id, e.reason,
         e.occur_time, e.revision, e.line_sku, e.line_pool, e.line_quantity, e.reservation_id, e.from_state, e.state,
         e.expire_time, e.refunded_quantity, e.written_off_quantity, e.display_name, e.capacity, e.remaining, e.held,
         e.confirmed, e.oversell_limit
  FROM event e
  WHERE e.event_id > _after AND e.event_id <= _upto AND e.occur_day >= coalesce(_day - 1, '-infinity'::date)
    AND (_tenant IS NULL OR e.tenant = _tenant) AND (_types IS NULL OR e.type = ANY (_types))
  ORDER BY e.event_id
  LIMIT _limit;
END
$$;
