-- Deletes one item. Outcomes: CAPACITY_IN_USE: units are held or confirmed, or entries wait for them. SWEEP: only
-- lapsed holds are held. The row stays, without capacity, to keep its revision.
-- Locks: the item row.
CREATE FUNCTION delete_item(_tenant text, _client text, _key_id text, _sku text, _pool text)
RETURNS SETOF item_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
  _outcome text;
  _now timestamptz;
  _item record;
  _lapsed bigint;
BEGIN
  PERFORM enter_tenant(_tenant);
  SELECT i.sku, i.capacity, i.remaining, i.held, i.confirmed, i.free, i.low_at, i.waiting INTO _item FROM item i
  WHERE i.sku = _sku AND i.pool = _pool AND i.tenant = _tenant AND i.delete_time IS NULL
  FOR NO KEY UPDATE;
  _now := wall_clock();
  _lapsed := lapsed_units(_tenant, _sku, _pool, _now);
  IF _item.sku IS NULL THEN
    _outcome := 'ITEM_NOT_FOUND';
  ELSIF _item.confirmed > 0 OR _item.held > _lapsed OR _item.waiting > 0 THEN
    _outcome := 'CAPACITY_IN_USE';
  ELSIF _item.held > 0 THEN
    _outcome := 'SWEEP';
  ELSE
    UPDATE item i SET
      capacity = 0, remaining = 0, revision = i.revision + 1, update_time = _now, delete_time = _now,
      return_due = NULL
    WHERE i.sku = _sku AND i.pool = _pool AND i.tenant = _tenant;
    PERFORM write_item_event(_tenant, 9::smallint, _sku, _pool, -_item.capacity, _client, _key_id, NULL, NULL, _now);
    PERFORM follow_items(_tenant, ARRAY[(_sku, _pool, stock_level(_item.free, _item.low_at))::item_before], _now);
    PERFORM write_stock_move(_tenant, _sku, _pool, _now, -_item.capacity);
  END IF;
  RETURN QUERY SELECT * FROM answer_items(
    _tenant, ARRAY[_outcome], ARRAY[_sku], ARRAY[_pool], ARRAY[_item.capacity],
    ARRAY[greatest(0, _item.remaining + _lapsed)]);
END
$$;
