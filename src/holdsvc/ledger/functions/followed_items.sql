-- The level of an item: 1 AVAILABLE, 2 LOW, 3 OUT, by what new holds may take of it (_free, see the table item) and the
-- limit from which on it is low; null: it is never low. Lapsed holds, the sale state and waiters do not count.
CREATE FUNCTION stock_level(_free bigint, _low_at bigint) RETURNS smallint LANGUAGE sql IMMUTABLE AS $$
  SELECT (CASE WHEN _free <= 0 THEN 3 WHEN _free <= _low_at THEN 2 ELSE 1 END)::smallint
$$;

-- Of these items, which the caller has locked, those that are followed, as they are now: those with low_at, and
-- allotments.
CREATE FUNCTION items_before(_tenant text, _sku text[], _pool text[]) RETURNS item_before[]
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RETURN (
    SELECT array_agg((k.sku, k.pool, i.level)::item_before)
    FROM (SELECT DISTINCT x.sku, x.pool FROM unnest(_sku, _pool) x (sku, pool)) k
    CROSS JOIN LATERAL (
      -- An item that is deleted is OUT.
      SELECT CASE WHEN v.delete_time IS NULL THEN stock_level(v.free, v.low_at) ELSE 3::smallint END AS level
      FROM item v
      WHERE v.sku = k.sku AND v.pool = k.pool AND v.tenant = _tenant
        AND (v.low_at IS NOT NULL OR v.return_time IS NOT NULL) LIMIT 1
    ) i
  );
END
$$;

-- Step "follow", the last of every function that moves units of items. Writes LEVEL_CHANGED (16) for each item that has
-- another level now than before: one event for each item and transaction, for of an item that is named more than once
-- the first counts. Tells the sweep of units that have come free in an allotment that has returned. _followed comes
-- from the locks of the items (see lock_items); where it is null no item is followed, and the caller does not call:
-- that costs nothing.
-- The caller has locked the items.
CREATE FUNCTION follow_items(_tenant text, _followed item_before[], _now timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _r record;
BEGIN
  FOR _r IN
    SELECT f.sku, f.pool, f.level AS before, i.level AS after
    FROM (
      SELECT DISTINCT ON (1, 2) u.sku COLLATE "C" AS sku, u.pool COLLATE "C" AS pool, u.level
      FROM unnest(_followed) WITH ORDINALITY u (sku, pool, level, number) ORDER BY 1, 2, u.number
    ) f
    CROSS JOIN LATERAL (
      -- An item that is deleted is OUT.
      SELECT CASE WHEN v.delete_time IS NULL THEN stock_level(v.free, v.low_at) ELSE 3 END AS level FROM item v
      WHERE v.sku = f.sku AND v.pool = f.pool AND v.tenant = _tenant AND v.low_at IS NOT NULL LIMIT 1
    ) i
    WHERE i.level <> f.level
    ORDER BY f.sku, f.pool
  LOOP
    -- Several calls may have moved it together: it is the service that says so.
    PERFORM write_item_event(_tenant, 16::smallint, _r.sku, _r.pool, 0, '', '', NULL, NULL, _now,
                             _r.before::smallint, _r.after::smallint);
  END LOOP;
  UPDATE item i SET return_due = _now
  FROM unnest(_followed) f (sku, pool, level)
  CROSS JOIN LATERAL (
    SELECT v.ctid AS place FROM item v
    WHERE v.sku = f.sku AND v.pool = f.pool AND v.tenant = _tenant AND v.delete_time IS NULL
      AND v.return_time < _now AND v.return_due IS NULL AND v.sale_state = 2 AND v.remaining > 0 LIMIT 1
  ) k
  WHERE i.ctid = k.place AND i.tenant IS NOT DISTINCT FROM _tenant;
END
$$;
