"""`holdsvc events` and `holdsvc relay`: events leaving the service, by the day or as they happen."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO

from prometheus_client import start_http_server

from holdsvc.commands.operator import OperatorError, run
from holdsvc.ledger import retention
from holdsvc.ledger.database import Connection, Database
from holdsvc.relay.cloud_event import as_json
from holdsvc.relay.relay import Relay, RelayError, open_broker
from holdsvc.settings import Settings, split_address


def list_days(dsn: str) -> list[dict[str, Any]]:
    """The days of which there are events, oldest first."""
    return [
        {"day": day.day.isoformat(), "event_count": day.event_count, "size_bytes": day.size_bytes}
        for day in run(dsn, retention.days)
    ]


def export(dsn: str, day: date, file: Path | None) -> int:
    """Writes a day's events of all tenants as JSON lines, to standard output without a file; returns how many.

    The file appears whole or not at all.
    """
    if file is None:
        return run(dsn, lambda connection: _write(connection, day, sys.stdout.buffer))
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("wb") as target:
            count = run(dsn, lambda connection: _write(connection, day, target))
            target.flush()
            os.fsync(target.fileno())
        part.rename(file)
    except OSError as error:
        raise OperatorError(f"cannot write {file}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return count


async def _write(connection: Connection, day: date, target: BinaryIO) -> int:
    count = after = 0
    while found := await retention.events_of(connection, day, after):
        target.writelines(
            json.dumps({"tenant": event.tenant, **as_json(event)}, ensure_ascii=False).encode() + b"\n"
            for event in found
        )
        count += len(found)
        after = found[-1].event.event_id
    return count


def begin_epoch(dsn: str) -> None:
    """Makes every resume token and relay position of before foreign: for a database that was put back or copied."""
    run(dsn, retention.begin_epoch)


def relay(settings: Settings, dsn: str, to: str, name: str, prefix: str, metrics: str, *, from_now: bool) -> None:
    """Publishes events until SIGTERM; raises OperatorError where going on would skip some."""
    if metrics:
        host, port = split_address(metrics)
        start_http_server(port, addr=host)
    try:
        asyncio.run(_relay(settings, dsn, lambda database: _new_relay(database, to, name, prefix, from_now=from_now)))
    except RelayError as error:
        raise OperatorError(str(error)) from error


def _new_relay(database: Database, to: str, name: str, prefix: str, *, from_now: bool) -> Relay:
    return Relay(database, open_broker(to, prefix), name, from_now=from_now)


async def _relay(settings: Settings, dsn: str, make: Callable[[Database], Relay]) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    database = Database(settings, dsn)
    working = make(database)
    await database.open()
    try:
        with suppress(asyncio.CancelledError):
            await working.run()
    finally:
        await database.close()
