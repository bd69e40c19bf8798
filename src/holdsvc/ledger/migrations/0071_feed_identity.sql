-- Which history of the feed this is, the key that signs its resume tokens, and the highest event id that retention has
-- dropped. A copy, a failover to another timeline and a restore change the epoch: event ids of one epoch mean nothing in
-- another. The timeline is that of the WAL being written: the control file's is one checkpoint old after a promotion.
-- For all tenants: it reads none of their data. Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.feed_identity(OUT epoch text, OUT token_key text, OUT floor_event_id bigint)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = holdsvc, pg_temp AS $$
  SELECT (SELECT c.system_identifier FROM pg_control_system() c) || '-'
         || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '-'
         || (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) || '-' || s.restore_count,
         s.token_key, s.floor_event_id
  FROM feed_state s
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.feed_identity FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.feed_identity TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.feed_identity;
