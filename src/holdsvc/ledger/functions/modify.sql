-- Modifies: changes each request's hold in place. Arrays of n requests of one tenant in order of arrival. _sets names
-- what a request sets: "l" lines, "h" holder, "r" reference, "m" metadata. Lines are flat, one an item, with the
-- quantity that the hold is to have, 0 for none: those of request i are _line_first[i] to _line_first[i + 1] - 1. A
-- _revision other than 0 must be the reservation's (REVISION_MISMATCH). The hold's own units never count against
-- growth. LINES_EMPTY, LINES_MANY: no line would stay, or more than 100. SALE_CLOSED: growth on a closed item. SWEEP:
-- lapsed holds on the reservation's or the request's items would make room. SERVE: entries wait for them and come
-- first: sweep them, serve the waitlists, and call again with _served. LIMIT_EXCEEDED, HOLDER_REQUIRED: a limit has no
-- room for growth, or for a new holder; the detail stands in place of the lines.
-- Locks: reservations in id order, the items of the lines in (sku, pool) order, limits in order, request ids.
CREATE FUNCTION modify(
  _tenant text,
  _client text[], _key_id text[], _pools text[], _read_all boolean[], _write_all boolean[],
  _request_id text[], _request_key uuid[], _fingerprint bytea[], _target uuid[], _reference text[],
  _served boolean[], _revision bigint[], _sets text[], _holder text[], _new_reference text[], _metadata jsonb[],
  _line_first integer[], _line_sku text[], _line_pool text[], _line_quantity bigint[]
) RETURNS SETOF reservation_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
DECLARE
  _n integer := cardinality(_client);
  _lines integer := cardinality(_line_sku);
  _outcome text[];
  _id uuid[];
  _found found_reservation[];
  _followed item_before[];
  _short jsonb[] := array_fill(NULL::jsonb, ARRAY[_n]);
  -- The number of each line's item, and what is free of each item, null where there is no such item.
  _item integer[];
  _free bigint[];
  _gate smallint[];
  -- The difference of quantity of each line.
  _delta bigint[] := array_fill(0::bigint, ARRAY[_lines]);
  _now timestamptz;
  _grows bigint;
  _has bigint;
  _stays bigint;
  _lapsed bigint;
  -- Of each item, once it was asked for.
  _lapsed_of bigint[] := '{}';
  _verdict text;
  -- The lines of a request that grow on items whose sale is closed.
  _closed jsonb;
  -- Of each item: whether those who wait for it must be served before it gives more.
  _serve boolean[] := '{}';
  _r record;
  _moved record;
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
  _need integer := 1;
  _first_need integer;
  _detail jsonb;
BEGIN
  PERFORM enter_tenant(_tenant);
  -- find
  SELECT f._outcome, f._id, f._found INTO _outcome, _id, _found
  FROM find_targets(_tenant, 'Modify', 1::smallint, _client, _pools, _read_all, _write_all, _request_key, _fingerprint,
                    _target, _reference, '{}') f;
  -- lock
  IF _lines > 0 THEN
    _followed := lock_items(_tenant, _line_sku, _line_pool);
    SELECT array_agg(x.item::integer ORDER BY x.ix) INTO _item
    FROM (
      SELECT u.ix, dense_rank() OVER (ORDER BY u.sku COLLATE "C", u.pool COLLATE "C") AS item
      FROM unnest(_line_sku, _line_pool) WITH ORDINALITY u (sku, pool, ix)
    ) x;
    SELECT array_agg(i.free ORDER BY x.sku, x.pool), array_agg(i.gate ORDER BY x.sku, x.pool) INTO _free, _gate
    FROM (
      SELECT DISTINCT u.sku COLLATE "C" AS sku, u.pool COLLATE "C" AS pool
      FROM unnest(_line_sku, _line_pool) u (sku, pool)
    ) x
    LEFT JOIN LATERAL (
      SELECT v.free, v.gate FROM item v
      WHERE v.sku = x.sku AND v.pool = x.pool AND v.tenant = _tenant AND v.delete_time IS NULL LIMIT 1
    ) i ON true;
  END IF;
  SELECT l.* INTO _need_request, _need_limit, _need_slot, _need_units, _slot_limit, _slot_client, _slot_holder,
         _slot_max, _slot_used, _lock_time
  FROM lock_limits_of_changes(_tenant, _id, _outcome, _sets, _holder, _line_first, _line_sku, _line_pool,
                              _line_quantity) l;
  _now := coalesce(_lock_time, wall_clock());
  FOR _l IN 1 .. _lines LOOP
    CONTINUE WHEN coalesce(_gate[_item[_l]], 0) & 2 = 0 OR _serve[_item[_l]] IS NOT NULL;
    _r := free_beside_queue(_tenant, _line_sku[_l], _line_pool[_l], _now);
    _serve[_item[_l]] := _r._serve;
    _free[_item[_l]] := _r._free;
  END LOOP;

  -- judge
  _outcome := judge_held(_id, _outcome, _found, _now);
  FOR _i IN 1 .. _n LOOP
    _first_need := _need;
    WHILE _need_request[_need] = _i LOOP
      _need := _need + 1;
    END LOOP;
    CONTINUE WHEN _outcome[_i] IS NOT NULL;
    _verdict := NULL;
    _closed := NULL;
    IF _revision[_i] <> 0 AND _revision[_i] <> (
      SELECT v.revision FROM reservation v WHERE v.reservation_id = _id[_i] AND v.tenant = _tenant
    ) THEN
      _outcome[_i] := 'REVISION_MISMATCH';
      CONTINUE;
    END IF;
    CONTINUE WHEN strpos(_sets[_i], 'l') = 0 AND _first_need = _need;
    SELECT count(*) INTO _stays FROM reservation_line l WHERE l.reservation_id = _id[_i] AND l.tenant = _tenant;
    FOR _l IN _line_first[_i] .. _line_first[_i + 1] - 1 LOOP
      SELECT coalesce(sum(l.quantity), 0) INTO _has FROM reservation_line l
      WHERE l.reservation_id = _id[_i] AND l.sku = _line_sku[_l] AND l.pool = _line_pool[_l] AND l.tenant = _tenant;
      _grows := _line_quantity[_l] - _has;
      _delta[_l] := _grows;
      _stays := _stays + CASE WHEN _has = 0 AND _grows > 0 THEN 1 WHEN _line_quantity[_l] = 0 AND _has > 0 THEN -1
                              ELSE 0 END;
      IF _free[_item[_l]] IS NULL THEN
        _verdict := 'ITEM_NOT_FOUND';
        _short[_i] := coalesce(_short[_i], '[]') || jsonb_build_array(jsonb_build_array(
          _line_sku[_l], _line_pool[_l], _line_quantity[_l], NULL));
      ELSIF _grows > 0 AND _gate[_item[_l]] & 1 = 1 THEN
        _closed := coalesce(_closed, '[]')
          || jsonb_build_array(jsonb_build_array(_line_sku[_l], _line_pool[_l], _line_quantity[_l], NULL));
      ELSIF _grows > 0 AND _serve[_item[_l]] AND NOT coalesce(_served[_i], false) THEN
        _verdict := coalesce(_verdict, 'SERVE');
      ELSIF _grows > 0 AND _free[_item[_l]] < _grows THEN
        -- Where entries wait, lapsed units are theirs.
        _lapsed_of[_item[_l]] := CASE WHEN _gate[_item[_l]] & 2 = 2 THEN 0 ELSE coalesce(
          _lapsed_of[_item[_l]], lapsed_units(_tenant, _line_sku[_l], _line_pool[_l], _now)) END;
        _lapsed := _lapsed_of[_item[_l]];
        IF _free[_item[_l]] + _lapsed < _grows THEN
          _verdict := CASE WHEN _verdict = 'ITEM_NOT_FOUND' THEN _verdict ELSE 'CAPACITY_EXCEEDED' END;
          -- What could be had for this hold: its own units and what is free.
          _short[_i] := coalesce(_short[_i], '[]') || jsonb_build_array(jsonb_build_array(
            _line_sku[_l], _line_pool[_l], _line_quantity[_l], _has + greatest(0, _free[_item[_l]] + _lapsed)));
        ELSE
          _verdict := coalesce(_verdict, 'SWEEP');
        END IF;
      END IF;
    END LOOP;
    IF _stays < 1 THEN
      _verdict := CASE WHEN _verdict = 'ITEM_NOT_FOUND' THEN _verdict ELSE 'LINES_EMPTY' END;
    ELSIF _stays > 100 THEN
      _verdict := CASE WHEN _verdict = 'ITEM_NOT_FOUND' THEN _verdict ELSE 'LINES_MANY' END;
    ELSIF _closed IS NOT NULL AND _verdict IS DISTINCT FROM 'ITEM_NOT_FOUND' THEN
      _verdict := 'SALE_CLOSED';
      _short[_i] := _closed;
    END IF;
    IF _first_need < _need AND coalesce(_verdict IN ('CAPACITY_EXCEEDED', 'SWEEP', 'SERVE'), true) THEN
      SELECT coalesce(j.verdict, _verdict), coalesce(j.detail, _short[_i]) INTO _verdict, _detail
      FROM judge_limits(_tenant, _first_need, _need - 1, _need_limit, _need_slot, _need_units, _slot_limit,
                        _slot_client, _slot_holder, _slot_max, _slot_used, _now) j (verdict, detail);
      _short[_i] := _detail;
    END IF;
    _outcome[_i] := _verdict;
    IF _verdict IS NULL THEN
      FOR _k IN _first_need .. _need - 1 LOOP
        _slot_used[_need_slot[_k]] := _slot_used[_need_slot[_k]] + _need_units[_k];
      END LOOP;
      FOR _l IN _line_first[_i] .. _line_first[_i + 1] - 1 LOOP
        -- Where entries wait, what one request gives back is not for the next.
        _free[_item[_l]] := _free[_item[_l]]
          - CASE WHEN _gate[_item[_l]] & 2 = 2 THEN greatest(0, _delta[_l]) ELSE _delta[_l] END;
      END LOOP;
    END IF;
  END LOOP;

  -- claim
  IF NOT claim_requests(_tenant, 'Modify', _request_key, _fingerprint, _id, _outcome, _now) THEN
    _outcome := to_judge_again(_outcome);
  END IF;

  -- apply; a request that changes nothing writes nothing
  SELECT array_agg(x.ix ORDER BY x.ix) AS ix, array_agg(x.id ORDER BY x.ix) AS id,
         array_agg(_client[x.ix] ORDER BY x.ix) AS client, array_agg(_key_id[x.ix] ORDER BY x.ix) AS key_id,
         array_agg(_request_id[x.ix] ORDER BY x.ix) AS request_id, array_agg(_sets[x.ix] ORDER BY x.ix) AS sets,
         array_agg(_holder[x.ix] ORDER BY x.ix) AS holder, array_agg(_new_reference[x.ix] ORDER BY x.ix) AS reference,
         array_agg(_metadata[x.ix] ORDER BY x.ix) AS metadata
  INTO _r
  FROM (
    SELECT u.ix::integer, u.id FROM unnest(_id, _outcome) WITH ORDINALITY u (id, outcome, ix) WHERE u.outcome IS NULL
  ) x
  CROSS JOIN LATERAL (
    SELECT v.holder, v.reference, v.metadata FROM reservation v
    WHERE v.reservation_id = x.id AND v.tenant = _tenant LIMIT 1
  ) v
  WHERE EXISTS (SELECT 1 FROM generate_series(_line_first[x.ix], _line_first[x.ix + 1] - 1) y (line)
                WHERE _delta[y.line] <> 0)
     OR strpos(_sets[x.ix], 'h') > 0 AND v.holder <> _holder[x.ix]
     OR strpos(_sets[x.ix], 'r') > 0 AND v.reference <> _new_reference[x.ix]
     OR strpos(_sets[x.ix], 'm') > 0 AND v.metadata IS DISTINCT FROM _metadata[x.ix];
  IF _r.ix IS NOT NULL THEN
    SELECT array_agg(x.number::integer ORDER BY x.number, y.line) AS ix,
           array_agg(_line_sku[y.line] ORDER BY x.number, y.line) AS sku,
           array_agg(_line_pool[y.line] ORDER BY x.number, y.line) AS pool,
           array_agg(_delta[y.line] ORDER BY x.number, y.line) AS quantity
    INTO _moved
    FROM unnest(_r.ix) WITH ORDINALITY x (ix, number)
    CROSS JOIN LATERAL generate_series(_line_first[x.ix], _line_first[x.ix + 1] - 1) y (line)
    WHERE _delta[y.line] <> 0;
    PERFORM change_held(
      _tenant, _r.id, _r.client, _r.key_id, _r.request_id, '{}', _r.sets, _r.holder, _r.reference, _r.metadata,
      coalesce(_moved.ix, '{}'), coalesce(_moved.sku, '{}'), coalesce(_moved.pool, '{}'),
      coalesce(_moved.quantity, '{}'), _now);
    IF cardinality(_need_request) > 0 THEN
      PERFORM settle_limits(_tenant, _r.id);
    ELSIF EXISTS (SELECT 1 FROM unnest(_r.sets) x (sets) WHERE strpos(x.sets, 'h') > 0) THEN
      -- No need, and still a change: the hold has lost its holder and counts for that one no more.
      PERFORM settle_limited(_tenant, _r.id);
    END IF;
    IF _followed IS NOT NULL THEN
      PERFORM follow_items(_tenant, _followed, _now);
    END IF;
  END IF;

  RETURN QUERY SELECT * FROM answer_reservations(_tenant, _outcome, _id, _short, NULL, _now);
END
$$;
