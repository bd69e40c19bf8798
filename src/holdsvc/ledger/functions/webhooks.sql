-- The webhooks of a tenant that a caller may see: those of _client (null: of every client), and for a caller that is
-- limited to _caller_pools (null: all) those only that are limited to some of them. Locks nothing.
CREATE FUNCTION visible_webhooks(_tenant text, _client text, _caller_pools text[]) RETURNS SETOF webhook_answer
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
  SELECT NULL::text, w.webhook_id, w.client::text, w.url, w.types, w.sku_prefix::text, w.reads_all, w.pools,
         w.create_time, w.state, w.disable_reason, w.failure_count, w.fail_time, w.last_error, w.last_status,
         w.success_time, w.due_time
  FROM webhook w
  WHERE w.tenant = _tenant AND (_client IS NULL OR w.client = _client) AND sees_api_key(_caller_pools, w.pools)
$$;

-- Stores a webhook that begins after (_event_id, _event_day) of the history _epoch. One row: outcome null and the
-- webhook, or TOO_MANY_WEBHOOKS: the tenant has _max of them.
-- Locks: the tenant's webhooks as such, so that two calls cannot both take the last place.
CREATE FUNCTION create_webhook(
  _tenant text, _webhook_id uuid, _client text, _key_id text, _url text, _types smallint[], _sku_prefix text,
  _reads_all boolean, _pools text[], _secret bytea, _epoch text, _event_id bigint, _event_day date, _max integer
) RETURNS SETOF webhook_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  _now timestamptz;
  _refused webhook_answer;
BEGIN
  PERFORM enter_tenant(_tenant);
  PERFORM pg_advisory_xact_lock(hashtext('holdsvc webhooks'), hashtext(_tenant));
  IF (SELECT count(*) FROM webhook w WHERE w.tenant = _tenant) >= _max THEN
    _refused.outcome := 'TOO_MANY_WEBHOOKS';
    RETURN NEXT _refused;
    RETURN;
  END IF;
  _now := wall_clock();
  INSERT INTO webhook (
    tenant, webhook_id, client, key_id, url, types, sku_prefix, reads_all, pools, secret, create_time, epoch, event_id,
    event_day, event_time, due_time
  ) VALUES (
    _tenant, _webhook_id, _client, _key_id, _url, _types, _sku_prefix, _reads_all, _pools, _secret, _now, _epoch,
    _event_id, _event_day, _now, _now
  );
  RETURN QUERY SELECT * FROM visible_webhooks(_tenant, NULL, NULL) v WHERE v.webhook_id = _webhook_id;
END
$$;

-- Lists a tenant's webhooks that a caller may see, newest first, after the one created at _before_time with the id
-- _before_id; or only the one with the id _webhook_id (null: any). Locks nothing.
CREATE FUNCTION list_webhooks(
  _tenant text, _client text, _caller_pools text[], _webhook_id uuid, _before_time timestamptz, _before_id uuid,
  _limit integer
) RETURNS SETOF webhook_answer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT * FROM visible_webhooks(_tenant, _client, _caller_pools) v
  WHERE (_webhook_id IS NULL OR v.webhook_id = _webhook_id)
    AND (_before_time IS NULL OR (v.create_time, v.webhook_id) < (_before_time, _before_id))
  ORDER BY v.create_time DESC, v.webhook_id DESC
  LIMIT _limit
$$;

-- Deletes a tenant's webhook that a caller may see; returns how many there were. Its sender notices with its next
-- report.
-- Locks: the webhook's row.
CREATE FUNCTION delete_webhook(_tenant text, _client text, _caller_pools text[], _webhook_id uuid) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  _deleted integer;
BEGIN
  PERFORM enter_tenant(_tenant);
  DELETE FROM webhook w
  WHERE w.webhook_id = _webhook_id AND w.tenant = _tenant AND (_client IS NULL OR w.client = _client)
    AND sees_api_key(_caller_pools, w.pools);
  GET DIAGNOSTICS _deleted = ROW_COUNT;
  RETURN _deleted;
END
$$;

-- The secret of a tenant's webhook; null: there is no such webhook. Locks nothing.
CREATE FUNCTION webhook_secret(_tenant text, _webhook_id uuid) RETURNS bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT w.secret FROM webhook w WHERE w.webhook_id = _webhook_id AND w.tenant = _tenant
$$;

-- Lets a webhook go on at once, because a test of it succeeded: one that was disabled is active again, with no more
-- than the rights of the key that asked for the test if its own has ended (_reads_all: that key reads every client's
-- reservations; who is limited to pools sees no webhook with others). What retention has dropped meanwhile is skipped.
-- Locks: the webhook's row.
CREATE FUNCTION enable_webhook(_tenant text, _webhook_id uuid, _key_id text, _reads_all boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  PERFORM enter_tenant(_tenant);
  UPDATE webhook w SET
    state = 1, disable_reason = NULL, failure_count = 0, fail_time = NULL, last_error = NULL,
    success_time = wall_clock(),
    -- One that has a sender stays with it.
    due_time = CASE WHEN w.lease_id IS NULL THEN wall_clock() ELSE w.due_time END,
    key_id = CASE WHEN w.disable_reason = 'KEY_ENDED' THEN _key_id ELSE w.key_id END,
    reads_all = w.reads_all AND (_reads_all OR w.disable_reason IS DISTINCT FROM 'KEY_ENDED'),
    event_id = CASE WHEN w.disable_reason = 'EVENTS_DROPPED'
      THEN greatest(w.event_id, (SELECT s.floor_event_id FROM feed_state s)) ELSE w.event_id END
  WHERE w.webhook_id = _webhook_id AND w.tenant = _tenant;
END
$$;

-- The key whose rights a webhook has: _key_id while that one lives, else another living key of the client that has at
-- least the webhook's rights, so that keys can be rotated. Null: there is none. Without keys (empty) it stays so. Locks
-- nothing.
CREATE FUNCTION webhook_key(_tenant text, _client text, _key_id text, _reads_all boolean, _pools text[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
  _now timestamptz := wall_clock();
BEGIN
  IF _key_id = '' OR EXISTS (
    SELECT FROM api_key k
    WHERE k.key_id = _key_id AND k.tenant = _tenant AND k.revoke_time IS NULL
      AND (k.expire_time IS NULL OR k.expire_time > _now)
  ) THEN
    RETURN _key_id;
  END IF;
  RETURN (
    SELECT k.key_id FROM api_key k
    WHERE k.tenant = _tenant AND k.client = _client AND k.revoke_time IS NULL
      AND (k.expire_time IS NULL OR k.expire_time > _now)
      AND 'webhooks.manage' = ANY (k.scopes)
      AND (NOT _reads_all OR 'reservations.read_all' = ANY (k.scopes))
      AND (cardinality(k.pools) = 0 OR cardinality(_pools) > 0 AND _pools <@ k.pools)
    ORDER BY k.create_time DESC
    LIMIT 1
  );
END
$$;

-- Gives a sender the webhooks that are due, _limit at most, each by a lease of its own that lasts for _lease; those
-- whose key has ended are disabled instead. For the senders of all processes, which hand each webhook its own tenant's
-- events. Those of a tenant on its way to here wait; those of one that has left go on, to the last of its events here.
-- Locks: the webhooks' rows, skipping those that others have locked.
CREATE FUNCTION claim_webhooks(_lease interval, _limit integer) RETURNS SETOF webhook_lease_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  _now timestamptz := wall_clock();
BEGIN
  RETURN QUERY
  WITH due AS (
    SELECT w.webhook_id, w.tenant, webhook_key(w.tenant, w.client, w.key_id, w.reads_all, w.pools) AS key_id
    FROM webhook w
    WHERE w.state = 1 AND w.due_time <= _now
      AND NOT EXISTS (SELECT 1 FROM tenant_state s WHERE s.tenant = w.tenant AND s.state = 'COPYING')
    ORDER BY w.due_time
    LIMIT _limit
    FOR UPDATE SKIP LOCKED
  ), taken AS (
    UPDATE webhook w SET
      state = CASE WHEN d.key_id IS NULL THEN 2 ELSE 1 END,
      disable_reason = CASE WHEN d.key_id IS NULL THEN 'KEY_ENDED' END,
      key_id = coalesce(d.key_id, w.key_id),
      lease_id = CASE WHEN d.key_id IS NOT NULL THEN gen_random_uuid() END,
      due_time = _now + _lease
    FROM due d
    WHERE w.webhook_id = d.webhook_id AND w.tenant = d.tenant
    RETURNING w.*
  )
  SELECT t.tenant::text, t.webhook_id, t.client::text, t.url, t.types, t.sku_prefix::text, t.reads_all, t.pools,
         t.secret, t.epoch, t.event_id, t.event_day, t.event_time, t.failure_count,
         t.lease_id
  FROM taken t WHERE t.state = 1;
END
$$;

-- Keeps a sender's webhooks for another _lease, and remembers how far each has come: after (_event_id, _event_day) of
-- the history _epoch, where the events until _event_time are sent; a place of a history before a failover is not
-- written after it, so what stands here is of events that this database has. _succeeded: since the report before, an
-- attempt has succeeded.
-- Returns the leases that still stand: other webhooks were deleted, or have another sender, or their key has ended.
-- Locks: the webhooks' rows, in the order of their ids.
CREATE FUNCTION renew_webhooks(
  _lease interval, _webhook_id uuid[], _lease_id uuid[], _epoch text[], _event_id bigint[], _event_day date[],
  _event_time timestamptz[], _succeeded boolean[]
) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  _now timestamptz := wall_clock();
  _history text := feed_history();
BEGIN
  RETURN QUERY
  WITH own AS (
    SELECT w.webhook_id, w.tenant, webhook_key(w.tenant, w.client, w.key_id, w.reads_all, w.pools) AS key_id
    FROM unnest(_webhook_id, _lease_id) r (webhook_id, lease_id)
    JOIN webhook w ON w.webhook_id = r.webhook_id AND w.lease_id = r.lease_id AND w.state = 1
    ORDER BY w.webhook_id
    FOR UPDATE OF w
  ), kept AS (
    UPDATE webhook w SET
      state = CASE WHEN o.key_id IS NULL THEN 2 ELSE 1 END,
      disable_reason = CASE WHEN o.key_id IS NULL THEN 'KEY_ENDED' END,
      key_id = coalesce(o.key_id, w.key_id),
      lease_id = CASE WHEN o.key_id IS NOT NULL THEN w.lease_id END,
      due_time = _now + _lease,
      epoch = CASE WHEN r.epoch = _history THEN r.epoch ELSE w.epoch END,
      event_id = CASE WHEN r.epoch = _history THEN r.event_id ELSE w.event_id END,
      event_day = CASE WHEN r.epoch = _history THEN r.event_day ELSE w.event_day END,
      event_time = CASE WHEN r.epoch = _history THEN r.event_time ELSE w.event_time END,
      success_time = CASE WHEN r.succeeded THEN _now ELSE w.success_time END,
      failure_count = CASE WHEN r.succeeded THEN 0 ELSE w.failure_count END,
      fail_time = CASE WHEN r.succeeded THEN NULL ELSE w.fail_time END,
      last_error = CASE WHEN r.succeeded THEN NULL ELSE w.last_error END
    FROM own o
    JOIN unnest(_webhook_id, _epoch, _event_id, _event_day, _event_time, _succeeded)
      r (webhook_id, epoch, event_id, event_day, event_time, succeeded) ON r.webhook_id = o.webhook_id
    WHERE w.webhook_id = o.webhook_id AND w.tenant = o.tenant
    RETURNING w.lease_id, w.state
  )
  SELECT k.lease_id FROM kept k WHERE k.state = 1;
END
$$;

-- Gives a webhook back, for any sender to take after _pause. _error: why an attempt failed (null: none did), with the
-- status that answered it. It is disabled with _disable_reason, if that is given, or with FAILING where its attempts
-- have failed for _failing_max. Returns why it is disabled now; null: it is not, or no longer the sender's.
-- Locks: the webhook's row.
CREATE FUNCTION release_webhook(
  _tenant text, _lease_id uuid, _webhook_id uuid, _pause interval, _error text, _status integer, _disable_reason text,
  _failing_max interval
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  _now timestamptz := wall_clock();
  _reason text;
BEGIN
  UPDATE webhook w SET
    disable_reason = coalesce(_disable_reason, CASE WHEN _error IS NOT NULL AND w.fail_time <= _now - _failing_max
      THEN 'FAILING' END),
    state = CASE WHEN _disable_reason IS NOT NULL OR _error IS NOT NULL AND w.fail_time <= _now - _failing_max
      THEN 2 ELSE 1 END,
    failure_count = w.failure_count + CASE WHEN _error IS NULL THEN 0 ELSE 1 END,
    fail_time = CASE WHEN _error IS NULL THEN w.fail_time ELSE coalesce(w.fail_time, _now) END,
    last_error = coalesce(_error, w.last_error),
    last_status = CASE WHEN _error IS NULL THEN w.last_status ELSE _status END,
    due_time = _now + _pause, lease_id = NULL
  WHERE w.webhook_id = _webhook_id AND w.tenant = _tenant AND w.lease_id = _lease_id
  RETURNING w.disable_reason INTO _reason;
  RETURN _reason;
END
$$;

-- Where a webhook begins in another history than the one that it knew: before the first event of _from or later. Ids of
-- one history mean nothing in another; what was sent within a few minutes before the change is sent again. No row:
-- there is no such event. Locks nothing.
CREATE FUNCTION feed_place_at(_tenant text, _from timestamptz, OUT _event_id bigint, OUT _event_day date)
RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT e.event_id - 1, e.occur_day FROM event e
  WHERE e.tenant = _tenant AND e.occur_time >= _from AND e.occur_day >= (_from AT TIME ZONE 'UTC')::date - 1
  ORDER BY e.event_id
  LIMIT 1
$$;

-- Webhooks of all tenants by how they are, and for how long the one that waits longest has been due without a sender.
-- For the metrics: counts alone. Locks nothing.
CREATE FUNCTION webhook_totals(OUT _active bigint, OUT _failing bigint, OUT _disabled bigint, OUT _overdue interval)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT count(*) FILTER (WHERE w.state = 1 AND w.failure_count = 0),
         count(*) FILTER (WHERE w.state = 1 AND w.failure_count > 0),
         count(*) FILTER (WHERE w.state = 2),
         max(wall_clock() - w.due_time) FILTER (WHERE w.state = 1 AND w.due_time <= wall_clock())
  FROM webhook w
$$;
