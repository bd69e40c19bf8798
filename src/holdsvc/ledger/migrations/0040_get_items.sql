-- Reads items by name, one row each in order; capacity is null where there is none. Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.get_items(_tenant text, _sku text[], _pool text[]) RETURNS SETOF holdsvc.item_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdsvc, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
BEGIN
  RETURN QUERY SELECT * FROM answer_items(_tenant, array_fill(NULL::text, ARRAY[cardinality(_sku)]), _sku, _pool, NULL, NULL);
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.get_items FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.get_items TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.get_items;
