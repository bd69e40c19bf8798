-- When a reservation in this state was last changed, where nothing of it counts any more; null: it is held or
-- confirmed. An expired one ended at its expire_time, whenever the sweep came by.
CREATE FUNCTION last_change_time(
  _state smallint, _expire_time timestamptz, _confirm_time timestamptz, _cancel_time timestamptz,
  _refund_time timestamptz, _fulfil_time timestamptz
) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE
    WHEN _state = 3 THEN _cancel_time
    WHEN _state = 4 THEN _expire_time
    WHEN _state IN (5, 6) THEN greatest(_confirm_time, _refund_time, _fulfil_time)
  END
$$;

-- The smallest id that a reservation made at this time may have: ids are UUIDv7.
CREATE FUNCTION first_id_of(_time timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
  SELECT (lpad(to_hex((extract(epoch FROM _time) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- When a reservation with this id was made, to the millisecond; -infinity for an id that is no UUIDv7.
CREATE FUNCTION time_of_id(_id uuid) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE
    WHEN substr(_id::text, 15, 1) <> '7' THEN '-infinity'
    ELSE to_timestamp(('x' || left(replace(_id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
  END
$$;

-- Whether what was confirmed of a reservation still counts for a limit. Locks nothing.
CREATE FUNCTION counts_for_a_limit(_tenant text, _reservation_id uuid, _now timestamptz) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
  RETURN EXISTS (
    SELECT 1 FROM limit_use u
    CROSS JOIN LATERAL (
      SELECT w.window_us FROM hold_limit w WHERE w.limit_number = u.limit_number AND w.state < 3 LIMIT 1
    ) h
    WHERE u.reservation_id = _reservation_id AND u.tenant = _tenant
      AND (h.window_us IS NULL OR u.confirm_time > _now - h.window_us * interval '1 microsecond')
  );
END
$$;

-- What an event of a removed reservation tells: its snapshot, or else what the reservation was, and the rest under
-- "removed", with the lines where units were sold.
CREATE FUNCTION snapshot_of_removed(_snapshot jsonb, _state smallint, _was jsonb, _removed jsonb, _lines jsonb)
RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
  SELECT coalesce(_snapshot, _was) || jsonb_build_object(
    'removed', _removed || CASE WHEN _state IN (2, 5, 6) THEN _lines ELSE '{}' END)
$$;

-- A step of retention's walk over the reservations of all tenants, in order of id, that is, of their creation. It looks
-- at the next _scan_max and removes those that ended longer than _age ago and count for no limit any more, with their
-- lines, in the same transaction in which their events get the rest of what they tell: the key "removed" of
-- event.snapshot. At most _events_max events are written: a reservation that has more is removed by the last of several
-- calls. sales_order keeps its rows, so no order_id is given twice. A walk that has ended begins again _pause after its
-- beginning.
-- No index finds what has ended: one would cost each Cancel and each expiry an entry.
-- Locks: retention_walk's row (a call that does not get it at once does nothing), reservations that are not locked.
CREATE FUNCTION remove_ended(
  _age interval, _pause interval, _scan_max integer, _events_max integer, OUT _removed_count bigint, OUT _more boolean
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  _now timestamptz := wall_clock();
  _before timestamptz := _now - _age;
  _after uuid;
  _begin_time timestamptz;
  _looked integer;
  _last uuid;
  -- What has ended, and what all events of each reservation tell of it.
  _tenant text[];
  _id uuid[];
  _from_day date[];
  _was jsonb[];
  _removed jsonb[];
  _lines jsonb[];
  -- The events that do not tell it yet, and the index of their reservation.
  _event_id bigint[];
  _event_day date[];
  _event_ix integer[];
  _whole integer;
  -- Whose rows it leaves alone.
  _away text[] := tenants_away();
BEGIN
  IF _age < interval '24 hours' THEN
    RAISE 'reservations are kept for a day at least, not for %', _age;
  END IF;
  _removed_count := 0;
  _more := false;
  SELECT w.after_id, w.begin_time INTO _after, _begin_time FROM retention_walk w FOR UPDATE SKIP LOCKED;
  IF _away IS NULL OR NOT FOUND OR (_after IS NULL AND _begin_time > _now - _pause AND _begin_time <= _now) THEN
    RETURN;
  END IF;
  IF _after IS NULL THEN
    _after := first_id_of('epoch');
    _begin_time := _now;
  END IF;

  SELECT count(*), (array_agg(p.reservation_id ORDER BY p.reservation_id DESC))[1],
         array_agg(p.tenant ORDER BY p.reservation_id) FILTER (WHERE p.wanted),
         array_agg(p.reservation_id ORDER BY p.reservation_id) FILTER (WHERE p.wanted)
  INTO _looked, _last, _tenant, _id
  FROM (
    SELECT v.tenant, v.reservation_id,
           last_change_time(v.state, v.expire_time, v.confirm_time, v.cancel_time, v.refund_time, v.fulfil_time)
             <= _before AND v.tenant <> ALL (_away) AS wanted
    FROM reservation v
    WHERE v.reservation_id > _after AND v.reservation_id < first_id_of(_before)
    ORDER BY v.reservation_id
    LIMIT _scan_max
  ) p;
  SELECT array_agg(r.tenant ORDER BY r.reservation_id), array_agg(r.reservation_id ORDER BY r.reservation_id),
         array_agg((r.create_time AT TIME ZONE 'UTC')::date - 31 ORDER BY r.reservation_id),
         array_agg(coalesce(r.original, reservation_snapshot(r.tenant, r.reservation_id)) ORDER BY r.reservation_id),
         array_agg(jsonb_build_object(
           'client', r.client, 'create_time', r.create_time, 'order_id', r.order_id, 'confirm_time', r.confirm_time,
           'refund_time', r.refund_time, 'fulfil_time', r.fulfil_time, 'pools', coalesce(l.pools, '[]')
         ) ORDER BY r.reservation_id),
         array_agg(jsonb_build_object('lines', coalesce(l.sold, '[]')) ORDER BY r.reservation_id)
  INTO _tenant, _id, _from_day, _was, _removed, _lines
  FROM unnest(_tenant, _id) x (tenant, id)
  CROSS JOIN LATERAL (
    SELECT * FROM reservation v
    WHERE v.reservation_id = x.id AND v.tenant = x.tenant
      -- As it is by now: a refund may have been just before the lock.
      AND last_change_time(v.state, v.expire_time, v.confirm_time, v.cancel_time, v.refund_time, v.fulfil_time)
          <= _before
      AND NOT (v.limited AND counts_for_a_limit(v.tenant, v.reservation_id, _now))
    FOR UPDATE SKIP LOCKED
  ) r
  CROSS JOIN LATERAL (
    SELECT jsonb_agg(DISTINCT m.pool) AS pools,
           jsonb_agg(jsonb_build_array(m.sku, m.pool, m.quantity, m.confirmed_quantity) ORDER BY m.line_number) AS sold
    FROM reservation_line m WHERE m.reservation_id = r.reservation_id AND m.tenant = r.tenant
  ) l;

  SELECT array_agg(e.event_id), array_agg(e.occur_day), array_agg(e.ix::integer) INTO _event_id, _event_day, _event_ix
  FROM (
    SELECT x.ix, v.event_id, v.occur_day
    FROM unnest(_tenant, _id, _from_day) WITH ORDINALITY x (tenant, id, from_day, ix)
    CROSS JOIN LATERAL (
      SELECT w.event_id, w.occur_day FROM event w
      WHERE w.reservation_id = x.id AND w.tenant = x.tenant AND w.occur_day >= x.from_day
        AND (w.snapshot -> 'removed') IS NULL
      UNION ALL
      SELECT w.event_id, w.occur_day FROM event_history w
      WHERE w.reservation_id = x.id AND w.tenant = x.tenant AND (w.snapshot -> 'removed') IS NULL
      OFFSET 0
    ) v
    ORDER BY x.ix
    LIMIT _events_max + 1
  ) e;
  -- Those whose events are all among them: all, or those before the last one.
  _whole := coalesce(cardinality(_id), 0);
  IF cardinality(_event_id) > _events_max THEN
    _whole := _event_ix[_events_max + 1] - 1;
  END IF;
  UPDATE event e SET snapshot = snapshot_of_removed(e.snapshot, e.state, _was[x.ix], _removed[x.ix], _lines[x.ix])
  FROM unnest(_event_id, _event_day, _event_ix) x (event_id, occur_day, ix)
  WHERE e.event_id = x.event_id AND e.occur_day = x.occur_day
    AND e.reservation_id = _id[x.ix] AND e.tenant = _tenant[x.ix];
  UPDATE event_history e
  SET snapshot = snapshot_of_removed(e.snapshot, e.state, _was[x.ix], _removed[x.ix], _lines[x.ix])
  FROM unnest(_event_id, _event_day, _event_ix) x (event_id, occur_day, ix)
  WHERE e.event_id = x.event_id AND e.occur_day = x.occur_day
    AND e.reservation_id = _id[x.ix] AND e.tenant = _tenant[x.ix];

  -- What is left of them has left its limit's window.
  DELETE FROM limit_use u
  USING unnest(_tenant, _id) WITH ORDINALITY x (tenant, id, ix)
  WHERE u.reservation_id = x.id AND u.tenant = x.tenant AND x.ix <= _whole;
  DELETE FROM reservation_line l
  USING unnest(_tenant, _id) WITH ORDINALITY x (tenant, id, ix)
  WHERE l.reservation_id = x.id AND l.tenant = x.tenant AND x.ix <= _whole;
  DELETE FROM reservation v
  USING unnest(_tenant, _id) WITH ORDINALITY x (tenant, id, ix)
  WHERE v.reservation_id = x.id AND v.tenant = x.tenant AND x.ix <= _whole;
  GET DIAGNOSTICS _removed_count = ROW_COUNT;

  IF _whole < cardinality(_id) THEN
    -- The next call goes on with the events of the first that is left.
    _last := CASE WHEN _whole > 0 THEN _id[_whole] ELSE _after END;
  ELSIF _looked < _scan_max THEN
    _last := NULL;
  END IF;
  UPDATE retention_walk SET after_id = _last, begin_time = _begin_time;
  _more := _last IS NOT NULL;
END
$$;

-- Reservations of one tenant or of all (null), in order of id after _after, with the tenant of each: those that ended
-- longer than _age ago, which is what retention with this age would remove; null: all. It looks at _scan_max and
-- returns where the next call begins; null: this was the last. Locks nothing.
CREATE FUNCTION read_ended(
  _tenant text, _age interval, _after uuid, _scan_max integer, OUT _tenants text[], OUT _ids uuid[], OUT _last_id uuid
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  _before timestamptz := wall_clock() - _age;
  _looked integer;
BEGIN
  SELECT count(*), (array_agg(p.reservation_id ORDER BY p.reservation_id DESC))[1],
         coalesce(array_agg(p.tenant::text ORDER BY p.reservation_id) FILTER (WHERE p.wanted), '{}'),
         coalesce(array_agg(p.reservation_id ORDER BY p.reservation_id) FILTER (WHERE p.wanted), '{}')
  INTO _looked, _last_id, _tenants, _ids
  FROM (
    SELECT v.tenant, v.reservation_id,
           (_tenant IS NULL OR v.tenant = _tenant) AND (_age IS NULL OR coalesce(last_change_time(
             v.state, v.expire_time, v.confirm_time, v.cancel_time, v.refund_time, v.fulfil_time) <= _before, false)
             AND NOT (v.limited AND counts_for_a_limit(v.tenant, v.reservation_id, _before + _age))) AS wanted
    FROM reservation v
    WHERE v.reservation_id > _after AND (_age IS NULL OR v.reservation_id < first_id_of(_before))
    ORDER BY v.reservation_id
    LIMIT _scan_max
  ) p;
  IF _looked < _scan_max THEN
    _last_id := NULL;
  END IF;
END
$$;
