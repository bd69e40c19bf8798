-- Returns allotments: of at most _max_count items that are due, of one tenant or of all, the longest due first, what
-- remains goes to their return pool. The first time, at return_time, their sale is closed (ITEM_UPDATED); later only
-- what comes free while it is closed goes, so an item that was opened again keeps its units. A pool that is made takes
-- over the sale state from before the closing. Holds stay: what they give back follows. Pools that return to each other
-- keep their units, or they would be moved again and again. The sweep calls it after lapsed holds have ended.
-- It waits for an item a quarter of a second at most; then it fails, and is called again with _skip_busy, which leaves
-- out what has a locked item. _more: others are due.
-- Locks: tenant by tenant the items of both pools in (sku, pool) order.
CREATE FUNCTION return_allotments(
  _tenant text, _max_count integer, _skip_busy boolean,
  OUT _returned_count bigint, OUT _returned_quantity bigint, OUT _more boolean
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET jit = off SET lock_timeout = '250ms' AS $$
DECLARE
  _now timestamptz := wall_clock();
  _followed item_before[];
  -- Whose rows it leaves alone.
  _away text[];
  _quantity bigint;
  -- The items whose units have no place to go to, by their number.
  _kept integer[];
  _r record;
  _item record;
BEGIN
  _returned_count := 0;
  _returned_quantity := 0;
  _more := false;
  _away := enter_tenants(_tenant);
  IF _away IS NULL THEN
    RETURN;
  END IF;
  FOR _r IN
    SELECT d.tenant, array_agg(d.sku ORDER BY d.sku, d.pool) AS sku, array_agg(d.pool ORDER BY d.sku, d.pool) AS pool,
           array_agg(d.return_pool ORDER BY d.sku, d.pool) AS return_pool
    FROM (
      SELECT v.tenant, v.sku, v.pool, coalesce(v.return_pool, '') AS return_pool FROM item v
      -- Those who wait for what is free of it come first.
      WHERE v.return_due <= _now AND (_tenant IS NULL OR v.tenant = _tenant) AND v.tenant <> ALL (_away)
        AND NOT (v.gate & 3 = 2 AND v.serve_time IS NOT DISTINCT FROM '-infinity')
      ORDER BY v.return_due LIMIT _max_count
    ) d
    GROUP BY d.tenant ORDER BY d.tenant
  LOOP
    -- lock
    IF _skip_busy THEN
      SELECT array_agg(x.sku ORDER BY x.ix) AS sku, array_agg(x.pool ORDER BY x.ix) AS pool,
             array_agg(x.return_pool ORDER BY x.ix) AS return_pool
      INTO _item
      FROM unnest(_r.sku, _r.pool, _r.return_pool) WITH ORDINALITY x (sku, pool, return_pool, ix)
      WHERE NOT EXISTS (
        SELECT 1 FROM locked_items(_r.tenant, _r.sku || _r.sku, _r.pool || _r.return_pool) l
        WHERE l._locked_sku = x.sku AND l._locked_pool IN (x.pool, x.return_pool)
      );
      CONTINUE WHEN _item.sku IS NULL;
      _r.sku := _item.sku;
      _r.pool := _item.pool;
      _r.return_pool := _item.return_pool;
    END IF;
    _followed := lock_items(_r.tenant, _r.sku || _r.sku, _r.pool || _r.return_pool);
    _now := wall_clock();
    _kept := '{}';

    -- judge, apply
    FOR _i IN 1 .. cardinality(_r.sku) LOOP
      SELECT i.remaining, i.sale_state, i.return_due = i.return_time AS first,
             1000000000000000 - coalesce(t.capacity, 0) AS room
      INTO _item
      FROM item i
      LEFT JOIN LATERAL (
        SELECT v.capacity FROM item v
        WHERE v.sku = i.sku AND v.pool = _r.return_pool[_i] AND v.tenant = _r.tenant LIMIT 1
      ) t ON true
      WHERE i.sku = _r.sku[_i] AND i.pool = _r.pool[_i] AND i.tenant = _r.tenant AND i.return_due <= _now
        AND coalesce(i.return_pool, '') = _r.return_pool[_i];
      -- Another sweep has returned it, or it was changed in the meantime.
      CONTINUE WHEN _item.remaining IS NULL;
      UPDATE item i SET return_due = NULL WHERE i.sku = _r.sku[_i] AND i.pool = _r.pool[_i] AND i.tenant = _r.tenant;
      IF _item.first AND _item.sale_state <> 2 THEN
        UPDATE item i SET sale_state = 2, revision = i.revision + 1, update_time = _now
        WHERE i.sku = _r.sku[_i] AND i.pool = _r.pool[_i] AND i.tenant = _r.tenant;
        PERFORM write_item_event(_r.tenant, 8::smallint, _r.sku[_i], _r.pool[_i], 0, '', '', NULL, NULL, _now);
      END IF;
      CONTINUE WHEN _item.remaining <= 0 OR NOT (_item.first OR _item.sale_state = 2);
      _quantity := least(_item.remaining, _item.room);
      IF _quantity = 0 OR returns_in_a_circle(_r.tenant, _r.sku[_i], _r.pool[_i], _r.return_pool[_i], _now) THEN
        _kept := _kept || _i;
        CONTINUE;
      END IF;
      PERFORM move_capacity(_r.tenant, _r.sku[_i], _r.pool[_i], _r.return_pool[_i], _quantity, _item.sale_state, '', '',
                            NULL, NULL, _now);
      _returned_count := _returned_count + 1;
      _returned_quantity := _returned_quantity + _quantity;
    END LOOP;
    IF _followed IS NOT NULL THEN
      PERFORM follow_items(_r.tenant, _followed, _now);
    END IF;
    -- What could not go is not due before something comes free again.
    UPDATE item i SET return_due = NULL FROM unnest(_kept) x (ix)
    CROSS JOIN LATERAL (
      SELECT v.ctid AS place FROM item v
      WHERE v.sku = _r.sku[x.ix] AND v.pool = _r.pool[x.ix] AND v.tenant = _r.tenant LIMIT 1
    ) k
    WHERE i.ctid = k.place AND i.tenant IS NOT DISTINCT FROM _r.tenant;
  END LOOP;
  _more := EXISTS (
    SELECT 1 FROM item v
    WHERE v.return_due <= _now AND (_tenant IS NULL OR v.tenant = _tenant) AND v.tenant <> ALL (_away) LIMIT 1
  );
END
$$;

-- Whether units that return from a pool to _to_pool would be sent on, by allotments that have returned already, and
-- come back. Locks nothing: a chain that is changed meanwhile is judged by the next return.
CREATE FUNCTION returns_in_a_circle(_tenant text, _sku text, _pool text, _to_pool text, _now timestamptz)
RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _seen text[] := ARRAY[_pool];
BEGIN
  WHILE _to_pool <> ALL (_seen) LOOP
    _seen := _seen || _to_pool;
    _to_pool := (
      SELECT coalesce(i.return_pool, '') FROM item i
      WHERE i.sku = _sku AND i.pool = _to_pool AND i.tenant = _tenant AND i.delete_time IS NULL
        AND i.sale_state = 2 AND i.return_time < _now AND i.return_due IS DISTINCT FROM i.return_time
    );
    IF _to_pool IS NULL THEN
      RETURN false;
    END IF;
  END LOOP;
  RETURN true;
END
$$;
