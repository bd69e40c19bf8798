-- Reads reservations by id: one row for each, in order; reservation_id is null where there is none. A lapsed hold is
-- read under its row lock, after the transaction that may be confirming it: a caller never reads EXPIRED first and
-- CONFIRMED later.
-- Locks: lapsed holds (FOR SHARE) in id order.
CREATE FUNCTION get_reservations(_tenant text, _reservation_id uuid[]) RETURNS SETOF reservation_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
DECLARE
  _now timestamptz := wall_clock();
BEGIN
  PERFORM 1
  FROM (SELECT DISTINCT i.id FROM unnest(_reservation_id) i (id) ORDER BY i.id) x
  CROSS JOIN LATERAL (
    SELECT w.ctid AS place, w.state, w.expire_time FROM reservation w
    WHERE w.reservation_id = x.id AND w.tenant = _tenant LIMIT 1
  ) k
  -- By place: with the state as a condition the planner read the index of all lapsed holds, for each id.
  CROSS JOIN LATERAL (
    SELECT 1 FROM reservation v WHERE v.ctid = k.place AND v.tenant IS NOT DISTINCT FROM _tenant FOR SHARE
  ) v
  WHERE k.state = 1 AND k.expire_time <= _now;
  RETURN QUERY SELECT * FROM answer_reservations(
    _tenant, array_fill(NULL::text, ARRAY[cardinality(_reservation_id)]), _reservation_id,
    NULL, NULL, _now);
END
$$;

-- The ids of a client's reservations with this reference that a key of these pools may see (see sees_reservation),
-- newest first, two at most: more than one is ambiguous. So are more than 100 in a state, of which not all are looked
-- at, so that the cost does not grow with them (see resolve_reference). Locks nothing.
CREATE FUNCTION find_reference(_tenant text, _client text, _pools text, _reference text, OUT _reservation_ids uuid[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
BEGIN
  SELECT (array_agg(c.id ORDER BY c.id DESC))[1:2] INTO _reservation_ids
  -- States of later releases too.
  FROM generate_series(1, 9) s (state)
  CROSS JOIN LATERAL (
    SELECT t.id, count(*) OVER () >= 100 AS many FROM (
      SELECT w.reservation_id AS id FROM reservation w
      WHERE w.reference = _reference AND w.reference <> '' AND w.client = _client AND w.tenant = _tenant
        AND w.state = s.state::smallint
      ORDER BY w.reservation_id DESC LIMIT 100
    ) t
  ) c
  WHERE c.many OR sees_reservation(_tenant, _pools, c.id);
END
$$;
