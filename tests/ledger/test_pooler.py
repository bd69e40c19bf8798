"""Behind pgbouncer: sessions as without it; transactions only where the service is told so, and then all of it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from holdsvc.ledger.database import Database
from holdsvc.ledger.failures import NothingRan
from holdsvc.model import Cause
from holdsvc.settings import Settings, SettingsError
from inventoryhold.v1 import event_service_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support import pooler
from tests.support.harness import StartService, refused
from tests.support.program import Program
from tests.support.sessions import transaction

pytestmark = pytest.mark.skipif(pooler.PROGRAM is None, reason="needs pgbouncer (Debian: apt-get install pgbouncer)")


@pytest.fixture
def sessions(ledger_dsn: str, tmp_path: Path) -> Iterator[str]:
    with pooler.pooling(ledger_dsn, tmp_path, "session") as dsn:
        yield dsn


@pytest.fixture
def transactions(ledger_dsn: str, tmp_path: Path) -> Iterator[str]:
    with pooler.pooling(ledger_dsn, tmp_path, "transaction") as dsn:
        yield dsn


@asynccontextmanager
async def opened(dsn: str, **settings: str) -> AsyncIterator[Database]:
    database = Database(Settings.load(auth="off", **settings), dsn)
    try:
        await database.open()
        yield database
    finally:
        await database.close()


async def test_a_pooler_of_sessions_is_used_as_a_database(sessions: str) -> None:
    async with opened(sessions) as database:
        assert await database.fetch("SHOW lock_timeout") == [("10s",)]


async def test_a_pooler_of_transactions_is_refused_in_words(transactions: str) -> None:
    with pytest.raises(SettingsError, match="set HOLDSVC_PREPARE=off"):
        async with opened(transactions):
            pass


def test_serve_behind_a_pooler_of_transactions_ends_with_the_words(transactions: str, ledger_dsn: str) -> None:
    settings: dict[str, Any] = {"dsn": transactions, "migrate_dsn": ledger_dsn, "auth": "off", "metrics_listen": ""}
    with Program(None, **settings) as program:
        assert program.end() != 0
        assert "HOLDSVC_PREPARE=off" in program.output


async def test_statements_behind_a_pooler_of_transactions_have_their_settings_and_leave_none(
    transactions: str, ledger_dsn: str
) -> None:
    async with opened(transactions, prepare="off", lock_timeout="200ms", statement_timeout="300ms") as database:
        async with database.connection(lock_wait_s=0.123) as connection:
            [[lock_timeout, role]] = await connection.fetch("SELECT current_setting('lock_timeout'), current_user")
            assert (lock_timeout, role) == ("123ms", "holdsvc_service")
            with pytest.raises(NothingRan) as raised:
                await connection.fetch("SELECT pg_sleep(10)")
            assert raised.value.cause is Cause.STATEMENT_TIMEOUT
            assert await connection.fetch("SELECT 1") == [(1,)]
        with transaction(ledger_dsn) as locker:
            locker.execute("SELECT pg_advisory_xact_lock(7)")
            async with database.connection(lock_wait_s=0.05) as connection:
                with pytest.raises(NothingRan) as raised:
                    await connection.fetch("SELECT pg_advisory_xact_lock(7)")
                assert raised.value.cause is Cause.LOCK_WAIT
    with psycopg.connect(transactions) as other:
        assert other.execute("SHOW lock_timeout").fetchone() == ("0",)


async def test_all_of_the_service_works_behind_a_pooler_of_transactions(
    start_service: StartService, transactions: str
) -> None:
    service = await start_service(dsn=transactions, prepare="off", sweeping=True)
    await service.create_item("seat", 200)
    stream: Any = service.events.StreamEvents(event_service_pb2.StreamEventsRequest(from_oldest=True))
    held = await asyncio.gather(*(service.reserve({"seat": 1}, request_id=str(number)) for number in range(200)))
    full = await refused(service.reserve({"seat": 1}))
    assert full.reason == "CAPACITY_EXCEEDED"
    await asyncio.gather(
        *(service.reservations.Confirm(pb.ConfirmRequest(reservation_id=each.reservation_id)) for each in held[:100])
    )
    await asyncio.gather(
        *(service.reservations.Cancel(pb.CancelRequest(reservation_id=each.reservation_id)) for each in held[100:])
    )
    told: set[int] = set()
    while len(told) < 1 + 200 + 200:
        told.update(event.event_id for event in (await stream.read()).events)
    item = await service.item("seat")
    assert (item.remaining, item.held, item.confirmed) == (100, 0, 100)
    await service.verify()
