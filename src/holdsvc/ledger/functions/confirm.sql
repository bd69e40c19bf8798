-- Confirms: sells the held units of each request's reservation, or the part that its lines name, and writes the order's
-- record. Arrays of n requests of one tenant in order of arrival. Lines are flat, one an item: those of request i are
-- _line_first[i] to _line_first[i + 1] - 1, none for everything. _order_id is never empty; _minted tells which of them
-- the service made. With _rescue an EXPIRED hold that ended at most _rescue_window_us ago is taken anew, all its units,
-- and sold; SWEEP: lapsed holds on its items would make room. SERVE: entries wait for its items and come first:
-- sweep them, serve the waitlists, and call again with _served.
-- Locks: reservations in id order, items in (sku, pool) order, limits in order, the waitlist entries whose offers they
-- are, request ids, order ids.
CREATE FUNCTION confirm(
  _tenant text,
  _client text[], _key_id text[], _pools text[], _read_all boolean[], _write_all boolean[],
  _request_id text[], _request_key uuid[], _fingerprint bytea[], _target uuid[], _reference text[],
  _order_id text[], _minted boolean[], _customer_name text[], _customer_email text[], _rescue boolean[],
  _rescue_window_us bigint, _served boolean[], _line_first integer[], _line_sku text[], _line_pool text[],
  _line_quantity bigint[]
) RETURNS SETOF reservation_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
DECLARE
  _n integer := cardinality(_client);
  _rescue_after timestamptz := wall_clock() - _rescue_window_us * interval '1 microsecond';
  _outcome text[];
  _id uuid[];
  _found found_reservation[];
  _line found_line[];
  _item_place tid[];
  -- Of each line, where requests name lines.
  _sold bigint[];
  _judged text[];
  -- The outcomes, null for what takes effect now: that claims its request id.
  _claims text[];
  _offers bigint;
  _followed item_before[];
  _short jsonb[];
  _other_id uuid[] := array_fill(NULL::uuid, ARRAY[_n]);
  _changing uuid[] := '{}';
  -- Confirmed before, by a call of the same content: answered with OK, so its request id counts from now on.
  _repeated boolean[] := array_fill(false, ARRAY[_n]);
  -- Expired holds that are taken anew.
  _rescued integer[] := '{}';
  _now timestamptz;
  -- Of each item, null where nothing of it is sold.
  _item_quantity bigint[];
  _item_sold bigint[];
  _items bigint;
  _updated bigint;
  _r record;
  -- See locked_limits.
  _need_request integer[];
  _need_limit text[];
  _need_slot integer[];
  _need_units bigint[];
  _slot_limit bigint[];
  _slot_client text[];
  _slot_holder text[];
  _slot_max bigint[];
  _slot_used bigint[];
  _lock_time timestamptz;
  -- Which requests may be judged as new holds, and the reservations that count for limits.
  _may_rescue boolean[];
  _limited uuid[];
BEGIN
  PERFORM enter_tenant(_tenant);
  -- find
  SELECT f._outcome, f._id, f._found INTO _outcome, _id, _found
  FROM find_targets(
    _tenant, 'Confirm', 1::smallint, _client, _pools, _read_all, _write_all, _request_key, _fingerprint, _target,
    _reference,
    CASE WHEN true = ANY (_rescue)
         THEN (SELECT array_agg(CASE WHEN x.rescue THEN _rescue_after END ORDER BY x.ix)
               FROM unnest(_rescue) WITH ORDINALITY x (rescue, ix)) ELSE '{}' END
  ) f;
  -- lock
  _line := found_lines(_tenant, _id, _outcome);
  SELECT l._item_place, l._followed INTO _item_place, _followed FROM lock_items_of_lines(_tenant, _line) l;
  IF true = ANY (_rescue) THEN
    SELECT array_agg(x.rescue AND (x.state = 4 OR x.state = 1 AND x.expire_time <= wall_clock()) ORDER BY x.ix)
    INTO _may_rescue
    FROM unnest(_rescue, _found) WITH ORDINALITY
      x (rescue, place, state, expire_time, revision, limited, modified, entry_id, ix);
  END IF;
  -- Limits of holders are locked also where nothing is rescued: a hold that has just counted as lapsed, so that its
  -- holder got other units, must not be confirmed after that.
  SELECT l.* INTO _need_request, _need_limit, _need_slot, _need_units, _slot_limit, _slot_client, _slot_holder,
         _slot_max, _slot_used, _lock_time
  FROM lock_limits_of(_tenant, _id, coalesce(_may_rescue, '{}')) l;
  _now := coalesce(_lock_time, wall_clock());

  -- judge
  _short := exceeding_lines(_tenant, _id, _outcome, array_fill(1::smallint, ARRAY[_n]), _line_first, _line_sku,
                            _line_pool, _line_quantity);
  _judged := judge_held(_id, _outcome, _found, _now);
  FOR _i IN 1 .. _n LOOP
    CONTINUE WHEN _outcome[_i] IS NOT NULL OR _judged[_i] IS NULL AND _short[_i] IS NULL;
    _outcome[_i] := _judged[_i];
    IF (_found[_i]).state IN (2, 6) THEN
      -- The same order and the same lines, or none: the caller's own call again.
      IF (_minted[_i] OR _order_id[_i] = (
        SELECT v.order_id FROM reservation v WHERE v.reservation_id = _id[_i] AND v.tenant = _tenant
      )) AND (
        _line_first[_i] = _line_first[_i + 1]
        OR (SELECT array_agg((l.sku, l.pool, l.confirmed_quantity)::text ORDER BY l.sku, l.pool) FROM reservation_line l
            WHERE l.reservation_id = _id[_i] AND l.tenant = _tenant AND l.confirmed_quantity > 0)
           = (SELECT array_agg((_line_sku[y.line], _line_pool[y.line], _line_quantity[y.line])::text
                               ORDER BY _line_sku[y.line] COLLATE "C", _line_pool[y.line] COLLATE "C")
              FROM generate_series(_line_first[_i], _line_first[_i + 1] - 1) y (line))
      ) THEN
        _outcome[_i] := 'REPLAYED';
        _repeated[_i] := true;
      END IF;
      CONTINUE;
    END IF;
    IF _judged[_i] = 'RESERVATION_EXPIRED' AND _rescue[_i] AND (_found[_i]).expire_time > _rescue_after THEN
      -- RETRY: it has expired after the limits were locked, or an earlier request rescues it.
      _outcome[_i] := CASE WHEN NOT _may_rescue[_i] OR _id[_i] = ANY (_changing) THEN 'RETRY' END;
    END IF;
    CONTINUE WHEN _outcome[_i] IS NOT NULL;
    -- Of all others the claim finds an order id that is in use.
    _other_id[_i] := (
      SELECT s.reservation_id FROM sales_order s WHERE s.order_id = _order_id[_i] AND s.tenant = _tenant
    );
    IF _other_id[_i] IS NOT NULL THEN
      _outcome[_i] := 'ORDER_ID_IN_USE';
    ELSIF _short[_i] IS NOT NULL THEN
      _outcome[_i] := 'QUANTITY_EXCEEDED';
    ELSE
      _changing := _changing || _id[_i];
      _rescued := _rescued || _i;
    END IF;
  END LOOP;
  IF cardinality(_rescued) > 0 THEN
    SELECT j.outcome, j.short, j.rescued INTO _outcome, _short, _rescued
    FROM judge_rescues(_tenant, _id, _outcome, _short, _rescued, _served, _need_request, _need_limit, _need_slot,
                       _need_units, _slot_limit, _slot_client, _slot_holder, _slot_max, _slot_used, _now)
      j (outcome, short, rescued);
  END IF;

  -- claim
  _claims := _outcome;
  IF true = ANY (_repeated) THEN
    SELECT array_agg(CASE WHEN NOT x.repeated THEN x.outcome END ORDER BY x.ix) INTO _claims
    FROM unnest(_outcome, _repeated) WITH ORDINALITY x (outcome, repeated, ix);
  END IF;
  IF NOT claim_requests(_tenant, 'Confirm', _request_key, _fingerprint, _id, _claims, _now) THEN
    _outcome := to_judge_again(_claims);
  END IF;
  BEGIN
    INSERT INTO sales_order (tenant, order_id, reservation_id, customer_name, customer_email, create_time)
    SELECT _tenant, x.order_id, x.id, x.name, x.email, _now
    FROM unnest(_order_id, _id, _customer_name, _customer_email, _outcome) x (order_id, id, name, email, outcome)
    WHERE x.outcome IS NULL
    ORDER BY x.order_id COLLATE "C";
  EXCEPTION
    -- Rare: ON CONFLICT at once costs every entry 3 µs.
    WHEN unique_violation THEN
      WITH claimed AS (
        INSERT INTO sales_order (tenant, order_id, reservation_id, customer_name, customer_email, create_time)
        SELECT _tenant, x.order_id, x.id, x.name, x.email, _now
        FROM unnest(_order_id, _id, _customer_name, _customer_email, _outcome) x (order_id, id, name, email, outcome)
        WHERE x.outcome IS NULL
        ORDER BY x.order_id COLLATE "C"
        ON CONFLICT DO NOTHING
        RETURNING reservation_id
      )
      SELECT coalesce(array_agg(c.reservation_id), '{}') INTO _changing FROM claimed c;
      FOR _r IN
        SELECT x.ix FROM unnest(_id, _outcome) WITH ORDINALITY x (id, outcome, ix)
        WHERE x.outcome IS NULL AND x.id <> ALL (_changing)
      LOOP
        -- Another transaction or request of this batch has the order id: a refusal is not remembered.
        _outcome[_r.ix] := 'ORDER_ID_IN_USE';
        _other_id[_r.ix] := (
          SELECT s.reservation_id FROM sales_order s WHERE s.order_id = _order_id[_r.ix] AND s.tenant = _tenant
        );
        DELETE FROM request q
        WHERE q.request_key = _request_key[_r.ix] AND q.tenant = _tenant;
      END LOOP;
  END;

  -- apply
  IF cardinality(_rescued) > 0 THEN
    PERFORM take_anew(
      _tenant, array_agg(_id[x.ix] ORDER BY x.ix), array_agg(_client[x.ix] ORDER BY x.ix),
      array_agg(_key_id[x.ix] ORDER BY x.ix), array_agg(_request_id[x.ix] ORDER BY x.ix), _now)
    FROM unnest(_rescued) x (ix) WHERE _outcome[x.ix] IS NULL
    HAVING count(*) > 0;
    -- Their rows are others now.
    _found := found_reservations(_tenant, _id);
    _line := found_lines(_tenant, _id, _outcome);
    SELECT l._item_place INTO _item_place FROM lock_items_of_lines(_tenant, _line) l;
  END IF;
  IF cardinality(_line_sku) > 0 THEN
    SELECT array_agg(CASE WHEN _line_first[l.ix] = _line_first[l.ix + 1] THEN l.quantity ELSE coalesce((
      SELECT _line_quantity[y.line] FROM generate_series(_line_first[l.ix], _line_first[l.ix + 1] - 1) y (line)
      WHERE _line_sku[y.line] = l.sku AND _line_pool[y.line] = l.pool LIMIT 1
    ), 0) END ORDER BY l.number) INTO _sold
    FROM unnest(_line) WITH ORDINALITY l (ix, place, sku, pool, quantity, number);
  END IF;
  -- By place: the planner would else read every held line there is, by their index, and filter.
  UPDATE reservation_line l SET confirmed_quantity = coalesce(x.sold, x.quantity), expire_time = NULL
  FROM unnest(_line, _sold) x (ix, place, sku, pool, quantity, sold)
  WHERE _outcome[x.ix] IS NULL AND l.ctid = x.place AND l.tenant IS NOT DISTINCT FROM _tenant;
  SELECT array_agg(k.quantity), array_agg(k.sold), count(k.quantity) INTO _item_quantity, _item_sold, _items
  FROM (
    SELECT sum(x.quantity) FILTER (WHERE _outcome[x.ix] IS NULL)::bigint AS quantity,
           sum(coalesce(x.sold, x.quantity)) FILTER (WHERE _outcome[x.ix] IS NULL)::bigint AS sold
    FROM unnest(_line, _sold) x (ix, place, sku, pool, quantity, sold)
    GROUP BY x.sku COLLATE "C", x.pool COLLATE "C" ORDER BY x.sku COLLATE "C", x.pool COLLATE "C"
  ) k;
  UPDATE item i SET
    held = i.held - x.quantity,
    confirmed = i.confirmed + x.sold,
    remaining = i.remaining + x.quantity - x.sold,
    serve_time = CASE WHEN x.quantity > x.sold THEN when_to_serve(i.waiting, i.serve_time) ELSE i.serve_time END,
    revision = i.revision + 1,
    update_time = _now
  FROM unnest(_item_place, _item_quantity, _item_sold) x (place, quantity, sold)
  WHERE i.ctid = x.place AND i.tenant IS NOT DISTINCT FROM _tenant AND i.held >= x.quantity;
  GET DIAGNOSTICS _updated = ROW_COUNT;
  IF _items <> _updated THEN
    RAISE 'held units do not cover the lines: % of % items', _updated, _items;
  END IF;
  WITH sold AS (
    UPDATE reservation v SET state = 2, confirm_time = _now, order_id = _order_id[x.ix], revision = v.revision + 1
    FROM generate_series(1, _n) x (ix)
    WHERE _outcome[x.ix] IS NULL AND v.ctid = (_found[x.ix]).place AND v.tenant IS NOT DISTINCT FROM _tenant
    RETURNING v.reservation_id, v.limited, v.entry_id
  )
  SELECT array_agg(s.reservation_id) FILTER (WHERE s.limited), count(s.entry_id) INTO _limited, _offers FROM sold s;
  IF _offers > 0 THEN
    PERFORM end_entries(_tenant, 2::smallint, 3::smallint, entries_of(_outcome, _found), _client, _key_id, _request_id,
                        '{}', _now);
  END IF;
  IF cardinality(_need_request) > 0 AND cardinality(_rescued) > 0 THEN
    _limited := _limited || (SELECT array_agg(_id[x.ix]) FROM unnest(_rescued) x (ix));
  END IF;
  IF _limited IS NOT NULL THEN
    PERFORM settle_limits(_tenant, (SELECT array_agg(DISTINCT x.id) FROM unnest(_limited) x (id)));
  END IF;
  PERFORM write_line_events(_tenant, 2::smallint, _id, _outcome, _found, _line, _sold, _client, _key_id, _request_id,
                            '{}', _now);
  IF _followed IS NOT NULL THEN
    PERFORM follow_items(_tenant, _followed, _now);
  END IF;

  RETURN QUERY SELECT * FROM answer_reservations(_tenant, _outcome, _id, _short, _other_id, _now, _customer_name,
                                                 _customer_email);
END
$$;

-- Step "judge" of a rescue: the requests at _rescued name EXPIRED holds whose items are locked. Those that the sweep
-- has not ended yet are ended first. Each is then judged as a new hold, in order of arrival: ITEM_NOT_FOUND,
-- SALE_CLOSED or CAPACITY_EXCEEDED with the lines that it is about, LIMIT_EXCEEDED or HOLDER_REQUIRED with the limit,
-- or SWEEP or SERVE as in confirm. Returns what _rescued leaves. Needs and slots: see lock_limits.
CREATE FUNCTION judge_rescues(
  _tenant text, _id uuid[], _outcome text[], _short jsonb[], _rescued integer[], _served boolean[],
  _need_request integer[], _need_limit text[], _need_slot integer[], _need_units bigint[], _slot_limit bigint[],
  _slot_client text[], _slot_holder text[], _slot_max bigint[], _slot_used bigint[],
  _now timestamptz,
  OUT _judged_outcome text[], OUT _judged_short jsonb[], OUT _judged_rescued integer[]
)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _lapsed_ids uuid[];
  -- What earlier rescues of this batch take, one element an item.
  _item_sku text[] := '{}';
  _item_pool text[] := '{}';
  _item_taken bigint[] := '{}';
  _at integer;
  _lapsed bigint;
  _free bigint;
  _verdict text;
  -- The lines whose items are closed.
  _closed jsonb;
  -- Whether those who wait for the item must be served first.
  _serve boolean;
  _l record;
  _i integer;
  _need integer := 1;
  _first_need integer;
  _detail jsonb;
BEGIN
  _judged_outcome := _outcome;
  _judged_short := _short;
  _judged_rescued := '{}';
  SELECT array_agg(v.reservation_id ORDER BY v.reservation_id) INTO _lapsed_ids
  FROM unnest(_rescued) x (ix)
  CROSS JOIN LATERAL (
    SELECT w.reservation_id FROM reservation w
    WHERE w.reservation_id = _id[x.ix] AND w.tenant = _tenant AND w.state = 1 LIMIT 1
  ) v;
  IF _lapsed_ids IS NOT NULL THEN
    PERFORM return_held(_tenant, 4::smallint, _lapsed_ids, '{}', '{}', '{}', '{}', _now);
  END IF;
  FOREACH _i IN ARRAY _rescued LOOP
    _verdict := NULL;
    _closed := NULL;
    FOR _l IN
      SELECT l.sku, l.pool, l.quantity, i.free, i.gate
      FROM reservation_line l
      LEFT JOIN LATERAL (
        SELECT v.free, v.gate FROM item v
        WHERE v.sku = l.sku AND v.pool = l.pool AND v.tenant = _tenant AND v.delete_time IS NULL LIMIT 1
      ) i ON true
      WHERE l.reservation_id = _id[_i] AND l.tenant = _tenant
      ORDER BY l.line_number
    LOOP
      _at := (SELECT x.at FROM unnest(_item_sku, _item_pool) WITH ORDINALITY x (sku, pool, at)
              WHERE x.sku = _l.sku AND x.pool = _l.pool LIMIT 1);
      _free := _l.free - coalesce(_item_taken[_at], 0);
      _serve := false;
      IF _l.gate & 2 = 2 THEN
        SELECT f._serve, f._free - coalesce(_item_taken[_at], 0) INTO _serve, _free
        FROM free_beside_queue(_tenant, _l.sku, _l.pool, _now) f;
      END IF;
      IF _l.free IS NULL THEN
        _verdict := 'ITEM_NOT_FOUND';
        _judged_short[_i] := coalesce(_judged_short[_i], '[]')
          || jsonb_build_array(jsonb_build_array(_l.sku, _l.pool, _l.quantity, NULL));
      ELSIF _l.gate & 1 = 1 THEN
        _closed := coalesce(_closed, '[]')
          || jsonb_build_array(jsonb_build_array(_l.sku, _l.pool, _l.quantity, NULL));
      ELSIF _serve AND NOT coalesce(_served[_i], false) THEN
        _verdict := coalesce(_verdict, 'SERVE');
      ELSIF _free < _l.quantity THEN
        -- Where entries wait, lapsed units are theirs.
        _lapsed := CASE WHEN _l.gate & 2 = 2 THEN 0
                        ELSE lapsed_units(_tenant, _l.sku, _l.pool, _now, _l.quantity - _free) END;
        IF _free + _lapsed < _l.quantity THEN
          _verdict := CASE WHEN _verdict = 'ITEM_NOT_FOUND' THEN _verdict ELSE 'CAPACITY_EXCEEDED' END;
          _judged_short[_i] := coalesce(_judged_short[_i], '[]')
            || jsonb_build_array(jsonb_build_array(_l.sku, _l.pool, _l.quantity, greatest(0, _free + _lapsed)));
        ELSE
          _verdict := coalesce(_verdict, 'SWEEP');
        END IF;
      END IF;
    END LOOP;
    IF _closed IS NOT NULL AND _verdict IS DISTINCT FROM 'ITEM_NOT_FOUND' THEN
      _verdict := 'SALE_CLOSED';
      _judged_short[_i] := _closed;
    END IF;
    WHILE _need_request[_need] < _i LOOP
      _need := _need + 1;
    END LOOP;
    _first_need := _need;
    WHILE _need_request[_need] = _i LOOP
      _need := _need + 1;
    END LOOP;
    IF _first_need < _need AND coalesce(_verdict IN ('CAPACITY_EXCEEDED', 'SWEEP', 'SERVE'), true) THEN
      SELECT coalesce(j.verdict, _verdict), coalesce(j.detail, _judged_short[_i]) INTO _verdict, _detail
      FROM judge_limits(_tenant, _first_need, _need - 1, _need_limit, _need_slot, _need_units, _slot_limit,
                        _slot_client, _slot_holder, _slot_max, _slot_used, _now) j (verdict, detail);
      _judged_short[_i] := _detail;
    END IF;
    _judged_outcome[_i] := _verdict;
    CONTINUE WHEN _verdict IS NOT NULL;
    _judged_rescued := _judged_rescued || _i;
    FOR _k IN _first_need .. _need - 1 LOOP
      _slot_used[_need_slot[_k]] := _slot_used[_need_slot[_k]] + _need_units[_k];
    END LOOP;
    FOR _l IN
      SELECT l.sku, l.pool, l.quantity FROM reservation_line l WHERE l.reservation_id = _id[_i] AND l.tenant = _tenant
    LOOP
      _at := (SELECT x.at FROM unnest(_item_sku, _item_pool) WITH ORDINALITY x (sku, pool, at)
              WHERE x.sku = _l.sku AND x.pool = _l.pool LIMIT 1);
      IF _at IS NULL THEN
        _item_sku := _item_sku || _l.sku::text;
        _item_pool := _item_pool || _l.pool::text;
        _item_taken := _item_taken || _l.quantity;
      ELSE
        _item_taken[_at] := _item_taken[_at] + _l.quantity;
      END IF;
    END LOOP;
  END LOOP;
END
$$;

-- Step "apply" of a rescue: takes the units of these EXPIRED reservations anew, under their own ids, and writes
-- RESCUED. The caller has locked them and their items, has judged that the units are free, and confirms them in the
-- same transaction.
CREATE FUNCTION take_anew(
  _tenant text, _reservation_id uuid[], _client text[], _key_id text[], _request_id text[], _now timestamptz
) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _items bigint;
  _updated bigint;
BEGIN
  WITH moved AS (
    SELECT l.sku, l.pool, sum(l.quantity)::bigint AS quantity
    FROM unnest(_reservation_id) x (id)
    CROSS JOIN LATERAL (
      SELECT w.sku, w.pool, w.quantity FROM reservation_line w
      WHERE w.reservation_id = x.id AND w.tenant = _tenant OFFSET 0
    ) l
    GROUP BY l.sku, l.pool
  ), updated AS (
    UPDATE item i SET
      remaining = i.remaining - m.quantity, held = i.held + m.quantity, revision = i.revision + 1, update_time = _now
    FROM moved m
    CROSS JOIN LATERAL (
      SELECT v.ctid AS place FROM item v WHERE v.sku = m.sku AND v.pool = m.pool AND v.tenant = _tenant LIMIT 1
    ) k
    WHERE i.ctid = k.place AND i.tenant IS NOT DISTINCT FROM _tenant AND i.free >= m.quantity
    RETURNING 1
  )
  SELECT (SELECT count(*) FROM moved), (SELECT count(*) FROM updated) INTO _items, _updated;
  IF _items <> _updated THEN
    RAISE 'the items locked do not have the units judged: % of %', _updated, _items;
  END IF;
  UPDATE reservation v SET state = 1, revision = v.revision + 1
  FROM unnest(_reservation_id) x (id)
  CROSS JOIN LATERAL (
    SELECT w.ctid AS place FROM reservation w WHERE w.reservation_id = x.id AND w.tenant = _tenant LIMIT 1
  ) k
  WHERE v.ctid = k.place AND v.tenant IS NOT DISTINCT FROM _tenant;
  PERFORM write_reservation_events(
    _tenant, 14::smallint, 4::smallint, _reservation_id, _client, _key_id, _request_id, NULL, _now);
END
$$;
