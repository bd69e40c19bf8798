-- What the service's role may do: execute these functions, and nothing else.
DO $$
BEGIN
  EXECUTE format('REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA %I FROM PUBLIC', current_schema());
  EXECUTE format('GRANT USAGE ON SCHEMA %I TO holdsvc_service', current_schema());
END
$$;

GRANT EXECUTE ON FUNCTION
  adjust_capacity,
  cancel,
  check_availability,
  confirm,
  count_reservations,
  create_api_key,
  create_event_partitions,
  create_items,
  delete_item,
  drop_event_partition,
  extend,
  feed_identity,
  find_api_key,
  find_locked_items,
  find_locked_targets,
  find_reference,
  fulfil,
  get_items,
  get_reservations,
  hold_totals,
  list_api_keys,
  list_items,
  list_reservation_events,
  list_reservations,
  list_watched_items,
  modify,
  oldest_lapsed_hold_age,
  oldest_transactions,
  poll_feed,
  purge_requests,
  purge_stock_moves,
  read_events,
  read_item_changes,
  refund,
  relay_position,
  release_expired,
  remove_ended,
  reserve,
  revoke_api_key,
  save_relay_position,
  stock_totals,
  sweep_items,
  tenants,
  transfer_capacity,
  update_item,
  use_function_set,
  verify_items,
  watch_items
TO holdsvc_service;
