-- Steps of a move of a tenant from one cell to another (`holdsvc tenants move`), each in one database, by the owner.
-- The only decision is leave_tenant. A process that carries a move out has a move_id of its own: one that takes it over
-- replaces the id, first where the tenant leaves, so that the other process can decide and write nothing any more.
-- Each answers the tenant's state after it.

-- The tenant's state here; no row: none. Locks nothing.
CREATE FUNCTION tenant_state_here(_tenant text) RETURNS SETOF tenant_state_answer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
  SELECT s.tenant::text, s.state::text, s.other_cell::text, s.version, s.move_id, s.change_time
  FROM tenant_state s WHERE s.tenant = _tenant
$$;

-- 1. Where it arrives: COPYING, unless it is here, or rows of it are. Locks: its state.
CREATE FUNCTION expect_tenant(_tenant text, _from text, _version bigint, _move_id uuid)
RETURNS SETOF tenant_state_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  INSERT INTO tenant_state AS s (tenant, state, other_cell, version, move_id, change_time)
  SELECT _tenant, 'COPYING', _from, _version, _move_id, wall_clock() FROM cell c WHERE c.name IS NOT NULL
  ON CONFLICT (tenant) DO UPDATE SET
    state = excluded.state, other_cell = excluded.other_cell, version = excluded.version, move_id = excluded.move_id,
    change_time = excluded.change_time, change_xid = excluded.change_xid, cleaned = false
  WHERE s.state = 'MOVED' AND s.cleaned AND s.version <= excluded.version;
  RETURN QUERY SELECT * FROM tenant_state_here(_tenant);
END
$$;

-- 2. Where it leaves: HERE becomes FROZEN. When this is committed every change that was let in before has ended, and no
-- other is let in. It waits for them a second at most, with changes of the tenant behind it; then it fails, and is
-- called again.
-- Locks: background work, EXCLUSIVE, then the tenant, EXCLUSIVE, then its state.
CREATE FUNCTION freeze_tenant(_tenant text, _to text, _move_id uuid) RETURNS SETOF tenant_state_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '1s' AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('holdsvc background'), 0);
  PERFORM pg_advisory_xact_lock(hashtext('holdsvc tenants'), hashtext(_tenant));
  UPDATE tenant_state s SET
    state = 'FROZEN', other_cell = _to, move_id = _move_id, change_time = wall_clock(),
    change_xid = pg_current_xact_id()
  WHERE s.tenant = _tenant AND s.state = 'HERE';
  RETURN QUERY SELECT * FROM tenant_state_here(_tenant);
END
$$;

-- 3. Where it arrives, once all rows have come: remembers up to which event, of which history, they tell.
-- Locks: its state.
CREATE FUNCTION note_history(_tenant text, _history text, _move_id uuid) RETURNS SETOF tenant_state_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  UPDATE tenant_state s
  SET from_history = _history,
      from_event_id = (SELECT coalesce(max(h.event_id), 0) FROM event_history h WHERE h.tenant = _tenant)
  WHERE s.tenant = _tenant AND s.state = 'COPYING' AND s.move_id = _move_id;
  RETURN QUERY SELECT * FROM tenant_state_here(_tenant);
END
$$;

-- 4. Where it leaves: FROZEN becomes MOVED. This is the decision. Locks: its state.
CREATE FUNCTION leave_tenant(_tenant text, _move_id uuid) RETURNS SETOF tenant_state_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  UPDATE tenant_state s SET
    state = 'MOVED', version = s.version + 1, change_time = wall_clock(), change_xid = pg_current_xact_id()
  WHERE s.tenant = _tenant AND s.state = 'FROZEN' AND s.move_id = _move_id;
  RETURN QUERY SELECT * FROM tenant_state_here(_tenant);
END
$$;

-- 5. Where it arrives: COPYING becomes HERE. The caller has read MOVED with this version in _from. Locks: its state.
CREATE FUNCTION admit_tenant(_tenant text, _from text, _version bigint) RETURNS SETOF tenant_state_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  UPDATE tenant_state s
  SET state = 'HERE', other_cell = NULL, version = _version, change_time = wall_clock(),
      change_xid = pg_current_xact_id(),
      -- The tenant's events here draw their ids after this is committed.
      begin_event_id = (SELECT CASE WHEN i.is_called THEN i.last_value ELSE 0 END FROM event_id i),
      begin_day = (SELECT max(d.day) FROM feed_day d)
  WHERE s.tenant = _tenant AND s.state = 'COPYING' AND s.other_cell = _from AND s.version < _version;
  RETURN QUERY SELECT * FROM tenant_state_here(_tenant);
END
$$;

-- Another process carries the move out from now on, or gives it up. Locks: its state.
CREATE FUNCTION take_over_move(_tenant text, _former_id uuid, _move_id uuid) RETURNS SETOF tenant_state_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  UPDATE tenant_state s SET move_id = _move_id
  WHERE s.tenant = _tenant AND s.state IN ('COPYING', 'FROZEN') AND s.move_id = _former_id;
  RETURN QUERY SELECT * FROM tenant_state_here(_tenant);
END
$$;

-- A move is given up, where the tenant arrives: the caller has removed its rows. Locks: its state.
CREATE FUNCTION forget_tenant(_tenant text, _move_id uuid) RETURNS SETOF tenant_state_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  DELETE FROM tenant_state s WHERE s.tenant = _tenant AND s.state = 'COPYING' AND s.move_id = _move_id;
  RETURN QUERY SELECT * FROM tenant_state_here(_tenant);
END
$$;

-- A move is given up, where the tenant leaves, after forget_tenant: FROZEN becomes HERE. Locks: its state.
CREATE FUNCTION keep_tenant(_tenant text, _move_id uuid) RETURNS SETOF tenant_state_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  UPDATE tenant_state s SET
    state = 'HERE', other_cell = NULL, change_time = wall_clock(), change_xid = pg_current_xact_id()
  WHERE s.tenant = _tenant AND s.state = 'FROZEN' AND s.move_id = _move_id;
  RETURN QUERY SELECT * FROM tenant_state_here(_tenant);
END
$$;

-- 6. Where it has left: its rows are removed. Locks: its state.
CREATE FUNCTION mark_cleaned(_tenant text, _move_id uuid) RETURNS SETOF tenant_state_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  UPDATE tenant_state s SET cleaned = true
  WHERE s.tenant = _tenant AND s.state = 'MOVED' AND s.move_id = _move_id;
  RETURN QUERY SELECT * FROM tenant_state_here(_tenant);
END
$$;

-- Draws ids of events and numbers of waitlist entries beyond these from now on, which another cell has drawn: so what a
-- tenant brings comes before what it does here. It waits for writers a tenth of a second at most, with others behind
-- it; then it fails, and is called again.
-- Locks: where a sequence is behind, event or waitlist_entry (SHARE), so that no id is drawn meanwhile.
CREATE FUNCTION lift_sequences(_event_id bigint, _waitlist_sequence bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '100ms' AS $$
BEGIN
  IF (SELECT e.last_value FROM event_id e) < _event_id THEN
    LOCK TABLE event IN SHARE MODE;
    PERFORM setval('event_id', greatest(_event_id, e.last_value)) FROM event_id e;
  END IF;
  IF (SELECT w.last_value FROM waitlist_sequence w) < _waitlist_sequence THEN
    LOCK TABLE waitlist_entry IN SHARE MODE;
    PERFORM setval('waitlist_sequence', greatest(_waitlist_sequence, w.last_value)) FROM waitlist_sequence w;
  END IF;
END
$$;

-- An operator decides that the tenant lives here, with the rows that are here, whatever other cells and processes say:
-- its version is the time in microseconds, above that of every move. Not where its rows are removed, or half of them
-- are here. Locks: the tenant, EXCLUSIVE, then its state.
CREATE FUNCTION keep_here(_tenant text) RETURNS SETOF tenant_state_answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('holdsvc tenants'), hashtext(_tenant));
  UPDATE tenant_state s SET
    state = 'HERE', other_cell = NULL, version = extract(epoch FROM wall_clock()) * 1000000,
    change_time = wall_clock(), change_xid = pg_current_xact_id()
  WHERE s.tenant = _tenant AND s.state <> 'COPYING' AND NOT s.cleaned;
  RETURN QUERY SELECT * FROM tenant_state_here(_tenant);
END
$$;
