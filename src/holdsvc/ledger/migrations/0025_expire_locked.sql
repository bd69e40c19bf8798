-- Expires these reservations of one tenant, whose rows the caller has locked and found HELD and lapsed: gives their
-- units back. Returns the units. Locks: items in (sku, pool) order.

-- migrate:up
CREATE FUNCTION holdsvc.expire_locked(_tenant text, _reservation_id uuid[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = holdsvc, pg_temp AS $$
DECLARE
  _now timestamptz;
  _released bigint;
BEGIN
  PERFORM lock_items_of(_tenant, _reservation_id);
  _now := wall_clock();
  _released := settle_held(_tenant, _reservation_id, _now);
  UPDATE reservation v SET state = 4, revision = v.revision + 1
  FROM unnest(_reservation_id) x (id)
  CROSS JOIN LATERAL (
    SELECT w.ctid AS place FROM reservation w WHERE w.reservation_id = x.id AND w.tenant = _tenant LIMIT 1
  ) k
  WHERE v.ctid = k.place;
  PERFORM write_reservation_events(
    _tenant, 4::smallint, _reservation_id, array_fill(''::text, ARRAY[cardinality(_reservation_id)]),
    array_fill(''::text, ARRAY[cardinality(_reservation_id)]), NULL, NULL, _now);
  RETURN _released;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.expire_locked FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.expire_locked;
