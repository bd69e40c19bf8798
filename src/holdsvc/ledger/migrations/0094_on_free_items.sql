-- Which of these reservations of one tenant lie on items that nobody else has locked; the items of those are locked now.
-- So a sweep goes round an item that somebody forgot to let go, instead of waiting with the locks of all others in hand.
-- Locks: items that are free, never waiting.

-- migrate:up
CREATE FUNCTION holdsvc.on_free_items(_tenant text, _reservation_id uuid[]) RETURNS uuid[]
LANGUAGE plpgsql SET search_path = holdsvc, pg_temp AS $$
BEGIN
  RETURN (
    WITH free AS MATERIALIZED (
      SELECT k.sku, k.pool
      FROM (
        SELECT DISTINCT l.sku, l.pool
        FROM unnest(_reservation_id) x (id)
        CROSS JOIN LATERAL (
          SELECT w.sku, w.pool FROM reservation_line w
          WHERE w.reservation_id = x.id AND w.tenant = _tenant OFFSET 0
        ) l
        ORDER BY l.sku, l.pool
      ) k
      CROSS JOIN LATERAL (
        SELECT 1 FROM item i WHERE i.sku = k.sku AND i.pool = k.pool AND i.tenant = _tenant
        FOR NO KEY UPDATE SKIP LOCKED
      ) i
    )
    SELECT array_agg(x.id ORDER BY x.id)
    FROM unnest(_reservation_id) x (id)
    WHERE NOT EXISTS (
      SELECT 1 FROM (
        SELECT w.sku, w.pool FROM reservation_line w
        WHERE w.reservation_id = x.id AND w.tenant = _tenant OFFSET 0
      ) l
      WHERE NOT EXISTS (SELECT 1 FROM free f WHERE f.sku = l.sku AND f.pool = l.pool)
    )
  );
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.on_free_items FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.on_free_items;
