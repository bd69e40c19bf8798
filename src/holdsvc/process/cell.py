"""A cell in a worker: one database, what calls use of it, and the background work on it."""

import asyncio
from collections.abc import Callable

import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_delay,
    stop_never,
    wait_exponential,
)

from holdsvc.api import convert
from holdsvc.cell_file import CellAddress
from holdsvc.engine import tasks
from holdsvc.engine.engine import Engine
from holdsvc.engine.retention import Retention
from holdsvc.engine.set_use import SetUse
from holdsvc.engine.sweeper import Sweeper
from holdsvc.ledger.database import Database
from holdsvc.ledger.tenants import Moved
from holdsvc.ledger.upkeep import SetTooOld
from holdsvc.relay.webhooks import Webhooks
from holdsvc.settings import Settings, SettingsError
from holdsvc.streams.hub import Streams
from holdsvc.streams.sending import Sending
from holdsvc.streams.subscriptions import Encoding
from holdsvc.telemetry import metrics

log = structlog.get_logger(__name__)

START_TIMEOUT_S = 60.0
"""How long a start waits for the only database."""

SILENCE_MAX_S = 1.0
MISSES_MAX = 2
"""A cell among others whose database has answered nothing for so long, so many checks in a row, is away: its calls are
refused at once."""

PAUSE_MAX_S = 2.0
"""The longest pause between two attempts to open a database."""

Left = Callable[["RunningCell", str, Moved], None]
"""Called when a call met a tenant that is not in the cell."""


class _Observer(metrics.CellMetrics):
    """The metrics of a cell; that a tenant has left it is passed on to `left`."""

    def __init__(self, cell: "RunningCell", left: Left) -> None:
        super().__init__(cell.name)
        self._of = cell
        self._left = left

    def left(self, tenant: str, moved: Moved) -> None:
        self._left(self._of, tenant, moved)


class RunningCell:
    """Works on a database from `take_up` to `close`, on one loop."""

    def __init__(self, settings: Settings, address: CellAddress, sending: Sending, left: Left) -> None:
        self.name = address.name
        self.is_open = False
        self._misses = 0
        """Health checks in a row to which the database did not answer, nor to anything else meanwhile."""
        self._settings = settings = settings.of_cell(address)
        self._metrics = observer = _Observer(self, left)
        self.database = Database(settings, address.service, address.name)
        self.engine = Engine(settings, self.database, observer)
        encoding = Encoding(convert.watched_item, convert.watched_update, convert.streamed_event)
        self.streams = Streams(settings, self.database, self.engine, sending, encoding)
        self.sender = Webhooks(settings, self.database, self.streams.events, observer)
        self._set_use = SetUse(self.database)
        self._tasks: list[asyncio.Task[None]] = []
        self._words = {"cell": self.name} if self.name else {}

    @property
    def away(self) -> bool:
        """Whether the database is known not to answer."""
        return not self.is_open or self._misses >= MISSES_MAX

    @property
    def in_doubt(self) -> bool:
        """Whether it had better be asked again at once."""
        return bool(self.name) and self.is_open and 0 < self._misses < MISSES_MAX

    async def take_up(self, *, sweeping: bool) -> None:
        """Opens the cell and begins to work.

        The only database is waited for START_TIMEOUT_S, then its error is raised; SetTooOld and SettingsError are
        raised at once. A cell among others is waited for without end.
        """
        if self.name:
            structlog.contextvars.bind_contextvars(cell=self.name)
        async for attempt in AsyncRetrying(
            stop=stop_never if self.name else stop_after_delay(START_TIMEOUT_S),
            wait=wait_exponential(multiplier=0.1, max=PAUSE_MAX_S),
            before_sleep=_say_what_is_awaited if self.name else None,
            reraise=True,
            retry=retry_if_exception_type(Exception)
            if self.name
            else retry_if_not_exception_type((SetTooOld, SettingsError)),
        ):
            with attempt:
                await self._open()
        self._start(sweeping=sweeping)
        self.is_open, self._misses = True, 0

    async def _open(self) -> None:
        await self.database.open()
        await self._set_use.begin()
        # Identifiers follow the database's clock: this machine's may be an hour off.
        self.engine.new_id.observe(await self.database.now_s())

    def _start(self, *, sweeping: bool) -> None:
        self.engine.start()
        self.streams.start()
        self.sender.start()
        if sweeping:
            sweeper = Sweeper(
                self._settings, self.database, self._metrics, self.engine.activity.any, self.engine.waitlists.sweep
            )
            self._tasks.append(asyncio.create_task(sweeper.run()))
            self._tasks.append(asyncio.create_task(Retention(self._settings, self.database).run()))
        self._tasks.append(asyncio.create_task(tasks.forever("primary", self.database.look)))
        self._tasks.append(asyncio.create_task(self._set_use.keep()))

    async def is_alive(self) -> bool:
        """Whether the database answers; the metrics show it."""
        try:
            # A cell's callers are to be refused at once, and not each after POOL_TIMEOUT.
            await self.database.ping(SILENCE_MAX_S if self.name else None)
            alive = True
        except Exception as error:  # noqa: BLE001 - whatever it is, the database does not answer
            alive = False
            log.warning("database.unreachable", error=type(error).__name__, **self._words)
        # A worker with more work than it can do is late with its checks too: no call is refused for that.
        self._misses = 0 if alive or self.database.heard_within(SILENCE_MAX_S) else self._misses + 1
        if self.name and self.is_open:
            self.database.give_up(away=self.away)
        metrics.DATABASE_UP.labels(self.name).set(alive)
        return alive and self.is_open

    def show_gauges(self) -> None:
        """Tells the metrics how things stand."""
        for lane, depth in self.engine.queue_depths().items():
            metrics.QUEUE_DEPTH.labels(self.name, lane).set(depth)
        metrics.STREAM_WATCHERS.labels(self.name, "WatchInventory").set(self.streams.watch.watchers)
        metrics.STREAM_WATCHERS.labels(self.name, "StreamEvents").set(self.streams.events.streams)
        metrics.FEED_LAG.labels(self.name).set(self.streams.follower.end.lag_s)
        metrics.FEED_DAYS_BEHIND.labels(self.name).set(self.streams.follower.end.days_behind)
        pool = self.database.pool_use()
        metrics.POOL_SIZE.labels(self.name).set(pool.size)
        metrics.POOL_MAX.labels(self.name).set(pool.size_max)
        metrics.POOL_IDLE.labels(self.name).set(pool.idle)
        metrics.POOL_WAITING.labels(self.name).set(pool.waiting)

    async def end_work(self) -> None:
        """Ends the background work, and hands webhooks to other processes."""
        await tasks.end(self._tasks)
        await self.sender.stop()

    async def close(self) -> None:
        """Ends what calls use, and the connections."""
        await self.sender.close()
        await self.engine.close()
        await self._set_use.end()
        await self.database.close()


def _say_what_is_awaited(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning(
        "cell.awaited", attempt=state.attempt_number, error=str(error).partition("\n")[0], kind=type(error).__name__
    )
