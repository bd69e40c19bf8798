-- Forgets at most _max_count request ids older than _age, of all tenants, and returns how many.
-- Locks: those rows; rows that another purge has locked are left out.
CREATE FUNCTION purge_requests(_age interval, _max_count integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off
SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
  _before timestamptz := wall_clock() - _age;
  _purged integer;
BEGIN
  DELETE FROM request r
  USING (
    SELECT q.ctid AS place, q.tenant FROM request q
    WHERE q.create_time < _before LIMIT _max_count FOR UPDATE SKIP LOCKED
  ) x
  WHERE r.ctid = x.place AND r.tenant IS NOT DISTINCT FROM x.tenant;
  GET DIAGNOSTICS _purged = ROW_COUNT;
  RETURN _purged;
END
$$;
