"""The batcher on a real database, with batches that run what the test wants."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from holdsvc.change_requests import Request
from holdsvc.engine import lane as batcher
from holdsvc.engine.lane import Lane
from holdsvc.errors import HoldError
from holdsvc.ledger.database import Connection, Database
from holdsvc.ledger.failures import Conflict
from holdsvc.model import Again, Answer, Cause, Done, Outcome, Refused
from tests.engine.lanes import Executor, LoopClock, Observed, done, lane_of, request, soon
from tests.support import sessions
from tests.support.polling import until

LOCKING = """
CREATE TABLE public.numbered (n int PRIMARY KEY);
INSERT INTO public.numbered VALUES (1), (2), (3);
CREATE FUNCTION public.lock_rows(VARIADIC numbers int[]) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE number int;
BEGIN
  FOREACH number IN ARRAY numbers LOOP
    PERFORM 1 FROM public.numbered WHERE n = number FOR UPDATE;
  END LOOP;
END $$
"""


def reason(result: object) -> str:
    assert isinstance(result, Refused), result
    return result.reason


async def refusal(future: "asyncio.Future[list[Answer[str]]]") -> str:
    with pytest.raises(HoldError) as refused:
        await future
    return refused.value.reason


async def test_a_lone_call_runs_at_once_and_alone(database: Database, observed: Observed) -> None:
    execute = Executor()
    lane = lane_of(execute, database, observed)
    assert await lane.submit([request(1)], soon()) == [done("1")]
    assert execute.batches == [["1"]]
    await asyncio.sleep(0)
    assert lane.idle


async def test_a_batch_collects_what_waits_while_the_last_one_runs_in_order_of_arrival(
    database: Database, observed: Observed
) -> None:
    execute = Executor()
    execute.gate.clear()
    lane = lane_of(execute, database, observed)
    calls = [lane.submit([request(0)], soon())]
    await execute.started.wait()
    calls += [lane.submit([request(number)], soon()) for number in range(1, 6)]
    assert lane.depth == 5
    execute.gate.set()
    assert [result for [result] in await asyncio.gather(*calls)] == [done(str(number)) for number in range(6)]
    assert execute.batches == [["0"], ["1", "2", "3", "4", "5"]]
    assert observed.batches == [1, 5]


@pytest.fixture
def busy_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of work each time that a lane asks how much there was."""
    worked = itertools.count()
    monkeypatch.setattr(batcher, "thread_time", lambda: float(next(worked)))


@pytest.mark.usefixtures("busy_thread")
async def test_a_busy_thread_pauses_after_a_shared_batch(
    database: Database, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, _ = await two_batches(2, database, observed, monkeypatch)
    assert began[1] - began[0] >= batcher.PAUSE_MAX_S


@pytest.mark.usefixtures("busy_thread")
async def test_a_busy_thread_does_not_pause_after_a_lone_call(
    database: Database, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rests = await two_batches(1, database, observed, monkeypatch)
    assert rests == []


async def test_an_idle_thread_does_not_pause(
    database: Database, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "thread_time", lambda: 1.0)
    _, rests = await two_batches(2, database, observed, monkeypatch)
    assert rests == []


async def two_batches(
    size: int, database: Database, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[float], list[float]]:
    """When a batch of so many requests began, and the next one, and the rests that the lane took."""
    loop = asyncio.get_running_loop()
    began: list[float] = []
    rests: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        rests.append(seconds)
        await real(seconds)

    def answer(request: Request) -> Done[str]:
        began.append(loop.time())
        return done(request.fingerprint.decode())

    monkeypatch.setattr(asyncio, "sleep", sleep)
    execute = Executor(answer)
    execute.gate.clear()
    lane = lane_of(execute, database, observed)
    started = loop.time()
    first = lane.submit([request(number) for number in range(size)], soon())
    await execute.started.wait()
    second = lane.submit([request("second")], soon())
    execute.gate.set()
    await first
    await second
    return [started, began[-1]], [rest for rest in rests if rest > 0]


async def test_no_batch_is_larger_than_the_cap(database: Database, observed: Observed) -> None:
    execute = Executor()
    lane = lane_of(execute, database, observed, batch_max=4)
    results = await lane.submit([request(number) for number in range(10)], soon())
    assert results == [done(str(number)) for number in range(10)]
    assert [len(batch) for batch in execute.batches] == [4, 4, 2]


async def test_a_second_batch_runs_beside_the_first_only_while_full_ones_wait(
    database: Database, observed: Observed
) -> None:
    execute = Executor()
    execute.gate.clear()
    lane = lane_of(execute, database, observed, batch_max=4)
    calls = [lane.submit([request("first")], soon())]
    await execute.started.wait()
    calls += [lane.submit([request(number)], soon()) for number in range(3)]
    await settle(execute, 1)
    assert execute.batches == [["first"]]
    calls += [lane.submit([request(number)], soon()) for number in range(3, 10)]
    await settle(execute, 2)
    assert execute.batches == [["first"], ["0", "1", "2", "3"]]
    assert lane.depth == 6
    execute.gate.set()
    assert [result for [result] in await asyncio.gather(*calls)] == [
        done(name) for name in ("first", *map(str, range(10)))
    ]
    assert sorted(map(len, execute.batches)) == [1, 2, 4, 4]
    await idle(lane)


async def test_what_a_second_batch_puts_back_is_judged_again_though_the_first_has_ended(
    database: Database, observed: Observed
) -> None:
    judged: list[str] = []
    gates = {name: asyncio.Event() for name in ("first", "full")}

    async def execute(_connection: Connection, _tenant: str, requests: Sequence[Any]) -> list[Outcome[str]]:
        names = [one.fingerprint.decode() for one in requests]
        again = {"1"} - set(judged)
        judged.extend(names)
        await gates["first" if names == ["first"] else "full"].wait()
        return [Again() if name in again else done(name) for name in names]

    lane = lane_of(execute, database, observed, batch_max=2)
    first = lane.submit([request("first")], soon())
    await until(lambda: judged == ["first"])
    second = lane.submit([request("0"), request("1")], soon())
    await until(lambda: len(judged) == 3)
    gates["first"].set()
    assert await first == [done("first")]
    await until(lambda: lane._first is None)
    gates["full"].set()
    assert await second == [done("0"), done("1")]
    assert judged == ["first", "0", "1", "1"]
    await idle(lane)


async def settle(execute: Executor, batches: int) -> None:
    """Lets the loop run until so many batches have begun, and whatever else would begin has."""
    await until(lambda: len(execute.batches) >= batches)
    for _ in range(20):
        await asyncio.sleep(0.001)


async def idle(lane: Lane[Request, str]) -> None:
    """Returns when a lane has come to rest."""
    await until(lambda: lane.idle)


async def test_a_full_queue_refuses_with_overloaded_and_runs_nothing_of_it(
    database: Database, observed: Observed
) -> None:
    execute = Executor()
    execute.gate.clear()
    lane = lane_of(execute, database, observed, queue_max=2)
    running = lane.submit([request("running")], soon())
    await execute.started.wait()
    waiting = lane.submit([request("waiting")], soon())
    with pytest.raises(HoldError) as refused:
        lane.submit([request("more"), request("than fits")], soon())
    assert (refused.value.reason, refused.value.refused.retry_after_s) == ("OVERLOADED", 0.5)
    execute.gate.set()
    await asyncio.gather(running, waiting)
    assert execute.batches == [["running"], ["waiting"]]


async def test_a_short_deadline_is_the_callers_own_and_no_load(database: Database, observed: Observed) -> None:
    execute = Executor()
    execute.gate.clear()
    lane = lane_of(execute, database, observed)
    lane._pace.ran(0.2)  # an average of 20 ms
    running = lane.submit([request("running")], soon())
    await execute.started.wait()
    short = [lane.submit([request(name)], soon(0.02)) for name in ("first", "second")]
    execute.gate.set()
    await asyncio.gather(running, *short, return_exceptions=True)
    assert observed.outcomes["OVERLOADED"] == 0


async def test_a_call_whose_deadline_passed_before_its_batch_is_dropped_and_not_executed(
    database: Database, observed: Observed
) -> None:
    execute = Executor()
    execute.gate.clear()
    lane = lane_of(execute, database, observed)
    running = lane.submit([request("running")], soon())
    await execute.started.wait()
    late = lane.submit([request("late")], soon(0))
    in_time = lane.submit([request("in time")], soon())
    execute.gate.set()
    assert await refusal(late) == "DATABASE_UNAVAILABLE"
    await asyncio.gather(running, in_time)
    assert execute.batches == [["running"], ["in time"]]


async def test_a_deadline_that_passes_while_the_database_hangs_is_answered_by_what_is_known(
    database: Database, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = LoopClock(monkeypatch)
    execute = Executor()
    execute.gate.clear()
    lane = lane_of(execute, database, observed)
    under_way = lane.submit([request(1)], soon())
    with_id = lane.submit([request(2, request_id="a")], soon())
    await execute.started.wait()
    waiting = lane.submit([request(3)], soon())
    clock.advance(21)
    lane.expire()
    assert await refusal(under_way) == "OUTCOME_UNKNOWN"
    assert await refusal(with_id) == "DATABASE_UNAVAILABLE"
    assert await refusal(waiting) == "DATABASE_UNAVAILABLE"
    execute.gate.set()
    assert await lane.submit([request(4)], soon()) == [done("4")]
    assert execute.batches == [["1", "2"], ["4"]]


async def test_of_a_job_that_ran_in_part_no_answer_claims_that_nothing_ran(
    database: Database, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = LoopClock(monkeypatch)
    execute = Executor()
    execute.gate.clear()
    lane = lane_of(execute, database, observed, batch_max=2)
    job = lane.submit([request(number) for number in range(4)], soon())
    await execute.started.wait()
    clock.advance(21)
    execute.gate.set()
    assert await refusal(job) == "OUTCOME_UNKNOWN"
    assert execute.batches == [["0", "1"]]


async def test_a_call_that_must_run_again_and_is_late_by_then_took_nothing_and_says_so(
    database: Database, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = LoopClock(monkeypatch)
    execute = Executor(lambda _: Again())
    execute.gate.clear()
    lane = lane_of(execute, database, observed)
    job = lane.submit([request(1)], soon())
    await execute.started.wait()
    clock.advance(21)
    execute.gate.set()
    assert await refusal(job) == "DATABASE_UNAVAILABLE"


async def test_a_caller_that_goes_away_cancels_nothing_that_runs_and_drops_what_waits(
    database: Database, observed: Observed
) -> None:
    execute = Executor()
    execute.gate.clear()
    lane = lane_of(execute, database, observed)
    gone = lane.submit([request("gone")], soon())
    stays = lane.submit([request("stays")], soon())
    await execute.started.wait()
    waiting = lane.submit([request("waits")], soon())
    gone.cancel()
    waiting.cancel()
    execute.gate.set()
    assert await stays == [done("stays")]
    assert await lane.submit([request("next")], soon()) == [done("next")]
    assert execute.batches == [["gone", "stays"], ["next"]]


async def test_the_cancel_of_a_caller_never_reaches_its_commit(
    database: Database, observed: Observed, ledger_dsn: str
) -> None:
    with psycopg.connect(ledger_dsn, autocommit=True) as owner:
        owner.execute("CREATE TABLE public.done (n int)")
        owner.execute("GRANT ALL ON public.done TO holdsvc_service")

    async def execute(connection: Connection, _: str, requests: Sequence[Request]) -> list[Outcome[str]]:
        await connection.fetch("INSERT INTO public.done VALUES (1) RETURNING n")
        return [done("1") for _ in requests]

    lane = lane_of(execute, database, observed)
    with sessions.transaction(ledger_dsn) as lock:
        lock.execute("LOCK TABLE public.done")
        caller = asyncio.ensure_future(asyncio.wait_for(lane.submit([request(1)], soon()), 10))
        await sessions.until_blocked(ledger_dsn)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
    assert await lane.submit([request(2)], soon()) == [done("1")]
    with psycopg.connect(ledger_dsn) as owner:
        assert owner.execute("SELECT count(*) FROM public.done").fetchone() == (2,)


async def test_one_bad_request_fails_alone(database: Database, observed: Observed) -> None:
    batches = []

    async def execute(connection: Connection, _: str, requests: Sequence[Request]) -> list[Outcome[str]]:
        batches.append([request.fingerprint.decode() for request in requests])
        divisor = 0 if b"bad" in {request.fingerprint for request in requests} else 1
        await connection.fetch("SELECT 1 / %s::int", (divisor,))
        return [done(request.fingerprint.decode()) for request in requests]

    lane = lane_of(execute, database, observed)
    calls = [lane.submit([request(name)], soon()) for name in ("a", "bad", "c")]
    [[first], [bad], [third]] = await asyncio.gather(*calls)
    assert (first, third) == (done("a"), done("c"))
    assert reason(bad) == "INTERNAL"
    assert batches == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]
    assert observed.retries == ["poisoned"]
    assert await lane.submit([request("next")], soon()) == [done("next")]


async def test_after_a_fault_of_our_own_only_requests_with_an_id_run_again(
    database: Database, observed: Observed
) -> None:
    ran: list[str] = []

    async def execute(connection: Connection, _: str, requests: Sequence[Request]) -> list[Outcome[str]]:
        await connection.fetch("SELECT 1")
        ran.extend(request.fingerprint.decode() for request in requests)
        if len(requests) > 1:
            raise KeyError("after the commit")
        return [done(request.fingerprint.decode()) for request in requests]

    lane = lane_of(execute, database, observed)
    calls = [lane.submit([request("a")], soon()), lane.submit([request("b", request_id="id")], soon())]
    [[first], [second]] = await asyncio.gather(*calls)
    assert reason(first) == "INTERNAL"
    assert second == done("b")
    assert ran == ["a", "b", "b"]


async def test_a_batch_answered_with_too_few_results_leaves_no_call_waiting(
    database: Database, observed: Observed
) -> None:
    async def execute(_: Connection, __: str, requests: Sequence[Request]) -> list[Outcome[str]]:
        return [done("1") for request in requests if request.fingerprint != b"lost"]

    lane = lane_of(execute, database, observed)
    calls = [lane.submit([request(name)], soon()) for name in ("a", "lost")]
    [[first], [second]] = await asyncio.gather(*calls)
    assert first == done("1")
    assert reason(second) == "INTERNAL"
    assert await lane.submit([request("next")], soon()) == [done("1")]


@pytest.mark.parametrize("failures", [1, 7])
async def test_what_the_database_undid_for_another_runs_again(
    database: Database, observed: Observed, failures: int
) -> None:
    tries = 0

    async def execute(connection: Connection, _: str, requests: Sequence[Request]) -> list[Outcome[str]]:
        nonlocal tries
        tries += 1
        if tries <= failures:
            code = "40P01" if tries % 2 else "40001"
            await connection.fetch(f"DO $$ BEGIN RAISE 'undone' USING ERRCODE = '{code}'; END $$")
        return [done("1") for _ in requests]

    assert await lane_of(execute, database, observed).submit([request(1)], soon()) == [done("1")]
    assert observed.retries == ["conflict"] * failures


async def test_endless_conflicts_end_in_overloaded(database: Database, observed: Observed) -> None:
    async def execute(*_: object) -> list[Outcome[str]]:
        raise Conflict

    [result] = await lane_of(execute, database, observed).submit([request(1)], soon())
    assert reason(result) == "OVERLOADED"
    assert observed.retries == ["conflict"] * 7


async def test_a_real_deadlock_of_two_lanes_causes_no_error(
    database: Database, observed: Observed, ledger_dsn: str
) -> None:
    with psycopg.connect(ledger_dsn, autocommit=True) as owner:
        owner.execute(LOCKING)

    async def execute(connection: Connection, _: str, requests: Sequence[Request]) -> list[Outcome[str]]:
        first = int(requests[0].fingerprint)
        await connection.fetch("SELECT public.lock_rows(%s, 3, %s)", (first, 3 - first))
        return [done(str(first))]

    lanes = [lane_of(execute, database, observed) for _ in range(2)]
    with sessions.transaction(ledger_dsn) as lock:
        lock.execute("SELECT 1 FROM public.numbered WHERE n = 3 FOR UPDATE")
        calls = [lane.submit([request(number)], soon()) for number, lane in enumerate(lanes, 1)]
        await sessions.until_blocked(ledger_dsn, 2)
    assert await asyncio.gather(*calls) == [[done("1")], [done("2")]]
    # Who was undone and is back before the other goes on is in its way once more.
    assert set(observed.retries) <= {"conflict", "locked"}


async def test_twins_are_executed_once_and_answered_alike(database: Database, observed: Observed) -> None:
    execute = Executor()
    lane = lane_of(execute, database, observed)
    twins = [lane.submit([request("x", request_id="id")], soon()) for _ in range(5)]
    other = lane.submit([request("y", request_id="id", client="another")], soon())
    results = [result for [result] in await asyncio.gather(*twins)]
    assert results == [done("x")] + [done("x", replayed=True)] * 4
    assert await other == [done("y")]
    assert execute.batches == [["x", "y"]]


async def test_a_twin_with_another_content_is_judged_by_itself(database: Database, observed: Observed) -> None:
    execute = Executor()
    lane = lane_of(execute, database, observed)
    results = await asyncio.gather(*(lane.submit([request(name, request_id="id")], soon()) for name in ("x", "y", "x")))
    assert results == [[done("x")], [done("y")], [done("x", replayed=True)]]
    assert execute.batches == [["x"], ["y"]]


async def test_twins_of_a_refused_call_share_its_refusal(database: Database, observed: Observed) -> None:
    refused = Refused("CAPACITY_EXCEEDED", "none left")
    execute = Executor(lambda _: refused)
    lane = lane_of(execute, database, observed)
    results = await asyncio.gather(*(lane.submit([request("x", request_id="id")], soon()) for _ in range(3)))
    assert results == [[refused]] * 3
    assert execute.batches == [["x"]]


async def test_what_must_run_again_comes_before_what_arrived_later_and_keeps_its_order(
    database: Database, observed: Observed
) -> None:
    first_time = {b"a", b"c"}

    def answer(request: Request) -> Outcome[str]:
        if request.fingerprint in first_time:
            first_time.discard(request.fingerprint)
            return Again()
        return done(request.fingerprint.decode())

    execute = Executor(answer)
    execute.gate.clear()
    lane = lane_of(execute, database, observed, batch_max=3)
    calls = [lane.submit([request(name, request_id=name)], soon()) for name in "abc"]
    await execute.started.wait()
    calls.append(lane.submit([request("d")], soon()))
    execute.gate.set()
    assert [result for [result] in await asyncio.gather(*calls)] == [done(name) for name in "abcd"]
    assert execute.batches == [["a", "b", "c"], ["a", "c", "d"]]


class Cut:
    """Runs batches whose connection is cut under way the first time."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.batches: list[list[str]] = []

    async def __call__(self, connection: Connection, _: str, requests: Sequence[Request]) -> list[Outcome[str]]:
        self.batches.append([request.fingerprint.decode() for request in requests])
        if len(self.batches) == 1:
            [[pid]] = await connection.fetch("SELECT pg_backend_pid()")
            running = asyncio.ensure_future(connection.fetch("SELECT pg_sleep(20)"))
            await asyncio.to_thread(cut, self._dsn, pid)
            await running
        return [done(request.fingerprint.decode()) for request in requests]


def cut(dsn: str, pid: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


async def test_a_connection_lost_under_way_leaves_only_calls_without_request_id_in_doubt(
    database: Database, observed: Observed, ledger_dsn: str
) -> None:
    execute = Cut(ledger_dsn)
    lane = lane_of(execute, database, observed)
    calls = [
        lane.submit([request("a")], soon()),
        lane.submit([request("b", request_id="id")], soon()),
        lane.submit([request("b", request_id="id")], soon()),
        lane.submit([request("c"), request("d", request_id="other")], soon()),
    ]
    [a], [b], [twin], [c, d] = await asyncio.gather(*calls)
    assert (reason(a), reason(c)) == ("OUTCOME_UNKNOWN", "OUTCOME_UNKNOWN")
    assert (b, twin, d) == (done("b"), done("b", replayed=True), done("d"))
    assert execute.batches == [["a", "b", "c", "d"], ["b", "d"]]
    assert observed.retries == ["connection"]


async def test_connections_cut_while_idle_leave_no_outcome_unknown(
    database: Database, observed: Observed, ledger_dsn: str
) -> None:
    execute = Executor()
    lane = lane_of(execute, database, observed)
    assert await lane.submit([request(1)], soon()) == [done("1")]
    with psycopg.connect(ledger_dsn, autocommit=True) as owner:
        owner.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'holdsvc'"
        )
    for number in range(6):
        assert await lane.submit([request(number)], soon()) == [done(str(number))]
    assert observed.retries == []


async def test_without_a_connection_in_time_nothing_ran(database: Database, observed: Observed) -> None:
    execute = Executor()
    lane = lane_of(execute, database, observed)
    await database.close()
    [result] = await lane.submit([request(1)], soon())
    assert reason(result) == "DATABASE_UNAVAILABLE"
    assert execute.batches == []


async def test_a_statement_that_ran_into_its_time_limit_took_no_effect(database: Database, observed: Observed) -> None:
    async def execute(connection: Connection, _: str, __: Sequence[Request]) -> list[Outcome[str]]:
        await connection.fetch("SELECT set_config('statement_timeout', '20ms', false)")
        await connection.fetch("SELECT pg_sleep(20)")
        raise AssertionError("the statement ends before")

    [result] = await lane_of(execute, database, observed).submit([request(1)], soon())
    assert reason(result) == "OVERLOADED"
    assert observed.causes == [Cause.STATEMENT_TIMEOUT]
