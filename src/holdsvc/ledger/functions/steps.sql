-- The refusal of a transition from _wanted (1 HELD or 2 CONFIRMED) for a reservation in this state; null: it may be
-- made. A lapsed hold is EXPIRED, swept or not. A state of a later release is not for this set to change. It reads no
-- table and has no search_path, so that it is inlined.
CREATE FUNCTION state_refusal(_wanted smallint, _state smallint, _expire_time timestamptz, _now timestamptz)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE
    WHEN _state = 5 THEN 'ALREADY_REFUNDED'
    WHEN _wanted = 2 THEN CASE WHEN _state <> 2 THEN 'RESERVATION_NOT_CONFIRMED' END
    WHEN _state = 2 THEN 'RESERVATION_ALREADY_CONFIRMED'
    WHEN _state = 3 THEN 'RESERVATION_ALREADY_CANCELLED'
    WHEN _state NOT IN (1, 4) THEN 'FEATURE_NOT_ACTIVE state ' || _state
    WHEN _state = 4 OR _expire_time <= _now THEN 'RESERVATION_EXPIRED'
  END
$$;

-- Whether a key that may see these pools only may see a reservation: every line of it is in one of them. _pools: null
-- for all, else the pools, each between U+001F, which no name may contain. Locks nothing.
CREATE FUNCTION sees_reservation(_tenant text, _pools text, _reservation_id uuid) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
  RETURN _pools IS NULL OR NOT EXISTS (
    SELECT 1 FROM reservation_line l
    WHERE l.reservation_id = _reservation_id AND l.tenant = _tenant
      AND strpos(_pools, chr(31) || l.pool || chr(31)) = 0
  );
END
$$;

-- Step "find" of every change: which request ids have taken effect before. By request: REPLAYED when rpc and
-- fingerprint are the same, else REQUEST_ID_REUSED; null for a new request id or none; and the reservation that it made
-- or changed.
-- Locks nothing.
CREATE FUNCTION find_requests(
  _tenant text, _rpc text, _request_key uuid[], _fingerprint bytea[], OUT _outcome text[], OUT _reservation_id uuid[]
)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _r record;
BEGIN
  _outcome := array_fill(NULL::text, ARRAY[cardinality(_request_key)]);
  _reservation_id := array_fill(NULL::uuid, ARRAY[cardinality(_request_key)]);
  FOR _r IN
    SELECT x.ix, q.rpc = _rpc AND q.fingerprint = x.fingerprint AS same, q.reservation_id AS id
    FROM unnest(_request_key, _fingerprint) WITH ORDINALITY x (request_key, fingerprint, ix)
    CROSS JOIN LATERAL (
      SELECT r.rpc, r.fingerprint, r.reservation_id FROM request r
      WHERE r.request_key = x.request_key AND r.tenant = _tenant
      LIMIT 1
    ) q
  LOOP
    _outcome[_r.ix] := CASE WHEN _r.same THEN 'REPLAYED' ELSE 'REQUEST_ID_REUSED' END;
    _reservation_id[_r.ix] := _r.id;
  END LOOP;
END
$$;

-- Step "claim" of every change: stores the request ids of the accepted requests (outcome null). Returns false and
-- stores none when one of them is stored already: by another transaction in the meantime, then the caller answers RETRY
-- and the next round finds the result; or before, where the caller has not looked.
-- Locks: request ids in order, as the last locks of a change, so that no two batches wait for each other.
CREATE FUNCTION claim_requests(
  _tenant text, _rpc text, _request_key uuid[], _fingerprint bytea[], _reservation_id uuid[], _outcome text[],
  _now timestamptz
) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
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

-- Step "lock" of a change to items: these item rows, deleted ones too.
-- Locks: item rows in (sku, pool) order.
CREATE FUNCTION lock_items(_tenant text, _sku text[], _pool text[]) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  PERFORM 1
  FROM (
    SELECT DISTINCT x.sku COLLATE "C" AS sku, x.pool COLLATE "C" AS pool FROM unnest(_sku, _pool) x (sku, pool)
    ORDER BY 1, 2
  ) k
  CROSS JOIN LATERAL (
    SELECT 1 FROM item i WHERE i.sku = k.sku AND i.pool = k.pool AND i.tenant = _tenant FOR NO KEY UPDATE
  ) i;
END
$$;

-- Step "lock" of a change to reservations: the items of all their lines.
-- Locks: item rows in (sku, pool) order.
CREATE FUNCTION lock_items_of(_tenant text, _reservation_id uuid[]) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  PERFORM 1
  FROM (
    SELECT DISTINCT l.sku, l.pool
    FROM unnest(_reservation_id) x (id)
    CROSS JOIN LATERAL (
      SELECT sku, pool FROM reservation_line WHERE reservation_id = x.id AND tenant = _tenant OFFSET 0
    ) l
    ORDER BY l.sku, l.pool
  ) k
  CROSS JOIN LATERAL (
    SELECT 1 FROM item i WHERE i.sku = k.sku AND i.pool = k.pool AND i.tenant = _tenant FOR NO KEY UPDATE
  ) i;
END
$$;

-- Step "find" of a change to reservations: finds replays by request id, resolves references, and locks every
-- reservation named. Returns one row for each request, in order; outcome null where the change may go on. _wanted is
-- the state that the change starts from (1 HELD, 2 CONFIRMED): a reference must lead to exactly one such reservation of
-- the client; where it leads to none, the client's newest reservation with it decides the refusal. _pools: see
-- sees_reservation.
-- Locks: reservations (FOR NO KEY UPDATE) in id order, replayed ones too.
CREATE FUNCTION find_targets(
  _tenant text, _rpc text, _wanted smallint,
  _client text[], _pools text[], _read_all boolean[], _write_all boolean[],
  _request_key uuid[], _fingerprint bytea[], _target uuid[], _reference text[]
) RETURNS TABLE (_found_outcome text, _found_id uuid)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _outcome text[];
  _id uuid[];
  _now timestamptz := wall_clock();
  _r record;
BEGIN
  _r := find_requests(_tenant, _rpc, _request_key, _fingerprint);
  _outcome := _r._outcome;
  _id := _r._reservation_id;
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
    -- Replays too: this key may lack the rights that the key had which made the change.
    WHERE x.outcome IS NULL OR x.outcome = 'REPLAYED'
  LOOP
    _outcome[_r.ix] := coalesce(_r.refusal, _outcome[_r.ix]);
  END LOOP;

  RETURN QUERY SELECT x.outcome, x.id FROM unnest(_outcome, _id) x (outcome, id);
END
$$;

-- Step "judge" of Cancel and Extend, which start from HELD and look at nothing else: the refusal of the state, and
-- RETRY for every request after the first that changes the same reservation. The caller has locked the rows.
CREATE FUNCTION judge_held(_tenant text, _reservation_id uuid[], _outcome text[], _now timestamptz)
RETURNS text[]
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _changing uuid[] := '{}';
  _r record;
BEGIN
  FOR _r IN
    SELECT x.ix, x.id, state_refusal(1::smallint, v.state, v.expire_time, _now) AS refusal
    FROM unnest(_reservation_id, _outcome) WITH ORDINALITY x (id, outcome, ix)
    CROSS JOIN LATERAL (
      SELECT w.state, w.expire_time FROM reservation w WHERE w.reservation_id = x.id AND w.tenant = _tenant LIMIT 1
    ) v
    WHERE x.outcome IS NULL
    ORDER BY x.ix
  LOOP
    IF _r.refusal IS NULL AND _r.id = ANY (_changing) THEN
      _outcome[_r.ix] := 'RETRY';
    ELSE
      _outcome[_r.ix] := _r.refusal;
    END IF;
    IF _outcome[_r.ix] IS NULL THEN
      _changing := _changing || _r.id;
    END IF;
  END LOOP;
  RETURN _outcome;
END
$$;

-- The units of an item's holds that have lapsed but are not swept yet: they are available. Locks nothing.
CREATE FUNCTION lapsed_units(_tenant text, _sku text, _pool text, _now timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RETURN (
    SELECT coalesce(sum(l.quantity), 0) FROM reservation_line l
    WHERE hashtextextended(l.sku, hashtext(l.tenant)) = hashtextextended(_sku, hashtext(_tenant))
      AND l.sku = _sku AND l.pool = _pool AND l.tenant = _tenant AND l.expire_time <= _now
  );
END
$$;

-- Step "apply" of what gives holds back: CANCELLED (3) and EXPIRED (4), whose events have the same numbers. The caller
-- has locked these reservations and found them HELD. Client, key, request id and reason are arrays in their order, or
-- empty for the service itself. Without _now the time is read once the items are locked. Returns the units.
-- Lines and reservations, which the caller has locked, are updated first and the items last, so that a hot item is
-- locked only for its own update and the events.
-- Locks: items in (sku, pool) order.
CREATE FUNCTION return_held(
  _tenant text, _state smallint, _reservation_id uuid[], _client text[], _key_id text[], _request_id text[],
  _reason text[], _now timestamptz
) RETURNS bigint
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  -- One element a line, sorted: its place, its reservation and that one's place.
  _line_place tid[];
  _line_ix integer[];
  _sku text[];
  _pool text[];
  _quantity bigint[];
  -- Of each reservation.
  _place tid[];
  _revision bigint[];
  _expire_time timestamptz[];
  -- Of each item.
  _item_place tid[];
  _item_quantity bigint[];
  _updated bigint;
BEGIN
  SELECT array_agg(l.place), array_agg(l.ix), array_agg(l.sku), array_agg(l.pool), array_agg(l.quantity),
         array_agg(l.reservation_place) FILTER (WHERE l.line_number = 1),
         array_agg(l.revision) FILTER (WHERE l.line_number = 1),
         array_agg(l.expire_time) FILTER (WHERE l.line_number = 1)
  INTO _line_place, _line_ix, _sku, _pool, _quantity, _place, _revision, _expire_time
  FROM (
    SELECT x.ix::integer, v.place AS reservation_place, v.revision, v.expire_time, w.*
    FROM unnest(_reservation_id) WITH ORDINALITY x (id, ix)
    CROSS JOIN LATERAL (
      SELECT r.ctid AS place, r.revision, r.expire_time FROM reservation r
      WHERE r.reservation_id = x.id AND r.tenant = _tenant LIMIT 1
    ) v
    CROSS JOIN LATERAL (
      SELECT m.ctid AS place, m.line_number, m.sku, m.pool, m.quantity FROM reservation_line m
      WHERE m.reservation_id = x.id AND m.tenant = _tenant OFFSET 0
    ) w
    ORDER BY x.ix, w.line_number
  ) l;
  -- They leave the index of held lines.
  UPDATE reservation_line l SET expire_time = NULL FROM unnest(_line_place) x (place)
  WHERE l.ctid = x.place AND l.tenant IS NOT DISTINCT FROM _tenant;
  UPDATE reservation v SET
    state = _state,
    cancel_time = CASE WHEN _state = 3 THEN _now END,
    reason = _reason[x.ix],
    revision = v.revision + 1
  FROM unnest(_place) WITH ORDINALITY x (place, ix)
  WHERE v.ctid = x.place AND v.tenant IS NOT DISTINCT FROM _tenant;
  SELECT array_agg(i.place), array_agg(k.quantity) INTO _item_place, _item_quantity
  FROM (
    SELECT l.sku COLLATE "C" AS sku, l.pool COLLATE "C" AS pool, sum(l.quantity)::bigint AS quantity
    FROM unnest(_sku, _pool, _quantity) l (sku, pool, quantity) GROUP BY 1, 2 ORDER BY 1, 2
  ) k
  CROSS JOIN LATERAL (
    SELECT v.ctid AS place FROM item v WHERE v.sku = k.sku AND v.pool = k.pool AND v.tenant = _tenant
    FOR NO KEY UPDATE
  ) i;
  _now := coalesce(_now, wall_clock());

  UPDATE item i SET
    held = i.held - x.quantity,
    remaining = i.remaining + x.quantity,
    revision = i.revision + 1,
    update_time = _now
  FROM unnest(_item_place, _item_quantity) x (place, quantity)
  WHERE i.ctid = x.place AND i.tenant IS NOT DISTINCT FROM _tenant AND i.held >= x.quantity;
  GET DIAGNOSTICS _updated = ROW_COUNT;
  IF _updated <> cardinality(_item_place) THEN
    RAISE 'held units do not cover the lines: % of % items', _updated, cardinality(_item_place);
  END IF;
  INSERT INTO event (
    occur_day, tenant, type, client, key_id, request_id, reason, occur_time, revision,
    line_sku, line_pool, line_quantity, reservation_id, from_state, state, expire_time
  )
  SELECT (SELECT d.day FROM feed_day d ORDER BY d.day DESC LIMIT 1), _tenant, _state, coalesce(_client[x.ix], ''), coalesce(_key_id[x.ix], ''),
         _request_id[x.ix], _reason[x.ix], _now, _revision[x.ix] + 1,
         x.sku, x.pool, x.quantity, _reservation_id[x.ix], 1, _state, _expire_time[x.ix]
  FROM (
    SELECT l AS ix, ARRAY[_sku[l]] AS sku, ARRAY[_pool[l]] AS pool, ARRAY[_quantity[l]] AS quantity
    FROM generate_series(1, cardinality(_line_ix)) l WHERE cardinality(_line_ix) = cardinality(_place)
    UNION ALL
    SELECT m.ix, array_agg(m.sku), array_agg(m.pool), array_agg(m.quantity)
    FROM (
      SELECT _line_ix[l] AS ix, _sku[l] AS sku, _pool[l] AS pool, _quantity[l] AS quantity
      FROM generate_series(1, cardinality(_line_ix)) l WHERE cardinality(_line_ix) > cardinality(_place) ORDER BY 1, l
    ) m
    GROUP BY m.ix
  ) x;
  RETURN (SELECT sum(q) FROM unnest(_item_quantity) q);
END
$$;

-- Writes the event of a change to one item, which the caller has applied: the item as it is now and the difference of
-- capacity.
CREATE FUNCTION write_item_event(
  _tenant text, _type smallint, _sku text, _pool text, _delta bigint, _client text, _key_id text, _request_id text,
  _reason text, _now timestamptz
) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  INSERT INTO event (
    occur_day, tenant, type, client, key_id, request_id, reason, occur_time, revision,
    line_sku, line_pool, line_quantity, display_name, capacity, remaining, held, confirmed, oversell_limit
  )
  SELECT (SELECT d.day FROM feed_day d ORDER BY d.day DESC LIMIT 1), _tenant, _type, _client, _key_id, _request_id, _reason, _now, i.revision,
         ARRAY[_sku], ARRAY[_pool], ARRAY[_delta],
         i.display_name, i.capacity, i.remaining, i.held, i.confirmed, i.oversell_limit
  FROM item i WHERE i.sku = _sku AND i.pool = _pool AND i.tenant = _tenant;
END
$$;

-- Writes one event for each of these reservations, which the caller has changed, with the lines that moved: of
-- CONFIRMED (2) the confirmed units, of EXTENDED (6) none.
CREATE FUNCTION write_reservation_events(
  _tenant text, _type smallint, _reservation_id uuid[], _client text[], _key_id text[], _request_id text[],
  _reason text[], _now timestamptz
) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  INSERT INTO event (
    occur_day, tenant, type, client, key_id, request_id, reason, occur_time, revision,
    line_sku, line_pool, line_quantity, reservation_id, from_state, state, expire_time
  )
  SELECT (SELECT d.day FROM feed_day d ORDER BY d.day DESC LIMIT 1), _tenant, _type, x.client, x.key_id, x.request_id, x.reason, _now, r.revision,
         l.sku, l.pool, l.quantity, x.id, 1, r.state, r.expire_time
  FROM unnest(_reservation_id, _client, _key_id, _request_id, _reason) x (id, client, key_id, request_id, reason)
  CROSS JOIN LATERAL (
    SELECT revision, state, expire_time FROM reservation WHERE reservation_id = x.id AND tenant = _tenant LIMIT 1
  ) r
  CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(m.sku), '{}') AS sku, coalesce(array_agg(m.pool), '{}') AS pool,
           coalesce(array_agg(m.moved), '{}') AS quantity
    FROM (
      SELECT sku, pool, line_number, CASE WHEN _type = 2 THEN confirmed_quantity ELSE quantity END AS moved
      FROM reservation_line WHERE reservation_id = x.id AND tenant = _tenant AND _type <> 6 ORDER BY line_number
    ) m
    WHERE m.moved > 0
  ) l;
END
$$;
