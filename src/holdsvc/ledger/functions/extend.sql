-- Extends: gives each request's reservation time until now + ttl, never less than it had, and at most _max_lifetime_us
-- after its creation. Takes arrays of n requests of one tenant in order of arrival; times in microseconds.
-- Locks: reservations in id order, limits in order, request ids in order; no item, for no unit moves.
CREATE FUNCTION extend(
  _tenant text,
  _client text[], _key_id text[], _pools text[], _read_all boolean[], _write_all boolean[],
  _request_id text[], _request_key uuid[], _fingerprint bytea[], _target uuid[], _reference text[],
  _ttl_us bigint[], _max_lifetime_us bigint
) RETURNS SETOF reservation_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
DECLARE
  _outcome text[];
  _id uuid[];
  _moved uuid[];
  _limited uuid[];
  _now timestamptz;
BEGIN
  PERFORM enter_tenant(_tenant);
  -- find, lock
  SELECT array_agg(f._found_outcome), array_agg(f._found_id) INTO _outcome, _id
  FROM find_targets(_tenant, 'Extend', 1::smallint, _client, _pools, _read_all, _write_all, _request_key, _fingerprint,
                    _target, _reference, '{}') f;
  -- What counts for a limit must not be over for who takes units, and then go on.
  SELECT coalesce(l._lock_time, wall_clock()) INTO _now
  FROM lock_limits_of(_tenant, _id, array_fill(true, ARRAY[cardinality(_id)])) l;
  -- judge
  _outcome := judge_held(_tenant, _id, _outcome, _now);
  -- claim
  IF NOT claim_requests(_tenant, 'Extend', _request_key, _fingerprint, _id, _outcome, _now) THEN
    SELECT array_agg(coalesce(x.outcome, 'RETRY') ORDER BY x.ix) INTO _outcome
    FROM unnest(_outcome) WITH ORDINALITY x (outcome, ix);
  END IF;
  -- apply; a hold that would end no later stays as it is, without a revision or an event
  WITH moved AS (
    UPDATE reservation v SET expire_time = k.until, revision = v.revision + 1
    FROM unnest(_id, _ttl_us, _outcome) x (id, ttl_us, outcome)
    CROSS JOIN LATERAL (
      SELECT w.ctid AS place, least(_now + x.ttl_us * interval '1 microsecond',
                                    w.create_time + _max_lifetime_us * interval '1 microsecond') AS until
      FROM reservation w WHERE w.reservation_id = x.id AND w.tenant = _tenant LIMIT 1
    ) k
    WHERE v.ctid = k.place AND v.tenant IS NOT DISTINCT FROM _tenant AND x.outcome IS NULL AND k.until > v.expire_time
    RETURNING v.reservation_id, v.limited
  )
  SELECT coalesce(array_agg(m.reservation_id), '{}'), array_agg(m.reservation_id) FILTER (WHERE m.limited)
  INTO _moved, _limited FROM moved m;
  UPDATE reservation_line l SET expire_time = v.expire_time
  FROM unnest(_id, _outcome) x (id, outcome)
  CROSS JOIN LATERAL (
    SELECT w.expire_time FROM reservation w WHERE w.reservation_id = x.id AND w.tenant = _tenant LIMIT 1
  ) v
  CROSS JOIN LATERAL (
    SELECT w.ctid AS place FROM reservation_line w WHERE w.reservation_id = x.id AND w.tenant = _tenant OFFSET 0
  ) k
  WHERE l.ctid = k.place AND l.tenant IS NOT DISTINCT FROM _tenant AND x.outcome IS NULL AND x.id = ANY (_moved);
  IF _limited IS NOT NULL THEN
    PERFORM settle_limits(_tenant, _limited);
  END IF;
  PERFORM write_reservation_events(
    _tenant, 6::smallint, 1::smallint, array_agg(x.id ORDER BY x.ix), array_agg(x.client ORDER BY x.ix),
    array_agg(x.key_id ORDER BY x.ix), array_agg(x.request_id ORDER BY x.ix), NULL, _now)
  FROM unnest(_id, _client, _key_id, _request_id, _outcome)
    WITH ORDINALITY x (id, client, key_id, request_id, outcome, ix)
  WHERE x.outcome IS NULL AND x.id = ANY (_moved)
  HAVING count(*) > 0;

  RETURN QUERY SELECT * FROM answer_reservations(_tenant, _outcome, _id, NULL, NULL, _now);
END
$$;
