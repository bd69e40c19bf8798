-- Sets capacity, oversell limit and display name of one item, each where it is not null. A _revision other than 0 must
-- be the item's (REVISION_MISMATCH). CAPACITY_IN_USE comes with the units that the change takes away and the units that
-- are available. SWEEP: lapsed holds would make room.
-- Locks: the item row.
CREATE FUNCTION update_item(
  _tenant text, _client text, _key_id text, _sku text, _pool text, _display_name text, _capacity bigint,
  _oversell_limit bigint, _revision bigint
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
  SELECT i.sku, i.display_name, i.capacity, i.remaining, i.oversell_limit, i.revision INTO _item FROM item i
  WHERE i.sku = _sku AND i.pool = _pool AND i.tenant = _tenant AND i.delete_time IS NULL
  FOR NO KEY UPDATE;
  _now := wall_clock();
  IF _item.sku IS NULL THEN
    _outcome := 'ITEM_NOT_FOUND';
  ELSIF _revision <> 0 AND _revision <> _item.revision THEN
    _outcome := 'REVISION_MISMATCH';
  ELSE
    -- What leaves "remaining + oversell_limit", against what is there.
    _free := _item.remaining + _item.oversell_limit;
    _taken := (_item.capacity + _item.oversell_limit)
              - (coalesce(_capacity, _item.capacity) + coalesce(_oversell_limit, _item.oversell_limit));
    IF _taken > _free THEN
      _lapsed := lapsed_units(_tenant, _sku, _pool, _now);
      _outcome := CASE WHEN _taken <= _free + _lapsed THEN 'SWEEP' ELSE 'CAPACITY_IN_USE' END;
      _free := _free + _lapsed;
    END IF;
  END IF;
  -- Equal values change nothing: no revision, no event.
  IF _outcome IS NULL AND (
    _display_name <> _item.display_name OR _capacity <> _item.capacity OR _oversell_limit <> _item.oversell_limit
  ) THEN
    UPDATE item i SET
      display_name = coalesce(_display_name, i.display_name),
      capacity = coalesce(_capacity, i.capacity),
      remaining = i.remaining + coalesce(_capacity, i.capacity) - i.capacity,
      oversell_limit = coalesce(_oversell_limit, i.oversell_limit),
      revision = i.revision + 1,
      update_time = _now
    WHERE i.sku = _sku AND i.pool = _pool AND i.tenant = _tenant;
    PERFORM write_item_event(_tenant, 8::smallint, _sku, _pool, coalesce(_capacity, _item.capacity) - _item.capacity,
                             _client, _key_id, NULL, NULL, _now);
  END IF;
  RETURN QUERY SELECT * FROM answer_items(
    _tenant, ARRAY[_outcome], ARRAY[_sku], ARRAY[_pool], ARRAY[_taken], ARRAY[greatest(0, _free)]);
END
$$;
