-- For how long the oldest writing transaction and the oldest snapshot of the cluster have been open, prepared
-- transactions too; null: none is. The oldest writer holds the fence behind which the event feed waits; the oldest
-- snapshot keeps dead versions of hot rows alive. As its owner sees them: other roles' sessions show only to a superuser
-- or a member of pg_read_all_stats. Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.oldest_transactions(OUT writer_age interval, OUT snapshot_age interval)
LANGUAGE sql SECURITY DEFINER SET search_path = holdsvc, pg_temp AS $$
  SELECT greatest(
           max(clock_timestamp() - a.xact_start) FILTER (WHERE a.backend_xid IS NOT NULL),
           (SELECT max(clock_timestamp() - p.prepared) FROM pg_prepared_xacts p)
         ),
         max(clock_timestamp() - a.xact_start) FILTER (WHERE a.backend_xmin IS NOT NULL)
  FROM pg_stat_activity a
  WHERE a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.oldest_transactions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.oldest_transactions TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.oldest_transactions;
