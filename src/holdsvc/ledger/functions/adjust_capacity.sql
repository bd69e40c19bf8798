-- Changes the capacity of each request's item by a difference. Takes arrays of n requests of one tenant in order of
-- arrival. Outcomes: CAPACITY_IN_USE: fewer units are free than the change takes away. SWEEP: lapsed holds would make
-- room; sweep them and call again. RETRY: call again. CAPACITY_LIMIT: more than 10^15 units. _effective_time null: now;
-- EFFECTIVE_TIME: it is in the future.
-- Locks: item rows in (sku, pool) order, then request ids in order.
CREATE FUNCTION adjust_capacity(
  _tenant text, _client text[], _key_id text[], _request_id text[], _request_key uuid[], _fingerprint bytea[],
  _sku text[], _pool text[], _delta bigint[], _reason text[], _effective_time timestamptz[]
) RETURNS SETOF item_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
DECLARE
  _n integer := cardinality(_client);
  _outcome text[];
  _available bigint[] := array_fill(NULL::bigint, ARRAY[_n]);
  _now timestamptz;
  _followed item_before[];
  _lapsed bigint;
  _item record;
  _r record;
BEGIN
  PERFORM enter_tenant(_tenant);
  -- find
  _r := find_requests(_tenant, 'AdjustCapacity', _request_key, _fingerprint);
  _outcome := _r._outcome;
  -- lock
  _followed := lock_items(_tenant, _sku, _pool);
  _now := wall_clock();
  -- claim, before the judgement: each request is judged by what those before it left, and a refusal gives its id back.
  IF NOT claim_requests(_tenant, 'AdjustCapacity', _request_key, _fingerprint, NULL, _outcome, _now) THEN
    SELECT array_agg(coalesce(x.outcome, 'RETRY') ORDER BY x.ix) INTO _outcome
    FROM unnest(_outcome) WITH ORDINALITY x (outcome, ix);
  END IF;
  -- judge, apply
  FOR _i IN 1 .. _n LOOP
    CONTINUE WHEN _outcome[_i] IS NOT NULL;
    SELECT i.sku, i.capacity, i.remaining, i.oversell_limit INTO _item FROM item i
    WHERE i.sku = _sku[_i] AND i.pool = _pool[_i] AND i.tenant = _tenant AND i.delete_time IS NULL;
    IF _item.sku IS NULL THEN
      _outcome[_i] := 'ITEM_NOT_FOUND';
    ELSIF _effective_time[_i] > _now THEN
      _outcome[_i] := 'EFFECTIVE_TIME';
    ELSIF _item.capacity + _delta[_i] > 1000000000000000 THEN
      _outcome[_i] := 'CAPACITY_LIMIT';
    ELSIF _item.capacity + _delta[_i] < 0 OR _item.remaining + _item.oversell_limit + _delta[_i] < 0 THEN
      _lapsed := lapsed_units(_tenant, _sku[_i], _pool[_i], _now,
                              -_delta[_i] - _item.remaining - _item.oversell_limit);
      _available[_i] := greatest(0, least(_item.capacity, _item.remaining + _item.oversell_limit + _lapsed));
      _outcome[_i] := CASE WHEN _available[_i] + _delta[_i] < 0 THEN 'CAPACITY_IN_USE' ELSE 'SWEEP' END;
    ELSE
      UPDATE item i SET
        capacity = i.capacity + _delta[_i], remaining = i.remaining + _delta[_i], revision = i.revision + 1,
        serve_time = CASE WHEN _delta[_i] > 0 THEN when_to_serve(i.waiting, i.serve_time) ELSE i.serve_time END,
        update_time = _now
      WHERE i.sku = _sku[_i] AND i.pool = _pool[_i] AND i.tenant = _tenant;
      PERFORM write_item_event(_tenant, 10::smallint, _sku[_i], _pool[_i], _delta[_i], _client[_i], _key_id[_i],
                               _request_id[_i], _reason[_i], _now);
      PERFORM write_stock_move(_tenant, _sku[_i], _pool[_i], coalesce(_effective_time[_i], _now), _delta[_i]);
    END IF;
    IF _outcome[_i] IS NOT NULL THEN
      DELETE FROM request q
      WHERE q.request_key = _request_key[_i] AND q.tenant = _tenant;
    END IF;
  END LOOP;
  IF _followed IS NOT NULL THEN
    PERFORM follow_items(_tenant, _followed, _now);
  END IF;
  RETURN QUERY SELECT * FROM answer_items(_tenant, _outcome, _sku, _pool, _delta, _available);
END
$$;
