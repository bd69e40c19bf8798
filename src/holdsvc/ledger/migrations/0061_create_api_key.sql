-- Stores a new API key: the hash of its secret, never the secret.

-- migrate:up
CREATE FUNCTION holdsvc.create_api_key(
  _tenant text, _key_id text, _client text, _secret_hash bytea, _scopes text[], _pools text[], _expire_time timestamptz
) RETURNS SETOF holdsvc.api_key
LANGUAGE sql SECURITY DEFINER SET search_path = holdsvc, pg_temp AS $$
  INSERT INTO api_key (key_id, tenant, client, secret_hash, scopes, pools, create_time, expire_time)
  VALUES (_key_id, _tenant, _client, _secret_hash, _scopes, _pools, wall_clock(), _expire_time)
  RETURNING *
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.create_api_key FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.create_api_key TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.create_api_key;
