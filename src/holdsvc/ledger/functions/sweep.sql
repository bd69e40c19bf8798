-- Which of these reservations of one tenant lie on items that no other transaction has locked; their items are locked
-- now. So a sweep leaves out a locked item, instead of waiting for it while it holds the locks of other items.
-- Locks: items that are not locked; it never waits.
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

-- Expires these lapsed holds of one tenant, which the caller has locked, and returns the units; the caller follows the
-- items. Holds that cannot be expired, because their lines and their items contradict each other, go into the table
-- quarantine, and the others are expired all the same. Locks: items in (sku, pool) order.
CREATE FUNCTION expire_holds(
  _tenant text, _reservation_id uuid[], OUT _expired_count bigint, OUT _released_quantity bigint,
  OUT _quarantined_count bigint, OUT _followed item_before[]
)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  _id uuid;
BEGIN
  _expired_count := 0;
  _released_quantity := 0;
  _quarantined_count := 0;
  BEGIN
    SELECT r.released, r.followed INTO _released_quantity, _followed
    FROM return_held(_tenant, 4::smallint, _reservation_id, '{}', '{}', '{}', '{}', NULL) r (released, followed);
    _expired_count := cardinality(_reservation_id);
    RETURN;
  EXCEPTION
    -- Only what a fault in the data raises: a lock that cannot be had, or a deadlock, is not the hold's fault.
    WHEN raise_exception OR check_violation THEN
      IF cardinality(_reservation_id) = 1 THEN
        INSERT INTO quarantine (tenant, reservation_id, error, create_time)
        VALUES (_tenant, _reservation_id[1], SQLERRM, wall_clock()) ON CONFLICT DO NOTHING;
        _quarantined_count := 1;
        RETURN;
      END IF;
  END;
  FOREACH _id IN ARRAY _reservation_id LOOP
    SELECT _expired_count + e.expired, _released_quantity + e.released,
           _quarantined_count + e.quarantined, _followed || e.followed
    INTO _expired_count, _released_quantity, _quarantined_count, _followed
    FROM expire_holds(_tenant, ARRAY[_id]) e (expired, released, quarantined, followed);
  END LOOP;
END
$$;

-- The sweep: expires at most _max_count lapsed holds, of one tenant or of all, oldest first, and gives their units
-- back. The background sweep and Cleanup call it. SKIP LOCKED: any number of sweeps share the work. Quarantined holds
-- are left out. Locks: reservations that are not locked, then tenant by tenant the items in (sku, pool) order. It waits
-- for an item a quarter of a second at most, for it holds the locks of other items: then it fails, and is called again
-- with _skip_busy, which leaves out holds on locked items and waits for none. It waits first because a hot item is
-- locked most of the time.
CREATE FUNCTION release_expired(
  _tenant text, _max_count integer, _skip_busy boolean,
  OUT _expired_count bigint, OUT _released_quantity bigint, OUT _quarantined_count bigint, OUT _more boolean
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET jit = off SET lock_timeout = '250ms' AS $$
DECLARE
  _now timestamptz := wall_clock();
  _r record;
  _ids uuid[];
  -- Whose rows it leaves alone.
  _away text[];
  _followed item_before[];
BEGIN
  _expired_count := 0;
  _released_quantity := 0;
  _quarantined_count := 0;
  _more := false;
  _away := enter_tenants(_tenant);
  IF _away IS NULL THEN
    RETURN;
  END IF;
  FOR _r IN
    SELECT l.tenant, array_agg(l.reservation_id ORDER BY l.reservation_id) AS ids
    FROM (
      SELECT v.tenant, v.reservation_id FROM reservation v
      WHERE v.state = 1 AND v.expire_time <= _now AND (_tenant IS NULL OR v.tenant = _tenant)
        AND v.tenant <> ALL (_away)
        AND NOT EXISTS (SELECT 1 FROM quarantine q WHERE q.reservation_id = v.reservation_id AND q.tenant = v.tenant)
      ORDER BY v.expire_time
      -- The oldest may all be on one locked item: look further then.
      LIMIT _max_count * CASE WHEN _skip_busy THEN 10 ELSE 1 END
      FOR NO KEY UPDATE SKIP LOCKED
    ) l
    GROUP BY l.tenant ORDER BY l.tenant
  LOOP
    _ids := CASE WHEN _skip_busy THEN on_free_items(_r.tenant, _r.ids) ELSE _r.ids END;
    _ids := _ids[1 : (_max_count - _expired_count)::integer];
    CONTINUE WHEN coalesce(cardinality(_ids), 0) = 0;
    SELECT _expired_count + e.expired, _released_quantity + e.released,
           _quarantined_count + e.quarantined, e.followed
    INTO _expired_count, _released_quantity, _quarantined_count, _followed
    FROM expire_holds(_r.tenant, _ids) e (expired, released, quarantined, followed);
    IF _followed IS NOT NULL THEN
      PERFORM follow_items(_r.tenant, _followed, wall_clock());
    END IF;
  END LOOP;
  _more := EXISTS (
    SELECT 1 FROM reservation v
    WHERE v.state = 1 AND v.expire_time <= _now AND (_tenant IS NULL OR v.tenant = _tenant) AND v.tenant <> ALL (_away)
      AND NOT EXISTS (SELECT 1 FROM quarantine q WHERE q.reservation_id = v.reservation_id AND q.tenant = v.tenant)
    LIMIT 1
  );
END
$$;

-- The sweep on demand: expires at most _max_count lapsed holds on these items, for a call that is short of units, and
-- returns how many, and whether units are due to those who wait. It waits for locks: with SKIP LOCKED it would leave
-- out what the background sweep is releasing, and the call would be refused.
-- Locks: reservations in id order, items in (sku, pool) order.
CREATE FUNCTION sweep_items(
  _tenant text, _sku text[], _pool text[], _max_count integer, OUT _expired bigint, OUT _due boolean
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
  _now timestamptz := wall_clock();
  _lapsed uuid[];
  _id uuid[];
  _followed item_before[];
BEGIN
  PERFORM enter_tenant(_tenant);
  SELECT array_agg(DISTINCT l.reservation_id) INTO _lapsed
  FROM unnest(_sku, _pool) x (sku, pool)
  CROSS JOIN LATERAL (
    SELECT w.reservation_id FROM reservation_line w
    WHERE hashtextextended(w.sku, hashtext(w.tenant)) = hashtextextended(x.sku, hashtext(_tenant))
      AND w.sku = x.sku AND w.pool = x.pool AND w.tenant = _tenant AND w.expire_time <= _now
      AND NOT EXISTS (SELECT 1 FROM quarantine q WHERE q.reservation_id = w.reservation_id AND q.tenant = _tenant)
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
  _expired := 0;
  IF _id IS NOT NULL THEN
    SELECT e.expired, e.followed INTO _expired, _followed
    FROM expire_holds(_tenant, _id) e (expired, released, quarantined, followed);
    IF _followed IS NOT NULL THEN
      PERFORM follow_items(_tenant, _followed, wall_clock());
    END IF;
  END IF;
  _due := EXISTS (SELECT 1 FROM item i WHERE i.serve_time = '-infinity' AND i.tenant = _tenant);
END
$$;
