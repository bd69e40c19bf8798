-- Which of these items another transaction has locked now; the others are locked from now on.
-- Locks: items that are free, never waiting.
CREATE FUNCTION locked_items(_tenant text, _sku text[], _pool text[])
RETURNS TABLE (_locked_sku text, _locked_pool text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RETURN QUERY
  SELECT k.sku, k.pool
  FROM (
    SELECT DISTINCT x.sku COLLATE "C" AS sku, x.pool COLLATE "C" AS pool FROM unnest(_sku, _pool) x (sku, pool)
  ) k
  CROSS JOIN LATERAL (
    SELECT 1 FROM item i WHERE i.sku = k.sku AND i.pool = k.pool AND i.tenant = _tenant LIMIT 1
  ) known
  LEFT JOIN LATERAL (
    SELECT 1 AS free FROM item i WHERE i.sku = k.sku AND i.pool = k.pool AND i.tenant = _tenant
    FOR NO KEY UPDATE SKIP LOCKED
  ) i ON true
  WHERE i.free IS NULL;
END
$$;

-- Which of these items another transaction has locked now. The engine asks after a batch has waited for a lock in vain,
-- so that the requests for other items need not wait. The locks that it takes on free items end with the statement.
-- Locks: items that are free, never waiting.
CREATE FUNCTION find_locked_items(_tenant text, _sku text[], _pool text[])
RETURNS TABLE (_locked_sku text, _locked_pool text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET jit = off AS $$
BEGIN
  -- It writes nothing but row locks: nothing to flush.
  PERFORM set_config('synchronous_commit', 'off', true);
  RETURN QUERY SELECT l._locked_sku, l._locked_pool FROM locked_items(_tenant, _sku, _pool) l;
END
$$;

-- The same for changes of reservations, by request: an item of its lines that is locked, or empty strings where the
-- reservation itself is. A reference counts with at most ten reservations of its client that are held or confirmed.
-- Locks: reservations and items that are free, never waiting.
CREATE FUNCTION find_locked_targets(_tenant text, _client text[], _target uuid[], _reference text[])
RETURNS TABLE (_ix integer, _locked_sku text, _locked_pool text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  _request integer[];
  _id uuid[];
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  SELECT array_agg(t.ix), array_agg(t.id)
  INTO _request, _id
  FROM (
    SELECT x.ix::integer AS ix, x.target AS id
    FROM unnest(_target) WITH ORDINALITY x (target, ix)
    WHERE x.target IS NOT NULL
    UNION ALL
    SELECT x.ix::integer, v.reservation_id
    FROM unnest(_client, _reference) WITH ORDINALITY x (client, reference, ix)
    CROSS JOIN LATERAL (
      SELECT w.reservation_id FROM reservation w
      WHERE w.reference = x.reference AND w.reference <> '' AND w.client = x.client AND w.tenant = _tenant
        AND w.state IN (1, 2, 6)
      LIMIT 10
    ) v
    WHERE x.reference IS NOT NULL
  ) t;

  RETURN QUERY
  SELECT t.ix, '', ''
  FROM unnest(_request, _id) t (ix, id)
  CROSS JOIN LATERAL (
    SELECT 1 FROM reservation v WHERE v.reservation_id = t.id AND v.tenant = _tenant LIMIT 1
  ) known
  LEFT JOIN LATERAL (
    SELECT 1 AS free FROM reservation v WHERE v.reservation_id = t.id AND v.tenant = _tenant
    FOR NO KEY UPDATE SKIP LOCKED
  ) v ON true
  WHERE v.free IS NULL;

  RETURN QUERY
  WITH line AS MATERIALIZED (
    SELECT t.ix, l.sku, l.pool
    FROM unnest(_request, _id) t (ix, id)
    CROSS JOIN LATERAL (
      SELECT w.sku, w.pool FROM reservation_line w WHERE w.reservation_id = t.id AND w.tenant = _tenant OFFSET 0
    ) l
  )
  SELECT line.ix, f._locked_sku, f._locked_pool
  FROM find_locked_items(
    _tenant, (SELECT array_agg(w.sku) FROM line w), (SELECT array_agg(w.pool) FROM line w)
  ) f
  JOIN line ON line.sku = f._locked_sku AND line.pool = f._locked_pool;
END
$$;
