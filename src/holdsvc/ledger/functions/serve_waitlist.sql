-- Serves the queues of a tenant's items: whose turn it is, and for whom the units are there, gets an offer, an ordinary
-- HELD reservation. It is a transaction of its own: within the one that frees units it would lock items out of order.
-- A WAITING entry is *parked* at one of its lines: at an item that blocks it, or that is due. So what frees an item
-- looks at those entries alone that are parked there and want no more than is free, whom an index by quantity finds,
-- and an entry that another item blocks is parked there from then on. Of a STRICT item the queue itself is looked at,
-- from its head.

-- The entries that a serve must look at, in the order of the queue, after (_after_rank, _after_sequence), _limit of
-- them. By item: FIRST_FITTING: those parked at it that want at most _most, what is free; STRICT: all that want at most
-- _most, what there can ever be. Different quantities are stepped through, never the entries that want more. Where
-- there are more than 100 of them, many entries fit, and the queue is read in its order. Locks nothing.
CREATE FUNCTION waitlist_candidates(
  _tenant text, _sku text[], _pool text[], _in_order boolean[], _most bigint[], _after_rank integer,
  _after_sequence bigint, _limit integer
) RETURNS TABLE (_candidate_id uuid, _rank integer, _sequence bigint)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RETURN QUERY
  SELECT DISTINCT c.entry_id, c.rank, c.sequence
  FROM unnest(_sku, _pool, _in_order, _most) x (sku, pool, in_order, most)
  CROSS JOIN (VALUES (true), (false)) p (parked)
  CROSS JOIN LATERAL (
    WITH RECURSIVE size (quantity, number) AS (
      (SELECT l.quantity, 1 FROM waitlist_line l
       WHERE l.sku = x.sku AND l.pool = x.pool AND l.tenant = _tenant AND l.state = 1 AND l.parked = p.parked
         AND l.quantity <= x.most
       ORDER BY l.quantity LIMIT 1)
      UNION ALL
      SELECT (
        SELECT l.quantity FROM waitlist_line l
        WHERE l.sku = x.sku AND l.pool = x.pool AND l.tenant = _tenant AND l.state = 1 AND l.parked = p.parked
          AND l.quantity <= x.most AND l.quantity > z.quantity
        ORDER BY l.quantity LIMIT 1
      ), z.number + 1 FROM size z WHERE z.quantity IS NOT NULL AND z.number <= 100
    ), many AS MATERIALIZED (
      SELECT EXISTS (SELECT 1 FROM size z WHERE z.number > 100 AND z.quantity IS NOT NULL) AS found
    )
    SELECT e.entry_id, e.rank, e.sequence
    FROM size z
    CROSS JOIN LATERAL (
      SELECT l.entry_id, l.rank, l.sequence FROM waitlist_line l
      WHERE l.sku = x.sku AND l.pool = x.pool AND l.tenant = _tenant AND l.state = 1 AND l.parked = p.parked
        AND l.quantity = z.quantity AND (l.rank, l.sequence) > (_after_rank, _after_sequence)
      ORDER BY l.rank, l.sequence LIMIT _limit
    ) e
    WHERE z.quantity IS NOT NULL AND NOT (SELECT m.found FROM many m)
    UNION ALL
    (SELECT l.entry_id, l.rank, l.sequence FROM waitlist_line l
     WHERE (SELECT m.found FROM many m) AND l.sku = x.sku AND l.pool = x.pool AND l.tenant = _tenant AND l.state = 1
       AND l.parked = p.parked AND l.quantity <= x.most AND (l.rank, l.sequence) > (_after_rank, _after_sequence)
     ORDER BY l.rank, l.sequence LIMIT _limit)
  ) c
  WHERE p.parked OR x.in_order
  ORDER BY c.rank, c.sequence LIMIT _limit;
END
$$;

-- Whether an entry is before this one, in the queue of a STRICT item, that is not passed: it blocks all behind it.
-- _most: what there can ever be of the item. Locks nothing: the caller has locked the item.
CREATE FUNCTION waits_behind(_tenant text, _sku text, _pool text, _most bigint, _rank integer, _sequence bigint)
RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RETURN (
    SELECT true FROM waitlist_line l
    CROSS JOIN LATERAL (
      SELECT w.pass_reason FROM waitlist_entry w WHERE w.entry_id = l.entry_id AND w.tenant = _tenant LIMIT 1
    ) e
    WHERE l.sku = _sku AND l.pool = _pool AND l.tenant = _tenant AND l.state = 1 AND l.quantity <= _most
      AND (l.rank, l.sequence) < (_rank, _sequence) AND e.pass_reason = 0
    -- In this order, for which only the queue's index serves: another would be read from end to end.
    ORDER BY l.rank, l.sequence LIMIT 1
  ) IS NOT NULL;
END
$$;

-- The other items of the entries that these due items may be offered to. Locks nothing.
CREATE FUNCTION items_beside(
  _tenant text, _sku text[], _pool text[], _now timestamptz, OUT _beside_sku text[], OUT _beside_pool text[]
)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  SELECT coalesce(array_agg(x.sku::text), '{}'), coalesce(array_agg(x.pool::text), '{}') INTO _beside_sku, _beside_pool
  FROM (
    SELECT DISTINCT l.sku, l.pool
    FROM (
      SELECT array_agg(i.sku) AS sku, array_agg(i.pool) AS pool, array_agg(i.waitlist_policy = 3) AS in_order,
             array_agg(CASE i.waitlist_policy WHEN 3 THEN i.capacity + i.oversell_limit - i.buffer ELSE i.free END)
               AS most, sum(i.free) AS free
      FROM unnest(_sku, _pool) x (sku, pool)
      CROSS JOIN LATERAL (
        SELECT * FROM item v WHERE v.sku = x.sku AND v.pool = x.pool AND v.tenant = _tenant LIMIT 1
      ) i
      WHERE i.serve_time <= _now AND i.free > 0 AND i.gate & 3 = 2
    ) d
    CROSS JOIN LATERAL waitlist_candidates(
      _tenant, d.sku, d.pool, d.in_order, d.most, -2147483648, 0, least(100, d.free + 1)::integer) c
    CROSS JOIN LATERAL (
      SELECT w.sku, w.pool FROM waitlist_line w WHERE w.entry_id = c._candidate_id AND w.tenant = _tenant OFFSET 0
    ) l
    WHERE d.sku IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM unnest(_sku, _pool) k (sku, pool) WHERE k.sku = l.sku AND k.pool = l.pool)
  ) x;
END
$$;

-- The items that a serve has to lock: 50 due ones at most, those beside them, and so on where such an item is due as
-- well. _skip_busy: without those due that another transaction has locked, or one beside them. Null: there is none.
-- _full: there may be further items that are due.
-- Locks: with _skip_busy items that are not locked, never waiting.
CREATE FUNCTION items_to_serve(
  _tenant text, _now timestamptz, _skip_busy boolean, OUT _sku text[], OUT _pool text[], OUT _full boolean
)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _with record;
BEGIN
  SELECT array_agg(x.sku::text), array_agg(x.pool::text) INTO _sku, _pool
  FROM (
    -- Not by an index of the tenant's items: few are due, of all tenants together.
    SELECT i.sku, i.pool FROM item i WHERE i.serve_time <= _now AND i.tenant IS NOT DISTINCT FROM _tenant
    ORDER BY i.serve_time LIMIT CASE WHEN _skip_busy THEN 500 ELSE 50 END
  ) x;
  IF _skip_busy THEN
    SELECT array_agg(x.sku), array_agg(x.pool) INTO _sku, _pool
    FROM (
      SELECT u.sku, u.pool FROM unnest(_sku, _pool) u (sku, pool)
      CROSS JOIN LATERAL items_beside(_tenant, ARRAY[u.sku], ARRAY[u.pool], _now) b
      WHERE NOT EXISTS (SELECT 1 FROM locked_items(_tenant, u.sku || b._beside_sku, u.pool || b._beside_pool))
      LIMIT 50
    ) x;
  END IF;
  _full := coalesce(cardinality(_sku), 0) = 50;
  FOR _round IN 1 .. 3 LOOP
    EXIT WHEN _sku IS NULL;
    _with := items_beside(_tenant, _sku, _pool, _now);
    EXIT WHEN _with._beside_sku = '{}';
    _sku := _sku || _with._beside_sku;
    _pool := _pool || _with._beside_pool;
  END LOOP;
END
$$;

-- Offers what is free to those who wait, of at most 50 due items of the tenant and the items that go with them.
-- _reservation_id has ids for the offers: no more are made. Returns how long each of those offered had waited, how many
-- entries lapsed, and whether there may be more to do at once.
-- Locks: items in (sku, pool) order; then, for one part of the queue after another, limits in order and the entries;
-- further items only where they are not locked. It waits for a lock a quarter of a second at most, also where the
-- limits of two parts cross those of another call; then it fails, and is called again with _skip_busy, which leaves out
-- what has a locked item.
CREATE FUNCTION serve_waitlist(
  _tenant text, _reservation_id uuid[], _skip_busy boolean,
  OUT _waited_us bigint[], OUT _lapsed_count bigint, OUT _more boolean
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_hashagg = off SET enable_bitmapscan = off SET jit = off SET lock_timeout = '250ms' AS $$
DECLARE
  _now timestamptz := wall_clock();
  _wanted record;
  _followed item_before[];
  _items served_item[];
  _sources record;
  -- How far the queue has been looked at, and how many entries are looked at next.
  _after_rank integer := -2147483648;
  _after_sequence bigint := 0;
  _page integer;
  _ids uuid[];
  _limits boolean;
  -- Of the candidate: the places of its items and what it wants of them, the item that blocks it, and why it is passed.
  _ats integer[];
  _quantities bigint[];
  _blocked integer;
  _pass smallint;
  _at integer;
  -- The offers of these candidates, and how many there are in all.
  _offers uuid[] := '{}';
  _count integer := 0;
  -- See locked_limits.
  _need_request integer[];
  _need_limit text[];
  _need_slot integer[];
  _need_units bigint[];
  _slot_limit bigint[];
  _slot_client text[];
  _slot_holder text[];
  _slot_max bigint[];
  _slot_used bigint[];
  _lock_time timestamptz;
  _need integer;
  _first_need integer;
  _c record;
  _l record;
  _one served_item;
BEGIN
  _waited_us := '{}';
  _lapsed_count := 0;
  _more := false;
  IF NOT try_enter_tenant(_tenant) THEN
    RETURN;
  END IF;
  -- lock
  _wanted := items_to_serve(_tenant, _now, _skip_busy);
  IF _wanted._sku IS NULL THEN
    RETURN;
  END IF;
  _followed := lock_items(_tenant, _wanted._sku, _wanted._pool);
  SELECT array_agg(i.item) INTO _items
  FROM unnest(_wanted._sku, _wanted._pool) k (sku, pool)
  CROSS JOIN LATERAL (
    SELECT ROW(v.sku, v.pool, v.free, v.capacity + v.oversell_limit - v.buffer, v.gate & 3 = 2, v.waitlist_policy = 3,
               coalesce(v.serve_time <= _now, false), false, 0, 0, false)::served_item AS item
    FROM item v WHERE v.sku = k.sku AND v.pool = k.pool AND v.tenant = _tenant LIMIT 1
  ) i;
  _limits := EXISTS (SELECT 1 FROM hold_limit h WHERE h.tenant = _tenant AND h.state < 3);
  _page := least(8, 1 + (SELECT sum(i.free) FROM unnest(_items) i WHERE i.free > 0));

  -- judge, in the order of the queue
  <<queue>>
  LOOP
    SELECT array_agg(i.sku) AS sku, array_agg(i.pool) AS pool, array_agg(i.in_order) AS in_order,
           array_agg(CASE WHEN i.in_order THEN i.most ELSE i.free END) AS most
    INTO _sources FROM unnest(_items) i WHERE i.due AND i.open AND NOT i.stuck AND i.free > 0;
    EXIT WHEN _sources.sku IS NULL;
    SELECT array_agg(c._candidate_id) INTO _ids FROM waitlist_candidates(
      _tenant, _sources.sku, _sources.pool, _sources.in_order, _sources.most, _after_rank, _after_sequence, _page) c;
    EXIT WHEN _ids IS NULL;
    _need_request := '{}';
    _need := 1;
    IF _limits THEN
      SELECT k.* INTO _need_request, _need_limit, _need_slot, _need_units, _slot_limit, _slot_client, _slot_holder,
             _slot_max, _slot_used, _lock_time
      FROM lock_limits_of_entries(_tenant, _ids) k;
    END IF;
    PERFORM 1
    FROM (SELECT u.id FROM unnest(_ids) u (id) ORDER BY u.id) x
    CROSS JOIN LATERAL (
      SELECT 1 FROM waitlist_entry w WHERE w.entry_id = x.id AND w.tenant = _tenant FOR NO KEY UPDATE
    ) e;
    _now := wall_clock();
    FOR _c IN
      SELECT x.ix, e.entry_id, e.client, e.holder, e.rank, e.sequence, e.create_time, e.expire_time, e.pass_reason
      FROM unnest(_ids) WITH ORDINALITY x (id, ix)
      CROSS JOIN LATERAL (
        SELECT * FROM waitlist_entry w WHERE w.entry_id = x.id AND w.tenant = _tenant LIMIT 1
      ) e
      ORDER BY x.ix
    LOOP
      _first_need := _need;
      WHILE _need_request[_need] = _c.ix LOOP
        _need := _need + 1;
      END LOOP;
      _ats := '{}';
      _quantities := '{}';
      _blocked := NULL;
      _pass := 0;
      FOR _l IN
        SELECT w.sku, w.pool, w.quantity FROM waitlist_line w WHERE w.entry_id = _c.entry_id AND w.tenant = _tenant
        ORDER BY w.sku, w.pool
      LOOP
        _at := (SELECT i.at
                FROM unnest(_items) WITH ORDINALITY
                  i (sku, pool, free, most, open, in_order, due, stuck, taken, gone, again, at)
                WHERE i.sku = _l.sku AND i.pool = _l.pool);
        IF _at IS NULL THEN
          SELECT v.sku, v.pool, v.free, v.capacity + v.oversell_limit - v.buffer, v.gate & 3 = 2, v.waitlist_policy = 3,
                 coalesce(v.serve_time <= _now, false), false, 0, 0, false
          INTO _one FROM item v WHERE v.sku = _l.sku AND v.pool = _l.pool AND v.tenant = _tenant
          FOR NO KEY UPDATE SKIP LOCKED;
          IF _one.sku IS NULL OR _one.due THEN
            -- Of a due item others may come first: the next serve takes it with it.
            _more := true;
            EXIT queue;
          END IF;
          _followed := _followed || lock_items(_tenant, ARRAY[_one.sku], ARRAY[_one.pool]);
          _items := _items || _one;
          _at := cardinality(_items);
        END IF;
        _one := _items[_at];
        _ats := _ats || _at;
        _quantities := _quantities || _l.quantity;
        IF _l.quantity > _one.most THEN
          _pass := 2;
          _blocked := _at;
        ELSIF _blocked IS NULL AND (
          NOT _one.open OR _l.quantity > _one.free
          OR (_one.in_order AND waits_behind(_tenant, _l.sku, _l.pool, _one.most, _c.rank, _c.sequence))
        ) THEN
          _blocked := _at;
        END IF;
      END LOOP;
      _after_rank := _c.rank;
      _after_sequence := _c.sequence;
      IF _pass = 0 AND _first_need < _need AND (
        SELECT j.verdict
        FROM judge_limits(_tenant, _first_need, _need - 1, _need_limit, _need_slot, _need_units, _slot_limit,
                                           _slot_client, _slot_holder, _slot_max, _slot_used, _now) j (verdict, detail)
      ) IS NOT NULL THEN
        _pass := 1;
      END IF;

      IF _c.expire_time <= _now THEN
        PERFORM end_entries(_tenant, 1::smallint, 4::smallint, ARRAY[_c.entry_id], '{}', '{}', '{}', '{}', _now);
        _lapsed_count := _lapsed_count + 1;
      ELSIF _blocked IS NOT NULL OR _pass > 0 THEN
        IF _c.pass_reason <> _pass THEN
          UPDATE waitlist_entry e SET pass_reason = _pass WHERE e.entry_id = _c.entry_id AND e.tenant = _tenant;
        END IF;
        IF _blocked IS NOT NULL THEN
          UPDATE waitlist_line l SET parked = (l.sku = (_items[_blocked]).sku AND l.pool = (_items[_blocked]).pool)
          WHERE l.entry_id = _c.entry_id AND l.tenant = _tenant
            AND l.parked <> (l.sku = (_items[_blocked]).sku AND l.pool = (_items[_blocked]).pool);
        END IF;
        IF _pass = 0 THEN
          FOREACH _at IN ARRAY _ats LOOP
            _items[_at].stuck := (_items[_at]).in_order;
          END LOOP;
        END IF;
        CONTINUE;
      ELSE
        IF _count = cardinality(_reservation_id) THEN
          _more := true;
          EXIT queue;
        END IF;
        _count := _count + 1;
        _offers := _offers || _c.entry_id;
        FOR _k IN _first_need .. _need - 1 LOOP
          _slot_used[_need_slot[_k]] := _slot_used[_need_slot[_k]] + _need_units[_k];
        END LOOP;
        UPDATE waitlist_entry e SET
          state = 2, pass_reason = 0, offer_time = _now, reservation_id = _reservation_id[_count],
          revision = e.revision + 1
        WHERE e.entry_id = _c.entry_id AND e.tenant = _tenant;
        UPDATE waitlist_line l SET state = 2 WHERE l.entry_id = _c.entry_id AND l.tenant = _tenant;
        _waited_us := _waited_us || (extract(epoch FROM _now - _c.create_time) * 1000000)::bigint;
      END IF;
      -- It waits no longer. Behind it entries may have waited in the STRICT queue of an item that is not due.
      FOR _n IN 1 .. cardinality(_ats) LOOP
        _one := _items[_ats[_n]];
        _one.gone := _one.gone + 1;
        IF _c.entry_id = _offers[cardinality(_offers)] THEN
          _one.free := _one.free - _quantities[_n];
          _one.taken := _one.taken + _quantities[_n];
        END IF;
        _one.again := _one.again OR (_one.in_order AND NOT _one.due);
        _items[_ats[_n]] := _one;
      END LOOP;
    END LOOP;
    PERFORM make_offers(_tenant, _offers, _need_request <> '{}', _now);
    _offers := '{}';
    EXIT WHEN cardinality(_ids) < _page;
    _page := least(100, 2 * _page);
  END LOOP;

  -- apply
  UPDATE item v SET
    remaining = v.remaining - x.taken,
    held = v.held + x.taken,
    waiting = v.waiting - x.gone,
    serve_time = CASE
      WHEN v.waiting = x.gone THEN NULL
      WHEN x.again THEN '-infinity'
      WHEN x.due AND NOT _more THEN next_serve_time(_tenant, x.sku, x.pool, x.in_order AND x.open, x.most, _now)
      ELSE v.serve_time
    END,
    revision = v.revision + CASE WHEN x.gone > 0 THEN 1 ELSE 0 END,
    update_time = CASE WHEN x.gone > 0 THEN _now ELSE v.update_time END
  FROM unnest(_items) x
  CROSS JOIN LATERAL (
    SELECT w.ctid AS place FROM item w WHERE w.sku = x.sku AND w.pool = x.pool AND w.tenant = _tenant LIMIT 1
  ) k
  WHERE v.ctid = k.place AND v.tenant IS NOT DISTINCT FROM _tenant AND (x.due OR x.gone > 0);
  _more := _more OR _wanted._full OR EXISTS (SELECT 1 FROM unnest(_items) x WHERE x.again);
  PERFORM make_offers(_tenant, _offers, _need_request <> '{}', _now);
  IF _followed IS NOT NULL THEN
    PERFORM follow_items(_tenant, _followed, _now);
  END IF;
END
$$;

-- When an item that has been served is due again by itself: when the entry lapses that blocks its STRICT queue, null
-- for never. One that has lapsed already is the sweep's.
CREATE FUNCTION next_serve_time(_tenant text, _sku text, _pool text, _in_order boolean, _most bigint, _now timestamptz)
RETURNS timestamptz
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  IF NOT _in_order THEN
    RETURN NULL;
  END IF;
  RETURN (
    SELECT CASE WHEN e.expire_time > _now THEN e.expire_time END
    FROM waitlist_line l
    CROSS JOIN LATERAL (
      SELECT w.expire_time, w.pass_reason FROM waitlist_entry w
      WHERE w.entry_id = l.entry_id AND w.tenant = _tenant LIMIT 1
    ) e
    WHERE l.sku = _sku AND l.pool = _pool AND l.tenant = _tenant AND l.state = 1 AND l.quantity <= _most
      AND e.pass_reason = 0
    ORDER BY l.rank, l.sequence LIMIT 1
  );
END
$$;

-- As lock_limits, for offers to these entries: the need of each is that of the request at its place.
CREATE FUNCTION lock_limits_of_entries(_tenant text, _entry_id uuid[]) RETURNS locked_limits
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _e record;
  _l record;
BEGIN
  SELECT array_agg(e.client::text ORDER BY x.ix) AS client, array_agg(e.holder::text ORDER BY x.ix) AS holder INTO _e
  FROM unnest(_entry_id) WITH ORDINALITY x (id, ix)
  CROSS JOIN LATERAL (
    SELECT w.client, w.holder FROM waitlist_entry w WHERE w.entry_id = x.id AND w.tenant = _tenant LIMIT 1
  ) e;
  SELECT array_agg(x.ix::integer) AS ix, array_agg(l.sku::text) AS sku, array_agg(l.pool::text) AS pool,
         array_agg(l.quantity) AS units
  INTO _l
  FROM unnest(_entry_id) WITH ORDINALITY x (id, ix)
  CROSS JOIN LATERAL (
    SELECT w.sku, w.pool, w.quantity FROM waitlist_line w WHERE w.entry_id = x.id AND w.tenant = _tenant OFFSET 0
  ) l;
  RETURN lock_limits(_tenant, _e.client, _e.holder, _l.ix, _l.sku, _l.pool, _l.units, _l.units);
END
$$;

-- Step "apply" of a serve: the reservations of these entries, which are OFFERED now, with their lines and the events of
-- both; _limited: they may count for limits. The caller has taken the units.
CREATE FUNCTION make_offers(_tenant text, _entry_id uuid[], _limited boolean, _now timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _id uuid[];
BEGIN
  IF cardinality(_entry_id) = 0 THEN
    RETURN;
  END IF;
  INSERT INTO reservation (
    tenant, reservation_id, client, holder, reference, metadata, create_time, expire_time, entry_id
  )
  SELECT _tenant, e.reservation_id, e.client, e.holder, e.reference, e.metadata, _now,
         _now + e.offer_ttl_us * interval '1 microsecond', e.entry_id
  FROM unnest(_entry_id) x (id)
  CROSS JOIN LATERAL (
    SELECT * FROM waitlist_entry w WHERE w.entry_id = x.id AND w.tenant = _tenant LIMIT 1
  ) e;
  INSERT INTO reservation_line (tenant, reservation_id, line_number, sku, pool, quantity, expire_time)
  SELECT _tenant, e.reservation_id, l.line_number, l.sku, l.pool, l.quantity,
         _now + e.offer_ttl_us * interval '1 microsecond'
  FROM unnest(_entry_id) x (id)
  CROSS JOIN LATERAL (
    SELECT * FROM waitlist_entry w WHERE w.entry_id = x.id AND w.tenant = _tenant LIMIT 1
  ) e
  CROSS JOIN LATERAL (
    SELECT * FROM waitlist_line w WHERE w.entry_id = x.id AND w.tenant = _tenant OFFSET 0
  ) l;
  SELECT array_agg(e.reservation_id ORDER BY x.ix) INTO _id
  FROM unnest(_entry_id) WITH ORDINALITY x (id, ix)
  CROSS JOIN LATERAL (
    SELECT w.reservation_id FROM waitlist_entry w WHERE w.entry_id = x.id AND w.tenant = _tenant LIMIT 1
  ) e;
  IF _limited THEN
    PERFORM settle_limits(_tenant, _id);
  END IF;
  PERFORM write_reservation_events(
    _tenant, 1::smallint, 0::smallint, _id,
    array_fill(''::text, ARRAY[cardinality(_entry_id)]), array_fill(''::text, ARRAY[cardinality(_entry_id)]), NULL,
    NULL, _now);
  PERFORM write_waitlist_events(_tenant, 18::smallint, 1::smallint, _entry_id, '{}', '{}', '{}', '{}', _now);
END
$$;
