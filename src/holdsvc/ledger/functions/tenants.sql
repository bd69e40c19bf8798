-- Whether a tenant's changes are made in this database. A tenant lives in one cell, and its state there decides; what
-- processes know of it elsewhere is a copy. A change takes a lock of its tenant in SHARE mode and reads the state
-- after it; a move takes the lock in EXCLUSIVE mode before it changes the state. So no change that has read HERE can be
-- under way when the rows are copied. The read is a statement of its own, whose snapshot is younger than the lock.

-- Raises HS001 where the tenant is in none of these states: with its state (null: it has none), its other cell and the
-- state's version as JSON in the detail. A cell without a name is the only one: a tenant without a state is here.
-- Locks nothing. Its callers have turned enable_seqscan off.
CREATE FUNCTION require_tenant(_tenant text, _states text[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
  _r record;
BEGIN
  SELECT c.name, s.state, s.other_cell, s.version INTO _r
  FROM cell c LEFT JOIN tenant_state s ON s.tenant = _tenant
  WHERE c.one_row;
  IF _r.state <> ALL (_states) OR (_r.state IS NULL AND _r.name IS NOT NULL) THEN
    RAISE EXCEPTION USING
      ERRCODE = 'HS001', MESSAGE = 'the tenant is not here',
      DETAIL = json_build_object('state', _r.state, 'cell', _r.other_cell, 'version', _r.version)::text;
  END IF;
END
$$;

-- The first step of every change: raises HS001, as require_tenant, where the tenant is not here. Nothing has been
-- written then.
-- Locks: the tenant, SHARE, until the end of the transaction.
CREATE FUNCTION enter_tenant(_tenant text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(hashtext('holdsvc tenants'), hashtext(_tenant));
  PERFORM require_tenant(_tenant, '{HERE}');
END
$$;

-- The same for background work on one tenant: false where it is not here, or about to leave. It never waits.
CREATE FUNCTION try_enter_tenant(_tenant text) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
  IF NOT pg_try_advisory_xact_lock_shared(hashtext('holdsvc tenants'), hashtext(_tenant)) THEN
    RETURN false;
  END IF;
  RETURN (
    SELECT coalesce(s.state = 'HERE', c.name IS NULL)
    FROM cell c LEFT JOIN tenant_state s ON s.tenant = _tenant
    WHERE c.one_row
  );
END
$$;

-- The same for background work on all tenants: those whose rows it must leave alone. Null: one is about to leave; it
-- must do nothing this time. It never waits. Tenants that have left and whose rows are removed are not among them.
-- Locks: all background work, SHARE, until the end of the transaction.
CREATE FUNCTION tenants_away() RETURNS text[]
LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
  IF NOT pg_try_advisory_xact_lock_shared(hashtext('holdsvc background'), 0) THEN
    RETURN NULL;
  END IF;
  RETURN (
    SELECT coalesce(array_agg(s.tenant::text), '{}') FROM tenant_state s WHERE s.state <> 'HERE' AND NOT s.cleaned
  );
END
$$;

-- The first step of work on one tenant, or on all (null): enter_tenant or tenants_away. Returns the tenants to leave
-- alone; null: it must do nothing this time.
CREATE FUNCTION enter_tenants(_tenant text) RETURNS text[]
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  IF _tenant IS NULL THEN
    RETURN tenants_away();
  END IF;
  PERFORM enter_tenant(_tenant);
  RETURN '{}';
END
$$;

-- The name of this cell; null: it is the only one. Locks nothing.
CREATE FUNCTION cell_name() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$ SELECT c.name::text FROM cell c $$;

-- The states of the next _limit tenants after _after, for the copies that processes keep. Of all tenants: names, states
-- and cells alone. Locks nothing.
CREATE FUNCTION tenant_states(_after text, _limit integer) RETURNS SETOF tenant_state_answer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
  SELECT s.tenant::text, s.state::text, s.other_cell::text, s.version, s.move_id, s.change_time
  FROM tenant_state s WHERE s.tenant > _after ORDER BY s.tenant LIMIT _limit
$$;

-- The same for those alone that a transaction has written which was not visible to the reader of _since (of
-- tenants_mark); the future ones are of a database that these rows come from. Locks nothing.
CREATE FUNCTION tenant_changes(_since text, _after text, _limit integer) RETURNS SETOF tenant_state_answer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
  SELECT s.tenant::text, s.state::text, s.other_cell::text, s.version, s.move_id, s.change_time
  FROM tenant_state s
  WHERE s.change_xid >= _since::xid8 AND s.change_xid < pg_snapshot_xmax(pg_current_snapshot()) AND s.tenant > _after
  ORDER BY s.tenant LIMIT _limit
$$;

-- What a later reader of tenant_changes begins with, while the history of this database is the same: no transaction
-- below it runs. Reads no tenant's data. Locks nothing.
CREATE FUNCTION tenants_mark(OUT _history text, OUT _since text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT feed_history(), pg_snapshot_xmin(pg_current_snapshot())::text
$$;

-- The first step of a caller's read: raises HS001, as require_tenant, where the tenant has gone to another cell. One
-- that is about to leave is read. A condition of the read's own statement: both see one snapshot. Locks nothing.
CREATE FUNCTION may_read(_tenant text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
  PERFORM require_tenant(_tenant, '{HERE,FROZEN}');
  RETURN true;
END
$$;

-- Takes note that a tenant lives in another cell, with a version that a process has heard elsewhere: a cell that was
-- put back to a time before a move then refuses what has gone, and one that had no part in the move tells of it. A
-- later version stays, and so does what is being copied to here.
-- Locks: the tenant, EXCLUSIVE, for a second at most, so that no change is under way that was let in; then its state.
CREATE FUNCTION tell_moved(_tenant text, _cell text, _version bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '1s' AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('holdsvc tenants'), hashtext(_tenant));
  INSERT INTO tenant_state AS s (tenant, state, other_cell, version, move_id, change_time, cleaned)
  SELECT _tenant, 'MOVED', _cell, _version, gen_random_uuid(), wall_clock(), true
  FROM cell c WHERE c.name <> _cell
  ON CONFLICT (tenant) DO UPDATE SET
    state = excluded.state, other_cell = excluded.other_cell, version = excluded.version, move_id = excluded.move_id,
    change_time = excluded.change_time, change_xid = excluded.change_xid
  WHERE s.version < excluded.version AND s.state <> 'COPYING';
END
$$;

-- Where a tenant's events go on that came from another cell: the history there and its last event in it, and the place
-- here after which its events come. No row: it came from no other cell. Locks nothing.
CREATE FUNCTION tenant_arrival(_tenant text)
RETURNS TABLE (_history text, _last_event_id bigint, _begin_event_id bigint, _begin_day date)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT s.from_history, s.from_event_id, s.begin_event_id, s.begin_day
  FROM tenant_state s WHERE s.tenant = _tenant AND s.state = 'HERE' AND s.from_history IS NOT NULL
$$;

-- Names this cell, once. Every tenant that has items, keys or reservations here is HERE from then on; others must be
-- placed. Returns the name that it has: another one stays. By the owner.
-- Locks: cell, ACCESS EXCLUSIVE, so that no change is under way that was let in before.
CREATE FUNCTION claim_cell(_name text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  _present text;
BEGIN
  LOCK TABLE cell IN ACCESS EXCLUSIVE MODE;
  SELECT c.name INTO _present FROM cell c;
  IF _present IS NULL THEN
    INSERT INTO tenant_state (tenant, state, version, change_time)
    SELECT t.tenant, 'HERE', 1, wall_clock()
    FROM (
      SELECT i.tenant FROM item i UNION SELECT k.tenant FROM api_key k UNION SELECT r.tenant FROM reservation r
    ) t
    ON CONFLICT DO NOTHING;
    UPDATE cell SET name = _name;
    _present := _name;
  END IF;
  RETURN _present;
END
$$;

-- Places a new tenant here. Returns its state: HERE also where it was here before; another one stays. Null: the cell
-- has no name. The caller has looked that it is in no other cell. By the owner.
-- Locks: the tenant, SHARE, then its state.
CREATE FUNCTION place_tenant(_tenant text) RETURNS SETOF tenant_state_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(hashtext('holdsvc tenants'), hashtext(_tenant));
  INSERT INTO tenant_state (tenant, state, version, change_time)
  SELECT _tenant, 'HERE', 1, wall_clock() FROM cell c WHERE c.name IS NOT NULL
  ON CONFLICT DO NOTHING;
  RETURN QUERY SELECT * FROM tenant_state_here(_tenant);
END
$$;
