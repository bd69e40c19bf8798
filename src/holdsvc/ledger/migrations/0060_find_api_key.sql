-- What a key may do, by its readable part, of whatever tenant: the key is what tells the tenant. No row: there is none.
-- lives_s: seconds until it ends, on the ledger's clock; not above 0 when it has expired or is revoked. Locks nothing.

-- migrate:up
CREATE FUNCTION holdsvc.find_api_key(_key_id text)
RETURNS TABLE (
  tenant text, client text, secret_hash bytea, scopes text[], pools text[], lives_s double precision
)
LANGUAGE sql SECURITY DEFINER SET search_path = holdsvc, pg_temp AS $$
  SELECT k.tenant::text, k.client::text, k.secret_hash, k.scopes, k.pools,
         CASE
           WHEN k.revoke_time IS NOT NULL THEN 0
           ELSE coalesce(extract(epoch FROM k.expire_time - wall_clock())::double precision, 'Infinity')
         END
  FROM api_key k WHERE k.key_id = _key_id
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.find_api_key FROM PUBLIC;
GRANT EXECUTE ON FUNCTION holdsvc.find_api_key TO holdsvc_service;

-- migrate:down
DROP FUNCTION holdsvc.find_api_key;
