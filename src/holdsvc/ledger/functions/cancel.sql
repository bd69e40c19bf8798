-- Cancels: gives the held units of each request's reservation back. Takes arrays of n requests of one tenant in order
-- of arrival.
-- Locks: reservations in id order, items in (sku, pool) order, request ids in order.
CREATE FUNCTION cancel(
  _tenant text,
  _client text[], _key_id text[], _pools text[], _read_all boolean[], _write_all boolean[],
  _request_id text[], _request_key uuid[], _fingerprint bytea[], _target uuid[], _reference text[], _reason text[]
) RETURNS SETOF reservation_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
DECLARE
  _outcome text[];
  _id uuid[];
  _now timestamptz;
  _r record;
BEGIN
  -- find
  SELECT array_agg(f._found_outcome), array_agg(f._found_id) INTO _outcome, _id
  FROM find_targets(_tenant, 'Cancel', 1::smallint, _client, _pools, _read_all, _write_all, _request_key, _fingerprint,
                    _target, _reference) f;
  -- lock
  PERFORM lock_items_of(_tenant, (SELECT array_agg(x.id) FROM unnest(_id, _outcome) x (id, outcome)
                                  WHERE x.outcome IS NULL));
  _now := wall_clock();
  -- judge
  _outcome := judge_held(_tenant, _id, _outcome, _now);
  -- claim
  IF NOT claim_requests(_tenant, 'Cancel', _request_key, _fingerprint, _id, _outcome, _now) THEN
    SELECT array_agg(coalesce(x.outcome, 'RETRY') ORDER BY x.ix) INTO _outcome
    FROM unnest(_outcome) WITH ORDINALITY x (outcome, ix);
  END IF;
  -- apply
  SELECT array_agg(x.id) AS id, array_agg(x.client) AS client, array_agg(x.key_id) AS key_id,
         array_agg(x.request_id) AS request_id, array_agg(x.reason) AS reason
  INTO _r
  FROM unnest(_id, _client, _key_id, _request_id, _reason, _outcome) x (id, client, key_id, request_id, reason, outcome)
  WHERE x.outcome IS NULL;
  IF _r.id IS NOT NULL THEN
    PERFORM return_held(_tenant, 3::smallint, _r.id, _r.client, _r.key_id, _r.request_id, _r.reason, _now);
  END IF;

  RETURN QUERY SELECT * FROM answer_reservations(_tenant, _outcome, _id, NULL, NULL, NULL, NULL, NULL, _now);
END
$$;
