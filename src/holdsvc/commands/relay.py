"""`holdsvc relay`: publish every event to a broker, as it happens."""

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

import typer
from prometheus_client import start_http_server

from holdsvc.commands import target
from holdsvc.commands.options import DataDir, Dsn
from holdsvc.commands.target import CommandError
from holdsvc.engine import tasks
from holdsvc.engine.set_use import SetUse
from holdsvc.ledger.database import Database
from holdsvc.ledger.upkeep import SetTooOld
from holdsvc.relay.relay import Relay, RelayError, open_broker
from holdsvc.settings import Settings, split_address
from holdsvc.telemetry import logs


def relay(
    to: Annotated[str, typer.Option(help="Where to publish: nats://host:port, or stdout for JSON lines.")],
    name: Annotated[
        str, typer.Option(help="Name under which its place in the feed is stored; relays of other names are others.")
    ] = "relay",
    prefix: Annotated[str, typer.Option(help="First word of the NATS subjects.")] = "holdsvc",
    metrics_listen: Annotated[
        str, typer.Option(help="Address of the relay's Prometheus metrics, host:port. Default: none.")
    ] = "",
    from_now: Annotated[
        bool, typer.Option("--from-now", help="Where its name has no place yet: begin now, not at the oldest event.")
    ] = False,
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Publish every event as CloudEvents JSON, at least once, until SIGTERM."""
    settings = target.settings_of(dsn, data_dir)
    with target.opened(dsn, data_dir) as owner:
        # Standard output is for the events.
        logs.configure(settings.log_level, sys.stderr)
        if metrics_listen:
            host, port = split_address(metrics_listen)
            start_http_server(port, addr=host)
        try:
            asyncio.run(
                _publish(
                    settings,
                    owner,
                    lambda database: Relay(database, open_broker(to, prefix), name, from_now=from_now),
                )
            )
        except RelayError as error:
            raise CommandError(str(error)) from error


async def _publish(settings: Settings, dsn: str, make: Callable[[Database], Relay]) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    database = Database(settings, dsn)
    working = make(database)
    await database.open()
    use = SetUse(database)
    try:
        await use.begin()
        touching = asyncio.create_task(use.keep())
        with suppress(asyncio.CancelledError):
            await working.run()
        await tasks.end([touching])
        await use.end()
    except SetTooOld as error:
        raise CommandError(str(error)) from error
    finally:
        await database.close()
