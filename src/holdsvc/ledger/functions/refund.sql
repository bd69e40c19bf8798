-- Refunds: takes back the confirmed units of each request's reservation that are not refunded yet, or the part that its
-- lines name. They go into remaining, or (_write_off) out of the capacity; what would take capacity below 0 goes into
-- remaining too. Takes arrays of n requests of one tenant in order of arrival. The lines of partial refunds are flat
-- arrays, sorted by request, one line for each item.
-- Locks: reservations in id order, items in (sku, pool) order, request ids in order.
CREATE FUNCTION refund(
  _tenant text,
  _client text[], _key_id text[], _pools text[], _read_all boolean[], _write_all boolean[],
  _request_id text[], _request_key uuid[], _fingerprint bytea[], _target uuid[], _reference text[],
  _write_off boolean[], _reason text[],
  _line_request integer[], _line_sku text[], _line_pool text[], _line_quantity bigint[]
) RETURNS SETOF reservation_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
DECLARE
  _n integer := cardinality(_client);
  _outcome text[];
  _id uuid[];
  _short_sku text[] := array_fill(NULL::text, ARRAY[_n]);
  _short_pool text[] := array_fill(NULL::text, ARRAY[_n]);
  _short_requested bigint[] := array_fill(NULL::bigint, ARRAY[_n]);
  _short_available bigint[] := array_fill(NULL::bigint, ARRAY[_n]);
  _changing uuid[] := '{}';
  _now timestamptz;
  -- What moves, one element a line: request, item, units, and those of them that leave the capacity.
  _move_ix integer[];
  _move_sku text[];
  _move_pool text[];
  _move_quantity bigint[];
  _move_written_off bigint[];
  _items bigint;
  _updated bigint;
  _r record;
  _l record;
BEGIN
  -- find
  SELECT array_agg(f._found_outcome), array_agg(f._found_id) INTO _outcome, _id
  FROM find_targets(_tenant, 'Refund', 2::smallint, _client, _pools, _read_all, _write_all, _request_key, _fingerprint,
                    _target, _reference) f;
  -- lock
  PERFORM lock_items_of(_tenant, (SELECT array_agg(x.id) FROM unnest(_id, _outcome) x (id, outcome)
                                  WHERE x.outcome IS NULL));
  _now := wall_clock();

  -- judge
  FOR _r IN
    SELECT x.ix, x.id, state_refusal(2::smallint, v.state, v.expire_time, _now) AS refusal
    FROM unnest(_id, _outcome) WITH ORDINALITY x (id, outcome, ix)
    CROSS JOIN LATERAL (
      SELECT w.state, w.expire_time FROM reservation w WHERE w.reservation_id = x.id AND w.tenant = _tenant LIMIT 1
    ) v
    WHERE x.outcome IS NULL
    ORDER BY x.ix
  LOOP
    IF _r.refusal IS NULL AND _r.id = ANY (_changing) THEN
      _outcome[_r.ix] := 'RETRY';
      CONTINUE;
    END IF;
    _outcome[_r.ix] := _r.refusal;
    CONTINUE WHEN _r.refusal IS NOT NULL;
    IF cardinality(_line_request) > 0 THEN
      FOR _l IN
        SELECT x.sku, x.pool, x.quantity, coalesce(m.available, 0) AS available
        FROM unnest(_line_request, _line_sku, _line_pool, _line_quantity) x (request, sku, pool, quantity)
        LEFT JOIN LATERAL (
          SELECT w.confirmed_quantity - w.refunded_quantity AS available FROM reservation_line w
          WHERE w.reservation_id = _r.id AND w.sku = x.sku AND w.pool = x.pool AND w.tenant = _tenant LIMIT 1
        ) m ON true
        WHERE x.request = _r.ix AND coalesce(m.available, 0) < x.quantity
        LIMIT 1
      LOOP
        _outcome[_r.ix] := 'QUANTITY_EXCEEDED';
        _short_sku[_r.ix] := _l.sku;
        _short_pool[_r.ix] := _l.pool;
        _short_requested[_r.ix] := _l.quantity;
        _short_available[_r.ix] := _l.available;
      END LOOP;
    END IF;
    IF _outcome[_r.ix] IS NULL THEN
      _changing := _changing || _r.id;
    END IF;
  END LOOP;

  -- claim
  IF NOT claim_requests(_tenant, 'Refund', _request_key, _fingerprint, _id, _outcome, _now) THEN
    SELECT array_agg(coalesce(x.outcome, 'RETRY') ORDER BY x.ix) INTO _outcome
    FROM unnest(_outcome) WITH ORDINALITY x (outcome, ix);
  END IF;

  -- apply
  SELECT array_agg(m.ix ORDER BY m.ix, m.line_number), array_agg(m.sku ORDER BY m.ix, m.line_number),
         array_agg(m.pool ORDER BY m.ix, m.line_number), array_agg(m.quantity ORDER BY m.ix, m.line_number),
         array_agg(CASE WHEN m.write_off
                        THEN greatest(0, least(m.quantity, m.capacity - (m.running - m.quantity))) ELSE 0 END
                   ORDER BY m.ix, m.line_number)
  INTO _move_ix, _move_sku, _move_pool, _move_quantity, _move_written_off
  FROM (
    SELECT x.ix::integer, x.write_off, l.line_number, l.sku, l.pool, q.quantity, i.capacity,
           (sum(q.quantity) FILTER (WHERE x.write_off)
             OVER (PARTITION BY l.sku, l.pool ORDER BY x.ix, l.line_number))::bigint AS running
    FROM unnest(_id, _write_off, _outcome) WITH ORDINALITY x (id, write_off, outcome, ix)
    CROSS JOIN LATERAL (
      SELECT * FROM reservation_line w WHERE w.reservation_id = x.id AND w.tenant = _tenant OFFSET 0
    ) l
    CROSS JOIN LATERAL (
      SELECT v.capacity FROM item v WHERE v.sku = l.sku AND v.pool = l.pool AND v.tenant = _tenant LIMIT 1
    ) i
    LEFT JOIN LATERAL (
      SELECT count(*) AS lines, sum(y.quantity) FILTER (WHERE y.sku = l.sku AND y.pool = l.pool) AS quantity
      FROM unnest(_line_request, _line_sku, _line_pool, _line_quantity) y (request, sku, pool, quantity)
      WHERE y.request = x.ix
    ) p ON true
    CROSS JOIN LATERAL (
      SELECT CASE WHEN p.lines = 0 THEN l.confirmed_quantity - l.refunded_quantity
                  ELSE coalesce(p.quantity, 0) END::bigint AS quantity
    ) q
    WHERE x.outcome IS NULL AND q.quantity > 0
  ) m;
  IF _move_ix IS NOT NULL THEN
    UPDATE reservation_line l SET refunded_quantity = l.refunded_quantity + m.quantity
    FROM unnest(_move_ix, _move_sku, _move_pool, _move_quantity) m (ix, sku, pool, quantity)
    CROSS JOIN LATERAL (
      SELECT w.ctid AS place FROM reservation_line w
      WHERE w.reservation_id = _id[m.ix] AND w.sku = m.sku AND w.pool = m.pool AND w.tenant = _tenant LIMIT 1
    ) k
    WHERE l.ctid = k.place AND l.tenant IS NOT DISTINCT FROM _tenant;
    WITH moved AS (
      SELECT m.sku, m.pool, sum(m.quantity)::bigint AS quantity, sum(m.written_off)::bigint AS written_off
      FROM unnest(_move_sku, _move_pool, _move_quantity, _move_written_off) m (sku, pool, quantity, written_off)
      GROUP BY m.sku, m.pool
    ), updated AS (
      UPDATE item i SET
        confirmed = i.confirmed - m.quantity,
        capacity = i.capacity - m.written_off,
        remaining = i.remaining + m.quantity - m.written_off,
        revision = i.revision + 1,
        update_time = _now
      FROM moved m
      CROSS JOIN LATERAL (
        SELECT v.ctid AS place FROM item v WHERE v.sku = m.sku AND v.pool = m.pool AND v.tenant = _tenant LIMIT 1
      ) k
      WHERE i.ctid = k.place AND i.tenant IS NOT DISTINCT FROM _tenant AND i.confirmed >= m.quantity
      RETURNING 1
    )
    SELECT (SELECT count(*) FROM moved), (SELECT count(*) FROM updated) INTO _items, _updated;
    IF _items <> _updated THEN
      RAISE 'confirmed units do not cover the refund: % of % items', _updated, _items;
    END IF;
    UPDATE reservation v SET
      state = CASE WHEN EXISTS (
        SELECT 1 FROM reservation_line l
        WHERE l.reservation_id = x.id AND l.tenant = _tenant AND l.refunded_quantity < l.confirmed_quantity
      ) THEN 2 ELSE 5 END,
      refund_time = _now, reason = x.reason, revision = v.revision + 1
    FROM unnest(_id, _reason, _outcome) x (id, reason, outcome)
    CROSS JOIN LATERAL (
      SELECT w.ctid AS place FROM reservation w WHERE w.reservation_id = x.id AND w.tenant = _tenant LIMIT 1
    ) k
    WHERE v.ctid = k.place AND v.tenant IS NOT DISTINCT FROM _tenant AND x.outcome IS NULL;
    INSERT INTO event (
      occur_day, tenant, type, client, key_id, request_id, reason, occur_time, revision,
      line_sku, line_pool, line_quantity, written_off_quantity,
      reservation_id, from_state, state, expire_time, refunded_quantity
    )
    SELECT (SELECT d.day FROM feed_day d ORDER BY d.day DESC LIMIT 1), _tenant, 5, _client[m.ix], _key_id[m.ix], _request_id[m.ix], _reason[m.ix],
           _now, v.revision, m.sku, m.pool, m.quantity, CASE WHEN _write_off[m.ix] THEN m.written_off END,
           _id[m.ix], 2, v.state, v.expire_time, l.refunded
    FROM (
      SELECT u.ix, array_agg(u.sku) AS sku, array_agg(u.pool) AS pool, array_agg(u.quantity) AS quantity,
             array_agg(u.written_off) AS written_off
      FROM unnest(_move_ix, _move_sku, _move_pool, _move_quantity, _move_written_off)
        u (ix, sku, pool, quantity, written_off)
      GROUP BY u.ix
    ) m
    CROSS JOIN LATERAL (
      SELECT w.revision, w.state, w.expire_time FROM reservation w
      WHERE w.reservation_id = _id[m.ix] AND w.tenant = _tenant LIMIT 1
    ) v
    CROSS JOIN LATERAL (
      SELECT array_agg(w.refunded_quantity ORDER BY w.line_number) AS refunded FROM reservation_line w
      WHERE w.reservation_id = _id[m.ix] AND w.tenant = _tenant
    ) l;
  END IF;

  RETURN QUERY SELECT * FROM answer_reservations(
    _tenant, _outcome, _id, _short_sku, _short_pool, _short_requested, _short_available, NULL, _now);
END
$$;
