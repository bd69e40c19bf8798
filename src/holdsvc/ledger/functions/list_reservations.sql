-- The parts of a query of reservations that match every filter that is not null. The texts consist of constants only;
-- values stand in them as $1 … $13: tenant, client, states, sku, pool, holder, reference, order_id, pools, before (an
-- id), time, limit, looked_max. _branches: a relation b. _candidates: of one row of b, reservations newest first, read
-- in the order of one index, without those from $10 on, and with _looked_max no more than so many. _filter: conditions
-- on a candidate v that are left. Locks nothing.
CREATE FUNCTION reservation_query(
  _client text, _states smallint[], _sku text, _pool text, _holder text, _reference text, _order_id text,
  _pools text[], _before uuid, _looked_max boolean, OUT _branches text, OUT _candidates text, OUT _filter text
)
LANGUAGE plpgsql IMMUTABLE SET search_path FROM CURRENT AS $$
DECLARE
  _columns text := '.reservation_id, w.state, w.expire_time, w.client, w.holder, w.reference, w.order_id';
  _rest text := CASE WHEN _before IS NULL THEN '' ELSE ' AND w.reservation_id < $10' END
                || CASE WHEN _looked_max THEN ' ORDER BY w.reservation_id DESC LIMIT $13' ELSE '' END;
  _name text;
BEGIN
  _filter := '';
  IF _states IS NOT NULL THEN
    _filter := _filter || ' AND (CASE WHEN v.state = 1 AND v.expire_time <= $11 THEN 4 ELSE v.state END) = ANY ($3)';
  END IF;
  IF _client IS NOT NULL THEN
    _filter := _filter || ' AND v.client = $2';
  END IF;
  IF _holder IS NOT NULL THEN
    _filter := _filter || ' AND v.holder = $6';
  END IF;
  IF _reference IS NOT NULL THEN
    _filter := _filter || ' AND v.reference = $7';
  END IF;
  IF _pool IS NOT NULL OR (_sku IS NOT NULL AND coalesce(_order_id, _reference, _holder) IS NOT NULL) THEN
    _filter := _filter || ' AND EXISTS (SELECT 1 FROM reservation_line l WHERE l.reservation_id = v.reservation_id '
      || 'AND l.tenant = $1' || CASE WHEN _sku IS NULL THEN '' ELSE ' AND l.sku = $4' END
      || CASE WHEN _pool IS NULL THEN '' ELSE ' AND l.pool = $5' END || ')';
  END IF;
  IF _pools IS NOT NULL THEN
    _filter := _filter || ' AND NOT EXISTS (SELECT 1 FROM reservation_line l '
      || 'WHERE l.reservation_id = v.reservation_id AND l.tenant = $1 AND l.pool <> ALL ($9))';
  END IF;

  IF _order_id IS NOT NULL THEN
    _branches := 'SELECT 1 AS client';
    _candidates := 'SELECT w' || _columns || ' FROM reservation w WHERE w.reservation_id = '
      || '(SELECT s.reservation_id FROM sales_order s WHERE s.order_id = $8 AND s.tenant = $1) '
      || 'AND w.tenant = $1 AND w.order_id = $8' || _rest;
  ELSIF _reference IS NOT NULL OR _holder IS NOT NULL THEN
    -- The indexes have the client and the state before the id. States of later releases too.
    _name := CASE WHEN _reference IS NULL THEN 'holder = $6 AND %1$s.holder <> '''''
                  ELSE 'reference = $7 AND %1$s.reference <> ''''' END;
    _branches := 'SELECT c.client, s.state::smallint AS state FROM (' || CASE
        WHEN _client IS NOT NULL THEN 'SELECT $2 AS client'
        ELSE 'WITH RECURSIVE n AS ('
          || '(SELECT r.client FROM reservation r WHERE r.' || format(_name, 'r') || ' ORDER BY r.client LIMIT 1) '
          || 'UNION ALL '
          || 'SELECT (SELECT r.client FROM reservation r WHERE r.' || format(_name, 'r')
          || ' AND r.client > n.client ORDER BY r.client LIMIT 1) FROM n WHERE n.client IS NOT NULL) '
          || 'SELECT n.client FROM n WHERE n.client IS NOT NULL'
      END || ') c CROSS JOIN generate_series(1, 9) s (state)'
      || CASE WHEN _states IS NULL THEN '' ELSE ' WHERE s.state = ANY ($3) OR s.state = 1 AND 4 = ANY ($3)' END;
    _candidates := 'SELECT w' || _columns || ' FROM reservation w WHERE w.' || format(_name, 'w')
      || ' AND w.client = b.client AND w.tenant = $1 AND w.state = b.state' || _rest;
  ELSIF _sku IS NOT NULL THEN
    _branches := 'SELECT 1 AS client';
    -- In the order of k, which the index has: by w the planner would read every line of the item first.
    _candidates := 'SELECT k' || _columns || ' FROM (SELECT DISTINCT w.reservation_id FROM reservation_line w '
      || 'WHERE hashtextextended(w.sku, hashtext(w.tenant)) = hashtextextended($4, hashtext($1)) '
      || 'AND w.sku = $4 AND w.tenant = $1' || _rest || ') k '
      || 'CROSS JOIN LATERAL (SELECT * FROM reservation w '
      || 'WHERE w.reservation_id = k.reservation_id AND w.tenant = $1 LIMIT 1) w'
      || CASE WHEN _looked_max THEN ' ORDER BY k.reservation_id DESC' ELSE '' END;
  ELSE
    -- Every client of the tenant: one index serves lists with and without a client.
    _branches := CASE
      WHEN _client IS NOT NULL THEN 'SELECT hashtext($2) AS client'
      ELSE 'WITH RECURSIVE n AS ('
        || 'SELECT (SELECT min(hashtext(r.client)) FROM reservation r WHERE hashtext(r.tenant) = hashtext($1)) '
        || 'AS client UNION ALL '
        || 'SELECT (SELECT min(hashtext(r.client)) FROM reservation r WHERE hashtext(r.tenant) = hashtext($1) '
        || 'AND hashtext(r.client) > n.client) FROM n WHERE n.client IS NOT NULL) '
        || 'SELECT n.client FROM n WHERE n.client IS NOT NULL'
    END;
    _candidates := 'SELECT w' || _columns || ' FROM reservation w WHERE hashtext(w.tenant) = hashtext($1) '
      || 'AND hashtext(w.client) = b.client AND w.tenant = $1' || _rest;
  END IF;
END
$$;

-- Finds reservations, newest first, after the id _before: the ids of at most _limit that match every filter that is not
-- null (see reservation_query). Of each state at most _looked_max are looked at, shared by the clients that have any,
-- but _limit of each, so that the cost does not grow with what does not match. _looked_to: not all were looked at, go
-- on after this id; null where that is not so. Locks nothing.
CREATE FUNCTION find_reservations(
  _tenant text, _client text, _states smallint[], _sku text, _pool text, _holder text, _reference text, _order_id text,
  _pools text[], _before uuid, _limit integer, _looked_max integer, OUT _ids uuid[], OUT _looked_to uuid
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET enable_hashjoin = off
SET enable_mergejoin = off SET max_parallel_workers_per_gather = 0 SET jit = off AS $$
DECLARE
  _q record := reservation_query(_client, _states, _sku, _pool, _holder, _reference, _order_id, _pools, _before, true);
BEGIN
  IF _client IS NULL THEN
    EXECUTE format('SELECT greatest($12, $13 / greatest(1, count(DISTINCT b.client))) FROM (%s) b', _q._branches)
    INTO _looked_max
    USING _tenant, _client, _states, _sku, _pool, _holder, _reference, _order_id, _pools, _before, wall_clock(), _limit,
          _looked_max;
  END IF;
  EXECUTE format(
    'WITH part AS MATERIALIZED ('
    '  SELECT m.ids, CASE WHEN cardinality(m.ids) < $12 THEN ('
    '    SELECT c.reservation_id FROM (%2$s) c OFFSET $13 - 1 LIMIT 1'
    '  ) END AS looked_to'
    '  FROM (%1$s) b CROSS JOIN LATERAL ('
    '    SELECT coalesce(array_agg(x.reservation_id), ''{}'') AS ids FROM ('
    '      SELECT v.reservation_id FROM (%2$s) v WHERE true%3$s ORDER BY v.reservation_id DESC LIMIT $12'
    '    ) x'
    '  ) m'
    '), looked AS MATERIALIZED ('
    '  SELECT p.looked_to FROM part p WHERE p.looked_to IS NOT NULL ORDER BY p.looked_to DESC LIMIT 1'
    ') '
    'SELECT coalesce(array_agg(y.id ORDER BY y.id DESC), ''{}''), (SELECT k.looked_to FROM looked k) FROM ('
    '  SELECT u.id FROM part p CROSS JOIN LATERAL unnest(p.ids) u (id)'
    '  WHERE u.id >= coalesce((SELECT k.looked_to FROM looked k), u.id) ORDER BY u.id DESC LIMIT $12'
    ') y',
    _q._branches, _q._candidates, _q._filter)
  INTO _ids, _looked_to
  USING _tenant, _client, _states, _sku, _pool, _holder, _reference, _order_id, _pools, _before, wall_clock(), _limit,
        _looked_max;
END
$$;

-- Counts the reservations that match every filter that is not null; reads all of them. Locks nothing.
CREATE FUNCTION count_reservations(
  _tenant text, _client text, _states smallint[], _sku text, _pool text, _holder text, _reference text, _order_id text,
  _pools text[], OUT _total bigint
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET jit = off AS $$
DECLARE
  _q record := reservation_query(_client, _states, _sku, _pool, _holder, _reference, _order_id, _pools, NULL, false);
BEGIN
  EXECUTE format('SELECT count(*) FROM (%1$s) b CROSS JOIN LATERAL (%2$s) v WHERE true%3$s',
                 _q._branches, _q._candidates, _q._filter)
  INTO _total
  USING _tenant, _client, _states, _sku, _pool, _holder, _reference, _order_id, _pools, NULL::uuid, wall_clock();
END
$$;
