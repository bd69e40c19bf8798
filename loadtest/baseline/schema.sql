-- Hand-written tables for a hold, used by the rivals of the benchmark: the data that holdsvc stores for one, with the keys
-- and indexes for the same queries (replay by request id, list by client, expiry).
CREATE TABLE item (
  tenant text COLLATE "C" NOT NULL,
  sku text COLLATE "C" NOT NULL,
  pool text COLLATE "C" NOT NULL,
  capacity bigint NOT NULL,
  remaining bigint NOT NULL CHECK (remaining >= 0),
  held bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
  confirmed bigint NOT NULL DEFAULT 0,
  revision bigint NOT NULL DEFAULT 1,
  update_time timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (sku, pool, tenant),
  CHECK (capacity = remaining + held + confirmed)
) WITH (fillfactor = 50);

CREATE TABLE reservation (
  tenant text COLLATE "C" NOT NULL,
  reservation_id uuid NOT NULL,
  client text COLLATE "C" NOT NULL,
  holder text NOT NULL,
  reference text NOT NULL,
  state smallint NOT NULL DEFAULT 1,
  create_time timestamptz NOT NULL,
  expire_time timestamptz NOT NULL,
  PRIMARY KEY (reservation_id, tenant)
) WITH (fillfactor = 80);
CREATE INDEX reservation_by_client ON reservation (tenant, client, reservation_id);
CREATE INDEX reservation_by_expiry ON reservation (expire_time) WHERE state = 1;

CREATE TABLE reservation_line (
  tenant text COLLATE "C" NOT NULL,
  reservation_id uuid NOT NULL,
  sku text COLLATE "C" NOT NULL,
  pool text COLLATE "C" NOT NULL,
  quantity bigint NOT NULL CHECK (quantity > 0),
  expire_time timestamptz NOT NULL,
  PRIMARY KEY (reservation_id, sku, pool, tenant)
) WITH (fillfactor = 80);
CREATE INDEX reservation_line_by_expiry ON reservation_line (sku, pool, expire_time, tenant);

CREATE TABLE request (
  tenant text COLLATE "C" NOT NULL,
  client text COLLATE "C" NOT NULL,
  request_id text COLLATE "C" NOT NULL,
  fingerprint bytea NOT NULL,
  reservation_id uuid NOT NULL,
  create_time timestamptz NOT NULL,
  PRIMARY KEY (request_id, client, tenant)
);

CREATE TABLE event (
  event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant text COLLATE "C" NOT NULL,
  type smallint NOT NULL,
  client text COLLATE "C" NOT NULL,
  reservation_id uuid NOT NULL,
  sku text COLLATE "C" NOT NULL,
  pool text COLLATE "C" NOT NULL,
  quantity bigint NOT NULL,
  occur_time timestamptz NOT NULL
);

INSERT INTO item (tenant, sku, pool, capacity, remaining) VALUES ('bench', 'hot', '', 1000000000, 1000000000);
INSERT INTO item (tenant, sku, pool, capacity, remaining)
SELECT 'bench', 'item-' || lpad(n::text, 5, '0'), '', 1000000000, 1000000000 FROM generate_series(0, 9999) n;
