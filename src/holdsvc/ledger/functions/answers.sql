-- What a function on items answers: a row for each request.
CREATE TYPE item_answer AS (
  ix integer,
  -- Null: done. REPLAYED, RETRY and SWEEP are for the engine; anything else is an ErrorReason.
  outcome text,
  requested bigint,
  available bigint,
  sku text,
  pool text,
  display_name text,
  capacity bigint,
  remaining bigint,
  held bigint,
  confirmed bigint,
  oversell_limit bigint,
  sale_state smallint,
  buffer bigint,
  low_at bigint,
  return_pool text,
  return_time timestamptz,
  waitlist_policy smallint,
  waiting bigint,
  revision bigint,
  create_time timestamptz,
  update_time timestamptz,
  count_time timestamptz
);

-- An item that is followed, as it was when it was locked: see follow_items.
CREATE TYPE item_before AS (
  sku text,
  pool text,
  level smallint
);

-- A reservation as it was when it was locked, and where its row is.
CREATE TYPE found_reservation AS (
  place tid,
  state smallint,
  expire_time timestamptz,
  revision bigint,
  limited boolean,
  -- Whether its events have snapshots: see reservation_snapshot.
  modified boolean,
  entry_id uuid
);

-- A line of the reservation of request ix, and where its row is.
CREATE TYPE found_line AS (
  ix integer,
  place tid,
  sku text,
  pool text,
  quantity bigint
);

-- What a function on reservations answers: a row for each request.
CREATE TYPE reservation_answer AS (
  ix integer,
  -- Null: done. REPLAYED, RETRY and SWEEP are for the engine; anything else is an ErrorReason or the rule of a bad
  -- field.
  outcome text,
  -- LIMIT_EXCEEDED, HOLDER_REQUIRED: the detail of judge_limits. Else the lines that a refusal is about: an array of
  -- [sku, pool, requested, available], available null for a missing item.
  short jsonb,
  -- ORDER_ID_IN_USE: the order's reservation.
  other_id uuid,
  -- The reservation, where there is one to see. As text, which is what callers are told.
  reservation_id text,
  client text,
  holder text,
  reference text,
  state smallint,
  -- Two arrays of arrays: each costs the caller as much as ten plain columns. Of each line sku and pool; and its
  -- quantity, and the units confirmed, refunded, fulfilled and returned.
  line_key text[],
  line_units bigint[],
  order_id text,
  customer_name text,
  customer_email text,
  metadata jsonb,
  create_time timestamptz,
  expire_time timestamptz,
  confirm_time timestamptz,
  cancel_time timestamptz,
  refund_time timestamptz,
  fulfil_time timestamptz,
  reason text,
  revision bigint,
  -- What it was before Modify or a partial Cancel changed it (see reservation_snapshot); null: never changed so.
  original jsonb,
  entry_id uuid,
  -- Whether units of an item of this tenant are due to those who wait for them.
  due boolean
);

-- What a function on waitlist entries answers: a row for each request.
CREATE TYPE waitlist_answer AS (
  ix integer,
  -- Null: done. REPLAYED, RETRY and SERVE are for the engine; anything else is an ErrorReason or the rule of a bad
  -- field.
  outcome text,
  -- The item that a refusal is about; ALREADY_WAITING: the other entry.
  at_sku text,
  at_pool text,
  other_id uuid,
  -- Whether units of its items are due to those who wait for them.
  due boolean,
  -- The entry, where there is one to see.
  entry_id uuid,
  client text,
  holder text,
  reference text,
  state smallint,
  position bigint,
  reservation_id uuid,
  line_sku text[],
  line_pool text[],
  line_quantity bigint[],
  priority integer,
  sequence bigint,
  offer_ttl_us bigint,
  metadata jsonb,
  create_time timestamptz,
  expire_time timestamptz,
  offer_time timestamptz,
  end_time timestamptz,
  pass_reason smallint,
  reason text,
  revision bigint
);

-- An item while its waitlist is served.
CREATE TYPE served_item AS (
  sku text,
  pool text,
  -- What is free by now, and the most that can ever be.
  free bigint,
  most bigint,
  -- Whether its sale is open and it has a waitlist, and whether that is STRICT.
  open boolean,
  in_order boolean,
  due boolean,
  -- Whether the head of its queue is blocked.
  stuck boolean,
  -- Units that the offers take, and entries that wait for it no longer.
  taken bigint,
  gone bigint,
  -- Whether that unblocked a queue that is not due.
  again boolean
);

-- What lock_limits has found.
CREATE TYPE locked_limits AS (
  -- By need, sorted by request: the request, the limit_id, the slot (null: a limit of holders, and the request names
  -- none), and the units.
  need_request integer[],
  need_limit text[],
  need_slot integer[],
  need_units bigint[],
  -- By slot, one for each limit and its holder or client: which it is, the most units (null: the limit is BUILDING and
  -- refuses nothing), and the units used now.
  slot_limit bigint[],
  slot_client text[],
  slot_holder text[],
  slot_max bigint[],
  slot_used bigint[],
  -- The time of that, null: nothing was locked. The caller judges by it.
  lock_time timestamptz
);

-- What verify_items answers: a row for each item, with what is stored and what the reservations add up to.
CREATE TYPE recount_answer AS (
  sku text,
  pool text,
  capacity bigint,
  remaining bigint,
  held bigint,
  confirmed bigint,
  waiting bigint,
  offered bigint,
  true_held bigint,
  true_confirmed bigint,
  true_waiting bigint,
  true_offered bigint,
  reservation_count bigint,
  deleted boolean
);

-- What verify_limits and verify_limit_clients answer: a row for each counter of a limit that differs.
CREATE TYPE limit_recount_answer AS (
  limit_id text,
  sku text,
  pool text,
  counter text,
  stored bigint,
  recomputed bigint
);

-- An event as readers get it: the columns of its row that callers see, and for which of the reader's filters (from 0)
-- it was read; null where there are none.
CREATE TYPE event_answer AS (
  event_id bigint,
  occur_day date,
  tenant text,
  type smallint,
  client text,
  key_id text,
  request_id text,
  reason text,
  occur_time timestamptz,
  revision bigint,
  line_sku text[],
  line_pool text[],
  line_quantity bigint[],
  reservation_id uuid,
  state smallint,
  expire_time timestamptz,
  refunded_quantity bigint[],
  fulfilled_quantity bigint[],
  returned_quantity bigint[],
  written_off_quantity bigint[],
  restored_quantity bigint[],
  snapshot jsonb,
  display_name text,
  capacity bigint,
  remaining bigint,
  held bigint,
  confirmed bigint,
  oversell_limit bigint,
  sale_state smallint,
  buffer bigint,
  count_time timestamptz,
  low_at bigint,
  return_pool text,
  return_time timestamptz,
  from_level smallint,
  to_level smallint,
  waitlist_policy smallint,
  waiting bigint,
  entry jsonb,
  hash bigint,
  filters integer[]
);

-- Events that changed the same items.
CREATE TYPE item_change_answer AS (
  event_ids bigint[],
  tenant text,
  line_sku text[],
  line_pool text[]
);

CREATE TYPE event_day_answer AS (
  day date,
  event_count bigint,
  size_bytes bigint
);

-- An API key. outcome is null, except where create_api_key refuses.
CREATE TYPE api_key_answer AS (
  outcome text,
  key_id text,
  tenant text,
  client text,
  secret_hash bytea,
  scopes text[],
  pools text[],
  create_time timestamptz,
  expire_time timestamptz,
  revoke_time timestamptz,
  creator_key_id text
);

-- Whether a tenant is here, see tenants.sql.
CREATE TYPE tenant_state_answer AS (
  tenant text,
  state text,
  other_cell text,
  version bigint,
  move_id uuid,
  change_time timestamptz
);

-- A limit. outcome is null, except where set_limit refuses.
CREATE TYPE limit_answer AS (
  outcome text,
  limit_id text,
  sku_prefix text,
  pool text,
  per smallint,
  counts smallint,
  max_quantity bigint,
  window_us bigint,
  state smallint,
  create_time timestamptz,
  update_time timestamptz
);

-- A webhook without its secret. outcome is null, except where create_webhook refuses.
CREATE TYPE webhook_answer AS (
  outcome text,
  webhook_id uuid,
  client text,
  url text,
  types smallint[],
  sku_prefix text,
  reads_all boolean,
  pools text[],
  create_time timestamptz,
  state smallint,
  disable_reason text,
  failure_count integer,
  fail_time timestamptz,
  last_error text,
  last_status integer,
  success_time timestamptz,
  due_time timestamptz
);

-- A webhook as its sender needs it.
CREATE TYPE webhook_lease_answer AS (
  tenant text,
  webhook_id uuid,
  client text,
  url text,
  types smallint[],
  sku_prefix text,
  reads_all boolean,
  pools text[],
  secret bytea,
  epoch text,
  event_id bigint,
  event_day date,
  event_time timestamptz,
  failure_count integer,
  lease_id uuid
);

-- Makes the answers of a call on items: one row for each element, with the item as it is now. Locks nothing.
CREATE FUNCTION answer_items(
  _tenant text, _outcome text[], _sku text[], _pool text[], _requested bigint[], _available bigint[]
) RETURNS SETOF item_answer
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RETURN QUERY
  SELECT x.ix::integer, x.outcome, x.requested, x.available, x.sku, x.pool,
         i.display_name, i.capacity, i.remaining, i.held, i.confirmed, i.oversell_limit, i.sale_state, i.buffer,
         i.low_at, i.return_pool::text, i.return_time, i.waitlist_policy, i.waiting, i.revision,
         i.create_time, i.update_time, i.count_time
  FROM unnest(_outcome, _sku, _pool, _requested, _available)
    WITH ORDINALITY x (outcome, sku, pool, requested, available, ix)
  LEFT JOIN LATERAL (
    SELECT * FROM item v
    WHERE v.sku = x.sku AND v.pool = x.pool AND v.tenant = _tenant AND v.delete_time IS NULL
    LIMIT 1
  ) i ON true
  ORDER BY x.ix;
END
$$;

-- Makes the answers of a call on reservations: one row for each element, with the reservation as it is now where
-- _reservation_id has one. A lapsed hold reads as EXPIRED. The caller has locked the row, or has made sure that no
-- transaction is confirming it. _customer_name and _customer_email: those of the orders that the requests whose outcome
-- is null have just written; null where orders are to be read. Locks nothing.
CREATE FUNCTION answer_reservations(
  _tenant text, _outcome text[], _reservation_id uuid[], _short jsonb[], _other_id uuid[], _now timestamptz,
  _customer_name text[] DEFAULT NULL, _customer_email text[] DEFAULT NULL
) RETURNS SETOF reservation_answer
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  RETURN QUERY
  SELECT x.ix::integer, x.outcome, x.short, x.other_id, r.reservation_id::text, r.client, r.holder, r.reference,
         CASE WHEN r.state = 1 AND r.expire_time <= _now THEN 4::smallint ELSE r.state END,
         l.item, l.units,
         r.order_id, CASE WHEN x.known THEN x.name ELSE o.customer_name END,
         CASE WHEN x.known THEN x.email ELSE o.customer_email END, r.metadata,
         r.create_time, r.expire_time, r.confirm_time, r.cancel_time, r.refund_time, r.fulfil_time, r.reason,
         r.revision, r.original, r.entry_id,
         (SELECT EXISTS (SELECT 1 FROM item d WHERE d.serve_time = '-infinity' AND d.tenant = _tenant))
  FROM (
    SELECT u.*, u.outcome IS NULL AND u.name IS NOT NULL AS known
    FROM unnest(_outcome, _reservation_id, _short, _other_id, _customer_name, _customer_email)
      WITH ORDINALITY u (outcome, id, short, other_id, name, email, ix)
  ) x
  LEFT JOIN LATERAL (
    SELECT * FROM reservation v WHERE v.reservation_id = x.id AND v.tenant = _tenant LIMIT 1
  ) r ON true
  LEFT JOIN LATERAL (
    SELECT array_agg(ARRAY[m.sku, m.pool]) AS item,
           array_agg(ARRAY[m.quantity, m.confirmed_quantity, m.refunded_quantity, m.fulfilled_quantity,
                           m.returned_quantity]) AS units
    FROM (
      SELECT * FROM reservation_line w WHERE w.reservation_id = x.id AND w.tenant = _tenant ORDER BY w.line_number
    ) m
  ) l ON r.reservation_id IS NOT NULL
  LEFT JOIN LATERAL (
    SELECT s.customer_name, s.customer_email FROM sales_order s
    WHERE s.order_id = r.order_id AND s.tenant = _tenant AND NOT x.known LIMIT 1
  ) o ON r.order_id IS NOT NULL
  ORDER BY x.ix;
END
$$;
