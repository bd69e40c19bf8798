-- Why so much of an item can be had, and when more may be, for a client of these pools (see sees_reservation): its
-- counters; the units of running holds by the time at which they end, in at most _steps steps of (the end of) equally
-- many times each; and the client's own holds, at most _own_max, those that end first. At most _walk_max of the sku's
-- holds are looked at, those that end first: _later has the units of the others; own ones are looked for among the
-- first _own_walk_max of the item's. Null: there is no such item. Locks nothing.
CREATE FUNCTION explain_availability(
  _tenant text, _client text, _pools text, _sku text, _pool text, _walk_max integer, _steps integer,
  _own_walk_max integer, _own_max integer,
  OUT _available bigint, OUT _remaining bigint, OUT _oversell bigint, OUT _buffer bigint, OUT _lapsed bigint,
  OUT _sale_state smallint, OUT _waiters bigint, OUT _step_time timestamptz[], OUT _step_quantity bigint[],
  OUT _later bigint, OUT _own_id uuid[], OUT _own_reference text[], OUT _own_quantity bigint[],
  OUT _own_expire_time timestamptz[], OUT _read_time timestamptz
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET jit = off AS $$
BEGIN
  _read_time := wall_clock();
  -- One statement, so that the numbers are of one moment and add up.
  WITH looked AS MATERIALIZED (
    SELECT w.reservation_id, w.sku, w.pool, w.tenant, w.quantity, w.expire_time FROM reservation_line w
    WHERE hashtextextended(w.sku, hashtext(w.tenant)) = hashtextextended(_sku, hashtext(_tenant))
      AND w.expire_time > _read_time
    ORDER BY w.expire_time
    LIMIT _walk_max
  ), running AS MATERIALIZED (
    SELECT l.reservation_id, l.quantity, l.expire_time FROM looked l
    WHERE l.sku = _sku AND l.pool = _pool AND l.tenant = _tenant
  ), step AS (
    SELECT max(t.expire_time) AS expire_time, sum(t.quantity)::bigint AS quantity
    FROM (
      SELECT r.expire_time, sum(r.quantity) AS quantity, ntile(_steps) OVER (ORDER BY r.expire_time) AS number
      FROM running r GROUP BY r.expire_time
    ) t
    GROUP BY t.number
  ), own AS (
    SELECT r.reservation_id, v.reference, r.quantity, r.expire_time
    FROM (SELECT * FROM running LIMIT _own_walk_max) r
    CROSS JOIN LATERAL (
      SELECT w.reference, w.client FROM reservation w
      WHERE w.reservation_id = r.reservation_id AND w.tenant = _tenant LIMIT 1
    ) v
    WHERE v.client = _client AND sees_reservation(_tenant, _pools, r.reservation_id)
    LIMIT _own_max
  )
  SELECT available_units(i.gate, i.free, i.lapsed, i.waitlist_policy, i.serve_time, _read_time), i.remaining,
         i.oversell_limit, i.buffer, i.lapsed, i.sale_state, i.waiting, s.times, s.quantities,
         CASE WHEN (SELECT count(*) FROM looked) < _walk_max THEN 0
              ELSE greatest(0, i.held - i.lapsed - coalesce(s.total, 0)) END,
         o.ids, o.refs, o.quantities, o.times
  INTO _available, _remaining, _oversell, _buffer, _lapsed, _sale_state, _waiters, _step_time, _step_quantity, _later,
       _own_id, _own_reference, _own_quantity, _own_expire_time
  FROM (
    SELECT v.gate, v.free, v.waitlist_policy, v.serve_time, v.waiting, v.remaining, v.oversell_limit, v.buffer, v.held,
           v.sale_state, (
             -- As lapsed_units, in this statement: a sweep in between would count units twice or not at all.
             SELECT coalesce(sum(l.quantity), 0)::bigint FROM reservation_line l
             WHERE hashtextextended(l.sku, hashtext(l.tenant)) = hashtextextended(_sku, hashtext(_tenant))
               AND l.sku = _sku AND l.pool = _pool AND l.tenant = _tenant AND l.expire_time <= _read_time
               AND NOT EXISTS (
                 SELECT 1 FROM quarantine q WHERE q.reservation_id = l.reservation_id AND q.tenant = _tenant
               )
           ) AS lapsed
    FROM item v WHERE v.sku = _sku AND v.pool = _pool AND v.tenant = _tenant AND v.delete_time IS NULL
  ) i
  CROSS JOIN (
    SELECT coalesce(array_agg(step.expire_time ORDER BY step.expire_time), '{}') AS times,
           coalesce(array_agg(step.quantity ORDER BY step.expire_time), '{}') AS quantities,
           sum(step.quantity)::bigint AS total
    FROM step
  ) s
  CROSS JOIN (
    SELECT coalesce(array_agg(own.reservation_id ORDER BY own.expire_time, own.reservation_id), '{}') AS ids,
           coalesce(array_agg(own.reference::text ORDER BY own.expire_time, own.reservation_id), '{}') AS refs,
           coalesce(array_agg(own.quantity ORDER BY own.expire_time, own.reservation_id), '{}') AS quantities,
           coalesce(array_agg(own.expire_time ORDER BY own.expire_time, own.reservation_id), '{}') AS times
    FROM own
  ) o;
END
$$;

-- When units that were missing come free if no hold is confirmed or extended, and how many more will be free then.
-- Elements of _sku to _own_id are about an item of which _missing units were missing, to the hold _own_id where that is
-- not null.
-- Null: never, or not among the holds that end first, of which at most _walk_max are looked at for each item; or new
-- holds of the item are closed, or wait behind others. Each item is walked once, and no further than needed. Locks
-- nothing.
CREATE FUNCTION next_free(
  _tenant text, _sku text[], _pool text[], _missing bigint[], _own_id uuid[], _walk_max integer,
  OUT _free_time timestamptz[], OUT _free_quantity bigint[]
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  _now timestamptz := wall_clock();
  _of record;
  _held bigint;
  _next integer;
  _running bigint;
  _time timestamptz;
  _r record;
BEGIN
  _free_time := array_fill(NULL::timestamptz, ARRAY[cardinality(_sku)]);
  _free_quantity := array_fill(NULL::bigint, ARRAY[cardinality(_sku)]);
  FOR _of IN
    SELECT x.sku, x.pool, x.own, array_agg(x.missing ORDER BY x.missing) AS missing,
           array_agg(x.ix ORDER BY x.missing) AS ix
    FROM unnest(_sku, _pool, _missing, _own_id) WITH ORDINALITY x (sku, pool, missing, own, ix)
    GROUP BY x.sku, x.pool, x.own
  LOOP
    SELECT i.held, i.free INTO _held, _running FROM item i
    WHERE i.sku = _of.sku AND i.pool = _of.pool AND i.tenant = _tenant AND i.delete_time IS NULL AND i.gate = 0;
    -- As many as are held, at most: a hot item that is sold is not walked at all.
    CONTINUE WHEN _held IS NULL OR _of.missing[1] > _held;
    _next := 1;
    -- What is beyond the buffer, or oversold, must come back first.
    _running := CASE WHEN _running >= 0 THEN 0
                     ELSE least(0, _running + lapsed_units(_tenant, _of.sku, _of.pool, _now, -_running)) END;
    _time := NULL;
    FOR _r IN
      SELECT w.reservation_id, w.sku, w.pool, w.tenant, w.quantity, w.expire_time FROM reservation_line w
      WHERE hashtextextended(w.sku, hashtext(w.tenant)) = hashtextextended(_of.sku, hashtext(_tenant))
        AND w.expire_time > _now
      ORDER BY w.expire_time
      LIMIT _walk_max
    LOOP
      -- All that end at one time are added up before it is judged.
      WHILE _r.expire_time <> _time AND _next <= cardinality(_of.missing) AND _running >= _of.missing[_next] LOOP
        _free_time[_of.ix[_next]] := _time;
        _free_quantity[_of.ix[_next]] := _running;
        _next := _next + 1;
      END LOOP;
      EXIT WHEN _next > cardinality(_of.missing);
      IF _r.sku = _of.sku AND _r.pool = _of.pool AND _r.tenant = _tenant
         AND _r.reservation_id IS DISTINCT FROM _of.own THEN
        _running := _running + _r.quantity;
        _time := _r.expire_time;
      END IF;
    END LOOP;
    WHILE _next <= cardinality(_of.missing) AND _running >= _of.missing[_next] LOOP
      _free_time[_of.ix[_next]] := _time;
      _free_quantity[_of.ix[_next]] := _running;
      _next := _next + 1;
    END LOOP;
  END LOOP;
END
$$;
