-- Sweeps read lapsed holds through their index, oldest first, and stop when they have enough. On tables never analysed a
-- bitmap was chosen: every sweep read and sorted all that had lapsed, at 300,000 of them 10,000 holds a second and not
-- 27,000.

-- migrate:up
ALTER FUNCTION holdsvc.release_expired_reservations(text, integer, boolean) SET enable_bitmapscan = off;
ALTER FUNCTION holdsvc.sweep_items(text, text[], text[], integer) SET enable_bitmapscan = off;

-- migrate:down
ALTER FUNCTION holdsvc.release_expired_reservations(text, integer, boolean) RESET enable_bitmapscan;
ALTER FUNCTION holdsvc.sweep_items(text, text[], text[], integer) RESET enable_bitmapscan;
