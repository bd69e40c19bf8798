"""The primary is killed, its synchronous standby promoted: nothing acknowledged is lost, the service finds it."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from holdsvc.client import AsyncClient, errors
from holdsvc.embedded import binaries
from holdsvc.embedded.server import EmbeddedServer
from holdsvc.ledger import migrate
from inventoryhold.v1 import event_service_pb2
from tests.faults.callers import Callers
from tests.support.harness import StartService
from tests.support.polling import until, wait_until
from tests.support.sessions import sql_of

REPLICATION = {"wal_level": "replica", "max_wal_senders": "4", "max_replication_slots": "4", "hot_standby": "on"}


class Pair(NamedTuple):
    """A primary and its synchronous standby."""

    primary: EmbeddedServer
    standby_dsn: str
    dsn: str
    """Of whichever of the two takes writes."""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    primary = EmbeddedServer(tmp_path / "primary", settings=REPLICATION)
    standby = EmbeddedServer(tmp_path / "standby", settings=REPLICATION)
    try:
        dsn = primary.start()
        migrate.up(dsn)
        parts = conninfo_to_dict(dsn)
        standby.data_dir.mkdir()
        command = [str(binaries.find(None, None) / "pg_basebackup"), "-h", str(parts["host"]), "-U", str(parts["user"])]
        command += ["-D", str(standby.data_dir / "pgdata"), "-R", "-X", "stream", "-c", "fast"]
        subprocess.run(command, check=True, capture_output=True)
        standby_dsn = standby.start()
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            wait_for(connection, "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
        host = f"{parts['host']},{conninfo_to_dict(standby_dsn)['host']}"
        both = make_conninfo(dsn, host=host, port="5432,5432", target_session_attrs="read-write")
        yield Pair(primary, standby_dsn, both)
    finally:
        primary.stop()
        standby.stop()


def wait_for(connection: psycopg.Connection, query: str) -> None:
    wait_until(lambda: connection.execute(query.encode()).fetchone(), pause_s=0.05)


async def test_after_a_failover_nothing_acknowledged_is_lost_and_calls_go_on(
    pair: Pair, start_service: StartService
) -> None:
    service = await start_service(dsn=pair.dsn)
    told: list[int] = []
    async with AsyncClient(service.address) as client:
        request = event_service_pb2.StreamEventsRequest(from_oldest=True)
        reader = asyncio.create_task(read(client, request, told))
        async with Callers(service.address) as callers:
            await callers.progress(300)
            assert pair.primary.pid is not None
            os.kill(pair.primary.pid, signal.SIGKILL)
            start = time.monotonic()
            await asyncio.to_thread(promote, pair.standby_dsn)
            await callers.progress(200)
            recovered_s = time.monotonic() - start
        refusal = await reader_end(reader, told, pair.standby_dsn)
    print(f"stream of the old timeline: {refusal or 'went on without a gap'}, {len(told)} events")  # noqa: T201
    print(f"recovered {recovered_s:.1f} s after the kill, {callers.history.summary()}")  # noqa: T201
    callers.history.check(sql_of(pair.standby_dsn))
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


def promote(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert connection.execute("SELECT pg_promote(true, 60)").fetchone() == (True,)
