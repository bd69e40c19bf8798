-- Forgets at most _max_count request ids older than _age, oldest first. Returns how many. For all tenants: it reads none
-- of their data.

-- migrate:up
CREATE FUNCTION holdsvc.purge_requests(_age interval, _max_count integer DEFAULT 1000) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdsvc, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
  _before timestamptz := wall_clock() - _age;
  _purged integer;
BEGIN
  DELETE FROM request WHERE ctid = ANY (ARRAY(
    SELECT q.ctid FROM request q WHERE q.create_time < _before LIMIT _max_count FOR UPDATE SKIP LOCKED
  ));
  GET DIAGNOSTICS _purged = ROW_COUNT;
  RETURN _purged;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.purge_requests FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.purge_requests TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.purge_requests;
