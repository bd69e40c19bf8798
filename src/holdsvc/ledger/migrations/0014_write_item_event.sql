-- The event of a change to one item, which the caller has applied: the item as it is now and the difference of capacity.

-- migrate:up
CREATE FUNCTION holdsvc.write_item_event(
  _tenant text, _type smallint, _sku text, _pool text, _delta bigint, _client text, _key_id text, _request_id text,
  _reason text, _now timestamptz
) RETURNS void
LANGUAGE plpgsql SET search_path = holdsvc, pg_temp AS $$
BEGIN
  INSERT INTO event (
    occur_day, tenant, type, client, key_id, request_id, reason, occur_time, revision,
    line_sku, line_pool, line_quantity, display_name, capacity, remaining, held, confirmed, oversell_limit
  )
  SELECT (_now AT TIME ZONE 'UTC')::date, _tenant, _type, _client, _key_id, _request_id, _reason, _now, i.revision,
         ARRAY[_sku], ARRAY[_pool], ARRAY[_delta],
         i.display_name, i.capacity, i.remaining, i.held, i.confirmed, i.oversell_limit
  FROM item i WHERE i.sku = _sku AND i.pool = _pool AND i.tenant = _tenant;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.write_item_event FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.write_item_event;
