-- The days of which there are events, oldest first, with how many: for `holdsvc events`. For all tenants, by the owner.
-- Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.event_days() RETURNS TABLE (day date, event_count bigint, size_bytes bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = holdsvc, pg_temp AS $$
DECLARE
  _r record;
BEGIN
  FOR _r IN
    SELECT c.oid, c.relname FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
    WHERE h.inhparent = 'holdsvc.event'::regclass AND c.relname ~ '^event_\d{8}$'
    ORDER BY c.relname
  LOOP
    day := to_date(substr(_r.relname, 7), 'YYYYMMDD');
    size_bytes := pg_total_relation_size(_r.oid);
    EXECUTE format('SELECT count(*) FROM holdsvc.%I', _r.relname) INTO event_count;
    IF event_count > 0 THEN
      RETURN NEXT;
    END IF;
  END LOOP;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.event_days FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.event_days;
