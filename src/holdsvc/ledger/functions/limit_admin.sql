-- Creates a limit, or changes its maximum and its window. One row: the limit, and outcome null, LIMITS_MAX (the tenant
-- has 100 others), or FIXED and the first field that would have to change and cannot. _pool null: all pools; _window_us
-- null: none.
-- Locks: the tenant's limits by an advisory lock, then the limit's row.
CREATE FUNCTION set_limit(
  _tenant text, _limit_id text, _sku_prefix text, _pool text, _per smallint, _counts smallint, _max_quantity bigint,
  _window_us bigint
) RETURNS SETOF limit_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  _now timestamptz;
  _found record;
  _outcome text;
  _refused limit_answer;
BEGIN
  PERFORM enter_tenant(_tenant);
  PERFORM pg_advisory_xact_lock(hashtextextended('holdsvc limits ' || _tenant, 0));
  _now := wall_clock();
  SELECT h.limit_number, h.sku_prefix, h.pool, h.per, h.counts, h.max_quantity, h.window_us INTO _found
  FROM hold_limit h
  WHERE h.tenant = _tenant AND h.limit_id = _limit_id AND h.state < 3 FOR UPDATE;
  IF _found.limit_number IS NULL THEN
    IF (SELECT count(*) FROM hold_limit h WHERE h.tenant = _tenant AND h.state < 3) >= 100 THEN
      _refused.outcome := 'LIMITS_MAX';
      RETURN NEXT _refused;
      RETURN;
    END IF;
    INSERT INTO hold_limit (
      tenant, limit_id, sku_prefix, pool, per, counts, max_quantity, window_us, create_time, update_time
    ) VALUES (_tenant, _limit_id, _sku_prefix, _pool, _per, _counts, _max_quantity, _window_us, _now, _now);
  ELSE
    _outcome := CASE
      WHEN _found.sku_prefix <> _sku_prefix THEN 'FIXED sku_prefix'
      WHEN _found.pool IS DISTINCT FROM _pool THEN 'FIXED pool'
      WHEN _found.per <> _per THEN 'FIXED per'
      WHEN _found.counts <> _counts THEN 'FIXED counts'
    END;
    IF _outcome IS NULL AND (_found.max_quantity, _found.window_us) IS DISTINCT FROM (_max_quantity, _window_us) THEN
      UPDATE hold_limit h SET max_quantity = _max_quantity, window_us = _window_us, update_time = _now
      WHERE h.limit_number = _found.limit_number;
    END IF;
  END IF;
  RETURN QUERY
  SELECT _outcome, l.limit_id, l.sku_prefix, l.pool, l.per, l.counts, l.max_quantity, l.window_us, l.state,
         l.create_time, l.update_time
  FROM list_limits(_tenant, _limit_id, NULL, '', 1) l;
END
$$;

-- A tenant's limits in order of limit_id, after _after_id, or the one that _limit_id names. With _pools those only that
-- concern some of these pools. Locks nothing.
CREATE FUNCTION list_limits(_tenant text, _limit_id text, _pools text[], _after_id text, _limit integer)
RETURNS SETOF limit_answer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT NULL::text, h.limit_id::text, h.sku_prefix::text, h.pool::text, h.per, h.counts, h.max_quantity, h.window_us,
         h.state, h.create_time, h.update_time
  FROM hold_limit h
  WHERE h.tenant = _tenant AND h.state < 3 AND h.limit_id > _after_id AND (_limit_id IS NULL OR h.limit_id = _limit_id)
    AND (_pools IS NULL OR h.pool IS NULL OR h.pool = ANY (_pools))
  ORDER BY h.limit_id
  LIMIT _limit
$$;

-- Deletes a limit; what counted for it goes in the background. Returns whether there was one.
-- Locks: the limit's row.
CREATE FUNCTION delete_limit(_tenant text, _limit_id text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  PERFORM enter_tenant(_tenant);
  UPDATE hold_limit h SET state = 3, build_mark = NULL, update_time = wall_clock()
  WHERE h.tenant = _tenant AND h.limit_id = _limit_id AND h.state < 3;
  RETURN FOUND;
END
$$;

-- How much of a limit a holder of a client uses, or the client where the limit is one of clients; _reset_time: when
-- that becomes less by itself. _max_quantity null: there is no such limit. Locks nothing.
CREATE FUNCTION limit_usage(
  _tenant text, _limit_id text, _client text, _holder text,
  OUT _max_quantity bigint, OUT _held bigint, OUT _confirmed bigint, OUT _reset_time timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
DECLARE
  _now timestamptz := wall_clock();
  _number bigint;
  _per smallint;
BEGIN
  SELECT h.limit_number, h.per, h.max_quantity INTO _number, _per, _max_quantity FROM hold_limit h
  WHERE h.tenant = _tenant AND h.limit_id = _limit_id AND h.state < 3;
  IF _per = 2 THEN
    _holder := '';
  END IF;
  SELECT u._held, u._confirmed INTO _held, _confirmed
  FROM limits_used(_tenant, ARRAY[_number], ARRAY[_client], ARRAY[_holder], _now) u;
  _reset_time := limit_reset_time(_tenant, _number, _client, _holder, 1, _now);
END
$$;

-- A step of the work on a limit that is not ACTIVE, of any tenant or of this one: reservations of before are added up,
-- or what counted for a deleted limit is removed. First it waits until no transaction is running that may not know the
-- limit's state: from then on a reservation that is not added up here is added up by the call that makes it. (This
-- needs a transaction id as the mark, see poll_feed, and limits that are read behind row locks.) _busy: call again at
-- once; _waiting: older transactions are running, or another process works on it; neither: nothing is left to do.
-- Locks: the limit's row if it is not locked, then reservations in id order; for removal only what it removes.
CREATE FUNCTION build_limits(
  _tenant text, _limit_id text, _max_count integer, OUT _busy boolean, OUT _waiting boolean
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  -- Whose rows it leaves alone.
  _away text[];
  _h record;
BEGIN
  _busy := false;
  _waiting := false;
  _away := enter_tenants(_tenant);
  IF _away IS NULL THEN
    RETURN;
  END IF;
  FOR _h IN
    SELECT h.limit_number, h.tenant, h.state, h.build_mark, h.sku_prefix, h.build_sku, h.build_reservation_id
    FROM hold_limit h
    WHERE h.state <> 2 AND (_tenant IS NULL OR h.tenant = _tenant AND h.limit_id = _limit_id AND h.state = 1)
      AND h.tenant <> ALL (_away)
    ORDER BY h.limit_number LIMIT 20
    FOR UPDATE SKIP LOCKED
  LOOP
    IF _h.build_mark IS NULL THEN
      UPDATE hold_limit h SET build_mark = pg_current_xact_id()::text WHERE h.limit_number = _h.limit_number;
      _busy := true;
    ELSIF pg_snapshot_xmin(pg_current_snapshot()) >= _h.build_mark::xid8 THEN
      IF _h.state = 1 THEN
        PERFORM count_reservations_for(_h.tenant, _h.limit_number, _h.sku_prefix, _h.build_sku, _h.build_reservation_id,
                                       _max_count);
      ELSE
        PERFORM remove_limit(_h.limit_number, _max_count);
      END IF;
      _busy := true;
      EXIT;
    END IF;
  END LOOP;
  _waiting := NOT _busy AND EXISTS (
    SELECT 1 FROM hold_limit h
    WHERE h.state <> 2 AND (_tenant IS NULL OR h.tenant = _tenant AND h.limit_id = _limit_id AND h.state = 1)
      AND h.tenant <> ALL (_away)
  );
END
$$;

-- Adds up at most _max_count lines of a BUILDING limit's items, from a sku and a reservation on; behind the last the
-- limit is ACTIVE. Locks: reservations in id order.
CREATE FUNCTION count_reservations_for(
  _tenant text, _limit_number bigint, _sku_prefix text, _sku text, _after uuid, _max_count integer
) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _left integer := _max_count;
  _part uuid[];
  _id uuid[] := '{}';
BEGIN
  LOOP
    -- Items without lines count as one, so that a step ends.
    _left := _left - 1;
    IF _after = '00000000-0000-0000-0000-000000000000' THEN
      _sku := (
        SELECT v.sku FROM item v WHERE v.tenant = _tenant AND v.sku >= greatest(_sku COLLATE "C", _sku_prefix)
        ORDER BY v.sku LIMIT 1
      );
    END IF;
    EXIT WHEN _sku IS NULL OR NOT starts_with(_sku, _sku_prefix) OR _left <= 0;
    SELECT array_agg(l.reservation_id ORDER BY l.reservation_id) INTO _part
    FROM (
      SELECT w.reservation_id FROM reservation_line w
      WHERE hashtextextended(w.sku, hashtext(w.tenant)) = hashtextextended(_sku, hashtext(_tenant))
        AND w.sku = _sku AND w.tenant = _tenant AND w.reservation_id > _after
      ORDER BY w.reservation_id LIMIT _left
    ) l;
    _id := _id || coalesce(_part, '{}');
    IF coalesce(cardinality(_part), 0) < _left THEN
      -- The next sku begins with this one and the smallest character there is.
      _sku := _sku || chr(1);
      _after := '00000000-0000-0000-0000-000000000000';
    ELSE
      _after := _part[cardinality(_part)];
    END IF;
    _left := _left - coalesce(cardinality(_part), 0);
  END LOOP;

  SELECT array_agg(v.reservation_id) INTO _id
  FROM (SELECT DISTINCT i.id FROM unnest(_id) i (id) ORDER BY i.id) x
  CROSS JOIN LATERAL (
    SELECT w.reservation_id FROM reservation w
    WHERE w.reservation_id = x.id AND w.tenant = _tenant AND w.state IN (1, 2, 6) FOR NO KEY UPDATE
  ) v;
  IF _id IS NOT NULL THEN
    PERFORM settle_limits(_tenant, _id);
  END IF;
  UPDATE hold_limit h SET
    state = CASE WHEN _sku IS NULL OR NOT starts_with(_sku, _sku_prefix) THEN 2 ELSE 1 END,
    build_sku = coalesce(_sku, h.build_sku), build_reservation_id = _after
  WHERE h.limit_number = _limit_number;
END
$$;

-- Removes at most _max_count rows of each kind that belong to a deleted limit; behind the last the limit itself.
CREATE FUNCTION remove_limit(_limit_number bigint, _max_count integer) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _removed bigint;
  _all bigint := 0;
BEGIN
  DELETE FROM limit_use u USING (
    SELECT w.ctid AS place FROM limit_use w WHERE w.limit_number = _limit_number AND w.holder <> '' LIMIT _max_count
  ) k WHERE u.ctid = k.place AND u.limit_number IS NOT DISTINCT FROM _limit_number;
  GET DIAGNOSTICS _removed = ROW_COUNT;
  _all := _all + _removed;
  DELETE FROM limit_use u USING (
    SELECT w.ctid AS place FROM limit_use w WHERE w.limit_number = _limit_number AND w.holder = '' LIMIT _max_count
  ) k WHERE u.ctid = k.place AND u.limit_number IS NOT DISTINCT FROM _limit_number;
  GET DIAGNOSTICS _removed = ROW_COUNT;
  _all := _all + _removed;
  DELETE FROM limit_subject s USING (
    SELECT w.ctid AS place FROM limit_subject w WHERE w.limit_number = _limit_number LIMIT _max_count
  ) k WHERE s.ctid = k.place AND s.limit_number IS NOT DISTINCT FROM _limit_number;
  GET DIAGNOSTICS _removed = ROW_COUNT;
  _all := _all + _removed;
  DELETE FROM limit_change c USING (
    SELECT w.ctid AS place FROM limit_change w WHERE w.limit_number = _limit_number LIMIT _max_count
  ) k WHERE c.ctid = k.place AND c.limit_number IS NOT DISTINCT FROM _limit_number;
  GET DIAGNOSTICS _removed = ROW_COUNT;
  IF _all + _removed = 0 THEN
    DELETE FROM hold_limit h WHERE h.limit_number = _limit_number;
  END IF;
END
$$;

-- How many limits of all tenants are ACTIVE, how many BUILDING, for metrics. Locks nothing.
CREATE FUNCTION limit_totals(OUT _active bigint, OUT _building bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT count(*) FILTER (WHERE h.state = 2), count(*) FILTER (WHERE h.state = 1) FROM hold_limit h
$$;

-- Removes holders who have nothing of a limit, and had nothing to do with it for _age, among the next _max_count rows
-- behind (_after_limit, _after_holder, _after_client). Returns how many, and the last row looked at, null at the end.
-- Who takes units makes a row that has gone anew.
-- Locks: rows of limit_subject that are not locked.
CREATE FUNCTION purge_limit_subjects(
  _after_limit bigint, _after_holder text, _after_client text, _age interval, _max_count integer,
  OUT _purged_count integer, OUT _last_limit bigint, OUT _last_holder text, OUT _last_client text
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  _before timestamptz := wall_clock() - _age;
  _away text[] := tenants_away();
  _looked record;
BEGIN
  SELECT count(*) AS number, array_agg(s.limit_number) AS limit_number, array_agg(s.holder::text) AS holder,
         array_agg(s.client::text) AS client
  INTO _looked
  FROM (
    SELECT w.limit_number, w.holder, w.client FROM limit_subject w
    WHERE (w.limit_number, w.holder, w.client) > (_after_limit, _after_holder, _after_client)
    ORDER BY w.limit_number, w.holder, w.client LIMIT _max_count
  ) s;
  -- Who takes units sets update_time when it locks the row, so a row that it is counting for is too young.
  DELETE FROM limit_subject s
  USING unnest(_looked.limit_number, _looked.holder, _looked.client) x (limit_number, holder, client)
  CROSS JOIN LATERAL (
    SELECT w.ctid AS place, w.tenant FROM limit_subject w
    WHERE w.limit_number = x.limit_number AND w.holder = x.holder AND w.client = x.client AND w.holder <> ''
      AND w.update_time < _before AND w.tenant <> ALL (_away)
      AND NOT EXISTS (
        SELECT 1 FROM limit_use u
        WHERE u.limit_number = w.limit_number AND u.holder = w.holder AND u.holder <> '' AND u.client = w.client
          AND u.tenant = w.tenant
      )
    FOR UPDATE SKIP LOCKED
  ) k
  WHERE s.ctid = k.place AND s.tenant IS NOT DISTINCT FROM k.tenant;
  GET DIAGNOSTICS _purged_count = ROW_COUNT;
  IF _looked.number = _max_count THEN
    _last_limit := _looked.limit_number[_max_count];
    _last_holder := _looked.holder[_max_count];
    _last_client := _looked.client[_max_count];
  END IF;
END
$$;
