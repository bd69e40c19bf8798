-- No statistics of the hashes that lead an index. PostgreSQL 18 may look a reservation up through an index that it does
-- not lead (a skip scan), and took that for as good as the primary key where the tables were analysed while they held one
-- item's reservations alone: once there were thousands of items each look-up read the whole index, a sweep ended in its
-- timeout, and Confirm and Cancel look lines up in the same way. Without statistics it does not count on skipping; the
-- hashes are compared with one value at a time anyway. Locks: SHARE UPDATE EXCLUSIVE, so nobody waits.

-- migrate:up
ALTER INDEX holdsvc.reservation_by_client ALTER COLUMN 1 SET STATISTICS 0;
ALTER INDEX holdsvc.reservation_by_client ALTER COLUMN 2 SET STATISTICS 0;
ALTER INDEX holdsvc.reservation_line_by_item ALTER COLUMN 1 SET STATISTICS 0;
ALTER INDEX holdsvc.reservation_line_by_expiry ALTER COLUMN 1 SET STATISTICS 0;
DO $$
DECLARE
  _column record;
BEGIN
  -- What was gathered stays where it is not cleared; before 18 there is neither a function for that nor a skip scan.
  IF current_setting('server_version_num')::integer >= 180000 THEN
    FOR _column IN
      SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
      WHERE c.relnamespace = 'holdsvc'::regnamespace AND a.attstattarget = 0
        AND c.relname IN ('reservation_by_client', 'reservation_line_by_item', 'reservation_line_by_expiry')
    LOOP
      EXECUTE format('SELECT pg_clear_attribute_stats(%L, %L, %L, false)', 'holdsvc', _column.relname, _column.attname);
    END LOOP;
  END IF;
END
$$;

-- migrate:down
ALTER INDEX holdsvc.reservation_by_client ALTER COLUMN 1 SET STATISTICS -1;
ALTER INDEX holdsvc.reservation_by_client ALTER COLUMN 2 SET STATISTICS -1;
ALTER INDEX holdsvc.reservation_line_by_item ALTER COLUMN 1 SET STATISTICS -1;
ALTER INDEX holdsvc.reservation_line_by_expiry ALTER COLUMN 1 SET STATISTICS -1;
