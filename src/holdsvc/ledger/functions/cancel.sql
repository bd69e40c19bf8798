-- Cancels: gives the held units of each request's reservation back, or those that its lines name; where these are all
-- that is held, the hold ends. Arrays of n requests of one tenant in order of arrival. Lines are flat, one an item:
-- those of request i are _line_first[i] to _line_first[i + 1] - 1, none for everything.
-- Locks: reservations in id order, items in (sku, pool) order, request ids.
CREATE FUNCTION cancel(
  _tenant text,
  _client text[], _key_id text[], _pools text[], _read_all boolean[], _write_all boolean[],
  _request_id text[], _request_key uuid[], _fingerprint bytea[], _target uuid[], _reference text[], _reason text[],
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
  _line found_line[];
  _item_place tid[];
  _followed item_before[];
  _short jsonb[];
  _partial boolean[] := array_fill(false, ARRAY[_n]);
  _now timestamptz;
  _r record;
  _moved record;
BEGIN
  PERFORM enter_tenant(_tenant);
  -- find
  SELECT f._outcome, f._id, f._found INTO _outcome, _id, _found
  FROM find_targets(_tenant, 'Cancel', 1::smallint, _client, _pools, _read_all, _write_all, _request_key, _fingerprint,
                    _target, _reference, '{}') f;
  -- lock
  _line := found_lines(_tenant, _id, _outcome);
  SELECT l._item_place, l._followed INTO _item_place, _followed FROM lock_items_of_lines(_tenant, _line) l;
  _now := wall_clock();
  -- judge
  _outcome := judge_held(_id, _outcome, _found, _now);
  IF cardinality(_line_sku) > 0 THEN
    _short := exceeding_lines(_tenant, _id, _outcome, array_fill(1::smallint, ARRAY[_n]), _line_first, _line_sku,
                              _line_pool, _line_quantity);
    FOR _r IN
      SELECT x.ix,
             (SELECT sum(l.quantity) FROM reservation_line l WHERE l.reservation_id = x.id AND l.tenant = _tenant)
             > (SELECT sum(_line_quantity[y.line])
                FROM generate_series(_line_first[x.ix], _line_first[x.ix + 1] - 1) y (line))
               AS partial
      FROM unnest(_id, _outcome) WITH ORDINALITY x (id, outcome, ix)
      WHERE x.outcome IS NULL AND _line_first[x.ix] < _line_first[x.ix + 1]
    LOOP
      _partial[_r.ix] := _r.partial;
      _outcome[_r.ix] := CASE WHEN _short[_r.ix] IS NOT NULL THEN 'QUANTITY_EXCEEDED' END;
    END LOOP;
  END IF;
  -- claim
  IF NOT claim_requests(_tenant, 'Cancel', _request_key, _fingerprint, _id, _outcome, _now) THEN
    SELECT array_agg(coalesce(x.outcome, 'RETRY') ORDER BY x.ix) INTO _outcome
    FROM unnest(_outcome) WITH ORDINALITY x (outcome, ix);
  END IF;
  -- apply
  PERFORM give_back(
    _tenant, 3::smallint, _id, CASE WHEN true = ANY (_partial) THEN (
      SELECT array_agg(CASE WHEN x.partial THEN 'PARTIAL' ELSE x.outcome END ORDER BY x.ix)
      FROM unnest(_outcome, _partial) WITH ORDINALITY x (outcome, partial, ix)
    ) ELSE _outcome END, _found, _line, _item_place, _client, _key_id, _request_id, _reason, _now);
  IF true = ANY (_partial) THEN
    SELECT array_agg(x.id ORDER BY x.ix) AS id, array_agg(x.client ORDER BY x.ix) AS client,
           array_agg(x.key_id ORDER BY x.ix) AS key_id, array_agg(x.request_id ORDER BY x.ix) AS request_id,
           array_agg(x.reason ORDER BY x.ix) AS reason, array_agg(x.ix::integer ORDER BY x.ix) AS ix
    INTO _r
    FROM unnest(_id, _client, _key_id, _request_id, _reason, _outcome, _partial)
      WITH ORDINALITY x (id, client, key_id, request_id, reason, outcome, partial, ix)
    WHERE x.outcome IS NULL AND x.partial;
    IF _r.id IS NOT NULL THEN
      SELECT array_agg(x.number::integer ORDER BY x.number, y.line) AS ix,
             array_agg(_line_sku[y.line] ORDER BY x.number, y.line) AS sku,
             array_agg(_line_pool[y.line] ORDER BY x.number, y.line) AS pool,
             array_agg(-_line_quantity[y.line] ORDER BY x.number, y.line) AS quantity
      INTO _moved
      FROM unnest(_r.ix) WITH ORDINALITY x (ix, number)
      CROSS JOIN LATERAL generate_series(_line_first[x.ix], _line_first[x.ix + 1] - 1) y (line);
      PERFORM change_held(_tenant, _r.id, _r.client, _r.key_id, _r.request_id, _r.reason, '{}', '{}', '{}', '{}',
                          _moved.ix, _moved.sku, _moved.pool, _moved.quantity, _now);
      PERFORM settle_limited(_tenant, _r.id);
    END IF;
  END IF;
  IF _followed IS NOT NULL THEN
    PERFORM follow_items(_tenant, _followed, _now);
  END IF;

  RETURN QUERY SELECT * FROM answer_reservations(_tenant, _outcome, _id, _short, NULL, _now);
END
$$;
