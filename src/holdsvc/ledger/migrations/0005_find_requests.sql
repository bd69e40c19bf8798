-- Step "find" of every change: which request ids have taken effect before. By request: REPLAYED when rpc and fingerprint
-- are the same, else REQUEST_ID_REUSED, null for a new one or none; and the reservation it made or changed. Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.find_requests(
  _tenant text, _rpc text, _request_key uuid[], _fingerprint bytea[], OUT outcome text[], OUT reservation_id uuid[]
)
LANGUAGE plpgsql SET search_path = holdsvc, pg_temp AS $$
DECLARE
  _r record;
BEGIN
  outcome := array_fill(NULL::text, ARRAY[cardinality(_request_key)]);
  reservation_id := array_fill(NULL::uuid, ARRAY[cardinality(_request_key)]);
  FOR _r IN
    SELECT x.ix, q.rpc = _rpc AND q.fingerprint = x.fingerprint AS same, q.reservation_id AS id
    FROM unnest(_request_key, _fingerprint) WITH ORDINALITY x (request_key, fingerprint, ix)
    CROSS JOIN LATERAL (
      SELECT r.rpc, r.fingerprint, r.reservation_id FROM request r
      WHERE r.request_key = x.request_key AND r.tenant = _tenant
      LIMIT 1
    ) q
  LOOP
    outcome[_r.ix] := CASE WHEN _r.same THEN 'REPLAYED' ELSE 'REQUEST_ID_REUSED' END;
    reservation_id[_r.ix] := _r.id;
  END LOOP;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.find_requests FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.find_requests;
