-- Makes the answers of a call on items: one row each element, with the item as it is now.

-- migrate:up
CREATE FUNCTION holdsvc.answer_items(
  _tenant text, _outcome text[], _sku text[], _pool text[], _requested bigint[], _available bigint[]
) RETURNS SETOF holdsvc.item_answer
LANGUAGE plpgsql SET search_path = holdsvc, pg_temp AS $$
BEGIN
  RETURN QUERY
  SELECT x.ix::integer, x.outcome, x.requested, x.available, x.sku, x.pool,
         i.display_name, i.capacity, i.remaining, i.held, i.confirmed, i.oversell_limit, i.revision,
         i.create_time, i.update_time
  FROM unnest(_outcome, _sku, _pool, _requested, _available)
    WITH ORDINALITY x (outcome, sku, pool, requested, available, ix)
  LEFT JOIN LATERAL (
    SELECT * FROM item v WHERE v.sku = x.sku AND v.pool = x.pool AND v.tenant = _tenant AND v.delete_time IS NULL LIMIT 1
  ) i ON true
  ORDER BY x.ix;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.answer_items FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.answer_items;
