-- Whether a key that may see these pools only may see a reservation: every line of it is in one of them.
-- _pools: null for all, else the pools, each between U+001F, which no name may contain. Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.sees_reservation(_tenant text, _pools text, _reservation_id uuid) RETURNS boolean
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
