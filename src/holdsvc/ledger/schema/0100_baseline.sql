-- The tables of the ledger. Only the functions of a set (see ../functions/) read and write them: the service's role has
-- no right on any table. Key columns are COLLATE "C", so that rows are locked in the same order everywhere. Keys lead
-- with the selective column, so that every look-up has one sane plan, also on tables that were never analysed.
-- No default, CHECK or index uses a function of a set.
-- compatible since: 0100

-- migrate:up
-- Where an administrator has made the role, the role that migrates needs no right to make roles.
DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdsvc_service') THEN
    RETURN;
  END IF;
  CREATE ROLE holdsvc_service NOLOGIN;
  -- So that a service may run with the role that migrates: from PostgreSQL 16 on its maker may not become it by itself.
  IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    EXECUTE format('GRANT holdsvc_service TO %I', current_user);
  END IF;
EXCEPTION
  -- Another database of this cluster has made it at this very moment.
  WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

CREATE SCHEMA holdsvc;
GRANT USAGE ON SCHEMA holdsvc TO holdsvc_service;

-- Which of several cells this database is; null: the only one, which has no name.
CREATE TABLE holdsvc.cell (
  one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
  name text COLLATE "C" CHECK (name <> '')
);
INSERT INTO holdsvc.cell DEFAULT VALUES;

-- Which tenants are in this cell (see functions/tenants.sql). HERE: its changes are made here. COPYING: it is on its
-- way from other_cell to here. FROZEN: it is on its way to other_cell, and nothing of it changes. MOVED: it has gone to
-- other_cell, or lives there as a process has heard; such a row stays without end. No row: it is in another cell, but
-- in a cell without a name it is here. The highest version among all cells is right.
CREATE TABLE holdsvc.tenant_state (
  tenant text COLLATE "C" PRIMARY KEY,
  state text COLLATE "C" NOT NULL CHECK (state IN ('HERE', 'COPYING', 'FROZEN', 'MOVED')),
  other_cell text COLLATE "C",
  version bigint NOT NULL CHECK (version > 0),
  -- The move that is under way, or the last one.
  move_id uuid,
  change_time timestamptz NOT NULL,
  -- The transaction that wrote state, other_cell or version last: processes read what has changed since they looked.
  change_xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  -- MOVED: whether its rows are removed.
  cleaned boolean NOT NULL DEFAULT false,
  -- Of a tenant that came from another cell: that cell's history of events and the last one of the tenant there, and a
  -- place of this cell's feed after which its events here come.
  from_history text,
  from_event_id bigint,
  begin_event_id bigint,
  begin_day date,
  CONSTRAINT tenant_state_has_its_other_cell CHECK ((state = 'HERE') = (other_cell IS NULL)),
  CONSTRAINT tenant_state_cleaned_has_left CHECK (state = 'MOVED' OR NOT cleaned)
);
CREATE INDEX tenant_state_changes ON holdsvc.tenant_state (change_xid);
-- Whose rows background work leaves alone.
CREATE INDEX tenant_state_away ON holdsvc.tenant_state (tenant) WHERE state <> 'HERE' AND NOT cleaned;

-- Stock of one sku in one pool. A deleted item stays as a row with delete_time, so that its revision never restarts.
-- fillfactor 50 and no index on a counter or the revision: every counter change stays a HOT update.
CREATE TABLE holdsvc.item (
  tenant text COLLATE "C" NOT NULL,
  sku text COLLATE "C" NOT NULL,
  pool text COLLATE "C" NOT NULL,
  display_name text NOT NULL,
  capacity bigint NOT NULL CHECK (capacity >= 0),
  remaining bigint NOT NULL,
  held bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
  confirmed bigint NOT NULL DEFAULT 0 CHECK (confirmed >= 0),
  oversell_limit bigint NOT NULL,
  -- 1 OPEN, 2 CLOSED: no new holds.
  sale_state smallint NOT NULL DEFAULT 1,
  -- Units that new holds never take; it may exceed what there is.
  buffer bigint NOT NULL DEFAULT 0,
  -- From so few units on the item is LOW; null: its level is not followed.
  low_at bigint,
  -- An allotment: at return_time what remains goes to return_pool of the sku, null: the default pool, and the sale is
  -- closed.
  return_pool text COLLATE "C",
  return_time timestamptz,
  -- When the sweep returns it next: at return_time, and whenever units come free later while it is closed; else null.
  return_due timestamptz,
  -- What a new hold may take, lapsed holds left out: every judgement of a new hold, and of the growth of one, is by it.
  free bigint NOT NULL GENERATED ALWAYS AS (remaining + oversell_limit - buffer) STORED,
  -- Who may have what becomes free: 1 OFF, no waitlist; 2 FIRST_FITTING; 3 STRICT.
  waitlist_policy smallint NOT NULL DEFAULT 1,
  -- Entries that wait for it, and from when on its waitlist is due to be served: -infinity is at once. Due units are
  -- no other caller's. Null: not before something frees units.
  waiting bigint NOT NULL DEFAULT 0,
  serve_time timestamptz,
  -- Why a new hold must be looked at more closely than by `free`, a sum; 0: nothing special, the fast way of reserve.
  -- 1: the sale is closed; 2: entries wait.
  gate smallint NOT NULL GENERATED ALWAYS AS ((
    CASE WHEN sale_state = 1 THEN 0 ELSE 1 END + CASE WHEN waiting > 0 AND waitlist_policy > 1 THEN 2 ELSE 0 END
  )::smallint) STORED,
  revision bigint NOT NULL DEFAULT 1,
  create_time timestamptz NOT NULL,
  update_time timestamptz NOT NULL,
  -- When the latest count that is in capacity was made: an older one changes nothing. Null: none was.
  count_time timestamptz,
  delete_time timestamptz,
  PRIMARY KEY (sku, pool, tenant),
  CONSTRAINT item_counters_add_up CHECK (capacity = remaining + held + confirmed),
  CONSTRAINT item_is_not_oversold CHECK (remaining >= -oversell_limit),
  -- One CHECK for all of them: each is parsed anew by every statement that changes an item.
  CONSTRAINT item_settings_are_sound CHECK (
    oversell_limit >= 0 AND buffer >= 0 AND sale_state IN (1, 2) AND coalesce(low_at, 0) >= 0
    AND (return_time IS NULL OR coalesce(return_pool, '') <> pool)
    AND waitlist_policy BETWEEN 1 AND 3 AND waiting >= 0
  ),
  CONSTRAINT item_deleted_is_empty CHECK (delete_time IS NULL OR capacity = 0)
) WITH (fillfactor = 50);
CREATE INDEX item_by_tenant ON holdsvc.item (tenant, sku, pool);
CREATE INDEX item_by_return ON holdsvc.item (return_due) WHERE return_due IS NOT NULL;
-- What is due to be served. Items without waiters are not in it: their updates stay HOT.
CREATE INDEX item_by_serve_time ON holdsvc.item (serve_time, tenant) WHERE serve_time IS NOT NULL;

-- States, as in the contract: 1 HELD, 2 CONFIRMED, 3 CANCELLED, 4 EXPIRED, 5 REFUNDED, 6 FULFILLED. A HELD row whose
-- expire_time has passed is EXPIRED to every caller; the sweep makes it so in the table.
CREATE TABLE holdsvc.reservation (
  tenant text COLLATE "C" NOT NULL,
  reservation_id uuid NOT NULL,
  client text COLLATE "C" NOT NULL,
  holder text COLLATE "C" NOT NULL,
  reference text COLLATE "C" NOT NULL,
  state smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 6),
  order_id text COLLATE "C",
  metadata jsonb,
  create_time timestamptz NOT NULL,
  expire_time timestamptz NOT NULL,
  confirm_time timestamptz,
  cancel_time timestamptz,
  refund_time timestamptz,
  fulfil_time timestamptz,
  reason text,
  revision bigint NOT NULL DEFAULT 1,
  -- What Modify and a partial Cancel have changed, as it was before the first of them (see reservation_snapshot):
  -- events written before that are rebuilt from it. Null: never modified.
  original jsonb,
  -- Whether it has rows in limit_use, or had some.
  limited boolean NOT NULL DEFAULT false,
  -- The waitlist entry whose offer it is; null for all others.
  entry_id uuid,
  -- Every row is written once more when the hold ends: half full, its pages take those entries without being split.
  PRIMARY KEY (reservation_id, tenant) WITH (fillfactor = 50),
  CONSTRAINT reservation_confirmed_has_its_order
    CHECK ((state IN (2, 5, 6)) = (confirm_time IS NOT NULL) AND (confirm_time IS NULL) = (order_id IS NULL)),
  CONSTRAINT reservation_cancelled_has_its_time CHECK ((state = 3) = (cancel_time IS NOT NULL)),
  CONSTRAINT reservation_refunded_has_its_time CHECK (state <> 5 OR refund_time IS NOT NULL),
  CONSTRAINT reservation_fulfilled_has_its_time CHECK (state <> 6 OR fulfil_time IS NOT NULL)
) WITH (fillfactor = 80);
-- Lists, newest first: ids are UUIDv7, so their order is that of creation. Of hashes, here and for the lines: keys of
-- fixed width cost a hold a tenth less than the texts; who reads by them compares the texts too.
CREATE INDEX reservation_by_client ON holdsvc.reservation (hashtext(tenant), hashtext(client), reservation_id)
  WITH (fillfactor = 50);
-- With the state, so that the few reservations that a call can act on are found among many that have ended.
CREATE INDEX reservation_by_reference ON holdsvc.reservation (reference, client, tenant, state, reservation_id)
  WHERE reference <> '';
CREATE INDEX reservation_by_holder ON holdsvc.reservation (holder, client, tenant, state, reservation_id)
  WHERE holder <> '';
-- What the sweep reads.
CREATE INDEX reservation_by_expiry ON holdsvc.reservation (expire_time) WHERE state = 1;

-- No foreign key to item: its KEY SHARE lock would fight the hot row; the functions check existence under their lock.
CREATE TABLE holdsvc.reservation_line (
  tenant text COLLATE "C" NOT NULL,
  reservation_id uuid NOT NULL,
  line_number integer NOT NULL,
  sku text COLLATE "C" NOT NULL,
  pool text COLLATE "C" NOT NULL,
  quantity bigint NOT NULL CHECK (quantity > 0),
  confirmed_quantity bigint NOT NULL DEFAULT 0,
  refunded_quantity bigint NOT NULL DEFAULT 0,
  -- Units that have left the building, and those of them that came back by a refund.
  fulfilled_quantity bigint NOT NULL DEFAULT 0,
  returned_quantity bigint NOT NULL DEFAULT 0,
  -- That of the reservation while it is HELD, else null.
  expire_time timestamptz,
  PRIMARY KEY (reservation_id, sku, pool, tenant) WITH (fillfactor = 50),
  CONSTRAINT line_gives_back_no_more_than_it_took
    CHECK (0 <= refunded_quantity AND refunded_quantity <= confirmed_quantity AND confirmed_quantity <= quantity),
  CONSTRAINT line_fulfils_no_more_than_is_sold
    CHECK (0 <= returned_quantity AND returned_quantity <= fulfilled_quantity AND returned_quantity <= refunded_quantity
           AND fulfilled_quantity + refunded_quantity - returned_quantity <= confirmed_quantity)
) WITH (fillfactor = 80);
-- An item's lapsed holds: without it finding them took 9 to 37 ms at 500,000 lines instead of 0.6.
CREATE INDEX reservation_line_by_expiry
  ON holdsvc.reservation_line (hashtextextended(sku, hashtext(tenant)), expire_time)
  WHERE expire_time IS NOT NULL;
-- An item's reservations: lists by sku, newest first, and the recount of VerifyLedger.
CREATE INDEX reservation_line_by_item
  ON holdsvc.reservation_line (hashtextextended(sku, hashtext(tenant)), reservation_id);

-- Limits (see functions/limits.sql). States: 1 BUILDING, 2 ACTIVE, as in the contract; 3: deleted, what counted for it
-- goes in the background. The other tables name it by limit_number, so that a limit_id can be used again.
CREATE SEQUENCE holdsvc.limit_number AS bigint;
CREATE TABLE holdsvc.hold_limit (
  limit_number bigint NOT NULL DEFAULT nextval('holdsvc.limit_number') PRIMARY KEY,
  tenant text COLLATE "C" NOT NULL,
  limit_id text COLLATE "C" NOT NULL,
  sku_prefix text COLLATE "C" NOT NULL,
  -- Null: all pools.
  pool text COLLATE "C",
  -- 1 HOLDER, 2 CLIENT.
  per smallint NOT NULL CHECK (per IN (1, 2)),
  -- 1 HELD, 2 HELD_AND_CONFIRMED.
  counts smallint NOT NULL CHECK (counts IN (1, 2)),
  max_quantity bigint NOT NULL CHECK (max_quantity >= 0),
  -- Null: confirmed units count without end.
  window_us bigint CHECK (window_us > 0),
  state smallint NOT NULL DEFAULT 1 CHECK (state IN (1, 2, 3)),
  -- While it is not ACTIVE: transactions older than this one may not know what it is, and how far the work on it has
  -- come.
  build_mark text,
  build_sku text COLLATE "C" NOT NULL DEFAULT '',
  build_reservation_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
  create_time timestamptz NOT NULL,
  update_time timestamptz NOT NULL,
  CONSTRAINT limit_of_a_client_counts_what_is_held CHECK (per = 1 OR counts = 1),
  CONSTRAINT limit_window_is_about_confirmed_units CHECK (window_us IS NULL OR counts = 2)
);
CREATE UNIQUE INDEX hold_limit_by_tenant ON holdsvc.hold_limit (tenant, limit_id) WHERE state < 3;
CREATE INDEX hold_limit_by_work ON holdsvc.hold_limit (limit_number) WHERE state <> 2;

-- Who has a limit: what is locked before units are counted. Of a client (holder '') also what its reservations count
-- together, without the rows of limit_change.
CREATE TABLE holdsvc.limit_subject (
  tenant text COLLATE "C" NOT NULL,
  limit_number bigint NOT NULL,
  client text COLLATE "C" NOT NULL,
  holder text COLLATE "C" NOT NULL,
  used bigint NOT NULL DEFAULT 0,
  update_time timestamptz NOT NULL,
  PRIMARY KEY (limit_number, holder, client, tenant)
) WITH (fillfactor = 50);

-- What a reservation counts for a limit: held units until expire_time, or confirmed ones from confirm_time on.
CREATE TABLE holdsvc.limit_use (
  tenant text COLLATE "C" NOT NULL,
  limit_number bigint NOT NULL,
  client text COLLATE "C" NOT NULL,
  -- Empty: a client's limit.
  holder text COLLATE "C" NOT NULL,
  reservation_id uuid NOT NULL,
  units bigint NOT NULL CHECK (units > 0),
  expire_time timestamptz,
  confirm_time timestamptz,
  PRIMARY KEY (reservation_id, limit_number, tenant),
  CONSTRAINT limit_use_is_held_or_confirmed CHECK ((expire_time IS NULL) = (confirm_time IS NOT NULL))
) WITH (fillfactor = 80);
CREATE INDEX limit_use_by_holder ON holdsvc.limit_use (limit_number, holder, client, tenant, confirm_time)
  WHERE holder <> '';
CREATE INDEX limit_use_by_client ON holdsvc.limit_use (limit_number, client, tenant, expire_time) WHERE holder = '';

-- Differences of what clients use: the next change that takes units adds them to limit_subject, so that giving units
-- back locks nothing that taking waits for.
CREATE TABLE holdsvc.limit_change (
  tenant text COLLATE "C" NOT NULL,
  limit_number bigint NOT NULL,
  client text COLLATE "C" NOT NULL,
  units bigint NOT NULL
);
CREATE INDEX limit_change_by_client ON holdsvc.limit_change (limit_number, client, tenant);
-- Entries of waitlists. States, as in the contract: 1 WAITING, 2 OFFERED, 3 TAKEN, 4 LAPSED, 5 LEFT. They are served in
-- the order of (rank, sequence): the priority, negated, and a number drawn under the locks of the items.
CREATE SEQUENCE holdsvc.waitlist_sequence AS bigint CACHE 1;
CREATE TABLE holdsvc.waitlist_entry (
  tenant text COLLATE "C" NOT NULL,
  entry_id uuid NOT NULL,
  client text COLLATE "C" NOT NULL,
  holder text COLLATE "C" NOT NULL CHECK (holder <> ''),
  reference text COLLATE "C" NOT NULL,
  state smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 5),
  rank integer NOT NULL,
  sequence bigint NOT NULL,
  offer_ttl_us bigint NOT NULL CHECK (offer_ttl_us > 0),
  metadata jsonb,
  create_time timestamptz NOT NULL,
  -- When it lapses if it still waits; null: never.
  expire_time timestamptz,
  offer_time timestamptz,
  end_time timestamptz,
  reservation_id uuid,
  -- Why it was passed at the last serve: 1 LIMIT, 2 UNSERVABLE; 0: it was not.
  pass_reason smallint NOT NULL DEFAULT 0,
  reason text,
  revision bigint NOT NULL DEFAULT 1,
  PRIMARY KEY (entry_id, tenant),
  CONSTRAINT waitlist_entry_offered_has_its_reservation
    CHECK ((reservation_id IS NULL) = (offer_time IS NULL) AND (state NOT IN (2, 3) OR reservation_id IS NOT NULL)),
  CONSTRAINT waitlist_entry_ended_has_its_time CHECK ((state IN (1, 2)) = (end_time IS NULL))
) WITH (fillfactor = 80);
-- Of a hash: with the tenant itself it looked as good as the primary key to the planner, where nothing was analysed.
CREATE INDEX waitlist_entry_by_order ON holdsvc.waitlist_entry (hashtext(tenant), state, rank, sequence);
CREATE INDEX waitlist_entry_by_holder ON holdsvc.waitlist_entry (holder, tenant, state, rank, sequence);
CREATE INDEX waitlist_entry_by_expiry ON holdsvc.waitlist_entry (expire_time) WHERE state = 1;
CREATE INDEX waitlist_entry_by_end ON holdsvc.waitlist_entry (end_time) WHERE state > 2;

CREATE TABLE holdsvc.waitlist_line (
  tenant text COLLATE "C" NOT NULL,
  entry_id uuid NOT NULL,
  line_number integer NOT NULL,
  sku text COLLATE "C" NOT NULL,
  pool text COLLATE "C" NOT NULL,
  quantity bigint NOT NULL CHECK (quantity > 0),
  -- Those of the entry, for the indexes.
  client text COLLATE "C" NOT NULL,
  holder text COLLATE "C" NOT NULL,
  state smallint NOT NULL DEFAULT 1,
  rank integer NOT NULL,
  sequence bigint NOT NULL,
  -- Of the lines of an entry the one at which it waits: at an item that blocks it, or that is due.
  parked boolean NOT NULL,
  PRIMARY KEY (entry_id, sku, pool, tenant)
) WITH (fillfactor = 80);
-- One live entry of a holder for an item.
CREATE UNIQUE INDEX waitlist_line_by_holder ON holdsvc.waitlist_line (holder, sku, pool, client, tenant)
  WHERE state <= 2;
CREATE INDEX waitlist_line_queue ON holdsvc.waitlist_line (sku, pool, tenant, state, rank, sequence);
-- Whom free units may suit, without those who want more.
CREATE INDEX waitlist_line_fitting ON holdsvc.waitlist_line (sku, pool, tenant, parked, quantity, rank, sequence)
  WHERE state = 1;

-- Units that came into or left the building other than by a count: a count made earlier is corrected by them.
CREATE TABLE holdsvc.stock_move (
  tenant text COLLATE "C" NOT NULL,
  sku text COLLATE "C" NOT NULL,
  pool text COLLATE "C" NOT NULL,
  effective_time timestamptz NOT NULL,
  delta bigint NOT NULL
);
CREATE INDEX stock_move_by_item ON holdsvc.stock_move (sku, pool, tenant, effective_time);
CREATE INDEX stock_move_by_time ON holdsvc.stock_move USING brin (effective_time) WITH (pages_per_range = 32);

-- Reservations that the sweep cannot end, because their lines and their items contradict each other: it leaves them
-- alone until an operator has looked (see the runbook).
CREATE TABLE holdsvc.quarantine (
  tenant text COLLATE "C" NOT NULL,
  reservation_id uuid NOT NULL,
  error text NOT NULL,
  create_time timestamptz NOT NULL,
  PRIMARY KEY (reservation_id, tenant)
);

-- How far retention's walk over the reservations has come, for all processes together. after_id null: no walk is under
-- way. begin_time: when the latest one began.
CREATE TABLE holdsvc.retention_walk (
  one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
  after_id uuid,
  begin_time timestamptz
);
INSERT INTO holdsvc.retention_walk DEFAULT VALUES;

-- The record that Confirm writes. It outlives its reservation: retention leaves it, so that no order_id is given twice.
CREATE TABLE holdsvc.sales_order (
  tenant text COLLATE "C" NOT NULL,
  order_id text COLLATE "C" NOT NULL,
  reservation_id uuid NOT NULL,
  customer_name text NOT NULL,
  customer_email text NOT NULL,
  create_time timestamptz NOT NULL,
  PRIMARY KEY (order_id, tenant)
);

-- Request ids that took effect. Business refusals are not remembered. Purged after request_id_retention.
-- The key is a 128-bit hash of tenant, client and request_id: half the index of the texts themselves.
CREATE TABLE holdsvc.request (
  tenant text COLLATE "C" NOT NULL,
  request_key uuid NOT NULL,
  rpc text NOT NULL,
  fingerprint bytea NOT NULL,
  -- What a replay answers with; null for a capacity change, whose request names its items.
  reservation_id uuid,
  create_time timestamptz NOT NULL,
  PRIMARY KEY (request_key, tenant)
);
-- Rows lie in order of time, so a BRIN does; a b-tree cost 10 % of a hold.
CREATE INDEX request_by_time ON holdsvc.request USING brin (create_time) WITH (pages_per_range = 32);

-- Audit trail, outbox and feed at once: one row for each reservation transition and each capacity change of an item.
-- The id is drawn after the row locks, so it orders the events of an item and of a reservation. With the reservation's
-- immutable columns a row rebuilds the reservation as it then was. Types: see EventType in the contract.
CREATE SEQUENCE holdsvc.event_id AS bigint CACHE 1;
CREATE TABLE holdsvc.event (
  event_id bigint NOT NULL DEFAULT nextval('holdsvc.event_id'),
  -- The feed's day, which the clock cannot put back: not always the day of occur_time.
  occur_day date NOT NULL,
  tenant text COLLATE "C" NOT NULL,
  type smallint NOT NULL,
  client text COLLATE "C" NOT NULL,
  key_id text NOT NULL,
  request_id text,
  reason text,
  occur_time timestamptz NOT NULL,
  -- The subject's revision after the change.
  revision bigint NOT NULL,
  -- The lines that moved; of an item's event its one item and the difference of its capacity.
  line_sku text[] NOT NULL,
  line_pool text[] NOT NULL,
  line_quantity bigint[] NOT NULL,
  -- A reservation's event: who, from which state, to which, until when.
  reservation_id uuid,
  from_state smallint,
  state smallint,
  expire_time timestamptz,
  -- REFUNDED and FULFILLED: units refunded, fulfilled and returned so far of every line of the reservation, in line
  -- order.
  refunded_quantity bigint[],
  fulfilled_quantity bigint[],
  returned_quantity bigint[],
  -- REFUNDED: of the units of the lines above those by which capacity was lowered, and those that had been fulfilled.
  written_off_quantity bigint[],
  restored_quantity bigint[],
  -- The reservation's lines, holder, reference and metadata after the change, where it was ever modified, and of a
  -- reservation that retention has removed, with what else its events tell of it in the key "removed" (see
  -- remove_ended).
  snapshot jsonb,
  -- An item's event: the item after the change.
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
  -- LEVEL_CHANGED: the item's level before and after, see stock_level.
  from_level smallint,
  to_level smallint,
  waitlist_policy smallint,
  waiting bigint,
  -- A waitlist entry's event: the entry after the change, and the reservation of its offer, where it has one.
  entry jsonb,
  PRIMARY KEY (event_id, occur_day),
  CONSTRAINT event_has_one_subject
    CHECK (CASE WHEN entry IS NULL THEN (reservation_id IS NULL) = (capacity IS NOT NULL) ELSE capacity IS NULL END)
) PARTITION BY RANGE (occur_day);
CREATE INDEX event_by_reservation ON holdsvc.event (reservation_id, event_id) WHERE reservation_id IS NOT NULL;

-- Events that tenants have brought from other cells, which have told them: for trails and exports, not for the feed.
-- Their ids are those of the cells' own feeds; of one tenant they are smaller than those of its events in event.
CREATE TABLE holdsvc.event_history (
  LIKE holdsvc.event INCLUDING CONSTRAINTS,
  PRIMARY KEY (occur_day, tenant, event_id)
);
CREATE INDEX event_history_by_reservation ON holdsvc.event_history (reservation_id, event_id)
  WHERE reservation_id IS NOT NULL;

-- Only a hash of the secret is stored.
CREATE TABLE holdsvc.api_key (
  key_id text COLLATE "C" PRIMARY KEY,
  tenant text COLLATE "C" NOT NULL,
  client text COLLATE "C" NOT NULL,
  secret_hash bytea NOT NULL,
  scopes text[] NOT NULL,
  pools text[] NOT NULL,
  create_time timestamptz NOT NULL,
  expire_time timestamptz,
  revoke_time timestamptz,
  -- The key that asked for it; null where an operator made it.
  creator_key_id text COLLATE "C"
);
CREATE INDEX api_key_by_tenant ON holdsvc.api_key (tenant, create_time, key_id);
CREATE INDEX api_key_by_creator ON holdsvc.api_key (creator_key_id) WHERE creator_key_id IS NOT NULL;

-- One row: what the feed of events knows of itself. restore_mark tells a restored copy of the database from its
-- original: it grows with each begin_epoch. floor_event_id is the highest event id that retention has dropped: a reader
-- who has not come so far is refused. token_key signs the resume tokens.
CREATE TABLE holdsvc.feed_state (
  one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
  restore_mark bigint NOT NULL DEFAULT 0,
  floor_event_id bigint NOT NULL DEFAULT 0,
  token_key text NOT NULL DEFAULT gen_random_uuid()::text || gen_random_uuid()::text
);
INSERT INTO holdsvc.feed_state DEFAULT VALUES;

-- The feed's days, one row for each that the feed has had: the latest is the day of the partition which new events go
-- to. It follows the clock forward and never goes back. mark: see create_event_partitions.
CREATE TABLE holdsvc.feed_day (
  day date PRIMARY KEY,
  mark text
);
INSERT INTO holdsvc.feed_day (day) VALUES ((clock_timestamp() AT TIME ZONE 'UTC')::date);

-- How far each relay has come.
CREATE TABLE holdsvc.relay (
  name text COLLATE "C" PRIMARY KEY,
  epoch text NOT NULL,
  event_id bigint NOT NULL,
  event_day date NOT NULL,
  update_time timestamptz NOT NULL
);

-- Where events are sent by HTTP, and how far each has come: after (event_id, event_day) of the history `epoch`, with
-- events until event_time. The sender that has the lease alone sends. The secret signs, so it is stored as it is.
-- States: 1 ACTIVE, 2 DISABLED.
CREATE TABLE holdsvc.webhook (
  tenant text COLLATE "C" NOT NULL,
  webhook_id uuid NOT NULL,
  client text COLLATE "C" NOT NULL,
  -- The key whose rights it has; empty without keys.
  key_id text COLLATE "C" NOT NULL,
  url text NOT NULL,
  types smallint[] NOT NULL,
  sku_prefix text COLLATE "C" NOT NULL,
  -- What the creating key may see: reservations of every client, and these pools (none: all).
  reads_all boolean NOT NULL,
  pools text[] NOT NULL,
  secret bytea NOT NULL,
  create_time timestamptz NOT NULL,
  state smallint NOT NULL DEFAULT 1 CHECK (state BETWEEN 1 AND 2),
  disable_reason text,
  epoch text NOT NULL,
  event_id bigint NOT NULL,
  event_day date NOT NULL,
  event_time timestamptz NOT NULL,
  -- Attempts that failed since the last success; null and 0: the last one succeeded.
  failure_count integer NOT NULL DEFAULT 0,
  fail_time timestamptz,
  last_error text,
  last_status integer,
  success_time timestamptz,
  -- Whose it is until due_time; null: anyone's from then on.
  lease_id uuid,
  due_time timestamptz NOT NULL,
  PRIMARY KEY (webhook_id, tenant),
  CONSTRAINT webhook_failing_has_its_time CHECK ((failure_count = 0) = (fail_time IS NULL)),
  CONSTRAINT webhook_disabled_has_its_reason CHECK ((state = 2) = (disable_reason IS NOT NULL))
) WITH (fillfactor = 50);
CREATE INDEX webhook_by_tenant ON holdsvc.webhook (tenant, create_time, webhook_id);
CREATE INDEX webhook_by_due_time ON holdsvc.webhook (due_time) WHERE state = 1;

-- PostgreSQL 18 may use an index by skipping its leading column. With statistics gathered while the tables held one
-- item it preferred that to the primary key, and each look-up read the whole index. Without statistics of the leading
-- hashes it does not.
ALTER INDEX holdsvc.reservation_by_client ALTER COLUMN 1 SET STATISTICS 0;
ALTER INDEX holdsvc.reservation_by_client ALTER COLUMN 2 SET STATISTICS 0;
ALTER INDEX holdsvc.reservation_line_by_item ALTER COLUMN 1 SET STATISTICS 0;
ALTER INDEX holdsvc.reservation_line_by_expiry ALTER COLUMN 1 SET STATISTICS 0;

-- The clock by which the ledger judges: real time, not the start of the transaction. Every function of every set calls
-- it; tests replace it to travel in time.
CREATE FUNCTION holdsvc.wall_clock() RETURNS timestamptz
LANGUAGE sql VOLATILE AS $$ SELECT clock_timestamp() $$;
REVOKE EXECUTE ON FUNCTION holdsvc.wall_clock() FROM PUBLIC;

-- migrate:down
DROP SCHEMA holdsvc CASCADE;
-- The role stays: other databases of the cluster may use it.
