-- Step "find" of every change: which request ids have taken effect before. Returns only those: REPLAYED when rpc and
-- fingerprint are the same, else REQUEST_ID_REUSED, and the reservation they made or changed. Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.find_requests(
  _tenant text, _rpc text, _request_key uuid[], _fingerprint bytea[]
) RETURNS TABLE (ix integer, outcome text, reservation_id uuid)
LANGUAGE plpgsql SET search_path = holdsvc, pg_temp AS $$
BEGIN
  RETURN QUERY
  SELECT x.ix::integer,
         CASE WHEN q.rpc = _rpc AND q.fingerprint = x.fingerprint THEN 'REPLAYED' ELSE 'REQUEST_ID_REUSED' END,
         q.reservation_id
  FROM unnest(_request_key, _fingerprint) WITH ORDINALITY x (request_key, fingerprint, ix)
  CROSS JOIN LATERAL (
    SELECT r.rpc, r.fingerprint, r.reservation_id FROM request r
    WHERE r.request_key = x.request_key AND r.tenant = _tenant
    LIMIT 1
  ) q;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.find_requests FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.find_requests;
