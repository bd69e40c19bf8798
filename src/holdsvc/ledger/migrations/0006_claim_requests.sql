-- Step "claim" of every change: takes the request ids of the requests that were accepted (outcome null). Returns false,
-- having taken none, when another transaction has taken one of them meanwhile: then the caller answers RETRY and the
-- next round finds what the winner did. Sorted, and the last locks that a change takes: two batches never wait for each
-- other in a circle.

-- migrate:up
CREATE FUNCTION holdsvc.claim_requests(
  _tenant text, _rpc text, _request_key uuid[], _fingerprint bytea[], _reservation_id uuid[], _outcome text[],
  _now timestamptz
) RETURNS boolean
LANGUAGE plpgsql SET search_path = holdsvc, pg_temp AS $$
DECLARE
  _wanted bigint := 0;
  _claimed bigint;
BEGIN
  FOR _i IN 1 .. cardinality(_request_key) LOOP
    IF _request_key[_i] IS NOT NULL AND _outcome[_i] IS NULL THEN
      _wanted := _wanted + 1;
    END IF;
  END LOOP;
  IF _wanted = 0 THEN
    RETURN true;
  END IF;
  INSERT INTO request (tenant, request_key, rpc, fingerprint, reservation_id, create_time)
  SELECT _tenant, x.request_key, _rpc, x.fingerprint, x.reservation_id, _now
  FROM unnest(_request_key, _fingerprint, _reservation_id, _outcome)
    x (request_key, fingerprint, reservation_id, outcome)
  WHERE x.request_key IS NOT NULL AND x.outcome IS NULL
  ORDER BY x.request_key
  ON CONFLICT DO NOTHING;
  GET DIAGNOSTICS _claimed = ROW_COUNT;
  IF _claimed = _wanted THEN
    RETURN true;
  END IF;
  -- Ours are those that this transaction wrote.
  DELETE FROM request r USING unnest(_request_key, _outcome) x (request_key, outcome)
  WHERE r.request_key = x.request_key AND r.tenant = _tenant AND x.outcome IS NULL
    AND r.xmin = pg_current_xact_id()::xid;
  RETURN false;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.claim_requests FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.claim_requests;
