-- Why a reservation in this state cannot make a transition from _wanted (1 HELD or 2 CONFIRMED); null: it can.
-- A lapsed hold is EXPIRED, swept or not.

-- migrate:up
CREATE FUNCTION holdsvc.state_refusal(_wanted smallint, _state smallint, _expire_time timestamptz, _now timestamptz)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE
    WHEN _state = 5 THEN 'ALREADY_REFUNDED'
    WHEN _wanted = 2 THEN CASE WHEN _state <> 2 THEN 'RESERVATION_NOT_CONFIRMED' END
    WHEN _state = 2 THEN 'RESERVATION_ALREADY_CONFIRMED'
    WHEN _state = 3 THEN 'RESERVATION_ALREADY_CANCELLED'
    WHEN _state = 4 OR _expire_time <= _now THEN 'RESERVATION_EXPIRED'
  END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.state_refusal FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.state_refusal;
