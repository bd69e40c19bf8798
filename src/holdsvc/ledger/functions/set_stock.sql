-- Sets the capacity of each request's item from a count made elsewhere: _on_hand units were there at _count_time (null:
-- now), held and confirmed ones included, and stock_move tells what came and left since. Takes arrays of n requests of
-- one tenant in order of arrival. A _revision other than 0 must be the item's (REVISION_MISMATCH).
-- Outcomes: SUPERSEDED: a later count is in the capacity, nothing changes; an equal time is computed again.
-- COUNT_TIME_OLD: older than _max_age, for which movements are kept. COUNT_TIME_FUTURE: more than a minute ahead.
-- CAPACITY_IN_USE: more is held and sold than would be there. SWEEP: lapsed holds would make room; sweep them and call
-- again. CAPACITY_LIMIT: more than 10^15 units. With _dry_run it judges and changes nothing.
-- Locks: item rows in (sku, pool) order.
CREATE FUNCTION set_stock(
  _tenant text, _client text[], _key_id text[], _sku text[], _pool text[], _on_hand bigint[], _count_time timestamptz[],
  _revision bigint[], _max_age interval, _dry_run boolean
) RETURNS SETOF item_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  _n integer := cardinality(_client);
  _outcome text[] := array_fill(NULL::text, ARRAY[_n]);
  _taken bigint[] := array_fill(NULL::bigint, ARRAY[_n]);
  _available bigint[] := array_fill(NULL::bigint, ARRAY[_n]);
  _now timestamptz;
  _followed item_before[];
  _time timestamptz;
  _delta numeric;
  _lapsed bigint;
  _item record;
BEGIN
  PERFORM enter_tenant(_tenant);
  -- lock
  _followed := lock_items(_tenant, _sku, _pool);
  _now := wall_clock();
  -- judge, apply: each request is judged by what those before it left.
  FOR _i IN 1 .. _n LOOP
    SELECT i.sku, i.capacity, i.remaining, i.oversell_limit, i.revision, i.count_time INTO _item FROM item i
    WHERE i.sku = _sku[_i] AND i.pool = _pool[_i] AND i.tenant = _tenant AND i.delete_time IS NULL;
    -- A count whose clock is a little ahead is of now: with a time to come, later counts would be older than it.
    _time := least(coalesce(_count_time[_i], _now), _now);
    IF _item.sku IS NULL THEN
      _outcome[_i] := 'ITEM_NOT_FOUND';
    ELSIF _count_time[_i] > _now + interval '1 minute' THEN
      _outcome[_i] := 'COUNT_TIME_FUTURE';
    ELSIF _time < _now - _max_age THEN
      _outcome[_i] := 'COUNT_TIME_OLD';
    ELSIF _time < _item.count_time THEN
      _outcome[_i] := 'SUPERSEDED';
    ELSIF _revision[_i] <> 0 AND _revision[_i] <> _item.revision THEN
      _outcome[_i] := 'REVISION_MISMATCH';
    ELSE
      _delta := _on_hand[_i] - _item.capacity + (
        SELECT coalesce(sum(m.delta), 0) FROM stock_move m
        WHERE m.sku = _sku[_i] AND m.pool = _pool[_i] AND m.tenant = _tenant AND m.effective_time > _time
      );
      IF _item.capacity + _delta > 1000000000000000 THEN
        _outcome[_i] := 'CAPACITY_LIMIT';
      ELSIF _item.capacity + _delta < 0 OR _item.remaining + _item.oversell_limit + _delta < 0 THEN
        _lapsed := lapsed_units(_tenant, _sku[_i], _pool[_i], _now,
                                (-_delta - _item.remaining - _item.oversell_limit)::bigint);
        _taken[_i] := -_delta;
        _available[_i] := greatest(0, least(_item.capacity, _item.remaining + _item.oversell_limit + _lapsed));
        _outcome[_i] := CASE WHEN _available[_i] < _taken[_i] THEN 'CAPACITY_IN_USE' ELSE 'SWEEP' END;
      ELSIF NOT _dry_run AND _delta <> 0 THEN
        UPDATE item i SET
          capacity = i.capacity + _delta, remaining = i.remaining + _delta, count_time = _time,
          revision = i.revision + 1,
          serve_time = CASE WHEN _delta > 0 THEN when_to_serve(i.waiting, i.serve_time) ELSE i.serve_time END,
          update_time = _now
        WHERE i.sku = _sku[_i] AND i.pool = _pool[_i] AND i.tenant = _tenant;
        PERFORM write_item_event(_tenant, 15::smallint, _sku[_i], _pool[_i], _delta::bigint, _client[_i], _key_id[_i],
                                 NULL, NULL, _now);
      ELSIF NOT _dry_run THEN
        -- No difference: no revision and no event, but a count from before is late all the same.
        UPDATE item i SET count_time = _time
        WHERE i.sku = _sku[_i] AND i.pool = _pool[_i] AND i.tenant = _tenant AND i.count_time IS DISTINCT FROM _time;
      END IF;
    END IF;
  END LOOP;
  IF _followed IS NOT NULL THEN
    PERFORM follow_items(_tenant, _followed, _now);
  END IF;
  RETURN QUERY SELECT * FROM answer_items(_tenant, _outcome, _sku, _pool, _taken, _available);
END
$$;
