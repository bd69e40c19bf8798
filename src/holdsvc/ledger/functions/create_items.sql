-- Creates all of the items or none; all capacity is remaining. A deleted item is created again with the next revision.
-- The capacity counts as counted now.
-- Answers one row for each item, or, having created none, one row (ITEM_ALREADY_EXISTS) for each item that exists.
-- Locks: item rows in (sku, pool) order.
CREATE FUNCTION create_items(
  _tenant text, _client text, _key_id text, _sku text[], _pool text[], _display_name text[], _capacity bigint[],
  _oversell_limit bigint[], _sale_state smallint[] DEFAULT '{}', _buffer bigint[] DEFAULT '{}',
  _low_at bigint[] DEFAULT '{}', _return_pool text[] DEFAULT '{}', _return_time timestamptz[] DEFAULT '{}',
  _waitlist_policy smallint[] DEFAULT '{}'
) RETURNS SETOF item_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
DECLARE
  _now timestamptz := wall_clock();
  _there_sku text[] := '{}';
  _there_pool text[] := '{}';
  _r record;
BEGIN
  PERFORM enter_tenant(_tenant);
  BEGIN
    FOR _r IN
      SELECT x.sku COLLATE "C" AS sku, x.pool COLLATE "C" AS pool, x.display_name, x.capacity, x.oversell_limit,
             coalesce(x.sale_state, 1::smallint) AS sale_state, coalesce(x.buffer, 0) AS buffer, x.low_at,
             x.return_pool, x.return_time, coalesce(x.waitlist_policy, 1::smallint) AS waitlist_policy
      FROM unnest(_sku, _pool, _display_name, _capacity, _oversell_limit, _sale_state, _buffer, _low_at,
                  _return_pool, _return_time, _waitlist_policy)
        x (sku, pool, display_name, capacity, oversell_limit, sale_state, buffer, low_at, return_pool, return_time,
           waitlist_policy)
      ORDER BY 1, 2
    LOOP
      INSERT INTO item AS i (
        tenant, sku, pool, display_name, capacity, remaining, oversell_limit, sale_state, buffer, low_at, return_pool,
        return_time, return_due, waitlist_policy, create_time, update_time, count_time
      )
      VALUES (_tenant, _r.sku, _r.pool, _r.display_name, _r.capacity, _r.capacity, _r.oversell_limit, _r.sale_state,
              _r.buffer, _r.low_at, _r.return_pool, _r.return_time, _r.return_time, _r.waitlist_policy, _now, _now,
              _now)
      ON CONFLICT (sku, pool, tenant) DO UPDATE SET
        display_name = excluded.display_name, capacity = excluded.capacity, remaining = excluded.remaining,
        oversell_limit = excluded.oversell_limit, sale_state = excluded.sale_state, buffer = excluded.buffer,
        low_at = excluded.low_at, return_pool = excluded.return_pool, return_time = excluded.return_time,
        return_due = excluded.return_due, waitlist_policy = excluded.waitlist_policy,
        create_time = excluded.create_time,
        update_time = excluded.update_time, count_time = excluded.count_time, revision = i.revision + 1,
        delete_time = NULL
      WHERE i.delete_time IS NOT NULL;
      IF FOUND THEN
        PERFORM write_item_event(
          _tenant, 7::smallint, _r.sku, _r.pool, _r.capacity, _client, _key_id, NULL, NULL, _now);
      ELSE
        _there_sku := _there_sku || _r.sku;
        _there_pool := _there_pool || _r.pool;
      END IF;
    END LOOP;
    IF cardinality(_there_sku) > 0 THEN
      RAISE SQLSTATE 'HS001' USING MESSAGE = 'some items exist: undo the others';
    END IF;
  EXCEPTION WHEN SQLSTATE 'HS001' THEN
    RETURN QUERY SELECT * FROM answer_items(
      _tenant, array_fill('ITEM_ALREADY_EXISTS'::text, ARRAY[cardinality(_there_sku)]), _there_sku, _there_pool,
      NULL, NULL);
    RETURN;
  END;
  RETURN QUERY SELECT * FROM answer_items(
    _tenant, array_fill(NULL::text, ARRAY[cardinality(_sku)]), _sku, _pool, NULL, NULL);
END
$$;
