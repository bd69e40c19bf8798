-- The one clock by which the ledger judges: real time, not the frozen start of the transaction. Tests replace this
-- function to travel in time.

-- migrate:up
CREATE FUNCTION holdsvc.wall_clock() RETURNS timestamptz
LANGUAGE sql VOLATILE AS $$ SELECT clock_timestamp() $$;
REVOKE EXECUTE ON FUNCTION holdsvc.wall_clock() FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.wall_clock();
