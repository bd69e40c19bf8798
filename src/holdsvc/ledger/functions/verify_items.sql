-- Recomputes the counters of the next _limit skus after _after_sku from their reservations: one row for each item. It
-- is one short statement, because an open snapshot slows updates of a hot row down. Locks nothing.
CREATE FUNCTION verify_items(_tenant text, _after_sku text, _limit integer)
RETURNS SETOF recount_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
  RETURN QUERY
  SELECT i.sku::text, i.pool::text, i.capacity, i.remaining, i.held, i.confirmed,
         i.waiting, w.offered, coalesce(l.held, 0)::bigint, coalesce(l.confirmed, 0)::bigint,
         w.waiting, w.held + coalesce(l.loose, 0), coalesce(l.reservations, 0),
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
           ))) AS reservations,
           -- Offers of entries that are not OFFERED.
           count(*) FILTER (WHERE r.state = 1 AND r.entry_id IS NOT NULL AND NOT EXISTS (
             SELECT 1 FROM waitlist_entry e
             WHERE e.entry_id = r.entry_id AND e.tenant = _tenant AND e.state = 2
               AND e.reservation_id = m.reservation_id
           )) AS loose
    FROM reservation_line m
    CROSS JOIN LATERAL (
      SELECT w.state, w.entry_id FROM reservation w
      WHERE w.reservation_id = m.reservation_id AND w.tenant = _tenant LIMIT 1
    ) r
    WHERE hashtextextended(m.sku, hashtext(m.tenant)) = hashtextextended(i.sku, hashtext(_tenant))
      AND m.sku = i.sku AND m.pool = i.pool AND m.tenant = _tenant
  ) l ON true
  -- An entry is OFFERED as long as its offer is HELD.
  CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE m.state = 1) AS waiting, count(*) FILTER (WHERE m.state = 2) AS offered,
           count(*) FILTER (WHERE m.state = 2 AND EXISTS (
             SELECT 1 FROM waitlist_entry e
             CROSS JOIN LATERAL (
               SELECT v.state, v.entry_id FROM reservation v
               WHERE v.reservation_id = e.reservation_id AND v.tenant = _tenant LIMIT 1
             ) v
             WHERE e.entry_id = m.entry_id AND e.tenant = _tenant AND e.state = 2 AND v.state = 1
               AND v.entry_id = e.entry_id
           )) AS held
    FROM waitlist_line m
    WHERE m.sku = i.sku AND m.pool = i.pool AND m.tenant = _tenant AND m.state IN (1, 2)
  ) w
  ORDER BY i.sku, i.pool;
END
$$;

-- What reservations count for the tenant's ACTIVE limits, recomputed from the reservations with a line on an item with
-- a sku behind _after_sku up to _last_sku: one row for each limit and item where the uses that are stored differ. Locks
-- nothing.
CREATE FUNCTION verify_limits(_tenant text, _after_sku text, _last_sku text) RETURNS SETOF limit_recount_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM hold_limit h WHERE h.tenant = _tenant AND h.state = 2) THEN
    RETURN;
  END IF;
  RETURN QUERY
  SELECT h.limit_id::text, i.sku::text, i.pool::text, 'limit_units',
         coalesce(sum(c.stored), 0)::bigint, coalesce(sum(c.recomputed), 0)::bigint
  FROM item i
  CROSS JOIN LATERAL (
    SELECT array_agg(DISTINCT w.reservation_id) AS ids FROM reservation_line w
    WHERE hashtextextended(w.sku, hashtext(w.tenant)) = hashtextextended(i.sku, hashtext(_tenant))
      AND w.sku = i.sku AND w.pool = i.pool AND w.tenant = _tenant
  ) l
  CROSS JOIN LATERAL (
    SELECT d.limit_number, d.id, sum(d.stored) AS stored, sum(d.recomputed) AS recomputed,
           count(DISTINCT d.what) AS kinds
    FROM (
      SELECT u.limit_number, u.reservation_id AS id, u.units AS stored, 0 AS recomputed,
             ROW(u.units, u.client::text, u.holder::text, u.expire_time, u.confirm_time)::text AS what
      FROM unnest(l.ids) x (id)
      JOIN limit_use u ON u.reservation_id = x.id AND u.tenant = _tenant
      UNION ALL
      SELECT e._limit_number, e._id, 0, e._units,
             ROW(e._units, e._client, e._holder, e._expire_time, e._confirm_time)::text
      FROM limit_units(_tenant, l.ids) e
    ) d
    GROUP BY d.limit_number, d.id
  ) c
  JOIN hold_limit h ON h.limit_number = c.limit_number AND h.tenant = _tenant AND h.state = 2
    AND starts_with(i.sku, h.sku_prefix) AND (h.pool IS NULL OR h.pool = i.pool)
  WHERE i.tenant = _tenant AND i.sku > _after_sku AND i.sku <= _last_sku
  GROUP BY h.limit_id, i.sku, i.pool
  HAVING bool_or(c.stored <> c.recomputed OR c.kinds > 1)
  ORDER BY i.sku, i.pool, h.limit_id;
END
$$;

-- What clients have of the tenant's ACTIVE limits in all: one row for each limit where what is stored of some client
-- differs from its uses. Locks nothing.
CREATE FUNCTION verify_limit_clients(_tenant text) RETURNS SETOF limit_recount_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
BEGIN
  RETURN QUERY
  SELECT h.limit_id::text, '', '', 'limit_used', sum(c.stored)::bigint, sum(c.recomputed)::bigint
  FROM hold_limit h
  CROSS JOIN LATERAL (
    SELECT d.client, sum(d.stored) AS stored, sum(d.recomputed) AS recomputed
    FROM (
      SELECT s.client, s.used AS stored, 0 AS recomputed FROM limit_subject s
      WHERE s.limit_number = h.limit_number AND s.holder = '' AND s.tenant = _tenant
      UNION ALL
      SELECT g.client, g.units, 0 FROM limit_change g WHERE g.limit_number = h.limit_number AND g.tenant = _tenant
      UNION ALL
      SELECT u.client, 0, u.units FROM limit_use u
      WHERE u.limit_number = h.limit_number AND u.holder = '' AND u.tenant = _tenant
    ) d
    GROUP BY d.client
  ) c
  WHERE h.tenant = _tenant AND h.state = 2
  GROUP BY h.limit_id
  HAVING bool_or(c.stored <> c.recomputed)
  ORDER BY h.limit_id;
END
$$;
