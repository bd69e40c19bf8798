"""One serving process: database, engine and server, from start to drain."""

import asyncio
from contextlib import suppress

import structlog
from google.protobuf.message import Message
from tenacity import AsyncRetrying, retry_if_not_exception_type, stop_after_delay, wait_exponential

from holdsvc.api import convert
from holdsvc.api.access_log import AccessLog
from holdsvc.api.calls import Call
from holdsvc.api.server import Server
from holdsvc.engine import tasks
from holdsvc.engine.engine import Engine
from holdsvc.engine.set_use import SetUse
from holdsvc.engine.sweeper import Sweeper
from holdsvc.ledger import keys
from holdsvc.ledger.database import Database
from holdsvc.ledger.upkeep import SetTooOld
from holdsvc.settings import Settings
from holdsvc.streams.hub import Streams
from holdsvc.streams.subscriptions import Encoding
from holdsvc.telemetry import metrics, tracing

log = structlog.get_logger(__name__)

HEALTH_INTERVAL_S = 1.0
START_TIMEOUT_S = 60.0


class _Calls(metrics.Metrics):
    """Metrics, the access log and, where calls are traced, the end of a call's span."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
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

    def __init__(self, settings: Settings, dsn: str) -> None:
        self._settings = settings
        self._observer = _Calls(settings)
        self.database = Database(settings, dsn)
        self.engine = Engine(settings, self.database, self._observer)
        encoding = Encoding(
            convert.watched_item, convert.watched_deletion, convert.watched_update, convert.streamed_event
        )
        self.streams = Streams(settings, self.database, self.engine, encoding)
        self._set_use = SetUse(self.database)
        self._server: Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None
        return self._server.port

    async def start(self, *, sweeping: bool = True) -> None:
        """Connects, sweeps once, serves. Raises OSError when the address is taken, and SetTooOld."""
        async for attempt in AsyncRetrying(
            stop=stop_after_delay(START_TIMEOUT_S),
            wait=wait_exponential(multiplier=0.1, max=2),
            reraise=True,
            retry=retry_if_not_exception_type(SetTooOld),
        ):
            with attempt:
                await self.database.open()
                await self._set_use.begin()
                # Before the first answer shows it: this machine's clock may be an hour off.
                self.engine.new_id.observe(await self.database.now_s())
        if self._settings.auth == "api-key":
            await self._point_to_keys()
        self.engine.start()
        self.streams.start()
        self._server = Server(self._settings, self.engine, self.streams, self._observer)
        await self._server.start()
        sweeper = Sweeper(self._settings, self.database, self._observer, self.engine.busy)
        if sweeping:
            self._tasks.append(asyncio.create_task(sweeper.run()))
        self._tasks.append(asyncio.create_task(self._set_use.keep()))
        await self._check_health()
        self._tasks.append(asyncio.create_task(self._watch_health()))
        log.info("serving", port=self._server.port, auth=self._settings.auth)

    async def _point_to_keys(self) -> None:
        async with self.database.connection() as connection:
            if not await keys.any_made(connection):
                log.warning("keys.none_made", do="make one: holdsvc keys create --client NAME")

    def reload_certificates(self) -> None:
        """Takes up certificate files that have changed."""
        if self._server is not None:
            self._server.reload_certificates()

    async def _check_health(self) -> None:
        assert self._server is not None
        try:
            await self.database.ping()
            alive = True
        except Exception as error:  # noqa: BLE001 - whatever it is, the database does not answer
            alive = False
            log.warning("database.unreachable", error=type(error).__name__)
        metrics.DATABASE_UP.set(alive)
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
        self._server.set_serving(alive)

    async def _watch_health(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_INTERVAL_S)
            await self._check_health()

    async def stop(self) -> None:
        """Health first, then the calls in flight, then the connections; all of it within `drain_grace`."""
        assert self._server is not None
        log.info("draining")
        self._server.announce_stop()
        await tasks.end(self._tasks)
        # Streams would last for ever: they end first, and their clients go on elsewhere.
        await self.streams.close()
        end = asyncio.get_running_loop().time() + self._settings.drain_grace.total_seconds()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                await self.engine.drain()
        await self._server.stop(max(0.0, end - asyncio.get_running_loop().time()))
        await self.engine.close()
        await self._set_use.end()
        await self.database.close()
        log.info("stopped")
