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
  _found found_reservation[];
  -- The requests whose hold gets more time.
  _moved integer[];
  _limited uuid[];
  _now timestamptz;
BEGIN
  PERFORM enter_tenant(_tenant);
  -- find, lock
  SELECT f._outcome, f._id, f._found INTO _outcome, _id, _found
  FROM find_targets(_tenant, 'Extend', 1::smallint, _client, _pools, _read_all, _write_all, _request_key, _fingerprint,
                    _target, _reference, '{}') f;
  -- A hold that has just counted as lapsed, so that its holder got other units, must not get more time after that.
  SELECT coalesce(l.lock_time, wall_clock()) INTO _now
  FROM lock_limits_of(_tenant, _id, array_fill(true, ARRAY[cardinality(_id)])) l;
  -- judge
  _outcome := judge_held(_id, _outcome, _found, _now);
  -- claim
  IF NOT claim_requests(_tenant, 'Extend', _request_key, _fingerprint, _id, _outcome, _now) THEN
    SELECT array_agg(coalesce(x.outcome, 'RETRY') ORDER BY x.ix) INTO _outcome
    FROM unnest(_outcome) WITH ORDINALITY x (outcome, ix);
  END IF;
  -- apply; a hold that would end no later stays as it is, without a revision or an event
  WITH moved AS (
    UPDATE reservation v SET
      expire_time = least(_now + _ttl_us[x.ix] * interval '1 microsecond',
                          v.create_time + _max_lifetime_us * interval '1 microsecond'),
      revision = v.revision + 1
    FROM generate_series(1, cardinality(_id)) x (ix)
    WHERE _outcome[x.ix] IS NULL AND v.ctid = (_found[x.ix]).place AND v.tenant IS NOT DISTINCT FROM _tenant
      AND v.expire_time < least(_now + _ttl_us[x.ix] * interval '1 microsecond',
                                v.create_time + _max_lifetime_us * interval '1 microsecond')
    RETURNING x.ix, v.reservation_id, v.expire_time, v.limited
  ), lines AS (
    UPDATE reservation_line l SET expire_time = k.expire_time
    FROM (
      SELECT m.expire_time, w.place FROM moved m
      CROSS JOIN LATERAL (
        SELECT n.ctid AS place FROM reservation_line n
        WHERE n.reservation_id = m.reservation_id AND n.tenant = _tenant OFFSET 0
      ) w
    ) k
    WHERE l.ctid = k.place AND l.tenant IS NOT DISTINCT FROM _tenant
  )
  SELECT array_agg(m.ix ORDER BY m.ix), array_agg(m.reservation_id) FILTER (WHERE m.limited)
  INTO _moved, _limited FROM moved m;
  IF _limited IS NOT NULL THEN
    PERFORM settle_limits(_tenant, _limited);
  END IF;
  IF _moved IS NOT NULL THEN
    PERFORM write_reservation_events(
      _tenant, 6::smallint, 1::smallint, array_agg(_id[x.ix]), array_agg(_client[x.ix]), array_agg(_key_id[x.ix]),
      array_agg(_request_id[x.ix]), NULL, _now)
    FROM unnest(_moved) x (ix);
  END IF;

  RETURN QUERY SELECT * FROM answer_reservations(_tenant, _outcome, _id, NULL, NULL, _now);
END
$$;
