-- Reserves: takes units of one or many items for each request, for all of its lines or for none.
-- Takes arrays of n >= 1 requests of one tenant in order of arrival. Lines are sorted by request, one line for each
-- item: the caller has added repeated items up. _item_sku and _item_pool name every item once, _item_quantity says how
-- many units all requests together want of it, and _line_item points into them. _metadata and _duplicate_window_us are
-- empty where no request has any.
-- Returns one row: the time of the judgement and, by request, the outcome (null: reserved), the reservation that a
-- replay or a duplicate names, and the short or missing lines with the units available. SWEEP: lapsed holds would make
-- room; sweep the items and call again. RETRY: call again.
-- Locks: item rows in (sku, pool) order, then request ids in order.
-- Arrays are read by subscript: PL/pgSQL keeps them expanded, and unnest of so many cost 7 % of a hold.
CREATE FUNCTION reserve(
  _tenant text,
  _client text[], _key_id text[], _request_id text[], _request_key uuid[], _fingerprint bytea[], _reservation_id uuid[],
  _holder text[], _reference text[], _ttl_us bigint[], _metadata jsonb[], _duplicate_window_us bigint[],
  _line_request integer[], _line_number smallint[], _line_item integer[], _line_quantity bigint[],
  _item_sku text[], _item_pool text[], _item_quantity bigint[],
  OUT _judge_time timestamptz, OUT _outcome text[], OUT _other_id uuid[],
  OUT _short_line integer[], OUT _short_available bigint[]
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
  -- How many items have what all requests together want, and how many give units.
  _fitting bigint;
  _taken integer := _items;
  _updated bigint;
  _claimed boolean := false;
  _free bigint[];
  _lapsed bigint[] := array_fill(NULL::bigint, ARRAY[_items]);
  _line integer := 1;
  _first integer;
  _item integer;
  _verdict text;
  _duplicate uuid;
BEGIN
  _short_line := '{}';
  _short_available := '{}';
  _outcome := array_fill(NULL::text, ARRAY[_n]);
  _other_id := array_fill(NULL::uuid, ARRAY[_n]);

  -- lock
  SELECT array_agg(i.place), array_agg(k.quantity), count(*) FILTER (WHERE i.free >= k.quantity)
  INTO _place, _take, _fitting
  FROM (
    SELECT x.sku COLLATE "C" AS sku, x.pool COLLATE "C" AS pool, x.quantity
    FROM unnest(_item_sku, _item_pool, _item_quantity) x (sku, pool, quantity) ORDER BY 1, 2
  ) k
  CROSS JOIN LATERAL (
    SELECT v.ctid AS place, v.remaining + v.oversell_limit AS free FROM item v
    WHERE v.sku = k.sku AND v.pool = k.pool AND v.tenant = _tenant AND v.delete_time IS NULL
    FOR NO KEY UPDATE
  ) i;
  _judge_time := wall_clock();

  -- judge: where everything fits, and no request looks for duplicates, no request is refused. The claim itself finds
  -- request ids that have taken effect before.
  IF _fitting = _items AND cardinality(_duplicate_window_us) = 0 THEN
    _claimed := claim_requests(_tenant, 'Reserve', _request_key, _fingerprint, _reservation_id, _outcome, _judge_time);
  END IF;
  IF NOT _claimed THEN
    -- find
    SELECT f._outcome, f._reservation_id INTO _outcome, _other_id
    FROM find_requests(_tenant, 'Reserve', _request_key, _fingerprint) f;

    SELECT array_agg(i.free ORDER BY x.ix), array_agg(i.place ORDER BY x.ix), array_agg(0::bigint ORDER BY x.ix)
    INTO _free, _place, _take
    FROM unnest(_item_sku, _item_pool) WITH ORDINALITY x (sku, pool, ix)
    LEFT JOIN LATERAL (
      SELECT v.ctid AS place, v.remaining + v.oversell_limit AS free FROM item v
      WHERE v.sku = x.sku AND v.pool = x.pool AND v.tenant = _tenant AND v.delete_time IS NULL LIMIT 1
    ) i ON true;
    _taken := 0;
    FOR _i IN 1 .. _n LOOP
      _first := _line;
      _verdict := NULL;
      WHILE _line <= _lines AND _line_request[_line] = _i LOOP
        IF _outcome[_i] IS NULL THEN
          _item := _line_item[_line];
          IF _free[_item] IS NULL THEN
            _verdict := 'ITEM_NOT_FOUND';
            _short_line := _short_line || _line;
            _short_available := _short_available || NULL::bigint;
          ELSIF _free[_item] < _line_quantity[_line] THEN
            IF _lapsed[_item] IS NULL THEN
              _lapsed[_item] := lapsed_units(_tenant, _item_sku[_item], _item_pool[_item], _judge_time);
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
      CONTINUE WHEN _outcome[_i] IS NOT NULL;
      -- Before the units: a holder who has the last seat is told so, not that there is none left.
      IF _verdict IS DISTINCT FROM 'ITEM_NOT_FOUND' AND _duplicate_window_us[_i] IS NOT NULL THEN
        -- Not into the array's element: PL/pgSQL would read the subscript as part of the query.
        SELECT v.reservation_id INTO _duplicate FROM reservation v
        WHERE v.holder = _holder[_i] AND v.holder <> '' AND v.client = _client[_i] AND v.tenant = _tenant
          AND v.create_time >= _judge_time - _duplicate_window_us[_i] * interval '1 microsecond'
          AND (v.state = 2 OR v.state = 1 AND v.expire_time > _judge_time)
          AND EXISTS (
            SELECT 1 FROM generate_series(_first, _line - 1) x (line)
            CROSS JOIN LATERAL (
              SELECT 1 FROM reservation_line l
              WHERE l.reservation_id = v.reservation_id AND l.sku = _item_sku[_line_item[x.line]]
                AND l.pool = _item_pool[_line_item[x.line]] AND l.tenant = _tenant
                -- What a partial confirm released, or a refund took back, is no longer the holder's.
                AND (v.state = 1 OR l.confirmed_quantity > l.refunded_quantity)
              LIMIT 1
            ) l
          )
        ORDER BY v.reservation_id DESC LIMIT 1;
        _other_id[_i] := _duplicate;
        IF _duplicate IS NOT NULL THEN
          _verdict := 'DUPLICATE_RESERVATION';
        ELSE
          -- Not yet in the table: one that this batch accepted a moment ago.
          FOR _j IN 1 .. _i - 1 LOOP
            IF _outcome[_j] IS NULL AND _holder[_j] = _holder[_i] AND _client[_j] = _client[_i] AND EXISTS (
              SELECT 1 FROM unnest(_line_request, _line_item) x (request, item)
              WHERE x.request = _j AND x.item = ANY (_line_item[_first : _line - 1])
            ) THEN
              _verdict := 'DUPLICATE_RESERVATION';
              _other_id[_i] := _reservation_id[_j];
            END IF;
          END LOOP;
        END IF;
      END IF;
      IF _verdict IS NULL THEN
        FOR _l IN _first .. _line - 1 LOOP
          _item := _line_item[_l];
          _free[_item] := _free[_item] - _line_quantity[_l];
          _taken := _taken + CASE WHEN _take[_item] = 0 THEN 1 ELSE 0 END;
          _take[_item] := _take[_item] + _line_quantity[_l];
        END LOOP;
      END IF;
      _outcome[_i] := _verdict;
    END LOOP;

    -- claim
    IF NOT claim_requests(_tenant, 'Reserve', _request_key, _fingerprint, _reservation_id, _outcome, _judge_time) THEN
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
    AND x.take > 0 AND v.remaining + v.oversell_limit >= x.take;
  GET DIAGNOSTICS _updated = ROW_COUNT;
  IF _updated <> _taken THEN
    RAISE 'the items locked do not have the units judged: % of %', _updated, _taken;
  END IF;
  IF _taken = 0 THEN
    RETURN;
  END IF;
  INSERT INTO reservation (
    tenant, reservation_id, client, holder, reference, metadata, create_time, expire_time
  )
  SELECT _tenant, _reservation_id[i], _client[i], _holder[i], _reference[i], _metadata[i], _judge_time,
         _judge_time + _ttl_us[i] * interval '1 microsecond'
  FROM generate_series(1, _n) i
  WHERE _outcome[i] IS NULL;
  INSERT INTO reservation_line (tenant, reservation_id, line_number, sku, pool, quantity, expire_time)
  SELECT _tenant, _reservation_id[_line_request[l]], _line_number[l], _item_sku[_line_item[l]],
         _item_pool[_line_item[l]], _line_quantity[l],
         _judge_time + _ttl_us[_line_request[l]] * interval '1 microsecond'
  FROM generate_series(1, _lines) l
  WHERE _outcome[_line_request[l]] IS NULL;
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
END
$$;
