-- Confirms: sells the held units of each request's reservation, or the part that its lines name, and writes the order's
-- record. Takes arrays of n requests of one tenant in order of arrival. The lines of partial confirms are flat arrays,
-- sorted by request, one line for each item. _order_id is never empty; _minted tells which ids the service made.
-- Locks: reservations in id order, items in (sku, pool) order, request ids in order, order ids in order.
CREATE FUNCTION confirm(
  _tenant text,
  _client text[], _key_id text[], _pools text[], _read_all boolean[], _write_all boolean[],
  _request_id text[], _request_key uuid[], _fingerprint bytea[], _target uuid[], _reference text[],
  _order_id text[], _minted boolean[], _customer_name text[], _customer_email text[],
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
  _other_id uuid[] := array_fill(NULL::uuid, ARRAY[_n]);
  _changing uuid[] := '{}';
  -- Confirmed before, by a call of the same content: answered with OK, so its request id counts from now on.
  _repeated boolean[] := array_fill(false, ARRAY[_n]);
  _now timestamptz;
  _items bigint;
  _updated bigint;
  _r record;
  _l record;
BEGIN
  -- find
  SELECT array_agg(f._found_outcome), array_agg(f._found_id) INTO _outcome, _id
  FROM find_targets(_tenant, 'Confirm', 1::smallint, _client, _pools, _read_all, _write_all, _request_key, _fingerprint,
                    _target, _reference) f;
  -- lock
  PERFORM lock_items_of(_tenant, (SELECT array_agg(x.id) FROM unnest(_id, _outcome) x (id, outcome)
                                  WHERE x.outcome IS NULL));
  _now := wall_clock();

  -- judge
  FOR _r IN
    SELECT x.ix, x.id, v.order_id, v.state, state_refusal(1::smallint, v.state, v.expire_time, _now) AS refusal,
           o.reservation_id AS order_of
    FROM unnest(_id, _order_id, _outcome) WITH ORDINALITY x (id, order_id, outcome, ix)
    CROSS JOIN LATERAL (
      SELECT w.order_id, w.state, w.expire_time FROM reservation w
      WHERE w.reservation_id = x.id AND w.tenant = _tenant LIMIT 1
    ) v
    LEFT JOIN LATERAL (
      SELECT s.reservation_id FROM sales_order s WHERE s.order_id = x.order_id AND s.tenant = _tenant LIMIT 1
    ) o ON true
    WHERE x.outcome IS NULL
    ORDER BY x.ix
  LOOP
    _outcome[_r.ix] := _r.refusal;
    IF _r.state = 2 THEN
      -- The same order and the same lines, or none: the caller's own call again.
      IF (_minted[_r.ix] OR _order_id[_r.ix] = _r.order_id) AND NOT EXISTS (
        SELECT 1 FROM unnest(_line_request) x (request) WHERE x.request = _r.ix
      ) OR (_minted[_r.ix] OR _order_id[_r.ix] = _r.order_id) AND NOT EXISTS (
        SELECT 1
        FROM (SELECT sku, pool, confirmed_quantity FROM reservation_line
              WHERE reservation_id = _r.id AND tenant = _tenant AND confirmed_quantity > 0) m
        FULL JOIN (SELECT x.sku, x.pool, x.quantity
                   FROM unnest(_line_request, _line_sku, _line_pool, _line_quantity) x (request, sku, pool, quantity)
                   WHERE x.request = _r.ix) x
          ON x.sku = m.sku AND x.pool = m.pool
        WHERE x.quantity IS DISTINCT FROM m.confirmed_quantity
      ) THEN
        _outcome[_r.ix] := 'REPLAYED';
        _repeated[_r.ix] := true;
      END IF;
    ELSIF _r.refusal IS NULL AND _r.order_of IS NOT NULL THEN
      _outcome[_r.ix] := 'ORDER_ID_IN_USE';
      _other_id[_r.ix] := _r.order_of;
    ELSIF _r.refusal IS NULL AND _r.id = ANY (_changing) THEN
      _outcome[_r.ix] := 'RETRY';
    ELSIF _r.refusal IS NULL THEN
      IF cardinality(_line_request) > 0 THEN
        FOR _l IN
          SELECT x.sku, x.pool, x.quantity, coalesce(m.quantity, 0) AS available
          FROM unnest(_line_request, _line_sku, _line_pool, _line_quantity) x (request, sku, pool, quantity)
          LEFT JOIN LATERAL (
            SELECT w.quantity FROM reservation_line w
            WHERE w.reservation_id = _r.id AND w.sku = x.sku AND w.pool = x.pool AND w.tenant = _tenant LIMIT 1
          ) m ON true
          WHERE x.request = _r.ix AND coalesce(m.quantity, 0) < x.quantity
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
    END IF;
  END LOOP;

  -- claim
  IF NOT claim_requests(
    _tenant, 'Confirm', _request_key, _fingerprint, _id,
    (SELECT array_agg(CASE WHEN NOT x.repeated THEN x.outcome END ORDER BY x.ix)
     FROM unnest(_outcome, _repeated) WITH ORDINALITY x (outcome, repeated, ix)),
    _now
  ) THEN
    SELECT array_agg(CASE WHEN x.repeated THEN 'RETRY' ELSE coalesce(x.outcome, 'RETRY') END ORDER BY x.ix) INTO _outcome
    FROM unnest(_outcome, _repeated) WITH ORDINALITY x (outcome, repeated, ix);
  END IF;
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
    -- Another transaction, or another request of this batch, has just taken the order id: a refusal is not remembered.
    _outcome[_r.ix] := 'ORDER_ID_IN_USE';
    _other_id[_r.ix] := (
      SELECT s.reservation_id FROM sales_order s WHERE s.order_id = _order_id[_r.ix] AND s.tenant = _tenant
    );
    DELETE FROM request q
    WHERE q.request_key = _request_key[_r.ix] AND q.tenant = _tenant;
  END LOOP;

  -- apply
  WITH settled AS (
    -- By place: the planner would else read every held line there is, by their index, and filter.
    UPDATE reservation_line l SET
      confirmed_quantity = CASE WHEN x.partial THEN coalesce(p.quantity, 0) ELSE l.quantity END,
      expire_time = NULL
    FROM (
      SELECT u.id, u.ix, u.ix = ANY (_line_request) AS partial
      FROM unnest(_id, _outcome) WITH ORDINALITY u (id, outcome, ix) WHERE u.outcome IS NULL
    ) x
    CROSS JOIN LATERAL (
      SELECT w.ctid AS place, w.sku, w.pool FROM reservation_line w
      WHERE w.reservation_id = x.id AND w.tenant = _tenant OFFSET 0
    ) m
    LEFT JOIN LATERAL (
      SELECT y.quantity FROM unnest(_line_request, _line_sku, _line_pool, _line_quantity) y (request, sku, pool, quantity)
      WHERE x.partial AND y.request = x.ix AND y.sku = m.sku AND y.pool = m.pool LIMIT 1
    ) p ON true
    WHERE l.ctid = m.place AND l.tenant IS NOT DISTINCT FROM _tenant
    RETURNING l.sku, l.pool, l.quantity, l.confirmed_quantity
  ), moved AS (
    SELECT s.sku, s.pool, sum(s.quantity)::bigint AS quantity, sum(s.confirmed_quantity)::bigint AS confirmed
    FROM settled s GROUP BY s.sku, s.pool
  ), updated AS (
    UPDATE item i SET
      held = i.held - m.quantity,
      confirmed = i.confirmed + m.confirmed,
      remaining = i.remaining + m.quantity - m.confirmed,
      revision = i.revision + 1,
      update_time = _now
    FROM moved m
    CROSS JOIN LATERAL (
      SELECT v.ctid AS place FROM item v WHERE v.sku = m.sku AND v.pool = m.pool AND v.tenant = _tenant LIMIT 1
    ) k
    WHERE i.ctid = k.place AND i.tenant IS NOT DISTINCT FROM _tenant AND i.held >= m.quantity
    RETURNING 1
  )
  SELECT (SELECT count(*) FROM moved), (SELECT count(*) FROM updated) INTO _items, _updated;
  IF _items <> _updated THEN
    RAISE 'held units do not cover the lines: % of % items', _updated, _items;
  END IF;
  UPDATE reservation v SET state = 2, confirm_time = _now, order_id = x.order_id, revision = v.revision + 1
  FROM unnest(_id, _order_id, _outcome) x (id, order_id, outcome)
  CROSS JOIN LATERAL (
    SELECT w.ctid AS place FROM reservation w WHERE w.reservation_id = x.id AND w.tenant = _tenant LIMIT 1
  ) k
  WHERE v.ctid = k.place AND v.tenant IS NOT DISTINCT FROM _tenant AND x.outcome IS NULL;
  PERFORM write_reservation_events(
    _tenant, 2::smallint, array_agg(x.id ORDER BY x.ix), array_agg(x.client ORDER BY x.ix),
    array_agg(x.key_id ORDER BY x.ix), array_agg(x.request_id ORDER BY x.ix), NULL, _now)
  FROM unnest(_id, _client, _key_id, _request_id, _outcome) WITH ORDINALITY x (id, client, key_id, request_id, outcome, ix)
  WHERE x.outcome IS NULL;

  RETURN QUERY SELECT * FROM answer_reservations(
    _tenant, _outcome, _id, _short_sku, _short_pool, _short_requested, _short_available, _other_id, _now);
END
$$;
