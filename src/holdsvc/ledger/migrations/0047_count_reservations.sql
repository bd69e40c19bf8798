-- Counts the reservations that match every filter that is not null. Reads them all.

-- migrate:up
CREATE FUNCTION holdsvc.count_reservations(
  _tenant text, _client text, _states smallint[], _sku text, _pool text, _holder text, _reference text, _order_id text,
  _pools text[], OUT total bigint
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdsvc, pg_temp SET jit = off AS $$
BEGIN
  EXECUTE 'SELECT count(*) FROM ('
    || reservation_query(_client, _states, _sku, _pool, _holder, _reference, _order_id, _pools, NULL, false) || ') q'
  INTO total
  USING _tenant, _client, _states, _sku, _pool, _holder, _reference, _order_id, _pools, NULL::uuid, wall_clock();
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.count_reservations FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.count_reservations TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.count_reservations;
