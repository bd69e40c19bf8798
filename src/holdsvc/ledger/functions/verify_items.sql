-- Recomputes the counters of the next _limit skus after _after_sku from their reservations: one row for each item. It
-- is one short statement, because an open snapshot slows updates of a hot row down. Locks nothing.
CREATE FUNCTION verify_items(_tenant text, _after_sku text, _limit integer)
RETURNS SETOF recount_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
  RETURN QUERY
  SELECT i.sku::text, i.pool::text, i.capacity, i.remaining, i.held, i.confirmed,
         coalesce(l.held, 0)::bigint, coalesce(l.confirmed, 0)::bigint, coalesce(l.reservations, 0),
         i.delete_time IS NOT NULL
  FROM (
    SELECT DISTINCT v.sku FROM item v WHERE v.tenant = _tenant AND v.sku > _after_sku ORDER BY v.sku LIMIT _limit
  ) k
  JOIN item i ON i.tenant = _tenant AND i.sku = k.sku
  LEFT JOIN LATERAL (
    SELECT sum(m.quantity) FILTER (WHERE r.state = 1) AS held,
           sum(m.confirmed_quantity - m.fulfilled_quantity - (m.refunded_quantity - m.returned_quantity))
             FILTER (WHERE r.state IN (2, 5, 6)) AS confirmed,
           -- At its first line, so that each counts once; Modify may have dropped line 1.
           count(*) FILTER (WHERE r.state IN (1, 2) AND (m.line_number = 1 OR NOT EXISTS (
             SELECT 1 FROM reservation_line o
             WHERE o.reservation_id = m.reservation_id AND o.tenant = _tenant AND o.line_number < m.line_number
           ))) AS reservations
    FROM reservation_line m
    CROSS JOIN LATERAL (
      SELECT w.state FROM reservation w WHERE w.reservation_id = m.reservation_id AND w.tenant = _tenant LIMIT 1
    ) r
    WHERE hashtextextended(m.sku, hashtext(m.tenant)) = hashtextextended(i.sku, hashtext(_tenant))
      AND m.sku = i.sku AND m.pool = i.pool AND m.tenant = _tenant
  ) l ON true
  ORDER BY i.sku, i.pool;
END
$$;
