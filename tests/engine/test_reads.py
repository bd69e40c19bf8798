"""Reads and changes without a lane, on a real database: they end with their callers and leave room for others."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from holdsvc.engine.engine import Engine
from holdsvc.errors import HoldError
from holdsvc.ledger.database import Connection, Database
from holdsvc.model import Cause, Done
from holdsvc.settings import Settings
from tests.engine.lanes import Observed, soon
from tests.support import sessions
from tests.support.polling import until

SLEEPING = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND state = 'active' AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"
)


@pytest.fixture
async def engine(settings: Settings, database: Database, observed: Observed) -> AsyncIterator[Engine]:
    engine = Engine(settings, database, observed)
    yield engine
    await engine.close()


async def sleep(connection: Connection) -> None:
    await connection.fetch("SELECT pg_sleep(60)")


async def until_sleeping(dsn: str, count: int) -> None:
    """Returns when so many statements sleep in the database."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:

        async def are_sleeping() -> bool:
            return await (await connection.execute(SLEEPING)).fetchone() == (count,)

        await until(are_sleeping, pause_s=0.005)


async def test_a_read_whose_deadline_passes_ends_in_the_database_too(engine: Engine, ledger_dsn: str) -> None:
    with pytest.raises(HoldError) as refused:
        await engine.read("a", sleep, soon(0.2))
    assert refused.value.refused.metadata == {"cause": "DEADLINE_EXCEEDED"}
    await until_sleeping(ledger_dsn, 0)


async def test_a_read_whose_caller_goes_away_ends_in_the_database_too(engine: Engine, ledger_dsn: str) -> None:
    caller = asyncio.ensure_future(engine.read("a", sleep, soon()))
    await until_sleeping(ledger_dsn, 1)
    caller.cancel()
    await until_sleeping(ledger_dsn, 0)
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_a_cancelled_read_leaves_a_connection_that_works(engine: Engine) -> None:
    for _ in range(10):
        with pytest.raises(HoldError):
            await engine.read("a", sleep, soon(0.02))

    async def one(connection: Connection) -> int:
        return int((await connection.fetch("SELECT 1"))[0][0])

    assert await asyncio.gather(*(engine.read("a", one, soon()) for _ in range(50))) == [1] * 50


async def test_reads_of_one_tenant_keep_neither_other_tenants_nor_lanes_waiting(
    engine: Engine, database: Database, ledger_dsn: str
) -> None:
    reads = [asyncio.ensure_future(engine.read("a", sleep, soon())) for _ in range(20)]
    await until_sleeping(ledger_dsn, 1)

    async def one(connection: Connection) -> int:
        return int((await connection.fetch("SELECT 1"))[0][0])

    assert await engine.read("b", one, soon(5)) == 1
    async with database.connection() as connection:
        assert await one(connection) == 1
    for read in reads:
        read.cancel()
    await asyncio.wait(reads)


async def test_changes_of_one_tenant_on_a_locked_row_leave_connections_to_others(
    engine: Engine, database: Database, ledger_dsn: str
) -> None:
    with psycopg.connect(ledger_dsn, autocommit=True) as owner:
        owner.execute("CREATE TABLE public.row (n int)")
        owner.execute("GRANT ALL ON public.row TO holdsvc_service")

    async def lock(connection: Connection) -> Done[None]:
        await connection.fetch("INSERT INTO public.row VALUES (1) RETURNING n")
        return Done(None, replayed=False)

    async def one(connection: Connection) -> int:
        return int((await connection.fetch("SELECT 1"))[0][0])

    with sessions.transaction(ledger_dsn) as other:
        other.execute("LOCK TABLE public.row")
        changes = [asyncio.ensure_future(engine.change("a", lock, soon())) for _ in range(16)]
        await sessions.until_blocked(ledger_dsn)
        await database.ping()
        assert await engine.look_up(one, soon(1)) == 1
        assert await engine.read("b", one, soon(1)) == 1
    assert await asyncio.gather(*changes) == [Done(None, replayed=False)] * 16


async def test_a_change_whose_caller_has_gone_before_its_turn_never_runs(
    engine: Engine, ledger_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdsvc.engine.engine.CALLERS_OWN_S", 0.0)
    ran: list[str] = []

    async def change(name: str, deadline: float) -> Done[None]:
        async def run(connection: Connection) -> Done[None]:
            ran.append(name)
            await connection.fetch("SELECT pg_sleep(0.5)")
            return Done(None, replayed=False)

        return await engine.change("a", run, deadline)  # type: ignore[return-value]

    first = asyncio.ensure_future(change("first", soon()))
    await until_sleeping(ledger_dsn, 1)
    gone = asyncio.ensure_future(change("gone", soon()))
    late = asyncio.ensure_future(change("late", soon(0.05)))
    last = asyncio.ensure_future(change("last", soon()))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(HoldError) as refused:
        await late
    assert (refused.value.reason, refused.value.refused.metadata) == (
        "DATABASE_UNAVAILABLE",
        {"cause": "DEADLINE_EXCEEDED"},
    )
    await asyncio.gather(first, last)
    assert ran == ["first", "last"]


async def test_a_change_on_a_row_that_stays_locked_is_refused_with_its_cause(
    engine: Engine, observed: Observed, ledger_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdsvc.engine.engine.CHANGE_LOCK_WAIT_S", 0.05)
    with psycopg.connect(ledger_dsn, autocommit=True) as owner:
        owner.execute("CREATE TABLE public.row (n int)")
        owner.execute("GRANT ALL ON public.row TO holdsvc_service")

    async def lock(connection: Connection) -> Done[None]:
        await connection.fetch("INSERT INTO public.row VALUES (1) RETURNING n")
        return Done(None, replayed=False)

    with sessions.transaction(ledger_dsn) as other:
        other.execute("LOCK TABLE public.row")
        with pytest.raises(HoldError) as refused:
            await engine.change("a", lock, soon())
    assert (refused.value.reason, refused.value.refused.metadata) == ("OVERLOADED", {"cause": "LOCK_WAIT"})
    assert observed.causes == [Cause.LOCK_WAIT]


async def test_keys_and_health_have_connections_of_their_own(engine: Engine, database: Database) -> None:
    async def one(connection: Connection) -> int:
        return int((await connection.fetch("SELECT 1"))[0][0])

    async with (
        database.connection(),
        database.connection(),
        database.connection(),
        database.connection(),
    ):
        with pytest.raises(HoldError) as refused:
            await engine.read("a", one, soon())
        assert refused.value.reason in ("OVERLOADED", "DATABASE_UNAVAILABLE")
        await database.ping()
        assert await engine.look_up(one, soon(1)) == 1
