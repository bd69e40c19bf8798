"""A worker: the process that serves calls, from its first import to its drain."""

import asyncio
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from ctypes import c_uint64
from functools import partial

import structlog
import uvloop
from google.protobuf.message import Message

from holdsvc.addresses import split_address
from holdsvc.api.access_log import AccessLog
from holdsvc.api.calls import Call
from holdsvc.api.cells import Cells
from holdsvc.api.server import Server
from holdsvc.api.services import Services
from holdsvc.api.tls import CertificateError
from holdsvc.cell_file import CellAddress
from holdsvc.engine import tasks
from holdsvc.http.server import HttpServer
from holdsvc.ledger import keys
from holdsvc.ledger.failures import NothingRan
from holdsvc.ledger.tenants import Moved
from holdsvc.ledger.upkeep import SetTooOld
from holdsvc.process import memory
from holdsvc.process.cell import START_TIMEOUT_S, RunningCell
from holdsvc.process.workforce import BEAT_INTERVAL_S, EXIT_FINAL, TERMINAL_SIGNALS
from holdsvc.settings import Settings, SettingsError
from holdsvc.streams.sending import Sending
from holdsvc.telemetry import counters, logs, metrics, tracing

log = structlog.get_logger(__name__)

HEALTH_INTERVAL_S = 1.0
GAUGES_INTERVAL_S = 1.0
AWAIT_ALL_S = 5.0
"""How long a start waits for cells that do not answer, where another one does."""

GC_THRESHOLD = 50_000
"""New objects after which a worker looks for cycles among the youngest; a call leaves none behind."""

_PR_SET_PDEATHSIG = 1


class _Calls(metrics.CallMetrics):
    """Metrics of calls, the access log and, where calls are traced, the end of a call's span."""

    def __init__(self, settings: Settings) -> None:
        self._access_log = AccessLog(settings.log_calls_per_second)

    def handled(  # type: ignore[override]
        self, method: str, call: Call | None, request: Message | None, code: str, reason: str, seconds: float
    ) -> None:
        super().handled(method, code, reason, seconds)
        if tracing.active is not None:
            caller = call.caller if call else None
            tracing.active.answered(code, reason, caller.tenant if caller else "", caller.client if caller else "")
        self._access_log.tell(method, call, request, code, reason, seconds)


class Service:
    """Serves until it is stopped. `start`, then `stop`, on one loop."""

    def __init__(self, settings: Settings, addresses: Sequence[CellAddress]) -> None:
        self._settings = settings
        self.observer = _Calls(settings)
        self._sending = Sending(
            settings,
            lambda: any(cell.engine.activity.any() for cell in self.cells),
            lambda: any(cell.engine.pressed() for cell in self.cells),
        )
        self.cells = [RunningCell(settings, address, self._sending, self._left) for address in addresses]
        self.places = Cells(self.cells, settings.state_dir)
        self._alive: dict[str, bool] = {}
        self._services: Services | None = None
        self._server: Server | None = None
        self._http: HttpServer | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def _left(self, cell: RunningCell, tenant: str, moved: Moved) -> None:
        self.places.left(cell, tenant, moved)

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None
        return self._server.port

    @property
    def http_port(self) -> int:
        """The port of HTTP; 0 where it is off."""
        return self._http.port if self._http is not None else 0

    async def start(self, *, sweeping: bool = True) -> None:
        """Connects, sweeps once, serves. Raises OSError when the address is taken, SetTooOld and SettingsError."""
        # First, since it reads the certificates: where they are bad nothing has been opened.
        self._services = Services(self._settings, self.places, self.observer)
        await self._open_cells(sweeping=sweeping)
        if self.places.named:
            self._tasks.append(asyncio.create_task(tasks.forever("cells", self.places.step)))
        if self._settings.auth == "api-key":
            await self._point_to_keys()
        self._sending.start()
        self._server = Server(self._settings, self._services)
        await self._server.start()
        if self._settings.http_listen:
            self._http = HttpServer(self._settings, self._services)
            await self._http.start()
            host, _ = split_address(self._settings.http_listen)
            log.info("http.serving", host=host, port=self._http.port)
        await asyncio.gather(*(self._check_health(cell) for cell in self.cells))
        await self._show_gauges()
        for cell in self.cells:
            # Each by itself: one that is silent for long must not delay the news of the others.
            self._tasks.append(asyncio.create_task(tasks.forever("health", partial(self._check_health, cell))))
        self._tasks.append(asyncio.create_task(tasks.forever("gauges", self._show_gauges)))
        log.info("serving", port=self._server.port, auth=self._settings.auth)

    async def _open_cells(self, *, sweeping: bool) -> None:
        """Opens all cells, or those that answer soon: the others are taken up when they do."""
        opening = [asyncio.create_task(cell.take_up(sweeping=sweeping)) for cell in self.cells]
        if not self.places.named:
            await opening[0]
            return
        self._tasks += opening
        await asyncio.wait(opening, timeout=AWAIT_ALL_S)
        if not any(cell.is_open for cell in self.cells):
            await asyncio.wait(opening, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if not any(cell.is_open for cell in self.cells):
            raise NothingRan
        await self.places.step()

    async def _point_to_keys(self) -> None:
        for cell in self.cells:
            if not cell.is_open:
                return
            async with cell.database.connection() as connection:
                if await keys.any_made(connection):
                    return
        log.warning("keys.none_made", do="make one: holdsvc keys create --client NAME")

    def reload_certificates(self) -> None:
        """Takes up certificate files that have changed."""
        if self._services is not None:
            self._services.reload_certificates()

    async def _check_health(self, cell: RunningCell) -> float:
        """Asks a database, and tells health and metrics; returns the pause until the next time."""
        assert self._services is not None
        self._alive[cell.name] = await cell.is_alive()
        self._services.set_serving(self._alive)
        return 0.0 if cell.in_doubt else HEALTH_INTERVAL_S

    async def _show_gauges(self) -> float:
        for cell in self.cells:
            cell.show_gauges()
        metrics.HTTP_CONNECTIONS.set(self._http.connections if self._http is not None else 0)
        return GAUGES_INTERVAL_S

    async def stop(self) -> None:
        """Health first, then the calls in flight, then the connections; all of it within `drain_grace`."""
        assert self._services is not None
        assert self._server is not None
        log.info("draining")
        self._services.health.stop()
        await tasks.end(self._tasks)
        if self._http is not None:
            self._http.drain()
        await asyncio.gather(*(cell.end_work() for cell in self.cells))
        # Streams do not end by themselves: they end first, and their clients reconnect elsewhere.
        await self._sending.close()
        await asyncio.gather(*(cell.streams.close() for cell in self.cells))
        end = asyncio.get_running_loop().time() + self._settings.drain_grace.total_seconds()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                await asyncio.gather(*(cell.engine.drain() for cell in self.cells))
        rest_s = max(0.0, end - asyncio.get_running_loop().time())
        await asyncio.gather(self._server.stop(rest_s), *([self._http.stop(rest_s)] if self._http else []))
        await asyncio.gather(*(cell.close() for cell in self.cells))
        log.info("stopped")


def main(settings: Settings, addresses: Sequence[CellAddress], parent: int, beat: c_uint64) -> None:
    """Runs a worker to its end; `parent` is the supervisor, which watches `beat`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    logs.configure(settings.log_level)
    logs.count_dropped(counters.LOG_LINES_DROPPED.inc)
    tracing.configure(settings)
    structlog.contextvars.bind_contextvars(pid=os.getpid())
    code = uvloop.run(_run(settings, addresses, beat))
    logs.drain()
    # Without the interpreter's own end: there gRPC waits for connections that do not read.
    os._exit(code)


async def _run(settings: Settings, addresses: Sequence[CellAddress], beat: c_uint64) -> int:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.unhandled)
    background = [asyncio.create_task(tasks.forever("heartbeat", Heartbeat(beat).step))]
    if (trim := memory.find_trim()) is not None:
        background.append(asyncio.create_task(tasks.forever("memory", memory.Memory(trim).step)))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    service = Service(settings, addresses)
    if settings.tls_cert is not None:
        loop.add_signal_handler(signal.SIGHUP, service.reload_certificates)
    elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL_SIGNALS)
    starting, stopping = asyncio.create_task(service.start()), asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        # It waits for the database and has served no call: nothing is left to do, and to take a pool apart in the
        # middle of a connection may never end.
        logs.drain()
        os._exit(0)
    code = await _outcome(starting)
    if code == 0:
        # Objects of the start live as long as the process: without this, looking for cycles among them took 5 % of a
        # busy worker's time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 50)
        await stop.wait()
        await service.stop()
        tracing.close()
    await tasks.end(background)
    return code


class Heartbeat:
    """A number in memory that the supervisor shares: it counts up as long as the loop runs."""

    def __init__(self, beat: c_uint64) -> None:
        self._beat = beat

    async def step(self) -> float:
        """Counts up, and returns the pause until the next time."""
        self._beat.value += 1
        return BEAT_INTERVAL_S


async def _outcome(starting: asyncio.Task[None]) -> int:
    """The exit code for a start that failed, 0 for one that did not."""
    try:
        await starting
    except CertificateError as error:
        log.error("tls.unusable", error=str(error))  # noqa: TRY400 - the message says it all
        return 1
    except SetTooOld as error:
        log.error("database.newer", error=str(error))  # noqa: TRY400 - the message says it all
        return EXIT_FINAL
    except SettingsError as error:
        log.error("settings.wrong", error=str(error))  # noqa: TRY400 - the message says it all
        return EXIT_FINAL
    except OSError as error:
        log.error("address.taken", error=str(error))  # noqa: TRY400 - the address says it all
        return EXIT_FINAL
    return 0
