"""The engine's background loops go on after whatever their step raises."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from holdsvc.engine import engine as engine_module
from holdsvc.engine import tasks
from holdsvc.engine.engine import Engine
from holdsvc.engine.lane import Lanes
from holdsvc.engine.retention import Retention
from holdsvc.engine.sweeper import Sweeper
from holdsvc.errors import HoldError
from holdsvc.ledger import holds, items, limits, removal, upkeep
from holdsvc.ledger.database import Database
from holdsvc.ledger.failures import Conflict, Failed, NothingRan, Unknown
from holdsvc.settings import Settings
from tests.engine.lanes import Observed, soon
from tests.engine.test_sweeper import Swept
from tests.support import sessions
from tests.support.harness import loop_failures
from tests.support.holds import CALLER, reserves, stock
from tests.support.polling import until

FAULTS = [ValueError("a fault of ours"), NothingRan(), Unknown(), Conflict(), Failed("refused"), TimeoutError()]


class Failing:
    """Raises each fault once in place of a function, then calls it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._faults = list(FAULTS)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self._faults:
            raise self._faults.pop()
        return self._function(*arguments, **named)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "PAUSE_MAX_S", 0.0)


@pytest.fixture
def sweeper(settings: Settings, database: Database) -> tuple[Sweeper, Swept]:
    swept = Swept()
    return Sweeper(settings, database, swept), swept


async def run_until(loop: Awaitable[object], true: Callable[[], Awaitable[bool] | bool]) -> None:
    task = asyncio.ensure_future(loop)
    try:
        await until(true)
        assert not task.done()
    finally:
        await tasks.end([task])


async def test_the_sweep_goes_on(
    sweeper: tuple[Sweeper, Swept], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeps, swept = sweeper
    async with database.connection() as connection:
        await items.create(connection, CALLER, stock(("a",)))
        await holds.reserve(connection, "default", reserves(["a"] * 3, ttl_us=1))
    monkeypatch.setattr(upkeep, "release_expired", Failing(upkeep.release_expired))
    before = loop_failures("sweep")
    await run_until(sweeps.run(), lambda: sum(swept.counts) == 3)
    assert swept.failures == loop_failures("sweep") - before == len(FAULTS)


async def test_the_upkeep_goes_on(
    sweeper: tuple[Sweeper, Swept], monkeypatch: pytest.MonkeyPatch, ledger_dsn: str
) -> None:
    sweeps, _ = sweeper
    sql = sessions.sql_of(ledger_dsn)
    [[last]] = sql("SELECT max(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'holdsvc.event'::regclass")
    with psycopg.connect(ledger_dsn, autocommit=True) as owner:
        owner.execute(f"DROP TABLE {last}".encode())
    monkeypatch.setattr(upkeep, "create_event_partitions", Failing(upkeep.create_event_partitions))
    before = loop_failures("upkeep")
    await run_until(sweeps.run(), lambda: sql(f"SELECT to_regclass('{last}') IS NOT NULL") == [(True,)])
    assert loop_failures("upkeep") - before == len(FAULTS)


async def test_retention_goes_on(database: Database, monkeypatch: pytest.MonkeyPatch, ledger_dsn: str) -> None:
    monkeypatch.setattr(removal, "remove", Failing(removal.remove))
    before = loop_failures("retention")
    sql = sessions.sql_of(ledger_dsn)
    keeping = Retention(Settings.load(auth="off", reservation_retention="48h"), database)
    await run_until(
        keeping.run(), lambda: sql("SELECT begin_time IS NOT NULL FROM holdsvc.retention_walk") == [(True,)]
    )
    assert loop_failures("retention") - before == len(FAULTS)


async def test_the_work_on_limits_goes_on(
    sweeper: tuple[Sweeper, Swept], database: Database, monkeypatch: pytest.MonkeyPatch, ledger_dsn: str
) -> None:
    sweeps, _ = sweeper
    terms = limits.LimitTerms("each", "", None, limits.Per.HOLDER, limits.Counts.HELD, 4, None)
    async with database.connection() as connection:
        await limits.set_limit(connection, "default", terms)
    monkeypatch.setattr(limits, "build", Failing(limits.build))
    before = loop_failures("limits")
    sql = sessions.sql_of(ledger_dsn)
    await run_until(sweeps.run(), lambda: sql("SELECT state FROM holdsvc.hold_limit") == [(2,)])
    assert loop_failures("limits") - before == len(FAULTS)


async def test_deadlines_are_kept(
    settings: Settings, database: Database, observed: Observed, monkeypatch: pytest.MonkeyPatch, ledger_dsn: str
) -> None:
    monkeypatch.setattr(engine_module, "DEADLINE_TICK_S", 0.01)
    expire = Failing(Lanes.expire)
    monkeypatch.setattr(Lanes, "expire", lambda lanes: expire(lanes))  # noqa: PLW0108 - an object is not bound as a method
    engine = Engine(settings, database, observed)
    async with database.connection() as connection:
        await items.create(connection, CALLER, stock(("a",)))
    before = loop_failures("deadlines")
    engine.start()
    try:
        with sessions.transaction(ledger_dsn) as lock:
            lock.execute("SELECT 1 FROM holdsvc.item FOR UPDATE")
            with pytest.raises(HoldError) as refused:
                await engine.reserve(reserves(["a"]), soon(0.3))
    finally:
        await engine.close()
    assert refused.value.refused.metadata == {"cause": "DEADLINE_EXCEEDED"}
    assert loop_failures("deadlines") - before == len(FAULTS)
