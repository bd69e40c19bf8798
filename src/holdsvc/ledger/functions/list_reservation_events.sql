-- The audit trail of one reservation, oldest first, after the event _after. Its events lie in the partitions from the
-- feed's day at its creation on: the day of create_time, or an earlier one where the clock had just jumped ahead or a
-- long transaction kept the feed's day back; a month covers that. Of a reservation that retention has removed the id
-- tells the time of its creation.
CREATE FUNCTION list_reservation_events(_tenant text, _reservation_id uuid, _after bigint, _limit integer)
RETURNS SETOF event_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off SET jit = off AS $$
DECLARE
  _brought bigint;
BEGIN
  -- What it has brought from another cell comes first.
  RETURN QUERY
  SELECT e.event_id, e.occur_day, e.tenant::text, e.type, e.client::text, e.key_id, e.request_id, e.reason,
         e.occur_time, e.revision, e.line_sku, e.line_pool, e.line_quantity, e.reservation_id, e.state,
         e.expire_time, e.refunded_quantity, e.fulfilled_quantity, e.returned_quantity, e.written_off_quantity,
         e.restored_quantity, e.snapshot, e.display_name, e.capacity, e.remaining, e.held, e.confirmed,
         e.oversell_limit,
         e.sale_state, e.buffer, e.count_time, e.low_at, e.return_pool, e.return_time, e.from_level, e.to_level,
         e.waitlist_policy, e.waiting, e.entry,
         NULL::bigint, NULL::integer[]
  FROM event_history e
  WHERE e.reservation_id = _reservation_id AND e.tenant = _tenant AND e.event_id > _after
  ORDER BY e.event_id
  LIMIT _limit;
  GET DIAGNOSTICS _brought = ROW_COUNT;
  RETURN QUERY
  SELECT e.event_id, e.occur_day, e.tenant::text, e.type, e.client::text, e.key_id, e.request_id, e.reason,
         e.occur_time, e.revision, e.line_sku, e.line_pool, e.line_quantity, e.reservation_id, e.state,
         e.expire_time, e.refunded_quantity, e.fulfilled_quantity, e.returned_quantity, e.written_off_quantity,
         e.restored_quantity, e.snapshot, e.display_name, e.capacity, e.remaining, e.held, e.confirmed,
         e.oversell_limit,
         e.sale_state, e.buffer, e.count_time, e.low_at, e.return_pool, e.return_time, e.from_level, e.to_level,
         e.waitlist_policy, e.waiting, e.entry,
         NULL::bigint, NULL::integer[]
  FROM event e
  WHERE e.reservation_id = _reservation_id AND e.tenant = _tenant AND e.event_id > _after
    AND e.occur_day >= (
      coalesce(
        (SELECT v.create_time FROM reservation v WHERE v.reservation_id = _reservation_id AND v.tenant = _tenant),
        time_of_id(_reservation_id)
      ) AT TIME ZONE 'UTC'
    )::date - 31
  ORDER BY e.event_id
  LIMIT _limit - _brought;
END
$$;
