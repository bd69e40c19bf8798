-- Step "find" of a change to reservations: replays by request id, references resolved, and every reservation named,
-- replayed ones too, locked in id order (FOR NO KEY UPDATE). Returns one row each request, in order: outcome null where
-- the change may go on. _wanted is the state that the change starts from (1 HELD, 2 CONFIRMED): a reference must lead to
-- exactly one such reservation of the client; without one its newest reservation decides the refusal.
-- _pools bounds what the key may see: see sees_reservation.

-- migrate:up
CREATE FUNCTION holdsvc.find_targets(
  _tenant text, _rpc text, _wanted smallint,
  _client text[], _pools text[], _read_all boolean[], _write_all boolean[],
  _request_key uuid[], _fingerprint bytea[], _target uuid[], _reference text[]
) RETURNS TABLE (outcome text, reservation_id uuid)
LANGUAGE plpgsql SET search_path = holdsvc, pg_temp AS $$
#variable_conflict use_column
DECLARE
  _outcome text[];
  _id uuid[];
  _now timestamptz := wall_clock();
  _r record;
BEGIN
  _r := find_requests(_tenant, _rpc, _request_key, _fingerprint);
  _outcome := _r.outcome;
  _id := _r.reservation_id;
  FOR _i IN 1 .. cardinality(_client) LOOP
    IF _outcome[_i] IS NULL THEN
      _id[_i] := _target[_i];
    END IF;
  END LOOP;

  FOR _r IN
    SELECT x.ix, m.ids, m.newest
    FROM unnest(_client, _pools, _reference, _outcome) WITH ORDINALITY x (client, pools, reference, outcome, ix)
    CROSS JOIN LATERAL (
      SELECT array_agg(v.reservation_id)
               FILTER (WHERE state_refusal(_wanted, v.state, v.expire_time, _now) IS NULL) AS ids,
             (array_agg(v.reservation_id ORDER BY v.reservation_id DESC))[1] AS newest
      FROM reservation v
      WHERE v.reference = x.reference AND v.reference <> '' AND v.client = x.client AND v.tenant = _tenant
        AND sees_reservation(_tenant, x.pools, v.reservation_id)
    ) m
    WHERE x.reference IS NOT NULL AND x.outcome IS NULL
  LOOP
    IF cardinality(_r.ids) > 1 THEN
      _outcome[_r.ix] := 'REFERENCE_AMBIGUOUS';
    END IF;
    _id[_r.ix] := coalesce(_r.ids[1], _r.newest);
  END LOOP;

  PERFORM 1
  FROM (SELECT DISTINCT i.id FROM unnest(_id) i (id) WHERE i.id IS NOT NULL ORDER BY i.id) x
  CROSS JOIN LATERAL (
    SELECT 1 FROM reservation v WHERE v.reservation_id = x.id AND v.tenant = _tenant FOR NO KEY UPDATE
  ) v;

  FOR _r IN
    SELECT x.ix,
           CASE
             WHEN v.client IS NULL OR (v.client <> x.client AND NOT x.read_all) THEN 'RESERVATION_NOT_FOUND'
             WHEN x.pools IS NOT NULL AND NOT sees_reservation(_tenant, x.pools, x.id) THEN 'RESERVATION_NOT_FOUND'
             WHEN v.client <> x.client AND NOT x.write_all THEN 'PERMISSION_DENIED'
           END AS refusal
    FROM unnest(_id, _client, _pools, _read_all, _write_all, _outcome)
      WITH ORDINALITY x (id, client, pools, read_all, write_all, outcome, ix)
    LEFT JOIN LATERAL (
      SELECT w.client FROM reservation w WHERE w.reservation_id = x.id AND w.tenant = _tenant LIMIT 1
    ) v ON true
    -- Replays too: what another key of this client did, or this client while it had the right, is not shown to all.
    WHERE x.outcome IS NULL OR x.outcome = 'REPLAYED'
  LOOP
    _outcome[_r.ix] := coalesce(_r.refusal, _outcome[_r.ix]);
  END LOOP;

  RETURN QUERY SELECT x.outcome, x.id FROM unnest(_outcome, _id) x (outcome, id);
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.find_targets FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.find_targets;
