-- Makes the answers of a call: one row each element, with the reservation as it is now where _reservation_id has one.
-- A lapsed hold reads as EXPIRED: the caller has locked the row or knows that nobody confirms it any more.

-- migrate:up
CREATE FUNCTION holdsvc.answer_reservations(
  _tenant text, _outcome text[], _reservation_id uuid[], _short_sku text[], _short_pool text[],
  _short_requested bigint[], _short_available bigint[], _other_id uuid[], _now timestamptz
) RETURNS SETOF holdsvc.reservation_answer
LANGUAGE plpgsql SET search_path = holdsvc, pg_temp AS $$
BEGIN
  RETURN QUERY
  SELECT x.ix::integer, x.outcome, x.short_sku, x.short_pool, x.short_requested, x.short_available, x.other_id,
         r.reservation_id, r.client, r.holder, r.reference,
         CASE WHEN r.state = 1 AND r.expire_time <= _now THEN 4::smallint ELSE r.state END,
         l.sku, l.pool, l.quantity, l.confirmed, l.refunded,
         r.order_id, o.customer_name, o.customer_email, r.metadata,
         r.create_time, r.expire_time, r.confirm_time, r.cancel_time, r.refund_time, r.reason, r.revision
  FROM unnest(_outcome, _reservation_id, _short_sku, _short_pool, _short_requested, _short_available, _other_id)
    WITH ORDINALITY x (outcome, id, short_sku, short_pool, short_requested, short_available, other_id, ix)
  LEFT JOIN LATERAL (
    SELECT * FROM reservation v WHERE v.reservation_id = x.id AND v.tenant = _tenant LIMIT 1
  ) r ON true
  LEFT JOIN LATERAL (
    SELECT array_agg(m.sku) AS sku, array_agg(m.pool) AS pool, array_agg(m.quantity) AS quantity,
           array_agg(m.confirmed_quantity) AS confirmed, array_agg(m.refunded_quantity) AS refunded
    FROM (
      SELECT * FROM reservation_line w WHERE w.reservation_id = x.id AND w.tenant = _tenant ORDER BY w.line_number
    ) m
  ) l ON r.reservation_id IS NOT NULL
  LEFT JOIN LATERAL (
    SELECT s.customer_name, s.customer_email FROM sales_order s
    WHERE s.order_id = r.order_id AND s.tenant = _tenant LIMIT 1
  ) o ON r.order_id IS NOT NULL
  ORDER BY x.ix;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.answer_reservations FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.answer_reservations;
