-- Reserves: takes units of one or many items for each request, for all of its lines or for none.
-- Takes arrays of n >= 1 requests of one tenant in order of arrival. Lines are sorted by request, one line for each
-- item: the caller has added repeated items up. _item_sku and _item_pool name every item once, _item_quantity says how
-- many units all requests together want of it, and _line_item points into them. _metadata and _duplicate_window_us are
-- empty where no request has any.
-- Returns one row: the time of the judgement and, by request, the outcome (null: reserved), the reservation that a
-- replay or a duplicate names, and the lines that a refusal is about with the units available, null where the item is
-- missing (ITEM_NOT_FOUND) or its sale closed (SALE_CLOSED), and the limits of judge_limits, empty where there are
-- none. _comes_free: of one of those lines' items enough is held for next_free to have an answer. DUPLICATE_UNSEEN: the
-- holder has so many reservations within the window that not all were looked at. SWEEP: lapsed holds would make room;
-- sweep the items and call again. SERVE: those who wait come first; serve the items and call again. RETRY: call again.
-- Locks: item rows in (sku, pool) order, limits in order, then request ids in order.
-- Arrays are read by subscript: PL/pgSQL keeps them expanded, and unnest of so many cost 7 % of a hold.
CREATE FUNCTION reserve(
  _tenant text,
  _client text[], _key_id text[], _request_id text[], _request_key uuid[], _fingerprint bytea[], _reservation_id uuid[],
  _holder text[], _reference text[], _ttl_us bigint[], _metadata jsonb[], _duplicate_window_us bigint[],
  _line_request integer[], _line_number smallint[], _line_item integer[], _line_quantity bigint[],
  _item_sku text[], _item_pool text[], _item_quantity bigint[], _served boolean[],
  OUT _judge_time timestamptz, OUT _outcome text[], OUT _other_id uuid[],
  OUT _short_line integer[], OUT _short_available bigint[], OUT _comes_free boolean, OUT _over_limit jsonb[]
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_hashagg = off AS $$
DECLARE
  _n integer := cardinality(_client);
  _lines integer := cardinality(_line_request);
  _items integer := cardinality(_item_sku);
  -- Of each item: where its row is, and what the requests that are accepted take of it.
  _place tid[];
  _take bigint[];
  -- How many items have what all requests together want and nothing special, and how many give units.
  _fitting bigint;
  _follow boolean;
  _followed item_before[];
  _taken integer := _items;
  _updated bigint;
  _claimed boolean := false;
  _free bigint[];
  _gate smallint[];
  _held bigint[];
  _lapsed bigint[] := array_fill(NULL::bigint, ARRAY[_items]);
  -- Of each item for which entries wait: whether they must be served first. Null: not asked yet, or none waits.
  _serve boolean[] := '{}';
  _queue record;
  _line integer := 1;
  _first integer;
  _item integer;
  _verdict text;
  -- The lines of a request whose items are closed.
  _closed integer[];
  -- The number of each line's client, holder and item, null without a holder, and by this number the newest
  -- reservation that has the item for the holder, and when it was made.
  _slot integer[] := '{}';
  _last_id uuid[];
  _last_time timestamptz[];
  -- By request: see last_of_holders.
  _seen_time timestamptz[];
  _since timestamptz;
  -- See locked_limits, and by request: whether it counts for a limit.
  _need_request integer[] := '{}';
  _need_limit text[];
  _need_slot integer[];
  _need_units bigint[];
  _slot_limit bigint[];
  _slot_client text[];
  _slot_holder text[];
  _slot_max bigint[];
  _slot_used bigint[];
  _lock_time timestamptz;
  _limited boolean[] := '{}';
  _need integer := 1;
  _first_need integer;
  _detail jsonb;
BEGIN
  PERFORM enter_tenant(_tenant);
  _over_limit := '{}';
  _short_line := '{}';
  _short_available := '{}';
  _comes_free := false;
  _outcome := array_fill(NULL::text, ARRAY[_n]);
  _other_id := array_fill(NULL::uuid, ARRAY[_n]);

  -- lock
  SELECT array_agg(i.place), array_agg(k.quantity), count(*) FILTER (WHERE i.free >= k.quantity AND i.gate = 0),
         bool_or(i.low_at IS NOT NULL)
  INTO _place, _take, _fitting, _follow
  FROM (
    SELECT x.sku COLLATE "C" AS sku, x.pool COLLATE "C" AS pool, x.quantity
    FROM unnest(_item_sku, _item_pool, _item_quantity) x (sku, pool, quantity) ORDER BY 1, 2
  ) k
  CROSS JOIN LATERAL (
    SELECT v.ctid AS place, v.free, v.gate, v.low_at FROM item v
    WHERE v.sku = k.sku AND v.pool = k.pool AND v.tenant = _tenant AND v.delete_time IS NULL
    FOR NO KEY UPDATE
  ) i;
  IF _follow THEN
    _followed := items_before(_tenant, _item_sku, _item_pool);
  END IF;
  _judge_time := wall_clock();
  IF EXISTS (SELECT 1 FROM hold_limit h WHERE h.tenant = _tenant AND h.state < 3) THEN
    SELECT l.* INTO _need_request, _need_limit, _need_slot, _need_units, _slot_limit, _slot_client, _slot_holder,
           _slot_max, _slot_used, _lock_time
    FROM lock_limits(
      _tenant, _client, _holder, _line_request,
      (SELECT array_agg(_item_sku[x.item] ORDER BY x.ix) FROM unnest(_line_item) WITH ORDINALITY x (item, ix)),
      (SELECT array_agg(_item_pool[x.item] ORDER BY x.ix) FROM unnest(_line_item) WITH ORDINALITY x (item, ix)),
      _line_quantity, _line_quantity
    ) l;
    IF cardinality(_need_request) > 0 THEN
      _judge_time := coalesce(_lock_time, _judge_time);
      _limited := array_fill(false, ARRAY[_n]);
      _over_limit := array_fill(NULL::jsonb, ARRAY[_n]);
    END IF;
  END IF;

  -- judge: where everything fits, and no request looks for duplicates or counts for a limit, no request is refused. The
  -- claim itself finds request ids that have taken effect before.
  IF _fitting = _items AND cardinality(_duplicate_window_us) = 0 AND cardinality(_need_request) = 0 THEN
    _claimed := claim_requests(_tenant, 'Reserve', _request_key, _fingerprint, _reservation_id, _outcome, _judge_time);
  END IF;
  IF NOT _claimed THEN
    -- find
    SELECT f._outcome, f._reservation_id INTO _outcome, _other_id
    FROM find_requests(_tenant, 'Reserve', _request_key, _fingerprint) f;

    SELECT array_agg(i.free ORDER BY x.ix), array_agg(i.gate ORDER BY x.ix), array_agg(i.held ORDER BY x.ix),
           array_agg(i.place ORDER BY x.ix), array_agg(0::bigint ORDER BY x.ix)
    INTO _free, _gate, _held, _place, _take
    FROM unnest(_item_sku, _item_pool) WITH ORDINALITY x (sku, pool, ix)
    LEFT JOIN LATERAL (
      SELECT v.ctid AS place, v.free, v.gate, v.held FROM item v
      WHERE v.sku = x.sku AND v.pool = x.pool AND v.tenant = _tenant AND v.delete_time IS NULL LIMIT 1
    ) i ON true;
    IF cardinality(_duplicate_window_us) > 0 THEN
      SELECT array_agg(x.slot ORDER BY x.line) INTO _slot
      FROM (
        SELECT y.line, CASE WHEN _holder[_line_request[y.line]] <> '' THEN (dense_rank() OVER (
          ORDER BY _client[_line_request[y.line]], _holder[_line_request[y.line]], _line_item[y.line]
        ))::integer END AS slot
        FROM generate_series(1, _lines) y (line)
      ) x;
      SELECT h._newest_id, h._newest_time, h._seen_time INTO _last_id, _last_time, _seen_time
      FROM last_of_holders(_tenant, _client, _holder, _duplicate_window_us, _slot, _line_request, _line_item, _item_sku,
                           _item_pool, _judge_time) h;
    END IF;
    _taken := 0;
    FOR _i IN 1 .. _n LOOP
      _first := _line;
      _verdict := NULL;
      _closed := '{}';
      WHILE _line <= _lines AND _line_request[_line] = _i LOOP
        IF _outcome[_i] IS NULL THEN
          _item := _line_item[_line];
          IF _free[_item] IS NULL THEN
            _verdict := 'ITEM_NOT_FOUND';
            _short_line := _short_line || _line;
            _short_available := _short_available || NULL::bigint;
          ELSIF _gate[_item] & 1 = 1 THEN
            _closed := _closed || _line;
          ELSIF _gate[_item] & 2 = 2 AND _serve[_item] IS NULL THEN
            -- Read once: what earlier requests of the batch take comes off it.
            _queue := free_beside_queue(_tenant, _item_sku[_item], _item_pool[_item], _judge_time);
            _serve[_item] := _queue._serve;
            _free[_item] := _queue._free;
            -- Where entries wait, lapsed units are theirs.
            _lapsed[_item] := 0;
            CONTINUE;
          ELSIF _serve[_item] AND NOT coalesce(_served[_i], false) THEN
            _verdict := coalesce(_verdict, 'SERVE');
          ELSIF _free[_item] < _line_quantity[_line] THEN
            IF _lapsed[_item] IS NULL THEN
              -- Enough for each request of the batch.
              _lapsed[_item] := lapsed_units(_tenant, _item_sku[_item], _item_pool[_item], _judge_time,
                                             _item_quantity[_item] - least(_free[_item], 0));
            END IF;
            IF _free[_item] + _lapsed[_item] < _line_quantity[_line] THEN
              _verdict := CASE WHEN _verdict = 'ITEM_NOT_FOUND' THEN _verdict ELSE 'CAPACITY_EXCEEDED' END;
              _short_line := _short_line || _line;
              _short_available := _short_available || greatest(0, _free[_item] + _lapsed[_item]);
            ELSE
              _verdict := coalesce(_verdict, 'SWEEP');
            END IF;
          END IF;
        END IF;
        _line := _line + 1;
      END LOOP;
      _first_need := _need;
      WHILE _need_request[_need] = _i LOOP
        _need := _need + 1;
      END LOOP;
      CONTINUE WHEN _outcome[_i] IS NOT NULL;
      -- Before the units: a holder who has the last seat is told so, not that there is none left.
      IF _verdict IS DISTINCT FROM 'ITEM_NOT_FOUND' AND _duplicate_window_us[_i] IS NOT NULL THEN
        _since := _judge_time - _duplicate_window_us[_i] * interval '1 microsecond';
        IF _seen_time[_i] > _since THEN
          _verdict := CASE _seen_time[_i] WHEN 'infinity' THEN 'RETRY' ELSE 'DUPLICATE_UNSEEN' END;
        END IF;
        FOR _l IN _first .. _line - 1 LOOP
          IF _last_time[_slot[_l]] >= _since THEN
            _verdict := 'DUPLICATE_RESERVATION';
            _other_id[_i] := _last_id[_slot[_l]];
          END IF;
        END LOOP;
      END IF;
      IF cardinality(_closed) > 0 AND coalesce(_verdict IN ('CAPACITY_EXCEEDED', 'SWEEP', 'SERVE'), true) THEN
        _verdict := 'SALE_CLOSED';
        _short_line := _short_line || _closed;
        _short_available := _short_available || array_fill(NULL::bigint, ARRAY[cardinality(_closed)]);
      END IF;
      IF _first_need < _need AND coalesce(_verdict IN ('CAPACITY_EXCEEDED', 'SWEEP', 'SERVE'), true) THEN
        SELECT coalesce(j.verdict, _verdict), j.detail INTO _verdict, _detail
        FROM judge_limits(_tenant, _first_need, _need - 1, _need_limit, _need_slot, _need_units, _slot_limit,
                          _slot_client, _slot_holder, _slot_max, _slot_used, _judge_time) j (verdict, detail);
        _over_limit[_i] := _detail;
      END IF;
      IF _verdict IS NULL THEN
        FOR _l IN _first .. _line - 1 LOOP
          _item := _line_item[_l];
          _free[_item] := _free[_item] - _line_quantity[_l];
          _taken := _taken + CASE WHEN _take[_item] = 0 THEN 1 ELSE 0 END;
          _take[_item] := _take[_item] + _line_quantity[_l];
          IF _slot[_l] IS NOT NULL THEN
            _last_time[_slot[_l]] := _judge_time;
            _last_id[_slot[_l]] := _reservation_id[_i];
          END IF;
        END LOOP;
        FOR _k IN _first_need .. _need - 1 LOOP
          _limited[_i] := true;
          _slot_used[_need_slot[_k]] := _slot_used[_need_slot[_k]] + _need_units[_k];
        END LOOP;
      END IF;
      _outcome[_i] := _verdict;
    END LOOP;

    FOR _k IN 1 .. cardinality(_short_line) LOOP
      _item := _line_item[_short_line[_k]];
      _comes_free := coalesce(_gate[_item] = 0 AND _held[_item] + _take[_item]
                              >= _line_quantity[_short_line[_k]] - _short_available[_k], false);
      EXIT WHEN _comes_free;
    END LOOP;

    -- claim
    IF NOT claim_requests(_tenant, 'Reserve', _request_key, _fingerprint, _reservation_id, _outcome, _judge_time) THEN
      _over_limit := '{}';
      FOR _i IN 1 .. _n LOOP
        IF _outcome[_i] IS NULL OR _outcome[_i] NOT IN ('REPLAYED', 'REQUEST_ID_REUSED') THEN
          _outcome[_i] := 'RETRY';
        END IF;
      END LOOP;
      RETURN;
    END IF;
  END IF;

  -- apply
  UPDATE item v SET
    remaining = v.remaining - x.take,
    held = v.held + x.take,
    revision = v.revision + 1,
    update_time = _judge_time
  FROM unnest(_place, _take) x (place, take)
  WHERE v.ctid = x.place AND v.tenant IS NOT DISTINCT FROM _tenant
    AND x.take > 0 AND v.free >= x.take;
  GET DIAGNOSTICS _updated = ROW_COUNT;
  IF _updated <> _taken THEN
    RAISE 'the items locked do not have the units judged: % of %', _updated, _taken;
  END IF;
  IF _taken = 0 THEN
    RETURN;
  END IF;
  INSERT INTO reservation (
    tenant, reservation_id, client, holder, reference, metadata, create_time, expire_time, limited
  )
  SELECT _tenant, _reservation_id[i], _client[i], _holder[i], _reference[i], _metadata[i], _judge_time,
         _judge_time + _ttl_us[i] * interval '1 microsecond', coalesce(_limited[i], false)
  FROM generate_series(1, _n) i
  WHERE _outcome[i] IS NULL;
  INSERT INTO reservation_line (tenant, reservation_id, line_number, sku, pool, quantity, expire_time)
  SELECT _tenant, _reservation_id[_line_request[l]], _line_number[l], _item_sku[_line_item[l]],
         _item_pool[_line_item[l]], _line_quantity[l],
         _judge_time + _ttl_us[_line_request[l]] * interval '1 microsecond'
  FROM generate_series(1, _lines) l
  WHERE _outcome[_line_request[l]] IS NULL;
  IF cardinality(_limited) > 0 THEN
    PERFORM settle_limits(_tenant, (
      SELECT array_agg(_reservation_id[i]) FROM generate_series(1, _n) i WHERE _outcome[i] IS NULL AND _limited[i]
    ), true);
  END IF;
  INSERT INTO event (
    occur_day, tenant, type, client, key_id, request_id, occur_time, revision,
    line_sku, line_pool, line_quantity, reservation_id, from_state, state, expire_time
  )
  SELECT (SELECT d.day FROM feed_day d ORDER BY d.day DESC LIMIT 1), _tenant, 1, _client[x.request], _key_id[x.request],
         _request_id[x.request], _judge_time, 1, x.sku, x.pool, x.quantity,
         _reservation_id[x.request], 0, 1, _judge_time + _ttl_us[x.request] * interval '1 microsecond'
  FROM (
    SELECT l AS request, ARRAY[_item_sku[_line_item[l]]] AS sku, ARRAY[_item_pool[_line_item[l]]] AS pool,
           ARRAY[_line_quantity[l]] AS quantity
    FROM generate_series(1, _lines) l WHERE _lines = _n
    UNION ALL
    SELECT m.request, array_agg(m.sku), array_agg(m.pool), array_agg(m.quantity)
    FROM (
      SELECT _line_request[l] AS request, _item_sku[_line_item[l]] AS sku, _item_pool[_line_item[l]] AS pool,
             _line_quantity[l] AS quantity
      FROM generate_series(1, _lines) l WHERE _lines > _n ORDER BY 1, l
    ) m
    GROUP BY m.request
  ) x
  WHERE _outcome[x.request] IS NULL;
  IF _followed IS NOT NULL THEN
    PERFORM follow_items(_tenant, _followed, _judge_time);
  END IF;
END
$$;

-- The newest reservation of each holder that has each of these items for it, and when it was made: held, or confirmed
-- and not refunded, and made within the longest window of the batch. _slot has the number of each line's client, holder
-- and item, null without a holder; these arrays go by this number. Of each holder and state the newest 1,000 lines are
-- looked at, and of all of them 20,000, so that the cost does not grow with what holders have. _seen_time, by request:
-- from when on all was looked at; infinity: nothing was, call again for this request. Locks nothing.
CREATE FUNCTION last_of_holders(
  _tenant text, _client text[], _holder text[], _duplicate_window_us bigint[], _slot integer[], _line_request integer[],
  _line_item integer[], _item_sku text[], _item_pool text[], _judge_time timestamptz,
  OUT _newest_id uuid[], OUT _newest_time timestamptz[], OUT _seen_time timestamptz[]
)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _since timestamptz := _judge_time - (SELECT max(w) FROM unnest(_duplicate_window_us) w) * interval '1 microsecond';
  -- The number of each request's client and holder.
  _who integer[];
  -- What was looked at.
  _l_who integer[];
  _l_state smallint[];
  _l_sku text[];
  _l_pool text[];
  _l_id uuid[];
  _l_time timestamptz[];
  _r record;
BEGIN
  _newest_id := array_fill(NULL::uuid, ARRAY[coalesce((SELECT max(s) FROM unnest(_slot) s), 0)]);
  _newest_time := array_fill(NULL::timestamptz, ARRAY[cardinality(_newest_id)]);
  SELECT array_agg(u.who ORDER BY u.ix), array_agg('-infinity'::timestamptz) INTO _who, _seen_time
  FROM (
    SELECT x.ix, (dense_rank() OVER (ORDER BY x.client, x.holder))::integer AS who
    FROM unnest(_client, _holder) WITH ORDINALITY x (client, holder, ix)
  ) u;
  SELECT array_agg(x.who), array_agg(x.state), array_agg(x.sku::text), array_agg(x.pool::text),
         array_agg(x.reservation_id), array_agg(x.create_time)
  INTO _l_who, _l_state, _l_sku, _l_pool, _l_id, _l_time
  FROM (
    SELECT h.who, v.*
    FROM (
      SELECT DISTINCT u.who, u.client, u.holder
      FROM unnest(_who, _client, _holder, _duplicate_window_us) u (who, client, holder, window_us)
      WHERE u.holder <> '' AND u.window_us IS NOT NULL
      ORDER BY u.who
    ) h
    CROSS JOIN unnest('{1,2,6}'::smallint[]) s (state)
    CROSS JOIN LATERAL (
      SELECT w.state, w.reservation_id, w.create_time, l.sku, l.pool
      FROM reservation w
      LEFT JOIN LATERAL (
        SELECT y.sku, y.pool FROM reservation_line y
        WHERE y.reservation_id = w.reservation_id AND y.tenant = _tenant
          AND w.create_time >= _since AND (w.state <> 1 OR w.expire_time > _judge_time)
          -- What a partial confirm released, or a refund took back, is no longer the holder's.
          AND (w.state = 1 OR y.confirmed_quantity > y.refunded_quantity)
        OFFSET 0
      ) l ON true
      WHERE w.holder = h.holder AND w.holder <> '' AND w.client = h.client AND w.tenant = _tenant
        AND w.state = s.state
      ORDER BY w.reservation_id DESC LIMIT 1000
    ) v
    ORDER BY h.who LIMIT 20000
  ) x;
  FOR _r IN
    SELECT max(x.slot) AS slot,
           (array_agg(x.reservation_id ORDER BY x.reservation_id DESC) FILTER (WHERE x.slot IS NULL))[1]
             AS reservation_id, max(x.create_time) AS create_time
    FROM (
      SELECT _who[_line_request[y.line]] AS who, _item_sku[_line_item[y.line]] AS sku,
             _item_pool[_line_item[y.line]] AS pool, _slot[y.line] AS slot,
             NULL::uuid AS reservation_id, NULL::timestamptz AS create_time
      FROM generate_series(1, cardinality(_slot)) y (line)
      WHERE _slot[y.line] IS NOT NULL AND _l_who IS NOT NULL
      UNION ALL
      SELECT z.* FROM unnest(_l_who, _l_sku, _l_pool, NULL::integer[], _l_id, _l_time)
        z (who, sku, pool, slot, id, create_time)
      WHERE z.sku IS NOT NULL
    ) x
    GROUP BY x.who, x.sku COLLATE "C", x.pool COLLATE "C"
    HAVING max(x.slot) IS NOT NULL AND max(x.create_time) IS NOT NULL
  LOOP
    _newest_id[_r.slot] := _r.reservation_id;
    _newest_time[_r.slot] := _r.create_time;
  END LOOP;
  IF cardinality(_l_who) >= 1000 THEN
    SELECT array_agg(CASE WHEN x.who >= _l_who[20000] THEN 'infinity' ELSE coalesce(c.seen, '-infinity') END
                     ORDER BY x.ix)
    INTO _seen_time
    FROM unnest(_who) WITH ORDINALITY x (who, ix)
    LEFT JOIN (
      SELECT g.who, max(g.seen) AS seen
      FROM (
        SELECT z.who, min(z.create_time) AS seen FROM unnest(_l_who, _l_state, _l_time) z (who, state, create_time)
        GROUP BY z.who, z.state HAVING count(*) = 1000
      ) g
      GROUP BY g.who
    ) c ON c.who = x.who;
  END IF;
END
$$;
