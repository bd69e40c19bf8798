-- Says that this database was put back to an earlier state or copied: resume tokens and relay positions of before are
-- refused from now on. Where the timeline or the cluster changed the feed knows by itself. By the owner.
-- Locks: feed_state's row.

-- migrate:up
CREATE FUNCTION holdsvc.begin_epoch() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = holdsvc, pg_temp AS $$
  UPDATE feed_state SET restore_count = restore_count + 1
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.begin_epoch FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.begin_epoch;
