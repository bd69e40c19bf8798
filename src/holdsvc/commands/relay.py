"""`holdsvc relay`: publish every event to a broker, as it happens."""

import asyncio
import os
import signal
import stat
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import structlog
import typer
from prometheus_client import REGISTRY
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential

from holdsvc.addresses import split_address
from holdsvc.commands import CommandError, target
from holdsvc.commands.options import CellName, DataDir, Dsn, read
from holdsvc.engine import tasks
from holdsvc.engine.set_use import SetUse
from holdsvc.ledger.database import Database
from holdsvc.ledger.failures import Conflict, NothingRan, Unknown
from holdsvc.ledger.tenants import CellError
from holdsvc.ledger.upkeep import SetTooOld
from holdsvc.relay.broker import Broker, KafkaSecurity, OutputClosed, RelayError, Stdout
from holdsvc.settings import Settings
from holdsvc.telemetry import counters, logs
from holdsvc.telemetry.page import MetricsPage

log = structlog.get_logger(__name__)

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


def relay(  # noqa: PLR0917 - typer passes them by name
    to: Annotated[
        str,
        typer.Option(
            help="Where to publish: nats://host:port, kafka://[user@]host:port/topic (kafkas:// with TLS; the password"
            " from KAFKA_PASSWORD), or stdout for JSON lines."
        ),
    ],
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
    kafka_sasl: Annotated[
        Mechanism, typer.Option(help="How a Kafka broker checks the user's password.")
    ] = "SCRAM-SHA-512",
    kafka_ca: Annotated[
        Path | None, typer.Option(help="Authorities to trust with kafkas://, PEM file. Default: the system's.")
    ] = None,
    kafka_cert: Annotated[
        Path | None, typer.Option(help="Certificate to show to a Kafka broker that asks for one, PEM file.")
    ] = None,
    kafka_key: Annotated[Path | None, typer.Option(help="Private key of that certificate, PEM file.")] = None,
    cell: CellName = "",
    dsn: Dsn = None,
    data_dir: DataDir = None,
) -> None:
    """Publish every event as CloudEvents JSON, at least once, until SIGTERM."""
    from holdsvc.relay.relay import open_broker

    settings = target.settings_of(dsn, data_dir)
    address = target.chosen(settings.addresses, cell, None)
    if metrics_listen:
        read("--metrics-listen", split_address, metrics_listen)
    # A cell is waited for; its database tells then whether it is this one.
    with nullcontext(address.owner) if address.name else target.opened(dsn, data_dir, cell) as owner:
        # Standard output is for the events.
        logs.configure(settings.log_level, sys.stderr)
        logs.count_dropped(counters.LOG_LINES_DROPPED.inc)
        try:
            security = KafkaSecurity(kafka_sasl, os.environ.get("KAFKA_PASSWORD", ""), kafka_ca, kafka_cert, kafka_key)
            broker = open_broker(to, prefix, security)
            page = _metrics_page(metrics_listen) if metrics_listen else None
            asyncio.run(_publish(settings.of_cell(address), owner, address.name, broker, name, page, from_now=from_now))
        except OutputClosed:
            pass
        except (RelayError, SetTooOld, CellError) as error:
            raise CommandError(str(error)) from error
        if to == "stdout":
            # What is left in the buffer is published again; without this the interpreter fails over it at its exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _metrics_page(address: str) -> MetricsPage:
    try:
        return MetricsPage(address, REGISTRY)
    except OSError as error:
        raise CommandError(f"--metrics-listen: cannot listen on {address}: {error.strerror}") from error


def _is_pipe(descriptor: int) -> bool:
    return stat.S_ISFIFO(os.fstat(descriptor).st_mode)


async def _publish(
    settings: Settings,
    dsn: str,
    cell: str,
    broker: Broker,
    name: str,
    page: MetricsPage | None,
    *,
    from_now: bool,
) -> None:
    """Relays until SIGTERM, Ctrl-C or, where it writes to a pipe, the end of the pipe's reader."""
    from holdsvc.relay.relay import Relay

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    database = Database(settings, dsn, cell)
    relay = Relay(database, broker, name, from_now=from_now)
    ends_with_reader = isinstance(broker, Stdout) and _is_pipe(sys.stdout.fileno())
    if ends_with_reader:
        # The writing end of a pipe becomes readable, and stays so, when its reading end is closed.
        loop.add_reader(sys.stdout.fileno(), stop.set)
    use = SetUse(database)
    stopping, connecting = asyncio.create_task(stop.wait()), asyncio.create_task(_connect(database, use))
    beside: list[asyncio.Task[object]] = [stopping, connecting]
    if page:
        beside.append(asyncio.create_task(page.serve()))
    connected = False
    try:
        await asyncio.wait([connecting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            connecting.result()
            connected = True
            beside.append(asyncio.create_task(use.keep()))
            relaying = asyncio.create_task(relay.run())
            await asyncio.wait([relaying, stopping], return_when=asyncio.FIRST_COMPLETED)
            relay.stop()
            await relaying
    finally:
        if ends_with_reader:
            loop.remove_reader(sys.stdout.fileno())
        await tasks.end(beside)
        if connected:
            await use.end()
        await database.close()


async def _connect(database: Database, use: SetUse) -> None:
    """Returns when the database answers; a start before the database waits for it."""
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type((NothingRan, Unknown, Conflict)),
        wait=wait_exponential(multiplier=0.1, max=5),
        before_sleep=_say_what_is_awaited,
    ):
        with attempt:
            await database.open()
            await use.begin()


def _say_what_is_awaited(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("relay.database_awaited", attempt=state.attempt_number, error=type(error).__name__)
