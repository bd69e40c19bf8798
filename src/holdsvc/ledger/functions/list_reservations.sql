-- Builds the query of lists and counts of reservations: the ids, newest first, of those that match every filter that is
-- not null. The text consists of constants only; values stand in it as $1 … $12: tenant, client, states, sku, pool,
-- holder, reference, order_id, pools, before (an id), time, limit. Each kind of filter reads its own index, so that a
-- page costs a page and not the table. Locks nothing.
CREATE FUNCTION reservation_query(
  _client text, _states smallint[], _sku text, _pool text, _holder text, _reference text, _order_id text,
  _pools text[], _before uuid, _limited boolean
) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
  _filter text := '';
  _before_filter text := CASE WHEN _before IS NULL THEN '' ELSE ' AND %s.reservation_id < $10' END;
  _limit text := CASE WHEN _limited THEN ' ORDER BY v.reservation_id DESC LIMIT $12' ELSE '' END;
BEGIN
  IF _states IS NOT NULL THEN
    _filter := _filter || ' AND (CASE WHEN v.state = 1 AND v.expire_time <= $11 THEN 4 ELSE v.state END) = ANY ($3)';
  END IF;
  IF _client IS NOT NULL THEN
    _filter := _filter || ' AND v.client = $2';
  END IF;
  IF _holder IS NOT NULL THEN
    _filter := _filter || ' AND v.holder = $6 AND v.holder <> ''''';
  END IF;
  IF _reference IS NOT NULL THEN
    _filter := _filter || ' AND v.reference = $7 AND v.reference <> ''''';
  END IF;
  IF _order_id IS NOT NULL THEN
    _filter := _filter || ' AND v.order_id = $8 AND v.reservation_id = '
      || '(SELECT s.reservation_id FROM sales_order s WHERE s.order_id = $8 AND s.tenant = $1)';
  END IF;
  IF _sku IS NULL AND _pool IS NOT NULL THEN
    _filter := _filter || ' AND EXISTS (SELECT 1 FROM reservation_line l '
      || 'WHERE l.reservation_id = v.reservation_id AND l.tenant = $1 AND l.pool = $5)';
  END IF;
  IF _pools IS NOT NULL THEN
    _filter := _filter || ' AND NOT EXISTS (SELECT 1 FROM reservation_line l '
      || 'WHERE l.reservation_id = v.reservation_id AND l.tenant = $1 AND l.pool <> ALL ($9))';
  END IF;

  IF _sku IS NOT NULL AND _order_id IS NULL AND _holder IS NULL AND _reference IS NULL THEN
    -- In the order of k, which the index has: by v the planner would read every line of the item first.
    RETURN 'SELECT k.reservation_id FROM (SELECT DISTINCT l.reservation_id FROM reservation_line l '
      || 'WHERE hashtextextended(l.sku, hashtext(l.tenant)) = hashtextextended($4, hashtext($1)) '
      || 'AND l.sku = $4 AND l.tenant = $1' || CASE WHEN _pool IS NULL THEN '' ELSE ' AND l.pool = $5' END
      || format(_before_filter, 'l') || ' ORDER BY l.reservation_id DESC) k '
      || 'CROSS JOIN LATERAL (SELECT * FROM reservation w '
      || 'WHERE w.reservation_id = k.reservation_id AND w.tenant = $1 LIMIT 1) v WHERE true' || _filter
      || replace(_limit, 'v.', 'k.');
  END IF;
  IF _sku IS NOT NULL THEN
    _filter := _filter || ' AND EXISTS (SELECT 1 FROM reservation_line l WHERE l.reservation_id = v.reservation_id '
      || 'AND l.tenant = $1 AND l.sku = $4' || CASE WHEN _pool IS NULL THEN '' ELSE ' AND l.pool = $5' END || ')';
  END IF;
  _filter := _filter || format(_before_filter, 'v');
  IF _client IS NOT NULL AND _order_id IS NULL AND _limited AND (_holder IS NOT NULL OR _reference IS NOT NULL) THEN
    -- The newest of each state, those of later releases too, merged: the indexes have the state before the id.
    RETURN 'SELECT v.reservation_id FROM generate_series(1, 9) s (state) CROSS JOIN LATERAL ('
      || 'SELECT v.reservation_id FROM reservation v WHERE v.tenant = $1 AND v.state = s.state::smallint' || _filter
      || _limit || ') v' || _limit;
  END IF;
  IF _holder IS NOT NULL OR _reference IS NOT NULL OR _order_id IS NOT NULL THEN
    RETURN 'SELECT v.reservation_id FROM reservation v WHERE v.tenant = $1' || _filter || _limit;
  END IF;
  _filter := ' AND hashtext(v.tenant) = hashtext($1)' || _filter;
  IF _client IS NOT NULL OR NOT _limited THEN
    RETURN 'SELECT v.reservation_id FROM reservation v WHERE v.tenant = $1'
      || CASE WHEN _client IS NULL THEN '' ELSE ' AND hashtext(v.client) = hashtext($2)' END || _filter || _limit;
  END IF;
  -- Every client of the tenant: the newest of each, merged. One index serves lists with and without a client.
  RETURN 'WITH RECURSIVE c AS ('
    || 'SELECT (SELECT min(hashtext(r.client)) FROM reservation r WHERE hashtext(r.tenant) = hashtext($1)) AS client '
    || 'UNION ALL '
    || 'SELECT (SELECT min(hashtext(r.client)) FROM reservation r WHERE hashtext(r.tenant) = hashtext($1) '
    || 'AND hashtext(r.client) > c.client) FROM c WHERE c.client IS NOT NULL) '
    || 'SELECT v.reservation_id FROM c CROSS JOIN LATERAL (SELECT v.reservation_id FROM reservation v '
    || 'WHERE v.tenant = $1 AND hashtext(v.client) = c.client' || _filter || _limit || ') v' || _limit;
END
$$;

-- Lists reservations, newest first, after the id _before: those that match every filter that is not null (see
-- reservation_query).
-- Locks: lapsed ones, as get_reservations does.
CREATE FUNCTION list_reservations(
  _tenant text, _client text, _states smallint[], _sku text, _pool text, _holder text, _reference text, _order_id text,
  _pools text[], _before uuid, _limit integer
) RETURNS SETOF reservation_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET enable_hashjoin = off
SET enable_mergejoin = off SET max_parallel_workers_per_gather = 0 SET jit = off AS $$
DECLARE
  _ids uuid[];
BEGIN
  EXECUTE 'SELECT array_agg(q.reservation_id ORDER BY q.reservation_id DESC) FROM ('
    || reservation_query(_client, _states, _sku, _pool, _holder, _reference, _order_id, _pools, _before, true) || ') q'
  INTO _ids
  USING _tenant, _client, _states, _sku, _pool, _holder, _reference, _order_id, _pools, _before, wall_clock(), _limit;
  IF _ids IS NOT NULL THEN
    RETURN QUERY SELECT * FROM get_reservations(_tenant, _ids);
  END IF;
END
$$;

-- Counts the reservations that match every filter that is not null; reads all of them. Locks nothing.
CREATE FUNCTION count_reservations(
  _tenant text, _client text, _states smallint[], _sku text, _pool text, _holder text, _reference text, _order_id text,
  _pools text[], OUT _total bigint
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET jit = off AS $$
BEGIN
  EXECUTE 'SELECT count(*) FROM ('
    || reservation_query(_client, _states, _sku, _pool, _holder, _reference, _order_id, _pools, NULL, false) || ') q'
  INTO _total
  USING _tenant, _client, _states, _sku, _pool, _holder, _reference, _order_id, _pools, NULL::uuid, wall_clock();
END
$$;
