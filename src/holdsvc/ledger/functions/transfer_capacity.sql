-- Moves units of capacity that are neither held nor confirmed from one pool of a sku to another, which is created when
-- it is missing, with the giving item's name and sale state. Takes arrays of n requests of one tenant in order of
-- arrival; answers 2n rows: the giving items, then the taking ones. Outcomes as in adjust_capacity.
-- Locks: item rows in (sku, pool) order, then request ids in order.
CREATE FUNCTION transfer_capacity(
  _tenant text, _client text[], _key_id text[], _request_id text[], _request_key uuid[], _fingerprint bytea[],
  _sku text[], _from_pool text[], _to_pool text[], _quantity bigint[], _reason text[]
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
  _from record;
  _to record;
  _r record;
BEGIN
  PERFORM enter_tenant(_tenant);
  -- find
  _r := find_requests(_tenant, 'TransferCapacity', _request_key, _fingerprint);
  _outcome := _r._outcome;
  -- lock
  _followed := lock_items(_tenant, _sku || _sku, _from_pool || _to_pool);
  _now := wall_clock();
  -- claim, before the judgement: each request is judged by what those before it left, and a refusal gives its id back.
  IF NOT claim_requests(_tenant, 'TransferCapacity', _request_key, _fingerprint, NULL, _outcome, _now) THEN
    SELECT array_agg(coalesce(x.outcome, 'RETRY') ORDER BY x.ix) INTO _outcome
    FROM unnest(_outcome) WITH ORDINALITY x (outcome, ix);
  END IF;
  -- judge, apply
  FOR _i IN 1 .. _n LOOP
    CONTINUE WHEN _outcome[_i] IS NOT NULL;
    SELECT i.sku, i.remaining, i.sale_state INTO _from FROM item i
    WHERE i.sku = _sku[_i] AND i.pool = _from_pool[_i] AND i.tenant = _tenant AND i.delete_time IS NULL;
    SELECT i.capacity INTO _to FROM item i WHERE i.sku = _sku[_i] AND i.pool = _to_pool[_i] AND i.tenant = _tenant;
    IF _from.sku IS NULL THEN
      _outcome[_i] := 'ITEM_NOT_FOUND';
    ELSIF _to.capacity + _quantity[_i] > 1000000000000000 THEN
      _outcome[_i] := 'CAPACITY_LIMIT';
    ELSIF _from.remaining < _quantity[_i] THEN
      _lapsed := lapsed_units(_tenant, _sku[_i], _from_pool[_i], _now, _quantity[_i] - _from.remaining);
      _available[_i] := greatest(0, _from.remaining + _lapsed);
      _outcome[_i] := CASE WHEN _available[_i] < _quantity[_i] THEN 'CAPACITY_IN_USE' ELSE 'SWEEP' END;
    ELSE
      PERFORM move_capacity(_tenant, _sku[_i], _from_pool[_i], _to_pool[_i], _quantity[_i], _from.sale_state,
                            _client[_i], _key_id[_i], _request_id[_i], _reason[_i], _now);
    END IF;
    IF _outcome[_i] IS NOT NULL THEN
      DELETE FROM request q
      WHERE q.request_key = _request_key[_i] AND q.tenant = _tenant;
    END IF;
  END LOOP;
  IF _followed IS NOT NULL THEN
    PERFORM follow_items(_tenant, _followed, _now);
  END IF;
  RETURN QUERY SELECT * FROM answer_items(
    _tenant, _outcome || _outcome, _sku || _sku, _from_pool || _to_pool, _quantity || _quantity,
    _available || _available);
END
$$;

-- Step "apply" of a transfer: moves remaining units from one pool of a sku to another, which is made, or made again,
-- with the giving item's name and this sale state where it is missing. Writes both items' CAPACITY_TRANSFERRED (11).
-- The caller has locked the items that there are, and follows them.
CREATE FUNCTION move_capacity(
  _tenant text, _sku text, _from_pool text, _to_pool text, _quantity bigint, _sale_state smallint, _client text,
  _key_id text, _request_id text, _reason text, _now timestamptz
) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _name text;
BEGIN
  UPDATE item i SET
    capacity = i.capacity - _quantity, remaining = i.remaining - _quantity, revision = i.revision + 1,
    update_time = _now
  WHERE i.sku = _sku AND i.pool = _from_pool AND i.tenant = _tenant
  RETURNING i.display_name INTO _name;
  -- An upsert: another transaction may have created it since the look at it.
  INSERT INTO item AS i (
    tenant, sku, pool, display_name, capacity, remaining, oversell_limit, sale_state, create_time, update_time
  )
  VALUES (_tenant, _sku, _to_pool, _name, _quantity, _quantity, 0, _sale_state, _now, _now)
  ON CONFLICT (sku, pool, tenant) DO UPDATE SET
    capacity = i.capacity + _quantity, remaining = i.remaining + _quantity, revision = i.revision + 1,
    serve_time = when_to_serve(i.waiting, i.serve_time), update_time = _now
  WHERE i.delete_time IS NULL;
  IF NOT FOUND THEN
    UPDATE item i SET
      display_name = _name, capacity = _quantity, remaining = _quantity, oversell_limit = 0, sale_state = _sale_state,
      buffer = 0, waitlist_policy = 1, low_at = NULL, return_pool = NULL, return_time = NULL, return_due = NULL,
      create_time = _now, update_time = _now, revision = i.revision + 1, delete_time = NULL
    WHERE i.sku = _sku AND i.pool = _to_pool AND i.tenant = _tenant;
  END IF;
  PERFORM write_item_event(
    _tenant, 11::smallint, _sku, _from_pool, -_quantity, _client, _key_id, _request_id, _reason, _now);
  PERFORM write_item_event(
    _tenant, 11::smallint, _sku, _to_pool, _quantity, _client, _key_id, _request_id, _reason, _now);
  PERFORM write_stock_move(_tenant, _sku, _from_pool, _now, -_quantity);
  PERFORM write_stock_move(_tenant, _sku, _to_pool, _now, _quantity);
END
$$;
