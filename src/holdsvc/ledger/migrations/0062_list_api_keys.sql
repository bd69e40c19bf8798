-- Lists a tenant's API keys, newest first, after the key created at _before_time with the id _before_id.

-- migrate:up
CREATE FUNCTION holdsvc.list_api_keys(_tenant text, _before_time timestamptz, _before_id text, _limit integer)
RETURNS SETOF holdsvc.api_key
LANGUAGE sql SECURITY DEFINER SET search_path = holdsvc, pg_temp AS $$
  SELECT * FROM api_key k
  WHERE k.tenant = _tenant AND (_before_time IS NULL OR (k.create_time, k.key_id) < (_before_time, _before_id))
  ORDER BY k.create_time DESC, k.key_id DESC
  LIMIT _limit
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.list_api_keys FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.list_api_keys TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.list_api_keys;
