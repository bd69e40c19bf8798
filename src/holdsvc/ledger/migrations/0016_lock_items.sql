-- Step "lock" of a change to items: these item rows, in (sku, pool) order, whether deleted or not.

-- migrate:up
CREATE FUNCTION holdsvc.lock_items(_tenant text, _sku text[], _pool text[]) RETURNS void
LANGUAGE plpgsql SET search_path = holdsvc, pg_temp AS $$
BEGIN
  PERFORM 1
  FROM (
    SELECT DISTINCT x.sku COLLATE "C" AS sku, x.pool COLLATE "C" AS pool FROM unnest(_sku, _pool) x (sku, pool)
    ORDER BY 1, 2
  ) k
  CROSS JOIN LATERAL (
    SELECT 1 FROM item i WHERE i.sku = k.sku AND i.pool = k.pool AND i.tenant = _tenant FOR NO KEY UPDATE
  ) i;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.lock_items FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.lock_items;
