-- One API key by its readable part, of whatever tenant: the key is what tells the tenant. No row: there is none.

-- migrate:up
CREATE FUNCTION holdsvc.find_api_key(_key_id text) RETURNS SETOF holdsvc.api_key
LANGUAGE sql SECURITY DEFINER SET search_path = holdsvc, pg_temp AS $$
  SELECT * FROM api_key WHERE key_id = _key_id
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.find_api_key FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.find_api_key TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.find_api_key;
