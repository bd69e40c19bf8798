"""A primary that has been replaced is never believed; a promotion of a synchronous standby loses nothing."""

import asyncio
import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import grpc.aio
import psycopg
import pytest

from holdsvc.client import AsyncClient, errors
from holdsvc.commands import CommandError, target
from holdsvc.ledger import database, retention, stock
from holdsvc.ledger.database import Database
from holdsvc.ledger.failures import NothingRan
from holdsvc.model import Cause
from holdsvc.settings import Settings
from inventoryhold.v1 import event_service_pb2, item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.faults.callers import Callers
from tests.support.harness import Harness, StartService, refusal_of, refused
from tests.support.pair import Pair, of_hosts, running
from tests.support.polling import until
from tests.support.program import command
from tests.support.sessions import snapshot, sql_of

SELLERS = 8


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that finds no primary says so soon."""
    monkeypatch.setattr(database, "OPEN_TIMEOUT_S", 1.0)


@pytest.fixture
def pair(tmp_path: Path, prepared: Path) -> Iterator[Pair]:
    with running(tmp_path, prepared) as made:
        yield made


class Sellers:
    """Callers that take one unit after the other, each call until it is acknowledged."""

    def __init__(self, service: Harness) -> None:
        self._service = service
        self._tasks: list[asyncio.Task[None]] = []
        self.acknowledged: list[str] = []

    async def __aenter__(self) -> Self:
        await self._service.create_item("seat", 1_000_000)
        self._tasks = [asyncio.create_task(self._sell(number)) for number in range(SELLERS)]
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _sell(self, number: int) -> None:
        for count in itertools.count():
            request = pb.ReserveRequest(
                lines=[item_pb2.ItemQuantity(sku="seat", quantity=1)], request_id=f"{number}-{count}"
            )
            while True:
                try:
                    answer = await self._service.reservations.Reserve(request, timeout=3.0)
                except grpc.aio.AioRpcError as error:
                    assert refusal_of(error).reason in ("", "DATABASE_UNAVAILABLE", "OVERLOADED")
                else:
                    self.acknowledged.append(answer.reservation.reservation_id)
                    break

    async def progress(self, count: int) -> None:
        """Returns after so many more holds."""
        wanted = len(self.acknowledged) + count
        await until(lambda: len(self.acknowledged) >= wanted)

    def lost(self, dsn: str) -> set[str]:
        """Acknowledged holds that a server does not have."""
        rows = sql_of(dsn)("SELECT reservation_id::text FROM holdsvc.reservation")
        return set(self.acknowledged) - {row[0] for row in rows}


async def timeline(settings: Settings, dsn: str) -> int:
    """The timeline that a new process writes to; raises NothingRan where it believes no server."""
    pool = Database(settings, dsn)
    try:
        await pool.open()
        return int((await pool.fetch("SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"))[0][0], 16)
    finally:
        await pool.close()


def timeline_of_psql(dsn: str) -> int:
    """Where an operator's psql comes out."""
    query = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"
    done = command("psql", "--dsn", dsn, "--", "--tuples-only", "--no-align", "--command", query)
    assert (done.returncode, done.stderr) == (0, "")
    return int(done.stdout, 16)


def reserve(request_id: str = "") -> pb.ReserveRequest:
    return pb.ReserveRequest(lines=[item_pb2.ItemQuantity(sku="seat", quantity=1)], request_id=request_id)


async def test_an_old_primary_sells_nothing_before_during_and_after_its_replacement(
    pair: Pair, start_service: StartService, tmp_path: Path
) -> None:
    dsn, state = of_hosts(pair.old, pair.new), tmp_path / "state"
    service = await start_service(dsn=dsn, owner_dsn=pair.old, state_dir=state, pool_timeout="500ms")
    async with Sellers(service) as sellers:
        await sellers.progress(50)
        # Before: it is writable and in use when the other one is promoted.
        await pair.promote()
        await sellers.progress(50)
        # During: it is gone; after: it comes back, and commits alone.
        pair.signal("old", signal.SIGKILL)
        before = set(sellers.acknowledged)
        pair.start("old", synchronous_standby_names="")
        await sellers.progress(50)
        fresh = Settings.load(auth="off", pool_timeout="500ms")
        # New processes, while both are writable, however the hosts are named.
        for hosts in ((pair.old, pair.new), (pair.new, pair.old)):
            assert await timeline(fresh, of_hosts(*hosts)) == 2
            assert await asyncio.to_thread(timeline_of_psql, of_hosts(*hosts)) == 2
        # Only the old one answers: who has seen the new one refuses it, also after a restart.
        pair.stop("new")
        await until(lambda: service.cell.database.primary.cause)
    refusal = await refused(service.reservations.Reserve(reserve()))
    assert (refusal.reason, refusal.metadata) == ("DATABASE_UNAVAILABLE", {"cause": "PRIMARY_REFUSED"})
    remembering = Settings.load(auth="off", pool_timeout="500ms", state_dir=state)
    for of_some in (of_hosts(pair.old, pair.new), pair.old):
        with pytest.raises(NothingRan) as raised:
            await timeline(remembering, of_some)
        assert raised.value.cause is Cause.PRIMARY_REFUSED
    old_ids = {row[0] for row in sql_of(pair.old)("SELECT reservation_id::text FROM holdsvc.reservation")}
    assert set(sellers.acknowledged) - before, "nothing was sold after the old primary came back"
    assert not old_ids & (set(sellers.acknowledged) - before)
    # An operator can say that it is the right one all the same.
    await asyncio.to_thread(target.run, pair.old, retention.begin_epoch)
    await until(lambda: service.cell.database.primary.cause is None)
    assert await timeline(remembering, dsn) == 1
    pair.start("new")
    assert not sellers.lost(pair.new)


async def test_a_primary_that_stood_still_during_the_promotion_sells_nothing(
    pair: Pair, start_service: StartService
) -> None:
    service = await start_service(dsn=of_hosts(pair.old, pair.new), owner_dsn=pair.old, pool_timeout="500ms")
    async with Sellers(service) as sellers:
        await sellers.progress(50)
        pair.signal("old", signal.SIGSTOP)
        await pair.promote()
        await sellers.progress(50)
        pair.signal("old", signal.SIGCONT)
        await sellers.progress(50)
    assert not sellers.lost(pair.new)


async def test_two_servers_with_the_same_timeline_sell_nothing_until_one_is_stopped(
    tmp_path: Path, prepared: Path, start_service: StartService
) -> None:
    with running(tmp_path, prepared, synchronous=False) as pair:
        pair.stop("new", "old")
        copy = pair.copy("copy")
        dsn = of_hosts(pair.old, copy)
        settings = Settings.load(auth="off", pool_timeout="500ms")
        service = await start_service(dsn=dsn, owner_dsn=copy, pool_timeout="500ms")
        await service.create_item("seat", 10)
        await service.reserve({"seat": 1})
        pair.start("old")
        await until(lambda: service.cell.database.primary.cause)
        assert (await refused(service.reservations.Reserve(reserve()))).reason == "DATABASE_SPLIT"
        assert (await refused(service.reservations.Reserve(reserve("one")))).reason == "DATABASE_SPLIT"
        with pytest.raises(NothingRan) as raised:
            await timeline(settings, dsn)
        assert raised.value.cause is Cause.DATABASE_SPLIT
        pair.stop("old")
        await until(lambda: service.cell.database.primary.cause is None)
        await service.reserve({"seat": 1})


async def test_a_commit_waits_for_its_standby_and_a_cancelled_wait_is_an_unknown_outcome(
    pair: Pair, start_service: StartService
) -> None:
    waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'holdsvc'"
    # Far shorter than the wait: no limit of the service's own ends it.
    service = await start_service(dsn=pair.old, owner_dsn=pair.old, statement_timeout="300ms", lock_timeout="200ms")
    await service.create_item("seat", 10)
    pair.signal("new", signal.SIGSTOP)
    call = asyncio.ensure_future(service.reservations.Reserve(reserve("one")))
    longer = f"SELECT 1 {waiting} AND clock_timestamp() - state_change > '700ms'"
    await until(lambda: service.sql(longer), pause_s=0.02)
    assert not call.done()
    pair.signal("new", signal.SIGCONT)
    assert (await call).reservation.reservation_id
    # With a request_id too: to run it again would find the commit, and acknowledge what the standby does not have.
    for request_id in ("", "two"):
        pair.signal("new", signal.SIGSTOP)
        cancelled = asyncio.ensure_future(refused(service.reservations.Reserve(reserve(request_id))))
        # Again and again: the first that waits may be the reader of the feed.
        while not cancelled.done():
            service.sql(f"SELECT pg_cancel_backend(pid) {waiting}")
            await asyncio.sleep(0.02)
        refusal = await cancelled
        assert (refusal.reason, refusal.metadata) == ("OUTCOME_UNKNOWN", {"cause": "STANDBY_AWAY"})
        pair.signal("new", signal.SIGCONT)
    await service.reserve({"seat": 1})


async def test_a_command_waits_for_the_standby_whatever_its_role_says_and_tells_of_a_cancelled_wait(
    pair: Pair,
) -> None:
    sql = sql_of(pair.old)
    with psycopg.connect(pair.old) as connection:
        connection.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = off")
    pair.signal("new", signal.SIGSTOP)
    command = asyncio.create_task(asyncio.to_thread(target.run, pair.old, stock.tenants))
    waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    await until(lambda: sql(f"SELECT pg_cancel_backend(pid) {waiting}"), pause_s=0.02)
    with pytest.raises(CommandError, match="the wait for a standby was cancelled"):
        await command
    pair.signal("new", signal.SIGCONT)


async def test_after_a_failover_nothing_acknowledged_is_lost_and_calls_go_on(
    pair: Pair, start_service: StartService
) -> None:
    service = await start_service(dsn=of_hosts(pair.old, pair.new), owner_dsn=pair.old)
    told: list[int] = []
    async with AsyncClient(service.address) as client:
        request = event_service_pb2.StreamEventsRequest(from_oldest=True)
        reader = asyncio.create_task(read(client, request, told))
        async with Callers(service.address) as callers:
            await callers.progress(300)
            pair.signal("old", signal.SIGKILL)
            start = time.monotonic()
            await pair.promote()
            await callers.progress(200)
            recovered_s = time.monotonic() - start
        refusal = await reader_end(reader, told, pair.new)
    print(f"stream of the old timeline: {refusal or 'went on without a gap'}, {len(told)} events")  # noqa: T201
    print(f"recovered {recovered_s:.1f} s after the kill, {callers.history.summary()}")  # noqa: T201
    with snapshot(pair.new) as sql:
        callers.history.check(sql)
    assert callers.history.summary()["unknown"] == 0
    assert recovered_s < 60
    await service.verify()


async def read(client: AsyncClient, request: event_service_pb2.StreamEventsRequest, told: list[int]) -> None:
    """Reads events until the stream is refused; reopens it where it stood as long as it may."""
    async for message in client.stream_events(request):
        told += [event.event_id for event in message.events]


async def reader_end(reader: "asyncio.Task[None]", told: list[int], dsn: str) -> str:
    """How the stream ended: refused for its token, or (empty) with every event told, once each."""
    ids = [row[0] for row in sql_of(dsn)("SELECT event_id FROM holdsvc.event ORDER BY event_id")]
    await until(lambda: reader.done() or told[-1:] == ids[-1:])
    if reader.done():
        with pytest.raises(errors.ResumeTokenForeign):
            reader.result()
        # What was told until then was in order and without a gap, but for what the failover lost unacknowledged.
        assert told == sorted(set(told))
        return "RESUME_TOKEN_FOREIGN"
    reader.cancel()
    assert told == ids
    return ""
