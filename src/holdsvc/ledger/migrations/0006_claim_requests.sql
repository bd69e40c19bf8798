-- Step "claim" of every change: takes the request ids of the requests that were accepted (outcome null). Returns false,
-- having taken none, when another transaction has taken one of them meanwhile: then the caller answers RETRY and the
-- next round finds what the winner did. Sorted, and the last locks that a change takes: two batches never wait for each
-- other in a circle.

-- migrate:up
CREATE FUNCTION holdsvc.claim_requests(
  _tenant text, _rpc text, _client text[], _request_id text[], _fingerprint bytea[], _reservation_id uuid[],
  _outcome text[], _now timestamptz
) RETURNS boolean
LANGUAGE plpgsql SET search_path = holdsvc, pg_temp AS $$
DECLARE
  _wanted bigint;
  _claimed bigint;
BEGIN
  SELECT count(*) INTO _wanted FROM unnest(_request_id, _outcome) x (request_id, outcome)
  WHERE x.request_id IS NOT NULL AND x.outcome IS NULL;
  IF _wanted = 0 THEN
    RETURN true;
  END IF;
  INSERT INTO request (tenant, client, request_id, rpc, fingerprint, reservation_id, create_time)
  SELECT _tenant, x.client, x.request_id, _rpc, x.fingerprint, x.reservation_id, _now
  FROM unnest(_client, _request_id, _fingerprint, _reservation_id, _outcome)
    x (client, request_id, fingerprint, reservation_id, outcome)
  WHERE x.request_id IS NOT NULL AND x.outcome IS NULL
  ORDER BY x.request_id COLLATE "C", x.client COLLATE "C"
  ON CONFLICT DO NOTHING;
  GET DIAGNOSTICS _claimed = ROW_COUNT;
  IF _claimed = _wanted THEN
    RETURN true;
  END IF;
  -- Ours are those that this transaction wrote.
  DELETE FROM request r USING unnest(_client, _request_id, _outcome) x (client, request_id, outcome)
  WHERE r.request_id = x.request_id AND r.client = x.client AND r.tenant = _tenant AND x.outcome IS NULL
    AND r.xmin = pg_current_xact_id()::xid;
  RETURN false;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.claim_requests FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.claim_requests;
