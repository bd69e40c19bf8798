-- Revokes a tenant's API key; one that is revoked keeps its time. No row: there is none.

-- migrate:up
CREATE FUNCTION holdsvc.revoke_api_key(_tenant text, _key_id text) RETURNS SETOF holdsvc.api_key
LANGUAGE sql SECURITY DEFINER SET search_path = holdsvc, pg_temp AS $$
  UPDATE api_key SET revoke_time = coalesce(revoke_time, wall_clock())
  WHERE key_id = _key_id AND tenant = _tenant
  RETURNING *
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.revoke_api_key FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.revoke_api_key TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.revoke_api_key;
