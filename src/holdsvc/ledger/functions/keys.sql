-- What the key with this readable part may do, of any tenant: the key tells the tenant. No row: there is no such key.
-- _lives_s: seconds until it ends, on the ledger's clock; 0 or less when it has expired or is revoked.
-- _away: its tenant has left, or has not come yet: another cell knows whether the key is good. Locks nothing.
CREATE FUNCTION find_api_key(_key_id text)
RETURNS TABLE (
  _tenant text, _client text, _secret_hash bytea, _scopes text[], _pools text[], _lives_s double precision,
  _away boolean
)
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT k.tenant::text, k.client::text, k.secret_hash, k.scopes, k.pools,
         CASE
           WHEN k.revoke_time IS NOT NULL THEN 0
           ELSE coalesce(extract(epoch FROM k.expire_time - wall_clock())::double precision, 'Infinity')
         END,
         EXISTS (SELECT 1 FROM tenant_state s WHERE s.tenant = k.tenant AND s.state IN ('COPYING', 'MOVED'))
  FROM api_key k
  WHERE k.key_id = _key_id
$$;

-- Stores a new API key: the hash of its secret, never the secret. One row: outcome null and the key, or
-- EXPIRE_TIME_PAST, or CREATOR_ENDED: the key _creator_id, that asks for it (null: an operator), is revoked or expired.
-- A service may still trust that one for some seconds; it must not use them to make itself another. The new key ends
-- with its creator's time at the latest.
-- Locks: the creator's row (FOR SHARE), so that a revocation comes before or after.
CREATE FUNCTION create_api_key(
  _tenant text, _key_id text, _client text, _secret_hash bytea, _scopes text[], _pools text[], _expire_time timestamptz,
  _creator_id text
) RETURNS SETOF api_key_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  _now timestamptz;
  _creator record;
  _refused api_key_answer;
BEGIN
  PERFORM enter_tenant(_tenant);
  SELECT k.expire_time, k.revoke_time, true AS found INTO _creator FROM api_key k
  WHERE k.key_id = _creator_id AND k.tenant = _tenant FOR SHARE;
  _now := wall_clock();
  IF _creator_id IS NOT NULL
     AND (_creator.found IS NULL OR _creator.revoke_time IS NOT NULL OR _creator.expire_time <= _now) THEN
    _refused.outcome := 'CREATOR_ENDED';
    RETURN NEXT _refused;
  ELSIF _expire_time <= _now THEN
    _refused.outcome := 'EXPIRE_TIME_PAST';
    RETURN NEXT _refused;
  ELSE
    RETURN QUERY
    INSERT INTO api_key AS k (
      key_id, tenant, client, secret_hash, scopes, pools, create_time, expire_time, creator_key_id
    )
    VALUES (_key_id, _tenant, _client, _secret_hash, _scopes, _pools, _now, least(_expire_time, _creator.expire_time),
            _creator_id)
    RETURNING NULL::text, k.key_id::text, k.tenant::text, k.client::text, k.secret_hash, k.scopes, k.pools,
              k.create_time, k.expire_time, k.revoke_time, k.creator_key_id::text;
  END IF;
END
$$;

-- Whether a caller that is limited to _caller_pools (null: all) may see a key with these pools: a key without pools is
-- for all of them.
CREATE FUNCTION sees_api_key(_caller_pools text[], _pools text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT AS $$
  SELECT _caller_pools IS NULL OR cardinality(_pools) > 0 AND _pools <@ _caller_pools
$$;

-- Lists a tenant's API keys that a caller may see, newest first, after the key created at _before_time with the id
-- _before_id.
CREATE FUNCTION list_api_keys(
  _tenant text, _caller_pools text[], _before_time timestamptz, _before_id text, _limit integer
)
RETURNS SETOF api_key_answer
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT NULL::text, k.key_id::text, k.tenant::text, k.client::text, k.secret_hash, k.scopes, k.pools, k.create_time,
         k.expire_time, k.revoke_time, k.creator_key_id::text
  FROM api_key k
  WHERE k.tenant = _tenant AND (_before_time IS NULL OR (k.create_time, k.key_id) < (_before_time, _before_id))
    AND sees_api_key(_caller_pools, k.pools)
  ORDER BY k.create_time DESC, k.key_id DESC
  LIMIT _limit
$$;

-- Revokes a tenant's API key that a caller may see, and the keys that it made, and those that they made, where their
-- maker is limited in time or to pools: a limited key's keys end with it. One that is revoked keeps its time. No row:
-- there is none.
-- Locks: the key's row, then those of each generation, in separate statements: a key that is made meanwhile waits for
-- its maker's row and is refused, or is seen here.
CREATE FUNCTION revoke_api_key(_tenant text, _caller_pools text[], _key_id text) RETURNS SETOF api_key_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  _makers text[];
BEGIN
  PERFORM enter_tenant(_tenant);
  WITH revoked AS (
    UPDATE api_key AS k SET revoke_time = coalesce(k.revoke_time, wall_clock())
    WHERE k.key_id = _key_id AND k.tenant = _tenant AND sees_api_key(_caller_pools, k.pools)
    RETURNING k.key_id, k.expire_time IS NOT NULL OR cardinality(k.pools) > 0 AS limited
  )
  SELECT array_agg(r.key_id) FILTER (WHERE r.limited) INTO _makers FROM revoked r;
  WHILE _makers IS NOT NULL LOOP
    WITH revoked AS (
      UPDATE api_key AS k SET revoke_time = coalesce(k.revoke_time, wall_clock())
      WHERE k.creator_key_id = ANY (_makers) AND k.tenant = _tenant
      RETURNING k.key_id
    )
    SELECT array_agg(r.key_id) INTO _makers FROM revoked r;
  END LOOP;
  RETURN QUERY
  SELECT NULL::text, k.key_id::text, k.tenant::text, k.client::text, k.secret_hash, k.scopes, k.pools, k.create_time,
         k.expire_time, k.revoke_time, k.creator_key_id::text
  FROM api_key k
  WHERE k.key_id = _key_id AND k.tenant = _tenant AND sees_api_key(_caller_pools, k.pools);
END
$$;

-- The clock by which the ledger judges, for an operator who gives a key a lifetime. Locks nothing.
CREATE FUNCTION ledger_time() RETURNS timestamptz
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$ SELECT wall_clock() $$;
