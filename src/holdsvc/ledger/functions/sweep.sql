-- Which of these reservations of one tenant lie only on items that no other transaction has locked. A sweep leaves out
-- an item that a session keeps locked, instead of waiting for it while it holds the locks of others.
-- Locks: the items of the reservations returned; it never waits.
CREATE FUNCTION on_free_items(_tenant text, _reservation_id uuid[]) RETURNS uuid[]
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RETURN (
    WITH free AS MATERIALIZED (
      SELECT k.sku, k.pool
      FROM (
        SELECT DISTINCT l.sku, l.pool
        FROM unnest(_reservation_id) x (id)
        CROSS JOIN LATERAL (
          SELECT w.sku, w.pool FROM reservation_line w
          WHERE w.reservation_id = x.id AND w.tenant = _tenant OFFSET 0
        ) l
        ORDER BY l.sku, l.pool
      ) k
      CROSS JOIN LATERAL (
        SELECT 1 FROM item i WHERE i.sku = k.sku AND i.pool = k.pool AND i.tenant = _tenant
        FOR NO KEY UPDATE SKIP LOCKED
      ) i
    )
    SELECT array_agg(x.id ORDER BY x.id)
    FROM unnest(_reservation_id) x (id)
    WHERE NOT EXISTS (
      SELECT 1 FROM (
        SELECT w.sku, w.pool FROM reservation_line w
        WHERE w.reservation_id = x.id AND w.tenant = _tenant OFFSET 0
      ) l
      WHERE NOT EXISTS (SELECT 1 FROM free f WHERE f.sku = l.sku AND f.pool = l.pool)
    )
  );
END
$$;

-- The sweep: expires at most _max_count lapsed holds of one tenant or of all (null) and gives their units back. The
-- background sweep and Cleanup call it, and operators through the entrance holdsvc.release_expired_reservations.
-- It waits for an item a quarter of a second at most, for it holds the locks of others meanwhile: then it fails, and is
-- called again with _skip_busy, which leaves such items out and does not wait. A hot item would be left out each time,
-- so the first call waits.
-- Locks: reservations that no other transaction has locked (SKIP LOCKED, so that any number of sweeps share the work),
-- then, tenant by tenant, the items in (sku, pool) order.
CREATE FUNCTION release_expired(
  _tenant text, _max_count integer, _skip_busy boolean,
  OUT _expired_count bigint, OUT _released_quantity bigint, OUT _more boolean
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET jit = off SET lock_timeout = '250ms' AS $$
DECLARE
  _now timestamptz := wall_clock();
  _r record;
  _ids uuid[];
BEGIN
  _expired_count := 0;
  _released_quantity := 0;
  FOR _r IN
    SELECT l.tenant, array_agg(l.reservation_id ORDER BY l.reservation_id) AS ids
    FROM (
      SELECT v.tenant, v.reservation_id FROM reservation v
      WHERE v.state = 1 AND v.expire_time <= _now AND (_tenant IS NULL OR v.tenant = _tenant)
      ORDER BY v.expire_time
      -- The oldest may all lie on one item that is locked.
      LIMIT _max_count * CASE WHEN _skip_busy THEN 10 ELSE 1 END
      FOR NO KEY UPDATE SKIP LOCKED
    ) l
    GROUP BY l.tenant ORDER BY l.tenant
  LOOP
    _ids := CASE WHEN _skip_busy THEN on_free_items(_r.tenant, _r.ids) ELSE _r.ids END;
    _ids := _ids[1 : (_max_count - _expired_count)::integer];
    CONTINUE WHEN coalesce(cardinality(_ids), 0) = 0;
    _expired_count := _expired_count + cardinality(_ids);
    _released_quantity := _released_quantity + return_held(_r.tenant, 4::smallint, _ids, '{}', '{}', '{}', '{}', NULL);
  END LOOP;
  _more := EXISTS (
    SELECT 1 FROM reservation v
    WHERE v.state = 1 AND v.expire_time <= _now AND (_tenant IS NULL OR v.tenant = _tenant)
    LIMIT 1
  );
END
$$;

-- The sweep on demand: expires at most _max_count lapsed holds on these items, for a call that is short of units, and
-- returns how many. It waits for locks: with SKIP LOCKED it would leave out what the background sweep is releasing, and
-- the call would be refused.
-- Locks: reservations in id order, items in (sku, pool) order.
CREATE FUNCTION sweep_items(_tenant text, _sku text[], _pool text[], _max_count integer)
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  _now timestamptz := wall_clock();
  _lapsed uuid[];
  _id uuid[];
BEGIN
  SELECT array_agg(DISTINCT l.reservation_id) INTO _lapsed
  FROM unnest(_sku, _pool) x (sku, pool)
  CROSS JOIN LATERAL (
    SELECT w.reservation_id FROM reservation_line w
    WHERE hashtextextended(w.sku, hashtext(w.tenant)) = hashtextextended(x.sku, hashtext(_tenant))
      AND w.sku = x.sku AND w.pool = x.pool AND w.tenant = _tenant AND w.expire_time <= _now
    ORDER BY w.expire_time
    LIMIT _max_count
  ) l;
  SELECT array_agg(v.reservation_id ORDER BY v.reservation_id) INTO _id
  FROM (SELECT u.id FROM unnest(_lapsed) u (id) ORDER BY u.id LIMIT _max_count) x
  CROSS JOIN LATERAL (
    SELECT w.reservation_id FROM reservation w
    WHERE w.reservation_id = x.id AND w.tenant = _tenant AND w.state = 1 AND w.expire_time <= _now
    FOR NO KEY UPDATE
  ) v;
  IF _id IS NOT NULL THEN
    PERFORM return_held(_tenant, 4::smallint, _id, '{}', '{}', '{}', '{}', NULL);
  END IF;
  RETURN coalesce(cardinality(_id), 0);
END
$$;
