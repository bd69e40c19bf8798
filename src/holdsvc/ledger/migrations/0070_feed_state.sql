-- What the feed of events knows of itself: one row. restore_count tells a restored copy of the database from the one
-- that it was copied from; floor_event_id is the highest event id that retention has dropped, so that a reader who has
-- not come so far is refused and never skips; token_key signs the resume tokens. And the relays: how far each has come.

-- migrate:up
CREATE TABLE holdsvc.feed_state (
  one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
  restore_count bigint NOT NULL DEFAULT 0,
  floor_event_id bigint NOT NULL DEFAULT 0,
  token_key text NOT NULL DEFAULT gen_random_uuid()::text || gen_random_uuid()::text
);
INSERT INTO holdsvc.feed_state DEFAULT VALUES;

CREATE TABLE holdsvc.relay (
  name text COLLATE "C" PRIMARY KEY,
  epoch text NOT NULL,
  event_id bigint NOT NULL,
  event_day date NOT NULL,
  update_time timestamptz NOT NULL
);

-- migrate:down
DROP TABLE holdsvc.relay;
DROP TABLE holdsvc.feed_state;
