-- Makes the operators' entrances: functions in `holdsvc` under stable names, for psql and monitoring, which call this
-- set. Rights that an operator has granted on them stay. The installer of a set calls this.
-- Locks: the entrances' rows in pg_proc, until the end of the installation.
CREATE FUNCTION point_entrances() RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  EXECUTE $entrance$
    CREATE OR REPLACE FUNCTION holdsvc.release_expired_reservations(
      tenant text DEFAULT NULL, max_count integer DEFAULT 1000, skip_busy boolean DEFAULT false,
      OUT expired_count bigint, OUT released_quantity bigint, OUT more boolean
    )
    LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $body$
      SELECT _expired_count, _released_quantity, _more FROM release_expired($1, $2, $3)
    $body$
  $entrance$;
  REVOKE EXECUTE ON FUNCTION holdsvc.release_expired_reservations FROM PUBLIC;
  GRANT EXECUTE ON FUNCTION holdsvc.release_expired_reservations TO holdsvc_service;
END
$$;
