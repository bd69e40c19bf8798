-- Step "lock" of a change to reservations: the item rows of all their lines, in (sku, pool) order.

-- migrate:up
CREATE FUNCTION holdsvc.lock_items_of(_tenant text, _reservation_id uuid[]) RETURNS void
LANGUAGE plpgsql SET search_path = holdsvc, pg_temp AS $$
BEGIN
  PERFORM 1
  FROM (
    SELECT DISTINCT l.sku, l.pool
    FROM unnest(_reservation_id) x (id)
    CROSS JOIN LATERAL (
      SELECT sku, pool FROM reservation_line WHERE reservation_id = x.id AND tenant = _tenant OFFSET 0
    ) l
    ORDER BY l.sku, l.pool
  ) k
  CROSS JOIN LATERAL (
    SELECT 1 FROM item i WHERE i.sku = k.sku AND i.pool = k.pool AND i.tenant = _tenant FOR NO KEY UPDATE
  ) i;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.lock_items_of FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.lock_items_of;
