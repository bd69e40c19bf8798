-- The tenants that have items or keys, for commands and metrics that walk through all of them.

-- migrate:up
CREATE FUNCTION holdsvc.tenants() RETURNS SETOF text
LANGUAGE sql SECURITY DEFINER SET search_path = holdsvc, pg_temp AS $$
  WITH RECURSIVE t AS (
    SELECT (SELECT min(i.tenant) FROM item i) AS tenant
    UNION ALL
    SELECT (SELECT min(i.tenant) FROM item i WHERE i.tenant > t.tenant) FROM t WHERE t.tenant IS NOT NULL
  )
  SELECT tenant FROM t WHERE tenant IS NOT NULL
  UNION
  SELECT tenant FROM api_key
  ORDER BY 1
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.tenants FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.tenants TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.tenants;
