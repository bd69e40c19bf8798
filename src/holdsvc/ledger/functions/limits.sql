-- The limits that an item counts for; null where there is none. Locks nothing.
CREATE FUNCTION limits_of(_tenant text, _sku text, _pool text) RETURNS bigint[]
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
  RETURN (
    SELECT array_agg(h.limit_number ORDER BY h.limit_number) FROM hold_limit h
    WHERE h.tenant = _tenant AND h.state < 3 AND starts_with(_sku, h.sku_prefix)
      AND (h.pool IS NULL OR h.pool = _pool)
  );
END
$$;

-- What reservations count for the tenant's limits, as their rows are now; no row where that is nothing. A hold without
-- a holder counts for no limit of holders. Locks nothing.
CREATE FUNCTION limit_units(_tenant text, _reservation_id uuid[])
RETURNS TABLE (
  _id uuid, _limit_number bigint, _client text, _holder text, _units bigint, _expire_time timestamptz,
  _confirm_time timestamptz
)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
  RETURN QUERY
  SELECT v.reservation_id, h.limit_number, v.client::text, CASE h.per WHEN 1 THEN v.holder::text ELSE '' END,
         sum(u.units)::bigint, CASE WHEN v.state = 1 THEN v.expire_time END,
         CASE WHEN v.state <> 1 THEN v.confirm_time END
  FROM (
    -- As in lock_limits: lines whose items have the same limits are added up first.
    SELECT u.id, min(i.limits) AS limits, sum(u.quantity) AS quantity, sum(u.confirmed) AS confirmed
    FROM (
      SELECT g.id, g.quantity, g.confirmed, f.limits, dense_rank() OVER (ORDER BY f.limits) AS kind
      FROM (
        SELECT l.sku, l.pool, array_agg(x.id) AS id, array_agg(l.quantity) AS quantity,
               array_agg(l.confirmed) AS confirmed
        FROM unnest(_reservation_id) x (id)
        CROSS JOIN LATERAL (
          SELECT w.sku, w.pool, w.quantity, w.confirmed_quantity - w.refunded_quantity AS confirmed
          FROM reservation_line w WHERE w.reservation_id = x.id AND w.tenant = _tenant OFFSET 0
        ) l
        GROUP BY l.sku, l.pool
      ) g
      CROSS JOIN LATERAL limits_of(_tenant, g.sku, g.pool) f (limits)
      WHERE f.limits IS NOT NULL
    ) i
    CROSS JOIN LATERAL unnest(i.id, i.quantity, i.confirmed) u (id, quantity, confirmed)
    GROUP BY u.id, i.kind
  ) l
  CROSS JOIN LATERAL (
    SELECT w.reservation_id, w.client, w.holder, w.state, w.expire_time, w.confirm_time FROM reservation w
    WHERE w.reservation_id = l.id AND w.tenant = _tenant AND w.state IN (1, 2, 6) LIMIT 1
  ) v
  CROSS JOIN LATERAL unnest(l.limits) n (limit_number)
  CROSS JOIN LATERAL (
    SELECT w.limit_number, w.per, w.counts FROM hold_limit w
    WHERE w.limit_number = n.limit_number AND w.tenant = _tenant AND (w.per = 2 OR v.holder <> '') LIMIT 1
  ) h
  CROSS JOIN LATERAL (
    SELECT CASE WHEN v.state = 1 THEN l.quantity WHEN h.counts = 2 THEN l.confirmed ELSE 0 END AS units
  ) u
  GROUP BY v.reservation_id, h.limit_number, h.per, v.client, v.holder, v.state, v.expire_time, v.confirm_time
  HAVING sum(u.units) > 0;
END
$$;

-- What holders of clients, or with an empty _holder clients, have of limits now, by the place in these arrays. What has
-- lapsed counts no more, swept or not; what was confirmed counts within the window. Locks nothing.
CREATE FUNCTION limits_used(
  _tenant text, _limit_number bigint[], _client text[], _holder text[], _now timestamptz
) RETURNS TABLE (_slot integer, _held bigint, _confirmed bigint)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
  -- In one statement: a sweep moves units of a client from one of its sums to another.
  RETURN QUERY
  SELECT x.slot::integer, coalesce(h.held, c.held, 0)::bigint, coalesce(h.confirmed, 0)::bigint
  FROM unnest(_limit_number, _client, _holder) WITH ORDINALITY x (limit_number, client, holder, slot)
  LEFT JOIN LATERAL (
    SELECT (
      SELECT sum(u.units) FROM limit_use u
      WHERE u.limit_number = x.limit_number AND u.holder = x.holder AND u.holder <> '' AND u.client = x.client
        AND u.tenant = _tenant AND u.confirm_time IS NULL AND u.expire_time > _now
    ) AS held, (
      SELECT sum(u.units) FROM limit_use u
      WHERE u.limit_number = x.limit_number AND u.holder = x.holder AND u.holder <> '' AND u.client = x.client
        AND u.tenant = _tenant AND u.confirm_time > coalesce((
          SELECT _now - w.window_us * interval '1 microsecond' FROM hold_limit w WHERE w.limit_number = x.limit_number
        ), '-infinity')
    ) AS confirmed
    WHERE x.holder <> ''
    OFFSET 0
  ) h ON true
  LEFT JOIN LATERAL (
    SELECT coalesce((
      SELECT s.used FROM limit_subject s
      WHERE s.limit_number = x.limit_number AND s.holder = '' AND s.client = x.client AND s.tenant = _tenant
    ), 0) + coalesce((
      SELECT sum(g.units) FROM limit_change g
      WHERE g.limit_number = x.limit_number AND g.client = x.client AND g.tenant = _tenant
    ), 0) - coalesce((
      SELECT sum(u.units) FROM limit_use u
      WHERE u.limit_number = x.limit_number AND u.client = x.client AND u.tenant = _tenant AND u.holder = ''
        AND u.expire_time <= _now
    ), 0) AS held
    WHERE x.holder = ''
    OFFSET 0
  ) c ON true;
END
$$;

-- When _units of what a holder or client has of a limit will be over by themselves: holds end at their expire_time,
-- confirmed units with the window. Null: never, or later than the next 100 ends. Locks nothing.
CREATE FUNCTION limit_reset_time(
  _tenant text, _limit_number bigint, _client text, _holder text, _units bigint, _now timestamptz
) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
  _window interval := (
    SELECT h.window_us * interval '1 microsecond' FROM hold_limit h WHERE h.limit_number = _limit_number
  );
BEGIN
  IF _holder = '' THEN
    RETURN (
      SELECT min(z.end_time) FROM (
        SELECT y.end_time, sum(y.units) OVER (ORDER BY y.end_time ROWS UNBOUNDED PRECEDING) AS freed FROM (
          SELECT u.expire_time AS end_time, u.units FROM limit_use u
          WHERE u.limit_number = _limit_number AND u.client = _client AND u.tenant = _tenant AND u.holder = ''
            AND u.expire_time > _now
          ORDER BY u.expire_time LIMIT 100
        ) y
      ) z WHERE z.freed >= _units
    );
  END IF;
  RETURN (
    SELECT min(z.end_time) FROM (
      SELECT y.end_time, sum(y.units) OVER (ORDER BY y.end_time ROWS UNBOUNDED PRECEDING) AS freed FROM (
        SELECT e.end_time, u.units FROM limit_use u
        CROSS JOIN LATERAL (SELECT coalesce(u.expire_time, u.confirm_time + _window) AS end_time) e
        WHERE u.limit_number = _limit_number AND u.holder = _holder AND u.holder <> '' AND u.client = _client
          AND u.tenant = _tenant AND e.end_time > _now
        ORDER BY e.end_time LIMIT 100
      ) y
    ) z WHERE z.freed >= _units
  );
END
$$;

-- Steps "lock" and "judge" of whatever takes units: which limits the lines of a batch need, and how much of them is
-- used. A line counts _line_units for a limit of clients and _line_holder_units for one of holders (null: nothing, and
-- nothing is locked for it).
-- The caller asks judge_limits for each request, adds the needs of those that it accepts to _slot_used, and calls
-- settle_limits when it has written the reservations.
-- Locks: rows of limit_subject in order, until the end of the transaction. After reservations and items.
CREATE FUNCTION lock_limits(
  _tenant text, _client text[], _holder text[],
  _line_request integer[], _line_sku text[], _line_pool text[], _line_units bigint[], _line_holder_units bigint[]
) RETURNS locked_limits
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _k locked_limits;
BEGIN
  WITH need AS MATERIALIZED (
    SELECT y.request, y.limit_id, y.limit_number, y.client, y.holder, y.most, y.units,
           CASE WHEN NOT y.anonymous THEN (
             dense_rank() OVER (ORDER BY y.anonymous, y.limit_number, y.client, y.holder)
           )::integer END AS slot
    FROM (
      SELECT l.request, h.limit_id, h.limit_number, h.per = 1 AND _holder[l.request] = '' AS anonymous,
             _client[l.request] COLLATE "C" AS client,
             CASE h.per WHEN 1 THEN _holder[l.request] ELSE '' END COLLATE "C" AS holder,
             CASE h.state WHEN 2 THEN h.max_quantity END AS most,
             sum(CASE h.per WHEN 1 THEN l.holder_units ELSE l.units END)::bigint AS units
      FROM (
        -- Lines of a request whose items have the same limits are added up before each limit looks at them.
        SELECT u.request, min(i.limits) AS limits, sum(u.units) AS units, sum(u.holder_units) AS holder_units
        FROM (
          SELECT g.request, g.units, g.holder_units, f.limits, dense_rank() OVER (ORDER BY f.limits) AS kind
          FROM (
            SELECT x.sku, x.pool, array_agg(x.request) AS request, array_agg(x.units) AS units,
                   array_agg(x.holder_units) AS holder_units
            FROM unnest(_line_request, _line_sku, _line_pool, _line_units, _line_holder_units)
              x (request, sku, pool, units, holder_units)
            GROUP BY x.sku, x.pool
          ) g
          CROSS JOIN LATERAL limits_of(_tenant, g.sku, g.pool) f (limits)
          WHERE f.limits IS NOT NULL
        ) i
        CROSS JOIN LATERAL unnest(i.request, i.units, i.holder_units) u (request, units, holder_units)
        GROUP BY u.request, i.kind
      ) l
      CROSS JOIN LATERAL unnest(l.limits) n (limit_number)
      CROSS JOIN LATERAL (
        SELECT w.limit_number, w.limit_id, w.per, w.state, w.max_quantity FROM hold_limit w
        WHERE w.limit_number = n.limit_number AND w.tenant = _tenant LIMIT 1
      ) h
      WHERE (h.state = 2 OR h.per = 2 OR _holder[l.request] <> '')
        AND CASE h.per WHEN 1 THEN l.holder_units ELSE l.units END IS NOT NULL
      GROUP BY l.request, h.limit_id, h.limit_number, h.per, h.state, h.max_quantity
    ) y
    WHERE NOT y.anonymous OR y.units > 0
  ), slot AS (
    SELECT DISTINCT n.slot, n.limit_number, n.client, n.holder, n.most FROM need n WHERE n.slot IS NOT NULL
  )
  SELECT n.request, n.limit_id, n.slot, n.units, s.limit_number, s.client, s.holder, s.most, '{}', NULL INTO _k
  FROM (
    SELECT coalesce(array_agg(m.request ORDER BY m.request, m.limit_id), '{}') AS request,
           coalesce(array_agg(m.limit_id::text ORDER BY m.request, m.limit_id), '{}') AS limit_id,
           coalesce(array_agg(m.slot ORDER BY m.request, m.limit_id), '{}') AS slot,
           coalesce(array_agg(m.units ORDER BY m.request, m.limit_id), '{}') AS units
    FROM need m
  ) n
  CROSS JOIN (
    SELECT coalesce(array_agg(t.limit_number ORDER BY t.slot), '{}') AS limit_number,
           coalesce(array_agg(t.client::text ORDER BY t.slot), '{}') AS client,
           coalesce(array_agg(t.holder::text ORDER BY t.slot), '{}') AS holder,
           coalesce(array_agg(t.most ORDER BY t.slot), '{}') AS most
    FROM slot t
  ) s;
  IF _k.slot_limit = '{}' THEN
    RETURN _k;
  END IF;

  INSERT INTO limit_subject (tenant, limit_number, client, holder, update_time)
  SELECT _tenant, x.limit_number, x.client, x.holder, wall_clock()
  FROM unnest(_k.slot_limit, _k.slot_client, _k.slot_holder) WITH ORDINALITY x (limit_number, client, holder, slot)
  ORDER BY x.slot
  ON CONFLICT (limit_number, holder, client, tenant) DO UPDATE SET update_time = excluded.update_time;
  WITH folded AS (
    DELETE FROM limit_change c
    USING unnest(_k.slot_limit, _k.slot_client, _k.slot_holder) x (limit_number, client, holder)
    CROSS JOIN LATERAL (
      SELECT w.ctid AS place FROM limit_change w
      WHERE w.limit_number = x.limit_number AND w.client = x.client AND w.tenant = _tenant OFFSET 0
    ) k
    WHERE x.holder = '' AND c.ctid = k.place AND c.tenant IS NOT DISTINCT FROM _tenant
    RETURNING c.limit_number, c.client, c.units
  )
  UPDATE limit_subject s SET used = s.used + f.units
  FROM (
    SELECT d.limit_number, d.client, sum(d.units)::bigint AS units FROM folded d GROUP BY d.limit_number, d.client
  ) f
  WHERE s.limit_number = f.limit_number AND s.holder = '' AND s.client = f.client AND s.tenant = _tenant;

  -- Whoever extends or confirms holds these locks too, so that nothing that has lapsed by now comes back.
  _k.lock_time := wall_clock();
  _k.slot_used := (
    SELECT array_agg(u._held + u._confirmed ORDER BY u._slot)
    FROM limits_used(_tenant, _k.slot_limit, _k.slot_client, _k.slot_holder, _k.lock_time) u
  );
  RETURN _k;
END
$$;

-- Step "lock" of what makes these reservations count for longer, and of a rescue: as lock_limits, with all units of
-- each reservation as the need of the request at its place; for limits of clients only where _clients says so. Nothing
-- where the tenant has no limit.
CREATE FUNCTION lock_limits_of(
  _tenant text, _reservation_id uuid[], _clients boolean[]
) RETURNS locked_limits
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _none locked_limits;
  _r record;
  _l record;
BEGIN
  IF NOT EXISTS (SELECT 1 FROM hold_limit h WHERE h.tenant = _tenant AND h.state < 3) THEN
    _none.need_request := '{}';
    RETURN _none;
  END IF;
  SELECT array_agg(v.client::text ORDER BY x.ix) AS client, array_agg(v.holder::text ORDER BY x.ix) AS holder INTO _r
  FROM unnest(_reservation_id) WITH ORDINALITY x (id, ix)
  LEFT JOIN LATERAL (
    SELECT w.client, w.holder FROM reservation w WHERE w.reservation_id = x.id AND w.tenant = _tenant LIMIT 1
  ) v ON true;
  SELECT array_agg(x.ix::integer) AS ix, array_agg(l.sku::text) AS sku, array_agg(l.pool::text) AS pool,
         array_agg(CASE WHEN x.clients THEN l.quantity END) AS units, array_agg(l.quantity) AS holder_units
  INTO _l
  FROM unnest(_reservation_id, _clients) WITH ORDINALITY x (id, clients, ix)
  CROSS JOIN LATERAL (
    SELECT w.sku, w.pool, w.quantity FROM reservation_line w
    WHERE w.reservation_id = x.id AND w.tenant = _tenant OFFSET 0
  ) l;
  RETURN lock_limits(_tenant, _r.client, _r.holder, _l.ix, _l.sku, _l.pool, _l.units, _l.holder_units);
END
$$;

-- Step "lock" of Modify: as lock_limits, with what each request changes of its hold: the difference of each line, or
-- where the hold gets another holder, for that one all units. Nothing where the tenant has no limit.
CREATE FUNCTION lock_limits_of_changes(
  _tenant text, _reservation_id uuid[], _outcome text[], _sets text[], _new_holder text[],
  _line_first integer[], _line_sku text[], _line_pool text[], _line_quantity bigint[]
) RETURNS locked_limits
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _none locked_limits;
  _r record;
  _l record;
BEGIN
  IF NOT EXISTS (SELECT 1 FROM hold_limit h WHERE h.tenant = _tenant AND h.state < 3) THEN
    _none.need_request := '{}';
    RETURN _none;
  END IF;
  SELECT array_agg(v.client::text ORDER BY x.ix) AS client,
         array_agg(CASE WHEN strpos(x.sets, 'h') > 0 THEN x.holder ELSE v.holder END ORDER BY x.ix) AS holder,
         array_agg(strpos(x.sets, 'h') > 0 AND x.holder <> v.holder ORDER BY x.ix) AS passes
  INTO _r
  FROM unnest(_reservation_id, _sets, _new_holder) WITH ORDINALITY x (id, sets, holder, ix)
  LEFT JOIN LATERAL (
    SELECT w.client, w.holder FROM reservation w WHERE w.reservation_id = x.id AND w.tenant = _tenant LIMIT 1
  ) v ON true;
  SELECT array_agg(m.ix) AS ix, array_agg(m.sku) AS sku, array_agg(m.pool) AS pool, array_agg(m.now - m.had) AS units,
         array_agg(CASE WHEN m.passes THEN m.now ELSE m.now - m.had END) AS holder_units
  INTO _l
  FROM (
    SELECT x.ix::integer, l.sku, l.pool, x.passes, sum(l.had)::bigint AS had,
           coalesce(max(l.wanted), sum(l.had))::bigint AS now
    FROM unnest(_reservation_id, _outcome, _sets, _r.passes) WITH ORDINALITY x (id, outcome, sets, passes, ix)
    CROSS JOIN LATERAL (
      SELECT w.sku::text, w.pool::text, w.quantity AS had, NULL::bigint AS wanted FROM reservation_line w
      WHERE w.reservation_id = x.id AND w.tenant = _tenant
      UNION ALL
      SELECT _line_sku[y.line], _line_pool[y.line], 0, _line_quantity[y.line]
      FROM generate_series(_line_first[x.ix], _line_first[x.ix + 1] - 1) y (line)
    ) l
    WHERE x.outcome IS NULL AND (x.passes OR strpos(x.sets, 'l') > 0)
    GROUP BY x.ix, x.passes, l.sku, l.pool
  ) m
  WHERE m.passes OR m.now <> m.had;
  RETURN lock_limits(_tenant, _r.client, _r.holder, _l.ix, _l.sku, _l.pool, _l.units, _l.holder_units);
END
$$;

-- Step "judge": what the needs _first to _last, those of one request, come to. _verdict null: there is room.
-- LIMIT_EXCEEDED with limit_id, max, used, requested and reset_time, null where it is not known; HOLDER_REQUIRED with
-- limit_id. Less is never refused. Locks nothing.
CREATE FUNCTION judge_limits(
  _tenant text, _first integer, _last integer, _need_limit text[], _need_slot integer[], _need_units bigint[],
  _slot_limit bigint[], _slot_client text[], _slot_holder text[], _slot_max bigint[], _slot_used bigint[],
  _now timestamptz, OUT _verdict text, OUT _detail jsonb
)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _slot integer;
BEGIN
  FOR _k IN _first .. _last LOOP
    CONTINUE WHEN _need_units[_k] <= 0;
    _slot := _need_slot[_k];
    IF _slot IS NULL THEN
      _verdict := 'HOLDER_REQUIRED';
      _detail := jsonb_build_object('limit_id', _need_limit[_k]);
      RETURN;
    ELSIF _slot_used[_slot] + _need_units[_k] > _slot_max[_slot] THEN
      _verdict := 'LIMIT_EXCEEDED';
      _detail := jsonb_build_object(
        'limit_id', _need_limit[_k], 'max', _slot_max[_slot], 'used', _slot_used[_slot], 'requested', _need_units[_k],
        'reset_time', CASE WHEN _need_units[_k] <= _slot_max[_slot] THEN limit_reset_time(
          _tenant, _slot_limit[_slot], _slot_client[_slot], _slot_holder[_slot],
          _slot_used[_slot] + _need_units[_k] - _slot_max[_slot], _now) END);
      RETURN;
    END IF;
  END LOOP;
END
$$;

-- Step "apply" of whatever changes what reservations count for limits: their uses become those of their rows as they
-- are now. The caller has locked the reservations and has written them. _new: it has made them in this transaction,
-- with the flag `limited`, so that there is nothing of before.
CREATE FUNCTION settle_limits(_tenant text, _reservation_id uuid[], _new boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _old_limit bigint[];
  _old_client text[];
  _old_units bigint[];
BEGIN
  IF NOT _new THEN
    WITH gone AS (
      DELETE FROM limit_use u
      USING unnest(_reservation_id) x (id)
      CROSS JOIN LATERAL (
        SELECT w.ctid AS place FROM limit_use w WHERE w.reservation_id = x.id AND w.tenant = _tenant OFFSET 0
      ) k
      WHERE u.ctid = k.place AND u.tenant IS NOT DISTINCT FROM _tenant
      RETURNING u.limit_number, u.client, u.holder, u.units
    )
    SELECT array_agg(g.limit_number), array_agg(g.client::text), array_agg(g.units)
    INTO _old_limit, _old_client, _old_units
    FROM gone g WHERE g.holder = '';
  END IF;
  WITH made AS (
    INSERT INTO limit_use (tenant, limit_number, client, holder, reservation_id, units, expire_time, confirm_time)
    SELECT _tenant, u._limit_number, u._client, u._holder, u._id, u._units, u._expire_time, u._confirm_time
    FROM limit_units(_tenant, _reservation_id) u
    RETURNING limit_number, client, holder, units
  )
  INSERT INTO limit_change (tenant, limit_number, client, units)
  SELECT _tenant, d.limit_number, d.client, sum(d.units)
  FROM (
    SELECT m.limit_number, m.client, m.units FROM made m WHERE m.holder = ''
    UNION ALL
    SELECT g.limit_number, g.client, -g.units
    FROM unnest(_old_limit, _old_client, _old_units) g (limit_number, client, units)
  ) d
  GROUP BY d.limit_number, d.client
  HAVING sum(d.units) <> 0;
  IF NOT _new THEN
    UPDATE reservation v SET limited = true
    FROM unnest(_reservation_id) x (id)
    CROSS JOIN LATERAL (
      SELECT w.ctid AS place FROM reservation w
      WHERE w.reservation_id = x.id AND w.tenant = _tenant AND NOT w.limited LIMIT 1
    ) k
    WHERE v.ctid = k.place AND v.tenant IS NOT DISTINCT FROM _tenant
      AND EXISTS (SELECT 1 FROM limit_use u WHERE u.reservation_id = x.id AND u.tenant = _tenant);
  END IF;
END
$$;

-- As settle_limits, for those of these reservations that are limited.
CREATE FUNCTION settle_limited(_tenant text, _reservation_id uuid[]) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _limited uuid[];
BEGIN
  SELECT array_agg(x.id) INTO _limited
  FROM unnest(_reservation_id) x (id)
  WHERE EXISTS (
    SELECT 1 FROM reservation w WHERE w.reservation_id = x.id AND w.tenant = _tenant AND w.limited LIMIT 1
  );
  IF _limited IS NOT NULL THEN
    PERFORM settle_limits(_tenant, _limited);
  END IF;
END
$$;

-- Step "apply" of whatever ends reservations: they count for no limit any more.
CREATE FUNCTION release_limits(_tenant text, _reservation_id uuid[]) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  WITH gone AS (
    DELETE FROM limit_use u
    USING unnest(_reservation_id) x (id)
    CROSS JOIN LATERAL (
      SELECT w.ctid AS place FROM limit_use w WHERE w.reservation_id = x.id AND w.tenant = _tenant OFFSET 0
    ) k
    WHERE u.ctid = k.place AND u.tenant IS NOT DISTINCT FROM _tenant
    RETURNING u.limit_number, u.client, u.holder, u.units
  )
  INSERT INTO limit_change (tenant, limit_number, client, units)
  SELECT _tenant, g.limit_number, g.client, -sum(g.units) FROM gone g WHERE g.holder = ''
  GROUP BY g.limit_number, g.client;
END
$$;
