-- Says that a process uses this set, or (_ended) that it has ended. Returns the oldest schema version whose code may
-- serve this database: a process of an older one must not start.
-- Locks: the process's row, then the set's row. Waits while a migration or an activation asks which sets are in use.
CREATE FUNCTION use_function_set(_process_id uuid, _ended boolean, OUT _compatible_since text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  _name text := current_schema();
  _now timestamptz := clock_timestamp();
BEGIN
  IF _ended THEN
    DELETE FROM holdsvc_migrations.function_set_use u WHERE u.process_id = _process_id;
  ELSE
    INSERT INTO holdsvc_migrations.function_set_use AS u (process_id, name, last_use_time)
    VALUES (_process_id, _name, _now)
    ON CONFLICT (process_id) DO UPDATE SET last_use_time = excluded.last_use_time;
    -- Rows of processes that were killed.
    DELETE FROM holdsvc_migrations.function_set_use u WHERE u.last_use_time < _now - interval '1 day';
  END IF;
  UPDATE holdsvc_migrations.function_set s SET last_use_time = _now WHERE s.name = _name;
  SELECT greatest(
    (SELECT max(m.compatible_since) FROM holdsvc_migrations.schema_migrations m),
    (SELECT max(f.since) FROM holdsvc_migrations.feature f WHERE f.activate_time IS NOT NULL)
  ) INTO _compatible_since;
END
$$;

-- Null when a feature is active, else the outcome of a request that asks for it. Locks nothing.
CREATE FUNCTION feature_refusal(_name text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
  RETURN CASE WHEN NOT EXISTS (
    SELECT 1 FROM holdsvc_migrations.feature f WHERE f.name = _name AND f.activate_time IS NOT NULL
  ) THEN 'FEATURE_NOT_ACTIVE ' || _name END;
END
$$;
