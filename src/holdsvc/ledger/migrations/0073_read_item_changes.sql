-- Which items the events after _after touched, as far as they are visible now, and those events among _missing (ids
-- that an earlier call did not find: their transactions were running). In order of event_id, _limit of them. A partial
-- confirm also moves units of lines that its event does not name, so its items are those of the reservation.
-- For all tenants, by the one reader of a process: it yields names of items, which the tenant's own function then reads.
-- Days before the one before _day are pruned: nobody draws an id a day after reading the clock. Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.read_item_changes(_after bigint, _missing bigint[], _day date, _limit integer)
RETURNS TABLE (event_id bigint, tenant text, line_sku text[], line_pool text[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = holdsvc, pg_temp
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET jit = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT e.event_id, e.tenant::text,
         CASE WHEN e.type = 2 THEN l.sku ELSE e.line_sku END, CASE WHEN e.type = 2 THEN l.pool ELSE e.line_pool END
  FROM (
    SELECT * FROM event v WHERE v.event_id > _after AND v.occur_day >= _day - 1 ORDER BY v.event_id LIMIT _limit
  ) e
  LEFT JOIN LATERAL (
    SELECT array_agg(m.sku) AS sku, array_agg(m.pool) AS pool FROM reservation_line m
    WHERE m.reservation_id = e.reservation_id AND m.tenant = e.tenant
  ) l ON e.type = 2;
  IF cardinality(_missing) > 0 THEN
    RETURN QUERY
    SELECT e.event_id, e.tenant::text,
           CASE WHEN e.type = 2 THEN l.sku ELSE e.line_sku END, CASE WHEN e.type = 2 THEN l.pool ELSE e.line_pool END
    FROM event e
    LEFT JOIN LATERAL (
      SELECT array_agg(m.sku) AS sku, array_agg(m.pool) AS pool FROM reservation_line m
      WHERE m.reservation_id = e.reservation_id AND m.tenant = e.tenant
    ) l ON e.type = 2
    WHERE e.event_id = ANY (_missing) AND e.occur_day >= _day - 1;
  END IF;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.read_item_changes FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.read_item_changes TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.read_item_changes;
