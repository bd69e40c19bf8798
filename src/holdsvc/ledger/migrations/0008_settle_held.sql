-- Step "apply" of what ends a hold: moves the units of the lines of these reservations, whose rows and items the caller
-- has locked, from held to confirmed (confirmed_quantity of the line) and to remaining (the rest). The lines leave the
-- index of held lines. Returns the units that were held.

-- migrate:up
CREATE FUNCTION holdsvc.settle_held(_tenant text, _reservation_id uuid[], _now timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path = holdsvc, pg_temp AS $$
DECLARE
  _items bigint;
  _settled bigint;
  _quantity bigint;
BEGIN
  WITH settled AS (
    -- By place: the planner would else read every held line there is, by their index, and filter.
    UPDATE reservation_line l SET expire_time = NULL
    FROM unnest(_reservation_id) x (id)
    CROSS JOIN LATERAL (
      SELECT w.ctid AS place FROM reservation_line w WHERE w.reservation_id = x.id AND w.tenant = _tenant OFFSET 0
    ) k
    WHERE l.ctid = k.place
    RETURNING l.sku, l.pool, l.quantity, l.confirmed_quantity
  ), moved AS (
    SELECT s.sku, s.pool, sum(s.quantity)::bigint AS quantity, sum(s.confirmed_quantity)::bigint AS confirmed
    FROM settled s GROUP BY s.sku, s.pool
  ), updated AS (
    UPDATE item i SET
      held = i.held - m.quantity,
      confirmed = i.confirmed + m.confirmed,
      remaining = i.remaining + m.quantity - m.confirmed,
      revision = i.revision + 1,
      update_time = _now
    FROM moved m
    CROSS JOIN LATERAL (
      SELECT v.ctid AS place FROM item v WHERE v.sku = m.sku AND v.pool = m.pool AND v.tenant = _tenant LIMIT 1
    ) k
    WHERE i.ctid = k.place AND i.held >= m.quantity
    RETURNING 1
  )
  SELECT count(*), coalesce(sum(m.quantity), 0), (SELECT count(*) FROM updated) INTO _items, _quantity, _settled
  FROM moved m;
  IF _items <> _settled THEN
    RAISE 'held units do not cover the lines: % of % items', _settled, _items;
  END IF;
  RETURN _quantity;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.settle_held FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.settle_held;
