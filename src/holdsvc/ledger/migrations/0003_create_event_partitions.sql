-- Makes the event table's daily partitions (UTC) from yesterday to _days_ahead days from today, where they are missing.
-- A missing partition would fail every write, so the service calls this at start and then every hour, a week ahead.
-- Locks: SHARE UPDATE EXCLUSIVE on event for an instant, only when a partition is missing.

-- migrate:up
CREATE FUNCTION holdsvc.create_event_partitions(_days_ahead integer DEFAULT 7) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdsvc, pg_temp AS $$
DECLARE
  _today date := (wall_clock() AT TIME ZONE 'UTC')::date;
  _day date;
  _name text;
  _made integer := 0;
BEGIN
  FOR _day IN SELECT d::date FROM generate_series(_today - 1, _today + _days_ahead, interval '1 day') d LOOP
    _name := 'event_' || to_char(_day, 'YYYYMMDD');
    CONTINUE WHEN to_regclass('holdsvc.' || _name) IS NOT NULL;
    BEGIN
      -- A table of its own first, then attached: CREATE … PARTITION OF would lock out every writer.
      EXECUTE format('CREATE TABLE holdsvc.%I (LIKE holdsvc.event INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', _name);
      EXECUTE format('ALTER TABLE holdsvc.event ATTACH PARTITION holdsvc.%I FOR VALUES FROM (%L) TO (%L)',
                     _name, _day, _day + 1);
      _made := _made + 1;
    EXCEPTION
      -- Another replica makes it at this very moment.
      WHEN duplicate_table OR unique_violation THEN NULL;
    END;
  END LOOP;
  RETURN _made;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.create_event_partitions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.create_event_partitions TO holdsvc_service;
SELECT holdsvc.create_event_partitions();

-- migrate:down
DROP FUNCTION holdsvc.create_event_partitions;
