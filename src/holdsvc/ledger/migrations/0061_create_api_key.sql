-- Stores a new API key: the hash of its secret, never the secret. One row: outcome null and the key, or
-- EXPIRE_TIME_PAST, or CREATOR_ENDED: the key _creator_id, that asks for it (null: an operator), is revoked or expired.
-- A service may still believe in that one for some seconds; it must not use them to make itself another.
-- Locks: the creator's row (FOR SHARE), so that a revocation comes before or after.

-- migrate:up
CREATE FUNCTION holdsvc.create_api_key(
  _tenant text, _key_id text, _client text, _secret_hash bytea, _scopes text[], _pools text[], _expire_time timestamptz,
  _creator_id text DEFAULT NULL
) RETURNS TABLE (
  outcome text, key_id text, tenant text, client text, secret_hash bytea, scopes text[], pools text[],
  create_time timestamptz, expire_time timestamptz, revoke_time timestamptz
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = holdsvc, pg_temp AS $$
#variable_conflict use_column
DECLARE
  _now timestamptz;
BEGIN
  PERFORM 1 FROM api_key k WHERE k.key_id = _creator_id AND k.tenant = _tenant FOR SHARE;
  _now := wall_clock();
  IF _creator_id IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM api_key k
    WHERE k.key_id = _creator_id AND k.tenant = _tenant AND k.revoke_time IS NULL
      AND (k.expire_time IS NULL OR k.expire_time > _now)
  ) THEN
    outcome := 'CREATOR_ENDED';
    RETURN NEXT;
  ELSIF _expire_time <= _now THEN
    outcome := 'EXPIRE_TIME_PAST';
    RETURN NEXT;
  ELSE
    RETURN QUERY
    INSERT INTO api_key AS k (key_id, tenant, client, secret_hash, scopes, pools, create_time, expire_time)
    VALUES (_key_id, _tenant, _client, _secret_hash, _scopes, _pools, _now, _expire_time)
    RETURNING NULL::text, k.key_id::text, k.tenant::text, k.client::text, k.secret_hash, k.scopes, k.pools,
              k.create_time, k.expire_time, k.revoke_time;
  END IF;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.create_api_key FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.create_api_key TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.create_api_key;
