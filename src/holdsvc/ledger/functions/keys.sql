-- What the key with this readable part may do, of any tenant: the key tells the tenant. No row: there is no such key.
-- _lives_s: seconds until it ends, on the ledger's clock; 0 or less when it has expired or is revoked. Locks nothing.
CREATE FUNCTION find_api_key(_key_id text)
RETURNS TABLE (
  _tenant text, _client text, _secret_hash bytea, _scopes text[], _pools text[], _lives_s double precision
)
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT k.tenant::text, k.client::text, k.secret_hash, k.scopes, k.pools,
         CASE
           WHEN k.revoke_time IS NOT NULL THEN 0
           ELSE coalesce(extract(epoch FROM k.expire_time - wall_clock())::double precision, 'Infinity')
         END
  FROM api_key k WHERE k.key_id = _key_id
$$;

-- Stores a new API key: the hash of its secret, never the secret. Answers the key, or an outcome: EXPIRE_TIME_PAST, or
-- CREATOR_ENDED: the key _creator_id that asks for it (null: an operator) is revoked or has expired. A service may take
-- that key for valid for some seconds more; it must not be able to make itself another in that time.
-- Locks: the creator's row (FOR SHARE), so that a revocation comes before or after.
CREATE FUNCTION create_api_key(
  _tenant text, _key_id text, _client text, _secret_hash bytea, _scopes text[], _pools text[], _expire_time timestamptz,
  _creator_id text
) RETURNS SETOF api_key_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  _now timestamptz;
  _refused api_key_answer;
BEGIN
  PERFORM 1 FROM api_key k WHERE k.key_id = _creator_id AND k.tenant = _tenant FOR SHARE;
  _now := wall_clock();
  IF _creator_id IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM api_key k
    WHERE k.key_id = _creator_id AND k.tenant = _tenant AND k.revoke_time IS NULL
      AND (k.expire_time IS NULL OR k.expire_time > _now)
  ) THEN
    _refused.outcome := 'CREATOR_ENDED';
    RETURN NEXT _refused;
  ELSIF _expire_time <= _now THEN
    _refused.outcome := 'EXPIRE_TIME_PAST';
    RETURN NEXT _refused;
  ELSE
    RETURN QUERY
    INSERT INTO api_key AS k (key_id, tenant, client, secret_hash, scopes, pools, create_time, expire_time)
    VALUES (_key_id, _tenant, _client, _secret_hash, _scopes, _pools, _now, _expire_time)
    RETURNING NULL::text, k.key_id::text, k.tenant::text, k.client::text, k.secret_hash, k.scopes, k.pools,
              k.create_time, k.expire_time, k.revoke_time;
  END IF;
END
$$;

-- Lists a tenant's API keys, newest first, after the key created at _before_time with the id _before_id. Locks nothing.
CREATE FUNCTION list_api_keys(_tenant text, _before_time timestamptz, _before_id text, _limit integer)
RETURNS SETOF api_key_answer
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT NULL::text, k.key_id::text, k.tenant::text, k.client::text, k.secret_hash, k.scopes, k.pools, k.create_time, k.expire_time,
         k.revoke_time
  FROM api_key k
  WHERE k.tenant = _tenant AND (_before_time IS NULL OR (k.create_time, k.key_id) < (_before_time, _before_id))
  ORDER BY k.create_time DESC, k.key_id DESC
  LIMIT _limit
$$;

-- Revokes a tenant's API key; a revoked one keeps its time. No row: there is no such key. Locks: the key's row.
CREATE FUNCTION revoke_api_key(_tenant text, _key_id text) RETURNS SETOF api_key_answer
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
  UPDATE api_key AS k SET revoke_time = coalesce(k.revoke_time, wall_clock())
  WHERE k.key_id = _key_id AND k.tenant = _tenant
  RETURNING NULL::text, k.key_id::text, k.tenant::text, k.client::text, k.secret_hash, k.scopes, k.pools, k.create_time, k.expire_time,
            k.revoke_time
$$;

-- The clock by which the ledger judges, for an operator who gives a key a lifetime. Locks nothing.
CREATE FUNCTION ledger_time() RETURNS timestamptz
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$ SELECT wall_clock() $$;
