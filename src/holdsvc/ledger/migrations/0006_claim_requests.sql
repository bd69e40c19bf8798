-- Step "claim" of every change: takes the request ids of the requests that were accepted (outcome null). Returns false,
-- having taken none, when one of them is taken: by another transaction meanwhile, and then the caller answers RETRY and
-- the next round finds what the winner did; or before, where the caller has not looked. Sorted, and the last locks that a
-- change takes: two batches never wait for each other in a circle.

-- migrate:up
CREATE FUNCTION holdsvc.claim_requests(
  _tenant text, _rpc text, _request_key uuid[], _fingerprint bytea[], _reservation_id uuid[], _outcome text[],
  _now timestamptz
) RETURNS boolean
LANGUAGE plpgsql SET search_path = holdsvc, pg_temp AS $$
BEGIN
  INSERT INTO request (tenant, request_key, rpc, fingerprint, reservation_id, create_time)
  SELECT _tenant, _request_key[i], _rpc, _fingerprint[i], _reservation_id[i], _now
  FROM generate_series(1, cardinality(_request_key)) i
  WHERE _request_key[i] IS NOT NULL AND _outcome[i] IS NULL
  ORDER BY _request_key[i];
  RETURN true;
EXCEPTION
  -- ON CONFLICT looks for each key first, and confirms each row after it is written: 7 % of a hold.
  WHEN unique_violation THEN
    RETURN false;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.claim_requests FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.claim_requests;
