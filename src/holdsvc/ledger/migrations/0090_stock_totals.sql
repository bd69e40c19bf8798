-- What a tenant's stock adds up to, for the metrics: the totals of the next _limit items after (_after_sku, _after_pool)
-- and the _top of them with the most units held. A part a call, so that no snapshot stays open for long. Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.stock_totals(
  _tenant text, _after_sku text, _after_pool text, _limit integer, _top integer,
  OUT items bigint, OUT held bigint, OUT confirmed bigint, OUT remaining bigint,
  OUT last_sku text, OUT last_pool text,
  OUT top_sku text[], OUT top_pool text[], OUT top_held bigint[], OUT top_confirmed bigint[], OUT top_remaining bigint[]
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdsvc, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
#variable_conflict use_column
BEGIN
  WITH part AS MATERIALIZED (
    SELECT i.sku, i.pool, i.held, i.confirmed, i.remaining, i.delete_time FROM item i
    WHERE i.tenant = _tenant AND (i.sku, i.pool) > (_after_sku, _after_pool)
    ORDER BY i.sku, i.pool
    LIMIT _limit
  ), living AS (
    SELECT * FROM part WHERE part.delete_time IS NULL
  ), best AS (
    SELECT * FROM living WHERE living.held > 0 OR living.confirmed > 0
    ORDER BY living.held DESC, living.confirmed DESC, living.sku, living.pool
    LIMIT _top
  )
  SELECT a.items, a.held, a.confirmed, a.remaining, z.sku, z.pool, b.sku, b.pool, b.held, b.confirmed, b.remaining
  INTO items, held, confirmed, remaining, last_sku, last_pool,
       top_sku, top_pool, top_held, top_confirmed, top_remaining
  FROM (
    SELECT count(*) AS items, coalesce(sum(living.held), 0)::bigint AS held,
           coalesce(sum(living.confirmed), 0)::bigint AS confirmed,
           coalesce(sum(living.remaining), 0)::bigint AS remaining
    FROM living
  ) a
  CROSS JOIN (
    SELECT coalesce(array_agg(best.sku::text), '{}') AS sku, coalesce(array_agg(best.pool::text), '{}') AS pool,
           coalesce(array_agg(best.held), '{}') AS held, coalesce(array_agg(best.confirmed), '{}') AS confirmed,
           coalesce(array_agg(best.remaining), '{}') AS remaining
    FROM best
  ) b
  -- Null when the part was short: it was the last.
  LEFT JOIN LATERAL (
    SELECT part.sku, part.pool FROM part OFFSET _limit - 1 LIMIT 1
  ) z ON true;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.stock_totals FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.stock_totals TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.stock_totals;
