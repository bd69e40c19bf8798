-- Forgets at most _max_count request ids older than _age, of all tenants, and returns how many.
-- Locks: those rows; rows that another purge has locked are left out.
CREATE FUNCTION purge_requests(_age interval, _max_count integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off
SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
  _before timestamptz := wall_clock() - _age;
  _away text[] := tenants_away();
  _purged integer;
BEGIN
  DELETE FROM request r
  USING (
    SELECT q.ctid AS place, q.tenant FROM request q
    WHERE q.create_time < _before AND q.tenant <> ALL (_away) LIMIT _max_count FOR UPDATE SKIP LOCKED
  ) x
  WHERE r.ctid = x.place AND r.tenant IS NOT DISTINCT FROM x.tenant;
  GET DIAGNOSTICS _purged = ROW_COUNT;
  RETURN _purged;
END
$$;

-- Forgets at most _max_count movements of goods that took effect longer than _age ago. Returns how many. For all
-- tenants: it reads none of their data.
CREATE FUNCTION purge_stock_moves(_age interval, _max_count integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off
SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
  _before timestamptz := wall_clock() - _age;
  _away text[] := tenants_away();
  _purged integer;
BEGIN
  DELETE FROM stock_move m
  USING (
    SELECT w.ctid AS place, w.tenant FROM stock_move w
    WHERE w.effective_time < _before AND w.tenant <> ALL (_away) LIMIT _max_count FOR UPDATE SKIP LOCKED
  ) x
  WHERE m.ctid = x.place AND m.tenant = x.tenant;
  GET DIAGNOSTICS _purged = ROW_COUNT;
  RETURN _purged;
END
$$;
