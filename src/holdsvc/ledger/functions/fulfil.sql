-- Fulfils: confirmed units of each request's reservation leave the building, all that are open or the part that its
-- lines name; confirmed and capacity of their items fall together. CAPACITY_EXCEEDED: an oversold item has fewer units.
-- Arrays of n requests of one tenant in order of arrival. Lines are flat, one an item: those of request i are
-- _line_first[i] to _line_first[i + 1] - 1, none for everything. _effective_time null: now; EFFECTIVE_TIME: it is in
-- the future.
-- Locks: reservations in id order, items in (sku, pool) order, request ids.
CREATE FUNCTION fulfil(
  _tenant text,
  _client text[], _key_id text[], _pools text[], _read_all boolean[], _write_all boolean[],
  _request_id text[], _request_key uuid[], _fingerprint bytea[], _target uuid[], _reference text[],
  _reason text[], _effective_time timestamptz[],
  _line_first integer[], _line_sku text[], _line_pool text[], _line_quantity bigint[]
) RETURNS SETOF reservation_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
DECLARE
  _n integer := cardinality(_client);
  _outcome text[];
  _id uuid[];
  _found found_reservation[];
  _short jsonb[];
  _changing uuid[] := '{}';
  _now timestamptz;
  -- What moves, one element a line in order of arrival: request, item, units, the item's number.
  _moves record;
  -- Of each item: units that may still leave.
  _capacity bigint[];
  _move integer := 1;
  _r record;
BEGIN
  PERFORM enter_tenant(_tenant);
  -- find
  SELECT f._outcome, f._id, f._found INTO _outcome, _id, _found
  FROM find_targets(_tenant, 'Fulfil', 2::smallint, _client, _pools, _read_all, _write_all, _request_key, _fingerprint,
                    _target, _reference, '{}') f;
  -- lock
  PERFORM lock_items_of(_tenant, (SELECT array_agg(x.id) FROM unnest(_id, _outcome) x (id, outcome)
                                  WHERE x.outcome IS NULL));
  _now := wall_clock();

  -- judge
  _short := exceeding_lines(_tenant, _id, _outcome, array_fill(2::smallint, ARRAY[_n]), _line_first, _line_sku,
                            _line_pool, _line_quantity);
  FOR _r IN
    SELECT x.ix::integer, x.id, state_refusal(2::smallint, x.state, x.expire_time, _now) AS refusal
    FROM unnest(_id, _outcome, _found) WITH ORDINALITY
      x (id, outcome, place, state, expire_time, revision, limited, modified, entry_id, ix)
    WHERE x.outcome IS NULL
    ORDER BY x.ix
  LOOP
    _outcome[_r.ix] := _r.refusal;
    CONTINUE WHEN _r.refusal IS NOT NULL;
    IF _r.id = ANY (_changing) THEN
      _outcome[_r.ix] := 'RETRY';
      CONTINUE;
    END IF;
    IF _effective_time[_r.ix] > _now THEN
      _outcome[_r.ix] := 'EFFECTIVE_TIME';
    ELSIF _short[_r.ix] IS NOT NULL THEN
      _outcome[_r.ix] := 'QUANTITY_EXCEEDED';
    END IF;
    IF _outcome[_r.ix] IS NULL THEN
      _changing := _changing || _r.id;
    END IF;
  END LOOP;
  SELECT array_agg(m.ix ORDER BY m.ix, m.line_number) AS ix, array_agg(m.sku ORDER BY m.ix, m.line_number) AS sku,
         array_agg(m.pool ORDER BY m.ix, m.line_number) AS pool,
         array_agg(m.quantity ORDER BY m.ix, m.line_number) AS quantity,
         array_agg(m.item::integer ORDER BY m.ix, m.line_number) AS item
  INTO _moves
  FROM (
    SELECT x.ix::integer, l.line_number, l.sku, l.pool, q.quantity, dense_rank() OVER (ORDER BY l.sku, l.pool) AS item
    FROM unnest(_id, _outcome) WITH ORDINALITY x (id, outcome, ix)
    CROSS JOIN LATERAL (
      SELECT w.line_number, w.sku, w.pool,
             w.confirmed_quantity - w.fulfilled_quantity - (w.refunded_quantity - w.returned_quantity) AS open
      FROM reservation_line w WHERE w.reservation_id = x.id AND w.tenant = _tenant OFFSET 0
    ) l
    CROSS JOIN LATERAL (
      SELECT CASE WHEN _line_first[x.ix] = _line_first[x.ix + 1] THEN l.open ELSE (
        SELECT _line_quantity[y.line] FROM generate_series(_line_first[x.ix], _line_first[x.ix + 1] - 1) y (line)
        WHERE _line_sku[y.line] = l.sku AND _line_pool[y.line] = l.pool LIMIT 1
      ) END AS quantity
    ) q
    WHERE x.outcome IS NULL AND q.quantity > 0
  ) m;
  SELECT array_agg(i.capacity ORDER BY k.sku, k.pool) INTO _capacity
  FROM (
    SELECT DISTINCT u.sku COLLATE "C" AS sku, u.pool COLLATE "C" AS pool
    FROM unnest(_moves.sku, _moves.pool) u (sku, pool)
  ) k
  CROSS JOIN LATERAL (
    SELECT v.capacity FROM item v WHERE v.sku = k.sku AND v.pool = k.pool AND v.tenant = _tenant LIMIT 1
  ) i;
  WHILE _move <= coalesce(cardinality(_moves.ix), 0) LOOP
    -- The moves of one request, all or none.
    SELECT min(m.move) AS first, max(m.move) AS last INTO _r
    FROM generate_series(_move, least(_move + 100, cardinality(_moves.ix))) m (move)
    WHERE _moves.ix[m.move] = _moves.ix[_move];
    FOR _m IN _r.first .. _r.last LOOP
      IF _capacity[_moves.item[_m]] < _moves.quantity[_m] THEN
        _outcome[_moves.ix[_m]] := 'CAPACITY_EXCEEDED';
        _short[_moves.ix[_m]] := coalesce(_short[_moves.ix[_m]], '[]') || jsonb_build_array(jsonb_build_array(
          _moves.sku[_m], _moves.pool[_m], _moves.quantity[_m], _capacity[_moves.item[_m]]));
      END IF;
    END LOOP;
    IF _outcome[_moves.ix[_move]] IS NULL THEN
      FOR _m IN _r.first .. _r.last LOOP
        _capacity[_moves.item[_m]] := _capacity[_moves.item[_m]] - _moves.quantity[_m];
      END LOOP;
    END IF;
    _move := _r.last + 1;
  END LOOP;

  -- claim
  IF NOT claim_requests(_tenant, 'Fulfil', _request_key, _fingerprint, _id, _outcome, _now) THEN
    _outcome := to_judge_again(_outcome);
  END IF;

  -- apply
  PERFORM move_sold(
    _tenant, 13::smallint, _id, _client, _key_id, _request_id, _reason, _outcome,
    _moves.ix, _moves.sku, _moves.pool, _moves.quantity, NULL, NULL, NULL, _effective_time, _now);

  RETURN QUERY SELECT * FROM answer_reservations(_tenant, _outcome, _id, _short, NULL, _now);
END
$$;

-- Step "apply" of what moves units that were sold: FULFILLED (13) and REFUNDED (5). _id to _outcome and _effective_time
-- are those of all requests; the moves are flat, one an item and request, and count where the request's outcome is
-- null. Of a refund: _returned has the units of each move that had been fulfilled, _written_off those that leave the
-- capacity, and _write_off says which requests write off; a returned unit comes back into the capacity unless it is
-- written off.
CREATE FUNCTION move_sold(
  _tenant text, _type smallint, _id uuid[], _client text[], _key_id text[], _request_id text[], _reason text[],
  _outcome text[], _move_ix integer[], _move_sku text[], _move_pool text[], _move_quantity bigint[],
  _move_returned bigint[], _move_written_off bigint[], _write_off boolean[], _effective_time timestamptz[],
  _now timestamptz
) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _items bigint;
  _updated bigint;
BEGIN
  IF _move_ix IS NULL THEN
    RETURN;
  END IF;
  UPDATE reservation_line l SET
    fulfilled_quantity = l.fulfilled_quantity + CASE WHEN _type = 13 THEN _move_quantity[m.move] ELSE 0 END,
    refunded_quantity = l.refunded_quantity + CASE WHEN _type = 5 THEN _move_quantity[m.move] ELSE 0 END,
    returned_quantity = l.returned_quantity + coalesce(_move_returned[m.move], 0)
  FROM generate_series(1, cardinality(_move_ix)) m (move)
  CROSS JOIN LATERAL (
    SELECT w.ctid AS place FROM reservation_line w
    WHERE w.reservation_id = _id[_move_ix[m.move]] AND w.sku = _move_sku[m.move] AND w.pool = _move_pool[m.move]
      AND w.tenant = _tenant
    LIMIT 1
  ) k
  WHERE l.ctid = k.place AND l.tenant IS NOT DISTINCT FROM _tenant AND _outcome[_move_ix[m.move]] IS NULL;

  -- Of each move: units that leave confirmed, by which the capacity changes, and that come into remaining.
  WITH moves AS (
    SELECT _move_sku[m.move] AS sku, _move_pool[m.move] AS pool,
           _move_quantity[m.move] - coalesce(_move_returned[m.move], 0) AS sold,
           CASE WHEN _type = 13 THEN -_move_quantity[m.move]
                WHEN _write_off[_move_ix[m.move]] THEN -_move_written_off[m.move]
                ELSE _move_returned[m.move] END AS capacity
    FROM generate_series(1, cardinality(_move_ix)) m (move) WHERE _outcome[_move_ix[m.move]] IS NULL
  ), moved AS (
    SELECT u.sku, u.pool, sum(u.sold)::bigint AS sold, sum(u.capacity)::bigint AS capacity
    FROM moves u GROUP BY u.sku, u.pool
  ), updated AS (
    UPDATE item i SET
      confirmed = i.confirmed - m.sold,
      capacity = i.capacity + m.capacity,
      remaining = i.remaining + m.sold + m.capacity,
      serve_time = CASE WHEN m.sold + m.capacity > 0 THEN when_to_serve(i.waiting, i.serve_time) ELSE i.serve_time END,
      revision = i.revision + 1,
      update_time = _now
    FROM moved m
    CROSS JOIN LATERAL (
      SELECT v.ctid AS place FROM item v WHERE v.sku = m.sku AND v.pool = m.pool AND v.tenant = _tenant LIMIT 1
    ) k
    WHERE i.ctid = k.place AND i.tenant IS NOT DISTINCT FROM _tenant AND (m.sold <> 0 OR m.capacity <> 0)
    RETURNING 1
  )
  SELECT (SELECT count(*) FROM moved WHERE moved.sold <> 0 OR moved.capacity <> 0), (SELECT count(*) FROM updated)
  INTO _items, _updated;
  IF _items <> _updated THEN
    RAISE 'the items of sold units are not all there: % of %', _updated, _items;
  END IF;
  PERFORM write_stock_move(
    _tenant, _move_sku[m.move], _move_pool[m.move], coalesce(_effective_time[_move_ix[m.move]], _now),
    CASE WHEN _type = 13 THEN -_move_quantity[m.move]
         WHEN _write_off[_move_ix[m.move]] THEN -_move_written_off[m.move] ELSE _move_returned[m.move] END)
  FROM generate_series(1, cardinality(_move_ix)) m (move) WHERE _outcome[_move_ix[m.move]] IS NULL;

  UPDATE reservation v SET
    state = CASE WHEN l.refunded = l.confirmed THEN 5 WHEN l.open = 0 AND l.fulfilled > 0 THEN 6 ELSE 2 END,
    refund_time = CASE WHEN _type = 5 THEN _now ELSE v.refund_time END,
    fulfil_time = CASE WHEN _type = 13 THEN _now ELSE v.fulfil_time END,
    reason = x.reason, revision = v.revision + 1
  FROM unnest(_id, _reason, _outcome) x (id, reason, outcome)
  CROSS JOIN LATERAL (
    SELECT w.ctid AS place FROM reservation w WHERE w.reservation_id = x.id AND w.tenant = _tenant LIMIT 1
  ) k
  CROSS JOIN LATERAL (
    SELECT sum(w.confirmed_quantity) AS confirmed, sum(w.refunded_quantity) AS refunded,
           sum(w.fulfilled_quantity) AS fulfilled,
           sum(w.confirmed_quantity - w.fulfilled_quantity - (w.refunded_quantity - w.returned_quantity)) AS open
    FROM reservation_line w WHERE w.reservation_id = x.id AND w.tenant = _tenant
  ) l
  WHERE v.ctid = k.place AND v.tenant IS NOT DISTINCT FROM _tenant AND x.outcome IS NULL;
  INSERT INTO event (
    occur_day, tenant, type, client, key_id, request_id, reason, occur_time, revision,
    line_sku, line_pool, line_quantity, written_off_quantity, restored_quantity,
    reservation_id, from_state, state, expire_time, refunded_quantity, fulfilled_quantity, returned_quantity, snapshot
  )
  SELECT (SELECT d.day FROM feed_day d ORDER BY d.day DESC LIMIT 1), _tenant, _type, _client[m.ix], _key_id[m.ix],
         _request_id[m.ix], _reason[m.ix],
         _now, v.revision, m.sku, m.pool, m.quantity, CASE WHEN _write_off[m.ix] THEN m.written_off END,
         CASE WHEN m.returns THEN m.returned END, _id[m.ix], 2, v.state, v.expire_time, l.refunded, l.fulfilled,
         l.returned, CASE WHEN v.modified THEN reservation_snapshot(_tenant, _id[m.ix]) END
  FROM (
    SELECT _move_ix[u.move] AS ix, array_agg(_move_sku[u.move] ORDER BY u.move) AS sku,
           array_agg(_move_pool[u.move] ORDER BY u.move) AS pool,
           array_agg(_move_quantity[u.move] ORDER BY u.move) AS quantity,
           array_agg(_move_written_off[u.move] ORDER BY u.move) AS written_off,
           array_agg(_move_returned[u.move] ORDER BY u.move) AS returned, bool_or(_move_returned[u.move] > 0) AS returns
    FROM generate_series(1, cardinality(_move_ix)) u (move)
    WHERE _outcome[_move_ix[u.move]] IS NULL
    GROUP BY _move_ix[u.move]
  ) m
  CROSS JOIN LATERAL (
    SELECT w.revision, w.state, w.expire_time, w.original IS NOT NULL AS modified FROM reservation w
    WHERE w.reservation_id = _id[m.ix] AND w.tenant = _tenant LIMIT 1
  ) v
  CROSS JOIN LATERAL (
    SELECT array_agg(w.refunded_quantity ORDER BY w.line_number) AS refunded,
           array_agg(w.fulfilled_quantity ORDER BY w.line_number) AS fulfilled,
           array_agg(w.returned_quantity ORDER BY w.line_number) AS returned
    FROM reservation_line w WHERE w.reservation_id = _id[m.ix] AND w.tenant = _tenant
  ) l
  ORDER BY m.ix;
END
$$;
