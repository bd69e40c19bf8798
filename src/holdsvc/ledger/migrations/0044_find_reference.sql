-- The ids of a client's reservations with this reference that a key of these pools may see (see sees_reservation),
-- newest first, at most two: more than one is ambiguous.

-- migrate:up
CREATE FUNCTION holdsvc.find_reference(_tenant text, _client text, _pools text, _reference text, OUT reservation_id uuid[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdsvc, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
BEGIN
  SELECT array_agg(x.reservation_id) INTO find_reference.reservation_id FROM (
    SELECT v.reservation_id FROM reservation v
    WHERE v.reference = _reference AND v.reference <> '' AND v.client = _client AND v.tenant = _tenant
      AND sees_reservation(_tenant, _pools, v.reservation_id)
    ORDER BY v.reservation_id DESC LIMIT 2
  ) x;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.find_reference FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.find_reference TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.find_reference;
