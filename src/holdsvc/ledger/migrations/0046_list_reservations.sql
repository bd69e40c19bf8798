-- Lists reservations, newest first, after the id _before: those that match every filter that is not null. See
-- reservation_query for the filters and get_reservations for the lock on lapsed ones.

-- migrate:up
CREATE FUNCTION holdsvc.list_reservations(
  _tenant text, _client text, _states smallint[], _sku text, _pool text, _holder text, _reference text, _order_id text,
  _pools text[], _before uuid, _limit integer
) RETURNS SETOF holdsvc.reservation_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdsvc, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET enable_hashjoin = off
SET enable_mergejoin = off SET max_parallel_workers_per_gather = 0 SET jit = off AS $$
DECLARE
  _ids uuid[];
BEGIN
  EXECUTE 'SELECT array_agg(q.reservation_id ORDER BY q.reservation_id DESC) FROM ('
    || reservation_query(_client, _states, _sku, _pool, _holder, _reference, _order_id, _pools, _before, true) || ') q'
  INTO _ids
  USING _tenant, _client, _states, _sku, _pool, _holder, _reference, _order_id, _pools, _before, wall_clock(), _limit;
  IF _ids IS NOT NULL THEN
    RETURN QUERY SELECT * FROM get_reservations(_tenant, _ids);
  END IF;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.list_reservations FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.list_reservations TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.list_reservations;
