-- The present state for a watcher, in order of sku and pool after (_after_sku, _after_pool): items of a sku prefix, of
-- these pools (null: all). Outcome DELETED for one that was deleted: a watcher who reads again must hear of it.
-- Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.list_watched_items(
  _tenant text, _sku_prefix text, _pools text[], _after_sku text, _after_pool text, _limit integer
) RETURNS SETOF holdsvc.item_answer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = holdsvc, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET jit = off AS $$
BEGIN
  RETURN QUERY
  SELECT NULL::integer, CASE WHEN i.delete_time IS NOT NULL THEN 'DELETED' END, NULL::bigint, NULL::bigint, i.sku::text,
         i.pool::text, i.display_name, i.capacity, i.remaining, i.held, i.confirmed, i.oversell_limit, i.revision,
         i.create_time, i.update_time
  FROM item i
  WHERE i.tenant = _tenant
    AND i.sku >= _sku_prefix AND i.sku < _sku_prefix || U&'\+10FFFF'
    AND (i.sku, i.pool) > (_after_sku, _after_pool)
    AND (_pools IS NULL OR i.pool = ANY (_pools))
  ORDER BY i.sku, i.pool
  LIMIT _limit;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.list_watched_items FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.list_watched_items TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.list_watched_items;
