"""A cell in a worker: one database, what calls use of it, and the background work on it."""

import asyncio

import structlog

from holdsvc.api import convert
from holdsvc.engine import tasks
from holdsvc.engine.engine import Engine
from holdsvc.engine.retention import Retention
from holdsvc.engine.set_use import SetUse
from holdsvc.engine.sweeper import Sweeper
from holdsvc.ledger.database import Database
from holdsvc.relay.webhooks import Webhooks
from holdsvc.settings import Settings
from holdsvc.streams.hub import Streams
from holdsvc.streams.sending import Sending
from holdsvc.streams.subscriptions import Encoding
from holdsvc.telemetry import metrics

log = structlog.get_logger(__name__)


class RunningCell:
    """Works on a database between `start` and `close`, on one loop."""

    def __init__(self, settings: Settings, name: str, dsn: str, sending: Sending, observer: metrics.Metrics) -> None:
        self.name = name
        self._settings = settings
        self._observer = observer
        self.database = Database(settings, dsn, name)
        self.engine = Engine(settings, self.database, observer)
        encoding = Encoding(
            convert.watched_item, convert.watched_deletion, convert.watched_update, convert.streamed_event
        )
        self.streams = Streams(settings, self.database, self.engine, sending, encoding)
        self.sender = Webhooks(settings, self.database, self.streams.events, observer)
        self._set_use = SetUse(self.database)
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Connects; after a failure it can be called again. Raises what the database raises, and SetTooOld."""
        await self.database.open()
        await self._set_use.begin()
        # Identifiers follow the database's clock: this machine's may be an hour off.
        self.engine.new_id.observe(await self.database.now_s())

    def start(self, *, sweeping: bool) -> None:
        """Begins to work; call it once the cell is open."""
        self.engine.start()
        self.streams.start()
        self.sender.start()
        if sweeping:
            sweeper = Sweeper(
                self._settings, self.database, self._observer, self.engine.busy, self.engine.waitlists.sweep
            )
            self._tasks.append(asyncio.create_task(sweeper.run()))
            self._tasks.append(asyncio.create_task(Retention(self._settings, self.database).run()))
        self._tasks.append(asyncio.create_task(tasks.forever("primary", self.database.look)))
        self._tasks.append(asyncio.create_task(self._set_use.keep()))

    async def is_alive(self) -> bool:
        """Whether the database answers; the metrics show it."""
        try:
            await self.database.ping()
            alive = True
        except Exception as error:  # noqa: BLE001 - whatever it is, the database does not answer
            alive = False
            log.warning("database.unreachable", error=type(error).__name__)
        metrics.DATABASE_UP.set(alive)
        return alive

    def show_gauges(self) -> None:
        """Tells the metrics how things stand."""
        for lane, depth in self.engine.queue_depths().items():
            metrics.QUEUE_DEPTH.labels(lane).set(depth)
        metrics.STREAM_WATCHERS.labels("WatchInventory").set(self.streams.watch.watchers)
        metrics.STREAM_WATCHERS.labels("StreamEvents").set(self.streams.events.streams)
        metrics.FEED_LAG.set(self.streams.lag_s)
        metrics.FEED_DAYS_BEHIND.set(self.streams.days_behind)
        pool = self.database.pool_use()
        metrics.POOL_SIZE.set(pool.size)
        metrics.POOL_MAX.set(pool.size_max)
        metrics.POOL_IDLE.set(pool.idle)
        metrics.POOL_WAITING.set(pool.waiting)

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
