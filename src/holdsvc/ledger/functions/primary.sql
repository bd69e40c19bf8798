-- When this database was last put back or copied, as begin_epoch wrote it down: the later of two, for the choice among
-- the hosts of a DSN. Also on a standby. Reads no tenant's data. Locks nothing.
CREATE FUNCTION restore_mark() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
  SELECT s.restore_mark FROM feed_state s WHERE s.one_row
$$;
