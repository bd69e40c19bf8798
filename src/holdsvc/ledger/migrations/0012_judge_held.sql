-- Step "judge" of a change that starts from HELD and looks at nothing else (Cancel, Extend): the state's refusal, and
-- RETRY for every request after the first that changes the same reservation. The rows are locked.

-- migrate:up
CREATE FUNCTION holdsvc.judge_held(_tenant text, _reservation_id uuid[], _outcome text[], _now timestamptz)
RETURNS text[]
LANGUAGE plpgsql SET search_path = holdsvc, pg_temp AS $$
DECLARE
  _changing uuid[] := '{}';
  _r record;
BEGIN
  FOR _r IN
    SELECT x.ix, x.id, state_refusal(1::smallint, v.state, v.expire_time, _now) AS refusal
    FROM unnest(_reservation_id, _outcome) WITH ORDINALITY x (id, outcome, ix)
    CROSS JOIN LATERAL (
      SELECT w.state, w.expire_time FROM reservation w WHERE w.reservation_id = x.id AND w.tenant = _tenant LIMIT 1
    ) v
    WHERE x.outcome IS NULL
    ORDER BY x.ix
  LOOP
    IF _r.refusal IS NULL AND _r.id = ANY (_changing) THEN
      _outcome[_r.ix] := 'RETRY';
    ELSE
      _outcome[_r.ix] := _r.refusal;
    END IF;
    IF _outcome[_r.ix] IS NULL THEN
      _changing := _changing || _r.id;
    END IF;
  END LOOP;
  RETURN _outcome;
END
$$;
REVOKE EXECUTE ON FUNCTION holdsvc.judge_held FROM PUBLIC;

-- migrate:down
DROP FUNCTION holdsvc.judge_held;
