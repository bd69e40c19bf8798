-- Why a reservation in this state cannot make a transition, null: it can. _wanted is the state that the transition
-- starts from: 1 HELD; 2 CONFIRMED with units to fulfil; 6 CONFIRMED or FULFILLED, with units to refund.
-- A lapsed hold is EXPIRED, swept or not. A state of a later release is not for this set to change.
CREATE FUNCTION state_refusal(_wanted smallint, _state smallint, _expire_time timestamptz, _now timestamptz)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE
    WHEN _state NOT BETWEEN 1 AND 6 THEN 'FEATURE_NOT_ACTIVE state ' || _state::text
    WHEN _state = 5 THEN 'ALREADY_REFUNDED'
    WHEN _wanted = 6 THEN CASE WHEN _state NOT IN (2, 6) THEN 'RESERVATION_NOT_CONFIRMED' END
    WHEN _wanted = 2 THEN
      CASE WHEN _state = 6 THEN 'ALREADY_FULFILLED' WHEN _state <> 2 THEN 'RESERVATION_NOT_CONFIRMED' END
    WHEN _state IN (2, 6) THEN 'RESERVATION_ALREADY_CONFIRMED'
    WHEN _state = 3 THEN 'RESERVATION_ALREADY_CANCELLED'
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

-- What becomes of a batch that was judged by running totals when claim_requests has stored nothing: RETRY for the
-- requests that were accepted, and for those that lack what requests before them would have taken.
CREATE FUNCTION to_judge_again(_outcome text[]) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
BEGIN
  RETURN (
    SELECT array_agg(
      CASE WHEN x.outcome IN ('CAPACITY_EXCEEDED', 'LIMIT_EXCEEDED') THEN 'RETRY' ELSE coalesce(x.outcome, 'RETRY') END
      ORDER BY x.ix
    ) FROM unnest(_outcome) WITH ORDINALITY x (outcome, ix)
  );
END
$$;

-- Step "lock" of a change to items: these item rows, deleted ones too. Returns those that are followed, as they are
-- before the change, for follow_items; null: none is.
-- Locks: item rows in (sku, pool) order.
CREATE FUNCTION lock_items(_tenant text, _sku text[], _pool text[]) RETURNS item_before[]
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _follow boolean;
BEGIN
  SELECT bool_or(i.followed) INTO _follow
  FROM (
    SELECT DISTINCT x.sku COLLATE "C" AS sku, x.pool COLLATE "C" AS pool FROM unnest(_sku, _pool) x (sku, pool)
    ORDER BY 1, 2
  ) k
  CROSS JOIN LATERAL (
    SELECT v.low_at IS NOT NULL OR v.return_time IS NOT NULL AS followed FROM item v
    WHERE v.sku = k.sku AND v.pool = k.pool AND v.tenant = _tenant FOR NO KEY UPDATE
  ) i;
  RETURN CASE WHEN _follow THEN items_before(_tenant, _sku, _pool) END;
END
$$;

-- Step "lock" of a change to reservations: the items of these lines of theirs. Returns what lock_items does, and where
-- the items are, in (sku, pool) order, null for one that is missing.
-- Locks: item rows in (sku, pool) order.
CREATE FUNCTION lock_items_of_lines(
  _tenant text, _line found_line[], OUT _item_place tid[], OUT _followed item_before[]
)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _follow boolean;
BEGIN
  SELECT array_agg(i.place), bool_or(i.followed) INTO _item_place, _follow
  FROM (
    SELECT DISTINCT l.sku COLLATE "C" AS sku, l.pool COLLATE "C" AS pool
    FROM unnest(_line) l (ix, place, sku, pool, quantity) ORDER BY 1, 2
  ) k
  LEFT JOIN LATERAL (
    SELECT v.ctid AS place, v.low_at IS NOT NULL OR v.return_time IS NOT NULL AS followed FROM item v
    WHERE v.sku = k.sku AND v.pool = k.pool AND v.tenant = _tenant FOR NO KEY UPDATE
  ) i ON true;
  IF _follow THEN
    _followed := items_before(_tenant, (SELECT array_agg(l.sku) FROM unnest(_line) l (ix, place, sku, pool, quantity)),
                              (SELECT array_agg(l.pool) FROM unnest(_line) l (ix, place, sku, pool, quantity)));
  END IF;
END
$$;

-- As lock_items, for the items of these reservations.
CREATE FUNCTION lock_items_of(_tenant text, _reservation_id uuid[]) RETURNS item_before[]
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RETURN (SELECT l._followed FROM lock_items_of_lines(_tenant, found_lines(_tenant, _reservation_id, '{}')) l);
END
$$;

-- The reservation of a client that a reference means, for a change that starts from _wanted (see state_refusal): the
-- only one that the change can act on; where there is none and _rescue_after is set, the only EXPIRED one that ended
-- after it; else the newest, which decides the refusal. _ambiguous: there are several, or more than 100 in a state, of
-- which not all are looked at, so that the cost does not grow with them. _pools: see sees_reservation. Locks nothing.
CREATE FUNCTION resolve_reference(
  _tenant text, _client text, _pools text, _reference text, _wanted smallint, _rescue_after timestamptz,
  _now timestamptz, OUT _ambiguous boolean, OUT _found_id uuid
)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _live uuid[];
  _expired uuid[];
  _newest uuid;
  _unseen boolean;
BEGIN
  SELECT array_agg(c.id) FILTER (WHERE c.seen AND state_refusal(_wanted, c.state, c.expire_time, _now) IS NULL),
         array_agg(c.id) FILTER (WHERE c.seen AND c.state IN (1, 4) AND c.expire_time <= _now
                                   AND c.expire_time > _rescue_after),
         (array_agg(c.id ORDER BY c.id DESC) FILTER (WHERE c.seen))[1],
         bool_or(c.number = 100 AND state_refusal(_wanted, c.state, 'infinity', _now) IS NULL)
  INTO _live, _expired, _newest, _unseen
  FROM (
    SELECT v.*, sees_reservation(_tenant, _pools, v.id) AS seen
    -- States of later releases too.
    FROM generate_series(1, 9) s (state)
    CROSS JOIN LATERAL (
      SELECT w.reservation_id AS id, w.state, w.expire_time,
             row_number() OVER (ORDER BY w.reservation_id DESC) AS number
      FROM reservation w
      WHERE w.reference = _reference AND w.reference <> '' AND w.client = _client AND w.tenant = _tenant
        AND w.state = s.state::smallint
      ORDER BY w.reservation_id DESC LIMIT 100
    ) v
  ) c;
  _found_id := coalesce(_live[1], _expired[1], _newest);
  _ambiguous := cardinality(_live) > 1 OR _unseen OR (_live IS NULL AND cardinality(_expired) > 1);
END
$$;

-- Step "find" of a change to reservations: replays by request id, references resolved (see resolve_reference), and
-- every reservation named, replayed ones too, locked in id order (FOR NO KEY UPDATE). Returns by request: outcome null
-- where the change may go on; the reservation's id; and the reservation as it is, null where there is none. _wanted is
-- the state that the change starts from (see state_refusal), and _rescue_after has the earliest end of an expired hold
-- that a request may rescue, null for none. _pools bounds what the key may see: see sees_reservation.
CREATE FUNCTION find_targets(
  _tenant text, _rpc text, _wanted smallint,
  _client text[], _pools text[], _read_all boolean[], _write_all boolean[],
  _request_key uuid[], _fingerprint bytea[], _target uuid[], _reference text[], _rescue_after timestamptz[],
  OUT _outcome text[], OUT _id uuid[], OUT _found found_reservation[]
)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _now timestamptz := wall_clock();
  _r record;
BEGIN
  SELECT f._outcome, f._reservation_id INTO _outcome, _id
  FROM find_requests(_tenant, _rpc, _request_key, _fingerprint) f;
  IF array_remove(_reference, NULL) <> '{}' THEN
    FOR _i IN 1 .. cardinality(_reference) LOOP
      CONTINUE WHEN _reference[_i] IS NULL OR _outcome[_i] IS NOT NULL;
      _r := resolve_reference(_tenant, _client[_i], _pools[_i], _reference[_i], _wanted, _rescue_after[_i], _now);
      _id[_i] := _r._found_id;
      IF _r._ambiguous THEN
        _outcome[_i] := 'REFERENCE_AMBIGUOUS';
      END IF;
    END LOOP;
  END IF;

  SELECT array_agg(x.id ORDER BY x.ix),
         array_agg(CASE WHEN v.place IS NOT NULL THEN (
           v.place, v.state, v.expire_time, v.revision, v.limited, v.modified, v.entry_id
         )::found_reservation END ORDER BY x.ix),
         array_agg(CASE
           -- Replays too: a key without the rights of the one that made the call is not shown its result.
           WHEN x.outcome <> 'REPLAYED' THEN x.outcome
           WHEN v.place IS NULL OR (v.client <> x.client AND NOT x.read_all) THEN 'RESERVATION_NOT_FOUND'
           WHEN v.client <> x.client AND NOT x.write_all THEN 'PERMISSION_DENIED'
           ELSE x.outcome
         END ORDER BY x.ix)
  INTO _id, _found, _outcome
  FROM (
    SELECT u.ix, u.client, u.read_all, u.write_all, u.outcome, coalesce(u.id, u.target) AS id
    FROM unnest(_id, _target, _client, _read_all, _write_all, _outcome)
      WITH ORDINALITY u (id, target, client, read_all, write_all, outcome, ix)
    ORDER BY coalesce(u.id, u.target)
  ) x
  LEFT JOIN LATERAL (
    SELECT w.ctid AS place, w.client, w.state, w.expire_time, w.revision, w.limited, w.original IS NOT NULL AS modified,
           w.entry_id
    FROM reservation w WHERE w.reservation_id = x.id AND w.tenant = _tenant FOR NO KEY UPDATE
  ) v ON true;
  IF array_remove(_pools, NULL) <> '{}' THEN
    -- After the locks, for what the reservations' lines are now.
    FOR _i IN 1 .. cardinality(_pools) LOOP
      IF coalesce(_outcome[_i] IN ('REPLAYED', 'PERMISSION_DENIED'), true)
         AND NOT sees_reservation(_tenant, _pools[_i], _id[_i]) THEN
        _outcome[_i] := 'RESERVATION_NOT_FOUND';
      END IF;
    END LOOP;
  END IF;
END
$$;

-- Step "judge" of what starts from HELD: the refusal of the state, and RETRY for every request after the first that
-- changes the same reservation. The caller has locked the rows.
CREATE FUNCTION judge_held(_id uuid[], _outcome text[], _found found_reservation[], _now timestamptz) RETURNS text[]
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RETURN (
    SELECT array_agg(coalesce(
      x.outcome, state_refusal(1::smallint, x.state, x.expire_time, _now), CASE WHEN x.number > 1 THEN 'RETRY' END
    ) ORDER BY x.ix)
    FROM (
      SELECT u.ix, u.outcome, u.state, u.expire_time,
             row_number() OVER (PARTITION BY u.outcome IS NULL, u.id ORDER BY u.ix) AS number
      FROM unnest(_id, _outcome, _found) WITH ORDINALITY
        u (id, outcome, place, state, expire_time, revision, limited, modified, entry_id, ix)
    ) x
  );
END
$$;

-- Step "judge" of a change to a part of a reservation: of each request whose outcome is null, the lines that ask for
-- more than its reservation has, as answer_reservations takes them; null where there are none. Lines as in the callers.
-- _kind, of each request: 1 held units; 2 confirmed units that are neither fulfilled nor refunded; 3 fulfilled units
-- that have not come back; 4 those of 2 and 3. Locks nothing: the caller has locked the reservations.
CREATE FUNCTION exceeding_lines(
  _tenant text, _id uuid[], _outcome text[], _kind smallint[],
  _line_first integer[], _line_sku text[], _line_pool text[], _line_quantity bigint[]
) RETURNS jsonb[]
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _short jsonb[] := array_fill(NULL::jsonb, ARRAY[cardinality(_id)]);
  _r record;
BEGIN
  IF cardinality(_line_sku) = 0 THEN
    RETURN _short;
  END IF;
  FOR _r IN
    SELECT x.ix,
           jsonb_agg(jsonb_build_array(_line_sku[y.line], _line_pool[y.line], _line_quantity[y.line],
                                       coalesce(l.available, 0))
                           ORDER BY y.line) AS lines
    FROM unnest(_id, _outcome) WITH ORDINALITY x (id, outcome, ix)
    CROSS JOIN LATERAL generate_series(_line_first[x.ix], _line_first[x.ix + 1] - 1) y (line)
    LEFT JOIN LATERAL (
      SELECT CASE _kind[x.ix]
        WHEN 1 THEN w.quantity
        WHEN 2 THEN w.confirmed_quantity - w.fulfilled_quantity - (w.refunded_quantity - w.returned_quantity)
        WHEN 3 THEN w.fulfilled_quantity - w.returned_quantity
        ELSE w.confirmed_quantity - w.refunded_quantity
      END AS available
      FROM reservation_line w
      WHERE w.reservation_id = x.id AND w.sku = _line_sku[y.line] AND w.pool = _line_pool[y.line]
        AND w.tenant = _tenant LIMIT 1
    ) l ON true
    WHERE x.outcome IS NULL AND coalesce(l.available, 0) < _line_quantity[y.line]
    GROUP BY x.ix
  LOOP
    _short[_r.ix] := _r.lines;
  END LOOP;
  RETURN _short;
END
$$;

-- Units of an item's holds that have lapsed but are not yet swept: they can be had. Not those of quarantined holds,
-- which no sweep can return. Not all are read where there are more than _enough: then it is at least that.
CREATE FUNCTION lapsed_units(
  _tenant text, _sku text, _pool text, _now timestamptz, _enough bigint DEFAULT 9223372036854775807
) RETURNS bigint
LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_bitmapscan = off AS $$
DECLARE
  _units bigint := 0;
  _quantity bigint;
BEGIN
  FOR _quantity IN
    SELECT l.quantity FROM reservation_line l
    WHERE hashtextextended(l.sku, hashtext(l.tenant)) = hashtextextended(_sku, hashtext(_tenant))
      AND l.sku = _sku AND l.pool = _pool AND l.tenant = _tenant AND l.expire_time <= _now
      AND NOT EXISTS (SELECT 1 FROM quarantine q WHERE q.reservation_id = l.reservation_id AND q.tenant = _tenant)
  LOOP
    _units := _units + _quantity;
    EXIT WHEN _units >= _enough;
  END LOOP;
  RETURN _units;
END
$$;

-- A reservation's lines, holder, reference and metadata as they are now: what Modify can change.
CREATE FUNCTION reservation_snapshot(_tenant text, _reservation_id uuid) RETURNS jsonb
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RETURN (
    SELECT jsonb_build_object(
      'lines', (
        SELECT jsonb_agg(jsonb_build_array(l.sku, l.pool, l.quantity) ORDER BY l.line_number) FROM reservation_line l
        WHERE l.reservation_id = _reservation_id AND l.tenant = _tenant
      ),
      'holder', v.holder, 'reference', v.reference, 'metadata', v.metadata
    )
    FROM reservation v WHERE v.reservation_id = _reservation_id AND v.tenant = _tenant
  );
END
$$;

-- These reservations of one tenant as they are, in order, null for one that is not there. Locks nothing: the caller has
-- locked them.
CREATE FUNCTION found_reservations(_tenant text, _reservation_id uuid[]) RETURNS found_reservation[]
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RETURN (
    SELECT array_agg(CASE WHEN v.place IS NOT NULL THEN (
      v.place, v.state, v.expire_time, v.revision, v.limited, v.modified, v.entry_id
    )::found_reservation END ORDER BY x.ix)
    FROM unnest(_reservation_id) WITH ORDINALITY x (id, ix)
    LEFT JOIN LATERAL (
      SELECT w.ctid AS place, w.state, w.expire_time, w.revision, w.limited, w.original IS NOT NULL AS modified,
             w.entry_id
      FROM reservation w WHERE w.reservation_id = x.id AND w.tenant = _tenant LIMIT 1
    ) v ON true
  );
END
$$;

-- The lines of the reservations of those requests whose outcome is null, by request and line number. Locks nothing: the
-- caller has locked the reservations.
CREATE FUNCTION found_lines(_tenant text, _reservation_id uuid[], _outcome text[]) RETURNS found_line[]
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RETURN (
    SELECT array_agg((x.ix, w.place, w.sku, w.pool, w.quantity)::found_line ORDER BY x.ix, w.line_number)
    FROM unnest(_reservation_id, _outcome) WITH ORDINALITY x (id, outcome, ix)
    CROSS JOIN LATERAL (
      SELECT m.ctid AS place, m.line_number, m.sku, m.pool, m.quantity FROM reservation_line m
      WHERE m.reservation_id = x.id AND m.tenant = _tenant OFFSET 0
    ) w
    WHERE x.outcome IS NULL
  );
END
$$;

-- The waitlist entries whose offers these reservations are, by request; null for others, and where the outcome is not
-- null.
CREATE FUNCTION entries_of(_outcome text[], _found found_reservation[]) RETURNS uuid[]
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RETURN (
    SELECT array_agg(CASE WHEN _outcome[x.ix] IS NULL THEN x.entry_id END ORDER BY x.ix)
    FROM unnest(_found) WITH ORDINALITY x (place, state, expire_time, revision, limited, modified, entry_id, ix)
  );
END
$$;

-- As give_back, for these reservations, which the caller has locked and found HELD.
CREATE FUNCTION return_held(
  _tenant text, _state smallint, _reservation_id uuid[], _client text[], _key_id text[], _request_id text[],
  _reason text[], _now timestamptz, OUT _released_quantity bigint, OUT _followed item_before[]
)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _found found_reservation[] := found_reservations(_tenant, _reservation_id);
  _line found_line[] := found_lines(_tenant, _reservation_id, '{}');
BEGIN
  SELECT g._released_quantity, g._followed INTO _released_quantity, _followed
  FROM give_back(_tenant, _state, _reservation_id, '{}', _found, _line, NULL, _client, _key_id, _request_id, _reason,
                 _now) g;
END
$$;

-- Step "apply" of what gives a whole hold back: CANCELLED (3) and EXPIRED (4), whose events have the same numbers. Of
-- these reservations, which the caller has locked, found HELD and read, those whose outcome is null. Who did it, and
-- why: arrays in their order, or empty: the service. _item_place: see lock_items_of_lines; null: the items are locked
-- here. _now null: it is read after that. Returns the units, and what lock_items does where items are locked here.
-- Lines and reservations come first, which only the caller has locked, then the items: a hot item is locked for its own
-- update and the events only.
-- Locks: items in (sku, pool) order, then the waitlist entries whose offers they are.
CREATE FUNCTION give_back(
  _tenant text, _state smallint, _id uuid[], _outcome text[], _found found_reservation[], _line found_line[],
  _item_place tid[], _client text[], _key_id text[], _request_id text[], _reason text[], _now timestamptz,
  OUT _released_quantity bigint, OUT _followed item_before[]
)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  -- Of each item, null where nothing of it is given back.
  _item_quantity bigint[];
  _items bigint;
  _updated bigint;
  _limited uuid[];
  -- How many of them are offers to those who wait.
  _offers bigint;
BEGIN
  -- They leave the index of held lines.
  UPDATE reservation_line l SET expire_time = NULL
  FROM unnest(_line) x (ix, place, sku, pool, quantity)
  WHERE _outcome[x.ix] IS NULL AND l.ctid = x.place AND l.tenant IS NOT DISTINCT FROM _tenant;
  WITH ended AS (
    UPDATE reservation v SET
      state = _state,
      cancel_time = CASE WHEN _state = 3 THEN _now END,
      reason = _reason[x.ix],
      revision = v.revision + 1
    FROM generate_series(1, cardinality(_id)) x (ix)
    WHERE _outcome[x.ix] IS NULL AND v.ctid = (_found[x.ix]).place AND v.tenant IS NOT DISTINCT FROM _tenant
    RETURNING v.reservation_id, v.limited, v.entry_id
  )
  SELECT array_agg(e.reservation_id) FILTER (WHERE e.limited), count(e.entry_id) INTO _limited, _offers FROM ended e;
  IF _item_place IS NULL THEN
    SELECT l._item_place, l._followed INTO _item_place, _followed FROM lock_items_of_lines(_tenant, _line) l;
  END IF;
  _now := coalesce(_now, wall_clock());

  SELECT array_agg(k.quantity), coalesce(sum(k.quantity), 0), count(k.quantity)
  INTO _item_quantity, _released_quantity, _items
  FROM (
    SELECT sum(l.quantity) FILTER (WHERE _outcome[l.ix] IS NULL)::bigint AS quantity
    FROM unnest(_line) l (ix, place, sku, pool, quantity)
    GROUP BY l.sku COLLATE "C", l.pool COLLATE "C" ORDER BY l.sku COLLATE "C", l.pool COLLATE "C"
  ) k;
  UPDATE item i SET
    held = i.held - x.quantity,
    remaining = i.remaining + x.quantity,
    serve_time = when_to_serve(i.waiting, i.serve_time),
    revision = i.revision + 1,
    update_time = _now
  FROM unnest(_item_place, _item_quantity) x (place, quantity)
  WHERE i.ctid = x.place AND i.tenant IS NOT DISTINCT FROM _tenant AND i.held >= x.quantity;
  GET DIAGNOSTICS _updated = ROW_COUNT;
  IF _updated <> _items THEN
    RAISE 'held units do not cover the lines: % of % items', _updated, _items;
  END IF;
  IF _limited IS NOT NULL THEN
    PERFORM release_limits(_tenant, _limited);
  END IF;
  PERFORM write_line_events(_tenant, _state, _id, _outcome, _found, _line, NULL, _client, _key_id, _request_id, _reason,
                            _now);
  IF _offers > 0 THEN
    PERFORM end_entries(_tenant, 2::smallint, (CASE _state WHEN 3 THEN 5 ELSE 4 END)::smallint,
                        entries_of(_outcome, _found), _client, _key_id, _request_id, _reason, _now);
  END IF;
END
$$;

-- One event of each of these reservations whose outcome is null, with the lines that moved: CONFIRMED (2),
-- CANCELLED (3) or EXPIRED (4), the number of the state too. They were HELD as the caller has found them, and have been
-- changed once since. _moved has the units of each line, null for all.
CREATE FUNCTION write_line_events(
  _tenant text, _state smallint, _id uuid[], _outcome text[], _found found_reservation[], _line found_line[],
  _moved bigint[], _client text[], _key_id text[], _request_id text[], _reason text[], _now timestamptz
) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _n integer := cardinality(_id);
  -- Where each reservation has one line, nothing needs to be grouped.
  _single boolean := coalesce(_moved IS NULL AND cardinality(_line) = _n, false);
BEGIN
  FOR _l IN 1 .. CASE WHEN _single THEN _n ELSE 0 END LOOP
    _single := _single AND (_line[_l]).ix = _l;
  END LOOP;
  INSERT INTO event (
    occur_day, tenant, type, client, key_id, request_id, reason, occur_time, revision,
    line_sku, line_pool, line_quantity, reservation_id, from_state, state, expire_time, snapshot
  )
  SELECT (SELECT d.day FROM feed_day d ORDER BY d.day DESC LIMIT 1), _tenant, _state, coalesce(_client[x.ix], ''),
         coalesce(_key_id[x.ix], ''), _request_id[x.ix], _reason[x.ix], _now, (_found[x.ix]).revision + 1,
         x.sku, x.pool, x.quantity, _id[x.ix], 1, _state, (_found[x.ix]).expire_time,
         CASE WHEN (_found[x.ix]).modified THEN reservation_snapshot(_tenant, _id[x.ix]) END
  FROM (
    SELECT l AS ix, ARRAY[(_line[l]).sku] AS sku, ARRAY[(_line[l]).pool] AS pool,
           ARRAY[(_line[l]).quantity] AS quantity
    FROM generate_series(1, _n) l WHERE _single
    UNION ALL
    SELECT m.ix, coalesce(array_agg(m.sku) FILTER (WHERE m.quantity > 0), '{}'),
           coalesce(array_agg(m.pool) FILTER (WHERE m.quantity > 0), '{}'),
           coalesce(array_agg(m.quantity) FILTER (WHERE m.quantity > 0), '{}')
    FROM (
      SELECT u.* FROM (
        SELECT (_line[l]).ix, l, (_line[l]).sku, (_line[l]).pool, coalesce(_moved[l], (_line[l]).quantity) AS quantity
        FROM generate_series(1, cardinality(_line)) l
        UNION ALL
        -- A reservation without a line ends all the same.
        SELECT g, 0, NULL, NULL, 0 FROM generate_series(1, _n) g
      ) u
      WHERE NOT _single
      ORDER BY u.ix, u.l
    ) m
    GROUP BY m.ix
  ) x
  WHERE _outcome[x.ix] IS NULL;
END
$$;

-- Step "apply" of what changes holds in place: Modify and a partial Cancel. The caller has locked these reservations,
-- found them HELD, and locked the items. Arrays in the order of _reservation_id: holder, reference and metadata are set
-- where _sets says so ("h", "r", "m"). The differences of quantity are flat and sorted by _move_ix, which points into
-- _reservation_id: at most one an item and reservation, none of them 0.
-- A line that comes to 0 is deleted: at least one line of the reservation stays, which the caller has made sure.
CREATE FUNCTION change_held(
  _tenant text, _reservation_id uuid[], _client text[], _key_id text[], _request_id text[], _reason text[],
  _sets text[], _holder text[], _reference text[], _metadata jsonb[],
  _move_ix integer[], _move_sku text[], _move_pool text[], _move_quantity bigint[], _now timestamptz
) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _items bigint;
  _updated bigint;
BEGIN
  UPDATE reservation v SET
    original = coalesce(v.original, reservation_snapshot(_tenant, v.reservation_id)),
    holder = CASE WHEN strpos(x.sets, 'h') > 0 THEN x.holder ELSE v.holder END,
    reference = CASE WHEN strpos(x.sets, 'r') > 0 THEN x.reference ELSE v.reference END,
    metadata = CASE WHEN strpos(x.sets, 'm') > 0 THEN x.metadata ELSE v.metadata END,
    revision = v.revision + 1
  FROM unnest(_reservation_id, _sets, _holder, _reference, _metadata) x (id, sets, holder, reference, metadata)
  CROSS JOIN LATERAL (
    SELECT w.ctid AS place FROM reservation w WHERE w.reservation_id = x.id AND w.tenant = _tenant LIMIT 1
  ) k
  WHERE v.ctid = k.place AND v.tenant IS NOT DISTINCT FROM _tenant;

  DELETE FROM reservation_line l
  USING unnest(_move_ix, _move_sku, _move_pool, _move_quantity) x (ix, sku, pool, quantity)
  CROSS JOIN LATERAL (
    SELECT w.ctid AS place FROM reservation_line w
    WHERE w.reservation_id = _reservation_id[x.ix] AND w.sku = x.sku AND w.pool = x.pool AND w.tenant = _tenant
      AND w.quantity = -x.quantity LIMIT 1
  ) k
  WHERE l.ctid = k.place AND l.tenant IS NOT DISTINCT FROM _tenant;
  INSERT INTO reservation_line AS l (tenant, reservation_id, line_number, sku, pool, quantity, expire_time)
  SELECT _tenant, _reservation_id[x.ix], n.highest + row_number() OVER (PARTITION BY x.ix ORDER BY x.number), x.sku,
         x.pool, x.quantity, v.expire_time
  FROM unnest(_move_ix, _move_sku, _move_pool, _move_quantity) WITH ORDINALITY x (ix, sku, pool, quantity, number)
  CROSS JOIN LATERAL (
    SELECT w.expire_time FROM reservation w
    WHERE w.reservation_id = _reservation_id[x.ix] AND w.tenant = _tenant LIMIT 1
  ) v
  CROSS JOIN LATERAL (
    SELECT coalesce(max(w.line_number), 0) AS highest FROM reservation_line w
    WHERE w.reservation_id = _reservation_id[x.ix] AND w.tenant = _tenant
  ) n
  WHERE x.quantity > 0
  ON CONFLICT (reservation_id, sku, pool, tenant) DO UPDATE SET quantity = l.quantity + excluded.quantity;
  UPDATE reservation_line l SET quantity = l.quantity + x.quantity
  FROM unnest(_move_ix, _move_sku, _move_pool, _move_quantity) x (ix, sku, pool, quantity)
  CROSS JOIN LATERAL (
    SELECT w.ctid AS place FROM reservation_line w
    WHERE w.reservation_id = _reservation_id[x.ix] AND w.sku = x.sku AND w.pool = x.pool AND w.tenant = _tenant LIMIT 1
  ) k
  WHERE x.quantity < 0 AND l.ctid = k.place AND l.tenant IS NOT DISTINCT FROM _tenant;

  WITH moved AS (
    SELECT m.sku, m.pool, sum(m.quantity)::bigint AS quantity
    FROM unnest(_move_sku, _move_pool, _move_quantity) m (sku, pool, quantity) GROUP BY m.sku, m.pool
  ), updated AS (
    UPDATE item i SET
      held = i.held + m.quantity,
      remaining = i.remaining - m.quantity,
      serve_time = CASE WHEN m.quantity < 0 THEN when_to_serve(i.waiting, i.serve_time) ELSE i.serve_time END,
      revision = i.revision + 1,
      update_time = _now
    FROM moved m
    CROSS JOIN LATERAL (
      SELECT v.ctid AS place FROM item v WHERE v.sku = m.sku AND v.pool = m.pool AND v.tenant = _tenant LIMIT 1
    ) k
    WHERE i.ctid = k.place AND i.tenant IS NOT DISTINCT FROM _tenant AND i.held + m.quantity >= 0
      -- A hold shrinks on any item, also where the buffer exceeds what there is.
      AND (m.quantity <= 0 OR i.free >= m.quantity)
    RETURNING 1
  )
  SELECT (SELECT count(*) FROM moved), (SELECT count(*) FROM updated) INTO _items, _updated;
  IF _items <> _updated THEN
    RAISE 'the items locked do not have the units judged: % of %', _updated, _items;
  END IF;

  INSERT INTO event (
    occur_day, tenant, type, client, key_id, request_id, reason, occur_time, revision,
    line_sku, line_pool, line_quantity, reservation_id, from_state, state, expire_time, snapshot
  )
  SELECT (SELECT d.day FROM feed_day d ORDER BY d.day DESC LIMIT 1), _tenant, 12, _client[x.ix], _key_id[x.ix],
         _request_id[x.ix], _reason[x.ix],
         _now, v.revision, x.sku, x.pool, x.quantity, _reservation_id[x.ix], 1, 1, v.expire_time,
         reservation_snapshot(_tenant, _reservation_id[x.ix])
  FROM (
    SELECT m.ix, coalesce(array_agg(m.sku) FILTER (WHERE m.sku IS NOT NULL), '{}') AS sku,
           coalesce(array_agg(m.pool) FILTER (WHERE m.sku IS NOT NULL), '{}') AS pool,
           coalesce(array_agg(m.quantity) FILTER (WHERE m.sku IS NOT NULL), '{}') AS quantity
    FROM (
      SELECT ix, sku, pool, quantity
      FROM unnest(_move_ix, _move_sku, _move_pool, _move_quantity) u (ix, sku, pool, quantity)
      UNION ALL
      SELECT g, NULL, NULL, NULL FROM generate_series(1, cardinality(_reservation_id)) g
    ) m
    GROUP BY m.ix
  ) x
  CROSS JOIN LATERAL (
    SELECT w.revision, w.expire_time FROM reservation w
    WHERE w.reservation_id = _reservation_id[x.ix] AND w.tenant = _tenant LIMIT 1
  ) v
  ORDER BY x.ix;
END
$$;

-- Units that came into or left the building: a count made before _effective_time is corrected by them.
CREATE FUNCTION write_stock_move(_tenant text, _sku text, _pool text, _effective_time timestamptz, _delta bigint)
RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  INSERT INTO stock_move (tenant, sku, pool, effective_time, delta)
  SELECT _tenant, _sku, _pool, _effective_time, _delta WHERE _delta <> 0;
END
$$;

-- What a new hold may take of an item for which entries wait (gate 2), and whether those who wait must be served
-- before: while something is due to them, or lapsed holds would make room, nothing is free; nor of a STRICT item. The
-- caller has locked the item.
CREATE FUNCTION free_beside_queue(
  _tenant text, _sku text, _pool text, _now timestamptz, OUT _serve boolean, OUT _free bigint
)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  SELECT q.serve, CASE WHEN q.serve OR q.waitlist_policy = 3 THEN least(0, q.free) ELSE q.free END INTO _serve, _free
  FROM (
    SELECT v.free, v.waitlist_policy,
           coalesce(v.serve_time <= _now, false) OR lapsed_units(_tenant, _sku, _pool, _now, 1) > 0 AS serve
    FROM item v WHERE v.sku = _sku AND v.pool = _pool AND v.tenant = _tenant LIMIT 1
  ) q;
END
$$;

-- Writes the event of a change to one item, which the caller has applied: the item as it is now and the difference of
-- capacity. LEVEL_CHANGED (16) has the levels.
CREATE FUNCTION write_item_event(
  _tenant text, _type smallint, _sku text, _pool text, _delta bigint, _client text, _key_id text, _request_id text,
  _reason text, _now timestamptz, _from_level smallint DEFAULT NULL, _to_level smallint DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  INSERT INTO event (
    occur_day, tenant, type, client, key_id, request_id, reason, occur_time, revision,
    line_sku, line_pool, line_quantity, display_name, capacity, remaining, held, confirmed, oversell_limit,
    sale_state, buffer, count_time, low_at, return_pool, return_time, from_level, to_level,
    waitlist_policy, waiting
  )
  SELECT (SELECT d.day FROM feed_day d ORDER BY d.day DESC LIMIT 1), _tenant, _type, _client, _key_id, _request_id,
         _reason, _now, i.revision, ARRAY[_sku], ARRAY[_pool], ARRAY[_delta],
         i.display_name, i.capacity, i.remaining, i.held, i.confirmed, i.oversell_limit, i.sale_state, i.buffer,
         i.count_time, i.low_at, i.return_pool, i.return_time, _from_level, _to_level,
         i.waitlist_policy, i.waiting
  FROM item i WHERE i.sku = _sku AND i.pool = _pool AND i.tenant = _tenant;
END
$$;

-- One event for each of these reservations, after the change was applied, with the lines that moved: of CONFIRMED (2)
-- the confirmed units, of RESCUED (14) all units, of EXTENDED (6) none. _from_state is the state before.
CREATE FUNCTION write_reservation_events(
  _tenant text, _type smallint, _from_state smallint, _reservation_id uuid[], _client text[], _key_id text[],
  _request_id text[], _reason text[], _now timestamptz
) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  INSERT INTO event (
    occur_day, tenant, type, client, key_id, request_id, reason, occur_time, revision,
    line_sku, line_pool, line_quantity, reservation_id, from_state, state, expire_time, snapshot
  )
  SELECT (SELECT d.day FROM feed_day d ORDER BY d.day DESC LIMIT 1), _tenant, _type, x.client, x.key_id, x.request_id,
         x.reason, _now, r.revision, l.sku, l.pool, l.quantity, x.id, _from_state, r.state, r.expire_time,
         CASE WHEN r.modified THEN reservation_snapshot(_tenant, x.id) END
  FROM unnest(_reservation_id, _client, _key_id, _request_id, _reason) x (id, client, key_id, request_id, reason)
  CROSS JOIN LATERAL (
    SELECT revision, state, expire_time, original IS NOT NULL AS modified FROM reservation
    WHERE reservation_id = x.id AND tenant = _tenant LIMIT 1
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
