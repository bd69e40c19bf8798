-- The queues of items: joining, leaving, reading. Serving them is in serve_waitlist.sql.
-- States of an entry: 1 WAITING, 2 OFFERED, 3 TAKEN, 4 LAPSED, 5 LEFT. Policies of an item: 1 OFF, 2 FIRST_FITTING,
-- 3 STRICT. Entries are served in the order of (rank, sequence); rank is the priority, negated.

-- The serve_time of an item of which units become free, or whose queue is no longer blocked: due at once where entries
-- wait. Every UPDATE that frees units of an item sets it, so that no call overtakes from its commit on.
CREATE FUNCTION when_to_serve(_waiting bigint, _serve_time timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE AS $$ SELECT CASE WHEN _waiting > 0 THEN '-infinity'::timestamptz ELSE _serve_time END $$;

-- Whether a key that may see these pools only may see an entry: every line of it is in one of them. _pools: see
-- sees_reservation. Locks nothing.
CREATE FUNCTION sees_entry(_tenant text, _pools text, _entry_id uuid) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
  RETURN _pools IS NULL OR NOT EXISTS (
    SELECT 1 FROM waitlist_line l
    WHERE l.entry_id = _entry_id AND l.tenant = _tenant AND strpos(_pools, chr(31) || l.pool || chr(31)) = 0
  );
END
$$;

-- The state of an entry as callers see it: what has lapsed is LAPSED, swept or not. Locks nothing.
CREATE FUNCTION shown_state(
  _tenant text, _state smallint, _expire_time timestamptz, _reservation_id uuid, _now timestamptz
) RETURNS smallint
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  IF _state = 1 AND _expire_time <= _now THEN
    RETURN 4;
  ELSIF _state = 2 AND EXISTS (
    SELECT 1 FROM reservation v
    WHERE v.reservation_id = _reservation_id AND v.tenant = _tenant AND v.state = 1 AND v.expire_time <= _now
  ) THEN
    RETURN 4;
  END IF;
  RETURN _state;
END
$$;

-- The place of a WAITING entry, from 1, on that of its items where most entries are before it. Those behind it are
-- counted where they are few, as after a join. Locks nothing.
CREATE FUNCTION waitlist_position(_tenant text, _entry_id uuid) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
  RETURN (
    SELECT max(CASE WHEN b.behind <= 1000 THEN i.waiting - b.behind ELSE (
      SELECT count(*) + 1 FROM waitlist_line o
      WHERE o.sku = l.sku AND o.pool = l.pool AND o.tenant = _tenant AND o.state = 1
        AND (o.rank, o.sequence) < (l.rank, l.sequence)
    ) END)
    FROM waitlist_line l
    CROSS JOIN LATERAL (
      SELECT v.waiting FROM item v WHERE v.sku = l.sku AND v.pool = l.pool AND v.tenant = _tenant LIMIT 1
    ) i
    CROSS JOIN LATERAL (
      SELECT count(*) AS behind FROM (
        SELECT 1 FROM waitlist_line o
        WHERE o.sku = l.sku AND o.pool = l.pool AND o.tenant = _tenant AND o.state = 1
          AND (o.rank, o.sequence) > (l.rank, l.sequence)
        LIMIT 1001
      ) o
    ) b
    WHERE l.entry_id = _entry_id AND l.tenant = _tenant
  );
END
$$;

-- Makes the answers of a call on entries: one row for each element, with the entry as it is now where _entry_id has
-- one. What has lapsed reads as LAPSED, swept or not. _at_sku, _at_pool, _other_id: what a refusal is about. Locks
-- nothing.
CREATE FUNCTION answer_waitlist(
  _tenant text, _outcome text[], _at_sku text[], _at_pool text[], _other_id uuid[], _entry_id uuid[],
  _positions boolean, _due boolean, _now timestamptz
) RETURNS SETOF waitlist_answer
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RETURN QUERY
  SELECT x.ix::integer, x.outcome, x.at_sku, x.at_pool, x.other_id, _due, e.entry_id, e.client, e.holder, e.reference,
         s.shown, CASE WHEN _positions AND s.shown = 1 THEN waitlist_position(_tenant, x.id) END, e.reservation_id,
         l.sku, l.pool, l.quantity, -e.rank, e.sequence, e.offer_ttl_us, e.metadata, e.create_time, e.expire_time,
         e.offer_time, e.end_time,
         CASE WHEN s.shown = 1 THEN CASE WHEN l.unservable THEN 2::smallint ELSE e.pass_reason END ELSE 0::smallint END,
         e.reason, e.revision
  FROM unnest(_outcome, _at_sku, _at_pool, _other_id, _entry_id)
    WITH ORDINALITY x (outcome, at_sku, at_pool, other_id, id, ix)
  LEFT JOIN LATERAL (
    SELECT * FROM waitlist_entry w WHERE w.entry_id = x.id AND w.tenant = _tenant LIMIT 1
  ) e ON true
  LEFT JOIN LATERAL (
    SELECT array_agg(m.sku) AS sku, array_agg(m.pool) AS pool, array_agg(m.quantity) AS quantity,
           bool_or(m.quantity > m.most) AS unservable
    FROM (
      SELECT w.sku, w.pool, w.quantity, i.most
      FROM waitlist_line w
      LEFT JOIN LATERAL (
        SELECT v.capacity + v.oversell_limit - v.buffer AS most FROM item v
        WHERE v.sku = w.sku AND v.pool = w.pool AND v.tenant = _tenant LIMIT 1
      ) i ON true
      WHERE w.entry_id = x.id AND w.tenant = _tenant ORDER BY w.line_number
    ) m
  ) l ON e.entry_id IS NOT NULL
  LEFT JOIN LATERAL (
    SELECT shown_state(_tenant, e.state, e.expire_time, e.reservation_id, _now) AS shown
  ) s ON e.entry_id IS NOT NULL
  ORDER BY x.ix;
END
$$;

-- One event for each of these entries, after the change was applied, with the entry as it is now. Its lines are those
-- of the entry: what an offer moves is told by the events of its reservation.
CREATE FUNCTION write_waitlist_events(
  _tenant text, _type smallint, _from_state smallint, _entry_id uuid[], _client text[], _key_id text[],
  _request_id text[], _reason text[], _now timestamptz
) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  INSERT INTO event (
    occur_day, tenant, type, client, key_id, request_id, reason, occur_time, revision,
    line_sku, line_pool, line_quantity, reservation_id, from_state, state, entry
  )
  SELECT (SELECT d.day FROM feed_day d ORDER BY d.day DESC LIMIT 1), _tenant, _type, coalesce(_client[x.ix], ''),
         coalesce(_key_id[x.ix], ''), _request_id[x.ix], _reason[x.ix], _now, e.revision, l.sku, l.pool, l.quantity,
         e.reservation_id, _from_state, e.state,
         jsonb_build_object(
           'entry_id', e.entry_id, 'client', e.client, 'holder', e.holder, 'reference', e.reference,
           'priority', -e.rank, 'offer_ttl_us', e.offer_ttl_us, 'metadata', e.metadata, 'create_time', e.create_time,
           'expire_time', e.expire_time, 'offer_time', e.offer_time, 'end_time', e.end_time)
  FROM unnest(_entry_id) WITH ORDINALITY x (id, ix)
  CROSS JOIN LATERAL (
    SELECT * FROM waitlist_entry w WHERE w.entry_id = x.id AND w.tenant = _tenant LIMIT 1
  ) e
  CROSS JOIN LATERAL (
    SELECT array_agg(m.sku) AS sku, array_agg(m.pool) AS pool, array_agg(m.quantity) AS quantity
    FROM (
      SELECT w.sku, w.pool, w.quantity FROM waitlist_line w
      WHERE w.entry_id = x.id AND w.tenant = _tenant ORDER BY w.line_number
    ) m
  ) l
  ORDER BY x.ix;
END
$$;

-- Step "apply" of what ends entries, in the state that they were in: _state is 3 TAKEN, 4 LAPSED or 5 LEFT. Entries
-- that are no longer in _from_state are left out. Who did it, and why: arrays in their order, or empty: the service.
-- Locks: the entries; the caller has locked the reservations of those that are OFFERED, and their items.
CREATE FUNCTION end_entries(
  _tenant text, _from_state smallint, _state smallint, _entry_id uuid[], _client text[], _key_id text[],
  _request_id text[], _reason text[], _now timestamptz
) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _r record;
BEGIN
  WITH ended AS (
    UPDATE waitlist_entry e SET
      state = _state, end_time = _now, reason = CASE WHEN _state = 5 THEN _reason[x.ix] END, pass_reason = 0,
      revision = e.revision + 1
    FROM (
      SELECT u.id, u.ix FROM unnest(_entry_id) WITH ORDINALITY u (id, ix) WHERE u.id IS NOT NULL ORDER BY u.id
    ) x
    -- By place: the planner would else read all entries in this state, for each of these.
    CROSS JOIN LATERAL (
      SELECT w.ctid AS place, w.state FROM waitlist_entry w WHERE w.entry_id = x.id AND w.tenant = _tenant LIMIT 1
    ) k
    WHERE e.ctid = k.place AND e.tenant IS NOT DISTINCT FROM _tenant AND k.state = _from_state
    RETURNING e.entry_id, x.ix
  ), lines AS (
    UPDATE waitlist_line l SET state = _state
    FROM ended d
    CROSS JOIN LATERAL (
      SELECT w.ctid AS place FROM waitlist_line w WHERE w.entry_id = d.entry_id AND w.tenant = _tenant OFFSET 0
    ) k
    WHERE l.ctid = k.place AND l.tenant IS NOT DISTINCT FROM _tenant
  )
  SELECT array_agg(d.entry_id ORDER BY d.ix) AS id, array_agg(_client[d.ix] ORDER BY d.ix) AS client,
         array_agg(_key_id[d.ix] ORDER BY d.ix) AS key_id, array_agg(_request_id[d.ix] ORDER BY d.ix) AS request_id,
         array_agg(_reason[d.ix] ORDER BY d.ix) AS reason
  INTO _r FROM ended d;
  IF _r.id IS NOT NULL THEN
    PERFORM write_waitlist_events(
      _tenant, (CASE _state WHEN 3 THEN 19 WHEN 4 THEN 20 ELSE 21 END)::smallint, _from_state, _r.id, _r.client,
      _r.key_id, _r.request_id, _r.reason, _now);
  END IF;
END
$$;

-- Step "apply" of what takes WAITING entries out of the queues of their items: LAPSED (4) and LEFT (5). Behind a STRICT
-- entry others may have waited for it. The caller has locked the items, then the entries.
CREATE FUNCTION end_waiting(
  _tenant text, _state smallint, _entry_id uuid[], _client text[], _key_id text[], _reason text[], _now timestamptz
) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  UPDATE item i SET
    waiting = i.waiting - x.count,
    serve_time = CASE WHEN i.waiting = x.count THEN NULL WHEN i.waitlist_policy = 3 THEN '-infinity'
                      ELSE i.serve_time END,
    revision = i.revision + 1, update_time = _now
  FROM (
    SELECT l.sku, l.pool, count(*) AS count
    FROM unnest(_entry_id) e (id)
    CROSS JOIN LATERAL (
      SELECT w.sku, w.pool, w.state FROM waitlist_line w WHERE w.entry_id = e.id AND w.tenant = _tenant OFFSET 0
    ) l
    WHERE l.state = 1
    GROUP BY l.sku, l.pool
  ) x
  CROSS JOIN LATERAL (
    SELECT v.ctid AS place FROM item v WHERE v.sku = x.sku AND v.pool = x.pool AND v.tenant = _tenant LIMIT 1
  ) k
  WHERE i.ctid = k.place AND i.tenant IS NOT DISTINCT FROM _tenant;
  PERFORM end_entries(_tenant, 1::smallint, _state, _entry_id, _client, _key_id, '{}', _reason, _now);
END
$$;

-- Joins the queues of each request's items. Arrays of n requests of one tenant in order of arrival; lines are flat, one
-- an item: those of request i are _line_first[i] to _line_first[i + 1] - 1. _expire_time null: it waits until it
-- leaves.
-- Outcomes: ITEM_NOT_FOUND and WAITLIST_CLOSED with the item; ALREADY_WAITING with the other entry; EXPIRE_TIME: it is
-- not in the future; SERVE: the other entry has lapsed, sweep and call again (not where _served is set); RETRY: call
-- again.
-- Locks: item rows in (sku, pool) order, then request ids in order.
CREATE FUNCTION join_waitlist(
  _tenant text, _client text[], _key_id text[], _request_id text[], _request_key uuid[], _fingerprint bytea[],
  _served boolean[], _entry_id uuid[], _holder text[], _reference text[], _priority integer[], _offer_ttl_us bigint[],
  _expire_time timestamptz[], _metadata jsonb[],
  _line_first integer[], _line_sku text[], _line_pool text[], _line_quantity bigint[]
) RETURNS SETOF waitlist_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  _n integer := cardinality(_client);
  _outcome text[];
  _id uuid[];
  _at_sku text[] := array_fill(NULL::text, ARRAY[_n]);
  _at_pool text[] := array_fill(NULL::text, ARRAY[_n]);
  _other_id uuid[] := array_fill(NULL::uuid, ARRAY[_n]);
  _due boolean := false;
  _now timestamptz;
  _item record;
  _other uuid;
  -- The line of a request that is blocked, null: none is.
  _blocked integer;
  _rank integer;
  _place bigint;
  _r record;
BEGIN
  PERFORM enter_tenant(_tenant);
  -- find
  _r := find_requests(_tenant, 'JoinWaitlist', _request_key, _fingerprint);
  _outcome := _r._outcome;
  SELECT array_agg(coalesce(x.found, x.id) ORDER BY x.ix) INTO _id
  FROM unnest(_r._reservation_id, _entry_id) WITH ORDINALITY x (found, id, ix);
  -- lock
  PERFORM lock_items(_tenant, _line_sku, _line_pool);
  _now := wall_clock();
  -- claim, before the judgement: each request is judged by what those before it left, and a refusal gives its id back.
  IF NOT claim_requests(_tenant, 'JoinWaitlist', _request_key, _fingerprint, _id, _outcome, _now) THEN
    SELECT array_agg(coalesce(x.outcome, 'RETRY') ORDER BY x.ix) INTO _outcome
    FROM unnest(_outcome) WITH ORDINALITY x (outcome, ix);
  END IF;
  -- judge, apply
  FOR _i IN 1 .. _n LOOP
    CONTINUE WHEN _outcome[_i] IS NOT NULL;
    _blocked := NULL;
    _other := NULL;
    IF _expire_time[_i] <= _now THEN
      _outcome[_i] := 'EXPIRE_TIME';
    END IF;
    FOR _l IN _line_first[_i] .. _line_first[_i + 1] - 1 LOOP
      EXIT WHEN _outcome[_i] IS NOT NULL;
      SELECT v.sku, v.free, v.sale_state, v.waitlist_policy INTO _item FROM item v
      WHERE v.sku = _line_sku[_l] AND v.pool = _line_pool[_l] AND v.tenant = _tenant AND v.delete_time IS NULL;
      IF _item.sku IS NULL THEN
        _outcome[_i] := 'ITEM_NOT_FOUND';
      ELSIF _item.waitlist_policy = 1 THEN
        _outcome[_i] := 'WAITLIST_CLOSED';
      ELSIF _other IS NULL THEN
        SELECT w.entry_id INTO _other FROM waitlist_line w
        WHERE w.sku = _line_sku[_l] AND w.pool = _line_pool[_l] AND w.holder = _holder[_i] AND w.client = _client[_i]
          AND w.tenant = _tenant AND w.state <= 2;
      END IF;
      IF _outcome[_i] IS NOT NULL THEN
        _at_sku[_i] := _line_sku[_l];
        _at_pool[_i] := _line_pool[_l];
      ELSIF _blocked IS NULL AND (_item.free < _line_quantity[_l] OR _item.sale_state <> 1) THEN
        _blocked := _l;
      END IF;
    END LOOP;
    IF _outcome[_i] IS NULL AND _other IS NOT NULL THEN
      _outcome[_i] := CASE WHEN NOT coalesce(_served[_i], false) AND (
        SELECT shown_state(_tenant, w.state, w.expire_time, w.reservation_id, _now) FROM waitlist_entry w
        WHERE w.entry_id = _other AND w.tenant = _tenant
      ) > 2 THEN 'SERVE' ELSE 'ALREADY_WAITING' END;
      _other_id[_i] := _other;
    END IF;
    IF _outcome[_i] IS NOT NULL THEN
      DELETE FROM request q WHERE q.request_key = _request_key[_i] AND q.tenant = _tenant;
      _id[_i] := NULL;
      CONTINUE;
    END IF;

    _rank := -_priority[_i];
    _place := nextval('waitlist_sequence');
    INSERT INTO waitlist_entry (
      tenant, entry_id, client, holder, reference, rank, sequence, offer_ttl_us, metadata, create_time, expire_time
    ) VALUES (
      _tenant, _id[_i], _client[_i], _holder[_i], _reference[_i], _rank, _place, _offer_ttl_us[_i], _metadata[_i], _now,
      _expire_time[_i]
    );
    -- It waits at a line that is blocked; where none is, its items are due.
    INSERT INTO waitlist_line (
      tenant, entry_id, line_number, sku, pool, quantity, client, holder, rank, sequence, parked
    )
    SELECT _tenant, _id[_i], y.line - _line_first[_i] + 1, _line_sku[y.line], _line_pool[y.line],
           _line_quantity[y.line], _client[_i], _holder[_i], _rank, _place, y.line = coalesce(_blocked, _line_first[_i])
    FROM generate_series(_line_first[_i], _line_first[_i + 1] - 1) y (line);
    UPDATE item i SET
      waiting = i.waiting + 1,
      serve_time = CASE WHEN _blocked IS NULL THEN '-infinity' ELSE i.serve_time END,
      revision = i.revision + 1, update_time = _now
    FROM generate_series(_line_first[_i], _line_first[_i + 1] - 1) y (line)
    CROSS JOIN LATERAL (
      SELECT v.ctid AS place FROM item v
      WHERE v.sku = _line_sku[y.line] AND v.pool = _line_pool[y.line] AND v.tenant = _tenant LIMIT 1
    ) k
    WHERE i.ctid = k.place AND i.tenant IS NOT DISTINCT FROM _tenant;
    _due := _due OR _blocked IS NULL;
    PERFORM write_waitlist_events(
      _tenant, 17::smallint, 0::smallint, ARRAY[_id[_i]], ARRAY[_client[_i]], ARRAY[_key_id[_i]],
      ARRAY[_request_id[_i]], '{}', _now);
  END LOOP;
  RETURN QUERY SELECT * FROM answer_waitlist(
    _tenant, _outcome, _at_sku, _at_pool, _other_id, _id, true, _due, _now);
END
$$;

-- Leaves: a WAITING entry leaves the queues, the offer of an OFFERED one is cancelled; one that has ended stays as it
-- is. _manages: the key may act on every client's entries, _reads: it may see them. Outcomes: WAITLIST_ENTRY_NOT_FOUND,
-- PERMISSION_DENIED, RETRY: call again.
-- Locks: of an OFFERED entry its reservation; items in (sku, pool) order; the entry.
CREATE FUNCTION leave_waitlist(
  _tenant text, _client text, _key_id text, _pools text, _reads boolean, _manages boolean, _entry_id uuid, _reason text
) RETURNS SETOF waitlist_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  _outcome text;
  _before record;
  _held record;
  _followed item_before[];
  _state smallint;
  _due boolean := false;
  _now timestamptz;
BEGIN
  PERFORM enter_tenant(_tenant);
  SELECT e.client, e.state, e.reservation_id, e.expire_time INTO _before FROM waitlist_entry e
  WHERE e.entry_id = _entry_id AND e.tenant = _tenant;
  IF _before.client IS NULL OR (_before.client <> _client AND NOT _reads AND NOT _manages)
     OR NOT sees_entry(_tenant, _pools, _entry_id) THEN
    _outcome := 'WAITLIST_ENTRY_NOT_FOUND';
    _entry_id := NULL;
  ELSIF _before.client <> _client AND NOT _manages THEN
    _outcome := 'PERMISSION_DENIED';
    _entry_id := NULL;
  ELSIF _before.state <= 2 THEN
    IF _before.state = 2 THEN
      PERFORM 1 FROM reservation v
      WHERE v.reservation_id = _before.reservation_id AND v.tenant = _tenant FOR NO KEY UPDATE;
      _followed := lock_items_of(_tenant, ARRAY[_before.reservation_id]);
    ELSE
      PERFORM lock_items(_tenant, array_agg(l.sku), array_agg(l.pool)) FROM waitlist_line l
      WHERE l.entry_id = _entry_id AND l.tenant = _tenant;
    END IF;
    SELECT e.state INTO _state FROM waitlist_entry e
    WHERE e.entry_id = _entry_id AND e.tenant = _tenant FOR NO KEY UPDATE;
    _now := wall_clock();
    IF _state = 2 AND _before.state = 1 THEN
      _outcome := 'RETRY';
    ELSIF _state = 1 THEN
      PERFORM end_waiting(_tenant, (CASE WHEN _before.expire_time <= _now THEN 4 ELSE 5 END)::smallint,
                          ARRAY[_entry_id], CASE WHEN _before.expire_time <= _now THEN '{}' ELSE ARRAY[_client] END,
                          CASE WHEN _before.expire_time <= _now THEN '{}' ELSE ARRAY[_key_id] END, ARRAY[_reason],
                          _now);
      _due := true;
    ELSIF _state = 2 THEN
      SELECT v.state, v.expire_time INTO _held FROM reservation v
      WHERE v.reservation_id = _before.reservation_id AND v.tenant = _tenant;
      -- One whose time is over is LAPSED: the sweep ends it.
      IF _held.state = 1 AND _held.expire_time > _now THEN
        PERFORM return_held(_tenant, 3::smallint, ARRAY[_before.reservation_id], ARRAY[_client], ARRAY[_key_id], '{}',
                            ARRAY[_reason], _now);
        PERFORM follow_items(_tenant, _followed, _now);
        _due := true;
      END IF;
    END IF;
  END IF;
  RETURN QUERY SELECT * FROM answer_waitlist(
    _tenant, ARRAY[_outcome], NULL, NULL, NULL, ARRAY[_entry_id], false, _due, coalesce(_now, wall_clock()));
END
$$;

-- Reads one entry with its position; entry_id is null where there is none. What has lapsed is read under its row lock,
-- after the transaction that may be taking or offering it: a caller never reads LAPSED first and TAKEN or OFFERED
-- later.
-- Locks: the entry's reservation, or the entry, where they have lapsed (FOR SHARE).
CREATE FUNCTION get_waitlist_entry(_tenant text, _entry_id uuid) RETURNS SETOF waitlist_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  _now timestamptz := wall_clock();
  _e record;
BEGIN
  SELECT e.state, e.reservation_id, shown_state(_tenant, e.state, e.expire_time, e.reservation_id, _now) AS shown
  INTO _e FROM waitlist_entry e WHERE e.entry_id = _entry_id AND e.tenant = _tenant;
  IF _e.shown = 4 THEN
    IF _e.state = 2 THEN
      PERFORM 1 FROM reservation v WHERE v.reservation_id = _e.reservation_id AND v.tenant = _tenant FOR SHARE;
    ELSIF _e.state = 1 THEN
      PERFORM 1 FROM waitlist_entry e WHERE e.entry_id = _entry_id AND e.tenant = _tenant FOR SHARE;
    END IF;
  END IF;
  RETURN QUERY SELECT * FROM answer_waitlist(
    _tenant, ARRAY[NULL::text], NULL, NULL, NULL, ARRAY[_entry_id], true, false, _now);
END
$$;

-- Finds entries of these states in the order of the queue, after (_after_rank, _after_sequence): the ids of at most
-- _limit that match every filter that is not null. _pools: what the key may see, as sees_reservation takes it. With
-- _holder the entries of this holder are looked at, with _sku those of the item, else those of the tenant: at most
-- _looked_max, shared by states and pools, but _limit of each. _looked_rank, _looked_sequence: the place to go on
-- after; null where all were looked at. Locks nothing.
CREATE FUNCTION find_waitlist_entries(
  _tenant text, _client text, _states smallint[], _sku text, _pool text, _holder text, _pools text,
  _after_rank integer, _after_sequence bigint, _limit integer, _looked_max integer,
  OUT _ids uuid[], OUT _looked_rank integer, OUT _looked_sequence bigint
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET jit = off AS $$
DECLARE
  _branches text := 'SELECT s.state FROM unnest($3) s (state)';
  _source text;
  _filter text := '';
BEGIN
  IF _holder IS NOT NULL THEN
    _source := 'waitlist_entry w WHERE w.holder = $6';
    IF _sku IS NOT NULL THEN
      _filter := ' AND EXISTS (SELECT 1 FROM waitlist_line l WHERE l.entry_id = v.entry_id AND l.sku = $4'
        || ' AND ($5 IS NULL OR l.pool = $5) AND l.tenant = $1)';
    END IF;
  ELSIF _sku IS NOT NULL THEN
    _branches := 'SELECT s.state, i.pool FROM unnest($3) s (state) CROSS JOIN item i'
      || ' WHERE i.sku = $4 AND i.tenant = $1 AND ($5 IS NULL OR i.pool = $5)';
    _source := 'waitlist_line w WHERE w.sku = $4 AND w.pool = b.pool';
  ELSE
    _source := 'waitlist_entry w WHERE hashtext(w.tenant) = hashtext($1)';
  END IF;
  EXECUTE format(
    'WITH branch AS MATERIALIZED (%1$s), most AS MATERIALIZED ('
    '  SELECT greatest($10, $11 / greatest(1, count(*)))::integer AS looked FROM branch'
    '), part AS MATERIALIZED ('
    '  SELECT m.ids, o.rank, o.sequence'
    '  FROM branch b CROSS JOIN LATERAL ('
    '    SELECT coalesce(array_agg(x.entry_id), ''{}'') AS ids FROM ('
    '      SELECT v.entry_id FROM (%2$s) v'
    '      WHERE ($2 IS NULL OR v.client = $2) AND sees_entry($1, $7, v.entry_id)%3$s'
    '      ORDER BY v.rank, v.sequence LIMIT $10'
    '    ) x'
    '  ) m LEFT JOIN LATERAL ('
    '    SELECT v.rank, v.sequence FROM (%2$s) v OFFSET (SELECT k.looked - 1 FROM most k) LIMIT 1'
    '  ) o ON cardinality(m.ids) < $10'
    '), cut AS MATERIALIZED ('
    '  SELECT p.rank, p.sequence FROM part p WHERE p.rank IS NOT NULL ORDER BY p.rank, p.sequence LIMIT 1'
    '), found AS MATERIALIZED ('
    '  SELECT DISTINCT e.rank, e.sequence, e.entry_id'
    '  FROM part p CROSS JOIN LATERAL unnest(p.ids) u (id)'
    '  CROSS JOIN LATERAL (SELECT * FROM waitlist_entry w WHERE w.entry_id = u.id AND w.tenant = $1 OFFSET 0) e'
    '  WHERE NOT EXISTS (SELECT 1 FROM cut k WHERE (e.rank, e.sequence) > (k.rank, k.sequence))'
    '  ORDER BY e.rank, e.sequence LIMIT $10'
    '), stop AS MATERIALIZED ('
    '  SELECT z.rank, z.sequence FROM ('
    '    SELECT * FROM cut UNION ALL (SELECT f.rank, f.sequence FROM found f ORDER BY 1, 2 OFFSET $10 - 1)'
    '  ) z ORDER BY 1, 2 LIMIT 1'
    ') '
    'SELECT (SELECT coalesce(array_agg(f.entry_id ORDER BY f.rank, f.sequence), ''{}'') FROM found f),'
    '       (SELECT z.rank FROM stop z), (SELECT z.sequence FROM stop z)',
    _branches,
    'SELECT w.entry_id, w.client, w.rank, w.sequence FROM ' || _source || ' AND w.tenant = $1 AND w.state = b.state'
      || ' AND (w.rank, w.sequence) > ($8, $9) ORDER BY w.rank, w.sequence LIMIT (SELECT k.looked FROM most k)',
    _filter)
  INTO _ids, _looked_rank, _looked_sequence
  USING _tenant, _client, _states, _sku, _pool, _holder, _pools, _after_rank, _after_sequence, _limit, _looked_max;
END
$$;

-- Reads entries without their positions, in this order; those that are gone are left out. Locks nothing.
CREATE FUNCTION read_waitlist_entries(_tenant text, _entry_id uuid[]) RETURNS SETOF waitlist_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
BEGIN
  RETURN QUERY SELECT a.* FROM answer_waitlist(
    _tenant, array_fill(NULL::text, ARRAY[cardinality(_entry_id)]), NULL, NULL, NULL, _entry_id, false, false,
    wall_clock()) a
  WHERE a.entry_id IS NOT NULL;
END
$$;

-- Which of these entries wait for items that no other transaction has locked; their items are locked now.
-- Locks: items that are not locked; it never waits.
CREATE FUNCTION entries_on_free_items(_tenant text, _entry_id uuid[]) RETURNS uuid[]
LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_hashjoin = on AS $$
BEGIN
  RETURN (
    WITH line AS MATERIALIZED (
      SELECT x.id, l.sku, l.pool
      FROM unnest(_entry_id) x (id)
      CROSS JOIN LATERAL (
        SELECT w.sku, w.pool FROM waitlist_line w WHERE w.entry_id = x.id AND w.tenant = _tenant OFFSET 0
      ) l
    ), free AS MATERIALIZED (
      SELECT k.sku, k.pool
      FROM (SELECT DISTINCT n.sku, n.pool FROM line n) k
      CROSS JOIN LATERAL (
        SELECT 1 FROM item i WHERE i.sku = k.sku AND i.pool = k.pool AND i.tenant = _tenant
        FOR NO KEY UPDATE SKIP LOCKED
      ) i
    )
    SELECT array_agg(e.id) FROM (
      SELECT n.id FROM line n LEFT JOIN free f ON f.sku = n.sku AND f.pool = n.pool
      GROUP BY n.id HAVING count(*) = count(f.sku)
    ) e
  );
END
$$;

-- Lapses at most _max_count WAITING entries of one tenant or of all (null) whose expire_time has passed, and names the
-- tenants of which items are due to be served. Entries on items that others have locked are left for the next time.
-- Locks: items and entries that are not locked; it never waits.
CREATE FUNCTION sweep_waitlist(
  _tenant text, _max_count integer, OUT _lapsed_count bigint, OUT _due_tenants text[]
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  _now timestamptz := wall_clock();
  -- Whose rows it leaves alone.
  _away text[];
  _ids uuid[];
  _r record;
BEGIN
  _lapsed_count := 0;
  _due_tenants := '{}';
  _away := enter_tenants(_tenant);
  IF _away IS NULL THEN
    RETURN;
  END IF;
  FOR _r IN
    SELECT x.tenant, array_agg(x.entry_id) AS ids
    FROM (
      SELECT e.tenant, e.entry_id FROM waitlist_entry e
      WHERE e.state = 1 AND e.expire_time <= _now AND (_tenant IS NULL OR e.tenant = _tenant)
        AND e.tenant <> ALL (_away)
      ORDER BY e.expire_time LIMIT _max_count
    ) x
    GROUP BY x.tenant ORDER BY x.tenant
  LOOP
    _ids := entries_on_free_items(_r.tenant, _r.ids);
    SELECT array_agg(e.entry_id) INTO _ids
    FROM unnest(_ids) x (id)
    CROSS JOIN LATERAL (
      SELECT w.entry_id, w.state FROM waitlist_entry w
      WHERE w.entry_id = x.id AND w.tenant = _r.tenant LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
    ) e
    WHERE e.state = 1;
    CONTINUE WHEN _ids IS NULL;
    PERFORM end_waiting(_r.tenant, 4::smallint, _ids, '{}', '{}', '{}', _now);
    _lapsed_count := _lapsed_count + cardinality(_ids);
  END LOOP;
  SELECT coalesce(array_agg(DISTINCT i.tenant::text), '{}') INTO _due_tenants
  FROM item i WHERE i.serve_time <= _now AND (_tenant IS NULL OR i.tenant = _tenant) AND i.tenant <> ALL (_away);
END
$$;

-- How many entries of a tenant wait and how many are offered, for metrics. Locks nothing.
CREATE FUNCTION waitlist_totals(_tenant text, OUT _waiting bigint, OUT _offered bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
BEGIN
  SELECT (SELECT count(*) FROM waitlist_entry e
          WHERE hashtext(e.tenant) = hashtext(_tenant) AND e.tenant = _tenant AND e.state = 1),
         (SELECT count(*) FROM waitlist_entry e
          WHERE hashtext(e.tenant) = hashtext(_tenant) AND e.tenant = _tenant AND e.state = 2)
  INTO _waiting, _offered;
END
$$;

-- Forgets at most _max_count entries, of all tenants, that ended longer than _age ago, and returns how many.
-- Locks: those rows; rows that another purge has locked are left out.
CREATE FUNCTION purge_waitlist(_age interval, _max_count integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off
SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
  _before timestamptz := wall_clock() - _age;
  _away text[] := tenants_away();
  _purged integer;
BEGIN
  WITH gone AS (
    DELETE FROM waitlist_entry e
    USING (
      SELECT w.entry_id, w.tenant FROM waitlist_entry w
      WHERE w.state > 2 AND w.end_time < _before AND w.tenant <> ALL (_away)
      ORDER BY w.end_time LIMIT _max_count FOR UPDATE SKIP LOCKED
    ) x
    WHERE e.entry_id = x.entry_id AND e.tenant = x.tenant
    RETURNING e.entry_id, e.tenant
  ), lines AS (
    DELETE FROM waitlist_line l USING gone g WHERE l.entry_id = g.entry_id AND l.tenant = g.tenant
  )
  SELECT count(*) INTO _purged FROM gone;
  RETURN _purged;
END
$$;
