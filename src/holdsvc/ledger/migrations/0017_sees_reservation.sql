-- Whether a key that is bound to these pools may see a reservation: no line of it lies elsewhere. _pools: null for all, else
-- pools each between U+001F. Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.sees_reservation(_tenant text, _reservation_id uuid, _pools text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = holdsvc, pg_temp AS $$
BEGIN
  RETURN _pools IS NULL OR NOT EXISTS (
    SELECT 1 FROM reservation_line l
    WHERE l.reservation_id = _reservation_id AND l.tenant = _tenant
      AND strpos(_pools, chr(31) || l.pool || chr(31)) = 0
  );
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.sees_reservation FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.sees_reservation;
