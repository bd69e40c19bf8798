-- Refunds: takes back what is confirmed and not yet refunded of each request's reservation, or the part that its lines
-- name. Units that were not fulfilled go into remaining, or out of the capacity (_write_off), which never falls below
-- 0: what capacity cannot give is restocked. Units that were fulfilled are returns: they come back into capacity and
-- remaining, or stay away (_write_off). _units: 1 those not fulfilled first, 2 only those, 3 only those fulfilled.
-- ITEM_NOT_FOUND: a return to an item that is deleted. CAPACITY_LIMIT: one that would make more than 10^15 units.
-- _effective_time null: now; EFFECTIVE_TIME: it is in the future.
-- Arrays of n requests of one tenant in order of arrival. Lines are flat, one an item: those of request i are
-- _line_first[i] to _line_first[i + 1] - 1, none for everything.
-- Locks: reservations in id order, items in (sku, pool) order, request ids.
CREATE FUNCTION refund(
  _tenant text,
  _client text[], _key_id text[], _pools text[], _read_all boolean[], _write_all boolean[],
  _request_id text[], _request_key uuid[], _fingerprint bytea[], _target uuid[], _reference text[],
  _write_off boolean[], _reason text[], _units smallint[], _effective_time timestamptz[],
  _line_first integer[], _line_sku text[], _line_pool text[], _line_quantity bigint[]
) RETURNS SETOF reservation_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
DECLARE
  _outcome text[];
  _id uuid[];
  _found found_reservation[];
  _followed item_before[];
  _short jsonb[];
  _changing uuid[] := '{}';
  _limited uuid[];
  _now timestamptz;
  _moves record;
  _r record;
BEGIN
  PERFORM enter_tenant(_tenant);
  -- find
  SELECT f._outcome, f._id, f._found INTO _outcome, _id, _found
  FROM find_targets(_tenant, 'Refund', 6::smallint, _client, _pools, _read_all, _write_all, _request_key, _fingerprint,
                    _target, _reference, '{}') f;
  -- lock
  _followed := lock_items_of(_tenant, (SELECT array_agg(x.id) FROM unnest(_id, _outcome) x (id, outcome)
                                       WHERE x.outcome IS NULL));
  _now := wall_clock();

  -- judge
  _short := exceeding_lines(
    _tenant, _id, _outcome,
    (SELECT array_agg((CASE x.units WHEN 1 THEN 4 ELSE x.units END)::smallint ORDER BY x.ix)
     FROM unnest(_units) WITH ORDINALITY x (units, ix)),
    _line_first, _line_sku, _line_pool, _line_quantity);
  FOR _r IN
    SELECT x.ix::integer, x.id, state_refusal(6::smallint, x.state, x.expire_time, _now) AS refusal, x.limited
    FROM unnest(_id, _outcome, _found) WITH ORDINALITY
      x (id, outcome, place, state, expire_time, revision, limited, modified, entry_id, ix)
    WHERE x.outcome IS NULL
    ORDER BY x.ix
  LOOP
    IF _r.refusal IS NULL AND _r.id = ANY (_changing) THEN
      _outcome[_r.ix] := 'RETRY';
      CONTINUE;
    END IF;
    _outcome[_r.ix] := _r.refusal;
    CONTINUE WHEN _r.refusal IS NOT NULL;
    IF _effective_time[_r.ix] > _now THEN
      _outcome[_r.ix] := 'EFFECTIVE_TIME';
      CONTINUE;
    END IF;
    IF _units[_r.ix] > 1 AND _line_first[_r.ix] = _line_first[_r.ix + 1] THEN
      -- Everything of one kind: refused where no line has a unit of it.
      _short[_r.ix] := (
        SELECT CASE WHEN bool_and(x.available = 0)
                    THEN jsonb_agg(jsonb_build_array(x.sku, x.pool, 1, 0) ORDER BY x.line_number) END
        FROM (
          SELECT l.sku, l.pool, l.line_number,
                 CASE _units[_r.ix] WHEN 3 THEN l.fulfilled_quantity - l.returned_quantity
                   ELSE l.confirmed_quantity - l.fulfilled_quantity - (l.refunded_quantity - l.returned_quantity)
                 END AS available
          FROM reservation_line l WHERE l.reservation_id = _r.id AND l.tenant = _tenant
        ) x
      );
    END IF;
    IF _short[_r.ix] IS NOT NULL THEN
      _outcome[_r.ix] := 'QUANTITY_EXCEEDED';
    ELSE
      _changing := _changing || _r.id;
      IF _r.limited THEN
        _limited := _limited || _r.id;
      END IF;
    END IF;
  END LOOP;
  SELECT array_agg(m.ix ORDER BY m.ix, m.line_number) AS ix, array_agg(m.sku ORDER BY m.ix, m.line_number) AS sku,
         array_agg(m.pool ORDER BY m.ix, m.line_number) AS pool,
         array_agg(m.quantity ORDER BY m.ix, m.line_number) AS quantity,
         array_agg(m.quantity - m.sold ORDER BY m.ix, m.line_number) AS returned,
         array_agg(CASE WHEN m.write_off
                        THEN greatest(0, least(m.sold, m.capacity - (m.running - m.sold))) ELSE 0 END
                   ORDER BY m.ix, m.line_number) AS written_off,
         array_agg(m.deleted AND m.quantity > m.sold AND NOT m.write_off ORDER BY m.ix, m.line_number) AS nowhere,
         array_agg(m.capacity + m.coming > 1000000000000000 AND m.quantity > m.sold AND NOT m.write_off
                   ORDER BY m.ix, m.line_number) AS beyond
  INTO _moves
  FROM (
    SELECT x.ix::integer, x.write_off, l.line_number, l.sku, l.pool, q.quantity, s.sold, i.capacity, i.deleted,
           (sum(s.sold) FILTER (WHERE x.write_off)
             OVER (PARTITION BY l.sku, l.pool ORDER BY x.ix, l.line_number))::bigint AS running,
           sum(q.quantity - s.sold) FILTER (WHERE NOT x.write_off)
             OVER (PARTITION BY l.sku, l.pool ORDER BY x.ix, l.line_number) AS coming
    FROM unnest(_id, _write_off, _units, _outcome) WITH ORDINALITY x (id, write_off, units, outcome, ix)
    CROSS JOIN LATERAL (
      SELECT w.line_number, w.sku, w.pool, w.fulfilled_quantity - w.returned_quantity AS away,
             w.confirmed_quantity - w.fulfilled_quantity - (w.refunded_quantity - w.returned_quantity) AS open
      FROM reservation_line w WHERE w.reservation_id = x.id AND w.tenant = _tenant OFFSET 0
    ) l
    CROSS JOIN LATERAL (
      SELECT v.capacity, v.delete_time IS NOT NULL AS deleted FROM item v
      WHERE v.sku = l.sku AND v.pool = l.pool AND v.tenant = _tenant LIMIT 1
    ) i
    CROSS JOIN LATERAL (
      SELECT CASE WHEN _line_first[x.ix] < _line_first[x.ix + 1] THEN (
        SELECT _line_quantity[y.line] FROM generate_series(_line_first[x.ix], _line_first[x.ix + 1] - 1) y (line)
        WHERE _line_sku[y.line] = l.sku AND _line_pool[y.line] = l.pool LIMIT 1
      ) ELSE CASE x.units WHEN 2 THEN l.open WHEN 3 THEN l.away ELSE l.open + l.away END END AS quantity
    ) q
    CROSS JOIN LATERAL (SELECT CASE WHEN x.units = 3 THEN 0 ELSE least(q.quantity, l.open) END AS sold) s
    WHERE x.outcome IS NULL AND q.quantity > 0
  ) m;
  FOR _m IN 1 .. coalesce(cardinality(_moves.ix), 0) LOOP
    IF _moves.nowhere[_m] THEN
      _outcome[_moves.ix[_m]] := 'ITEM_NOT_FOUND';
      _short[_moves.ix[_m]] := jsonb_build_array(jsonb_build_array(
        _moves.sku[_m], _moves.pool[_m], _moves.quantity[_m], NULL));
    ELSIF _moves.beyond[_m] THEN
      _outcome[_moves.ix[_m]] := 'CAPACITY_LIMIT';
    END IF;
  END LOOP;

  -- claim
  IF NOT claim_requests(_tenant, 'Refund', _request_key, _fingerprint, _id, _outcome, _now) THEN
    SELECT array_agg(coalesce(x.outcome, 'RETRY') ORDER BY x.ix) INTO _outcome
    FROM unnest(_outcome) WITH ORDINALITY x (outcome, ix);
  END IF;

  -- apply
  PERFORM move_sold(
    _tenant, 5::smallint, _id, _client, _key_id, _request_id, _reason, _outcome,
    _moves.ix, _moves.sku, _moves.pool, _moves.quantity, _moves.returned, _moves.written_off, _write_off,
    _effective_time, _now);
  IF _limited IS NOT NULL THEN
    PERFORM settle_limits(_tenant, _limited);
  END IF;
  IF _followed IS NOT NULL THEN
    PERFORM follow_items(_tenant, _followed, _now);
  END IF;

  RETURN QUERY SELECT * FROM answer_reservations(_tenant, _outcome, _id, _short, NULL, _now);
END
$$;
