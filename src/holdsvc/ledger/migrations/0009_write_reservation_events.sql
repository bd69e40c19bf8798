-- One event for each of these reservations, after the change was applied, with the lines that moved: of CONFIRMED (2)
-- the confirmed units, of CANCELLED (3) and EXPIRED (4) the held ones, of EXTENDED (6) none.

-- migrate:up
CREATE FUNCTION holdsvc.write_reservation_events(
  _tenant text, _type smallint, _reservation_id uuid[], _client text[], _key_id text[], _request_id text[],
  _reason text[], _now timestamptz
) RETURNS void
LANGUAGE plpgsql SET search_path = holdsvc, pg_temp AS $$
BEGIN
  INSERT INTO event (
    occur_day, tenant, type, client, key_id, request_id, reason, occur_time, revision,
    line_sku, line_pool, line_quantity, reservation_id, from_state, state, expire_time
  )
  SELECT (_now AT TIME ZONE 'UTC')::date, _tenant, _type, x.client, x.key_id, x.request_id, x.reason, _now, r.revision,
         l.sku, l.pool, l.quantity, x.id, 1, r.state, r.expire_time
  FROM unnest(_reservation_id, _client, _key_id, _request_id, _reason) x (id, client, key_id, request_id, reason)
  CROSS JOIN LATERAL (
    SELECT revision, state, expire_time FROM reservation WHERE reservation_id = x.id AND tenant = _tenant LIMIT 1
  ) r
  CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(m.sku), '{}') AS sku, coalesce(array_agg(m.pool), '{}') AS pool,
           coalesce(array_agg(m.moved), '{}') AS quantity
    FROM (
      SELECT sku, pool, line_number, CASE WHEN _type = 2 THEN confirmed_quantity ELSE quantity END AS moved
      FROM reservation_line WHERE reservation_id = x.id AND tenant = _tenant AND _type <> 6 ORDER BY line_number
    ) m
    WHERE m.moved > 0
  ) l;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.write_reservation_events FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.write_reservation_events;
