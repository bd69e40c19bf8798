-- Reads reservations by id, one row each in order; reservation_id is null where there is none. A lapsed hold is read
-- under its row lock (FOR SHARE, in id order), after whoever is confirming it has finished: no caller reads EXPIRED
-- first and CONFIRMED later.

-- migrate:up
CREATE FUNCTION holdsvc.get_reservations(_tenant text, _reservation_id uuid[]) RETURNS SETOF holdsvc.reservation_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdsvc, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
DECLARE
  _now timestamptz := wall_clock();
BEGIN
  PERFORM 1
  FROM (SELECT DISTINCT i.id FROM unnest(_reservation_id) i (id) ORDER BY i.id) x
  CROSS JOIN LATERAL (
    SELECT 1 FROM reservation v
    WHERE v.reservation_id = x.id AND v.tenant = _tenant AND v.state = 1 AND v.expire_time <= _now
    FOR SHARE
  ) v;
  RETURN QUERY SELECT * FROM answer_reservations(
    _tenant, array_fill(NULL::text, ARRAY[cardinality(_reservation_id)]), _reservation_id,
    NULL, NULL, NULL, NULL, NULL, _now);
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.get_reservations FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.get_reservations TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.get_reservations;
