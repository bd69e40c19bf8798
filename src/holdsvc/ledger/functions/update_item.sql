-- Sets those fields of one item that _sets names, as the contract's update mask does. A _revision other than 0 must be
-- the item's (REVISION_MISMATCH). CAPACITY_IN_USE comes with the units that the change takes away and the units that
-- are available. RETURN_POOL: it would return to itself, RETURN_POOL_NOT_FOUND: to a pool that the key may not see
-- (_pools, see sees_reservation). SWEEP: lapsed holds would make room. The buffer binds new holds only, so it refuses
-- no change.
-- Locks: the item row.
CREATE FUNCTION update_item(
  _tenant text, _client text, _key_id text, _sku text, _pool text, _sets text[], _display_name text, _capacity bigint,
  _oversell_limit bigint, _sale_state smallint, _buffer bigint, _low_at bigint, _return_pool text,
  _return_time timestamptz, _waitlist_policy smallint, _revision bigint, _pools text
) RETURNS SETOF item_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
  _outcome text;
  _now timestamptz;
  _item record;
  _taken bigint;
  _free bigint;
  _lapsed bigint;
BEGIN
  PERFORM enter_tenant(_tenant);
  SELECT i.sku, i.display_name, i.capacity, i.remaining, i.oversell_limit, i.sale_state, i.buffer, i.low_at,
         i.return_pool, i.return_time, i.free, i.waitlist_policy, i.revision
  INTO _item FROM item i
  WHERE i.sku = _sku AND i.pool = _pool AND i.tenant = _tenant AND i.delete_time IS NULL
  FOR NO KEY UPDATE;
  _now := wall_clock();
  IF _item.sku IS NULL THEN
    _outcome := 'ITEM_NOT_FOUND';
  ELSIF _revision <> 0 AND _revision <> _item.revision THEN
    _outcome := 'REVISION_MISMATCH';
  ELSE
    -- What is not set stays.
    _display_name := CASE WHEN 'display_name' = ANY (_sets) THEN _display_name ELSE _item.display_name END;
    _capacity := CASE WHEN 'capacity' = ANY (_sets) THEN _capacity ELSE _item.capacity END;
    _oversell_limit := CASE WHEN 'oversell_limit' = ANY (_sets) THEN _oversell_limit ELSE _item.oversell_limit END;
    _sale_state := CASE WHEN 'sale_state' = ANY (_sets) THEN _sale_state ELSE _item.sale_state END;
    _buffer := CASE WHEN 'buffer' = ANY (_sets) THEN _buffer ELSE _item.buffer END;
    _low_at := CASE WHEN 'low_at' = ANY (_sets) THEN _low_at ELSE _item.low_at END;
    _return_pool := CASE WHEN 'return_pool' = ANY (_sets) THEN _return_pool ELSE _item.return_pool END;
    _return_time := CASE WHEN 'return_time' = ANY (_sets) THEN _return_time ELSE _item.return_time END;
    IF _sets && '{return_pool,return_time}' AND _return_time IS NOT NULL THEN
      _outcome := CASE
        WHEN coalesce(_return_pool, '') = _pool THEN 'RETURN_POOL'
        WHEN strpos(_pools, chr(31) || coalesce(_return_pool, '') || chr(31)) = 0 THEN 'RETURN_POOL_NOT_FOUND'
      END;
    END IF;
    _waitlist_policy := CASE WHEN 'waitlist_policy' = ANY (_sets) THEN _waitlist_policy ELSE _item.waitlist_policy END;
    -- What leaves "remaining + oversell_limit", against what is there.
    _free := _item.remaining + _item.oversell_limit;
    _taken := (_item.capacity + _item.oversell_limit) - (_capacity + _oversell_limit);
    IF _outcome IS NULL AND _taken > _free THEN
      _lapsed := lapsed_units(_tenant, _sku, _pool, _now, _taken - _free);
      _outcome := CASE WHEN _taken <= _free + _lapsed THEN 'SWEEP' ELSE 'CAPACITY_IN_USE' END;
      _free := _free + _lapsed;
    END IF;
  END IF;
  -- Equal values change nothing: no revision, no event.
  IF _outcome IS NULL AND (_display_name, _capacity, _oversell_limit, _sale_state, _buffer, _low_at, _return_pool,
                            _return_time, _waitlist_policy) IS DISTINCT FROM (
    _item.display_name, _item.capacity, _item.oversell_limit, _item.sale_state, _item.buffer, _item.low_at,
    _item.return_pool, _item.return_time, _item.waitlist_policy
  ) THEN
    UPDATE item i SET
      display_name = _display_name,
      capacity = _capacity,
      remaining = i.remaining + _capacity - i.capacity,
      oversell_limit = _oversell_limit,
      sale_state = _sale_state,
      buffer = _buffer,
      count_time = CASE WHEN 'capacity' = ANY (_sets) THEN _now ELSE i.count_time END,
      low_at = _low_at,
      return_pool = _return_pool,
      return_time = _return_time,
      return_due = CASE WHEN _return_time IS DISTINCT FROM i.return_time THEN _return_time ELSE i.return_due END,
      waitlist_policy = _waitlist_policy,
      serve_time = when_to_serve(i.waiting, i.serve_time),
      revision = i.revision + 1,
      update_time = _now
    WHERE i.sku = _sku AND i.pool = _pool AND i.tenant = _tenant;
    PERFORM write_item_event(_tenant, 8::smallint, _sku, _pool, _capacity - _item.capacity, _client, _key_id, NULL,
                             NULL, _now);
    PERFORM follow_items(_tenant, ARRAY[(_sku, _pool, stock_level(_item.free, _item.low_at))::item_before], _now);
  ELSIF _outcome IS NULL AND 'capacity' = ANY (_sets) THEN
    -- A capacity that is set counts as counted now, also where it is the same.
    UPDATE item i SET count_time = _now WHERE i.sku = _sku AND i.pool = _pool AND i.tenant = _tenant;
  END IF;
  RETURN QUERY SELECT * FROM answer_items(
    _tenant, ARRAY[_outcome], ARRAY[_sku], ARRAY[_pool], ARRAY[_taken], ARRAY[greatest(0, _free)]);
END
$$;
