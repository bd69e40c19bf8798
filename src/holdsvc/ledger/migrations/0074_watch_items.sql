-- Reads items by name as they are, one row each that there is or was: outcome DELETED for one that was deleted, with its
-- revision and nothing else of meaning. Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.watch_items(_tenant text, _sku text[], _pool text[]) RETURNS SETOF holdsvc.item_answer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = holdsvc, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
BEGIN
  RETURN QUERY
  SELECT x.ix::integer, CASE WHEN i.delete_time IS NOT NULL THEN 'DELETED' END, NULL::bigint, NULL::bigint, x.sku, x.pool,
         i.display_name, i.capacity, i.remaining, i.held, i.confirmed, i.oversell_limit, i.revision,
         i.create_time, i.update_time
  FROM unnest(_sku, _pool) WITH ORDINALITY x (sku, pool, ix)
  CROSS JOIN LATERAL (
    SELECT * FROM item v WHERE v.sku = x.sku AND v.pool = x.pool AND v.tenant = _tenant LIMIT 1
  ) i
  ORDER BY x.ix;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.watch_items FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.watch_items TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.watch_items;
