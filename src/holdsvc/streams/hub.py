"""Everything that streams: the feed's reader, the watchers' hub and the events' hub, started and ended together."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from holdsvc import errors
from holdsvc.engine import tasks
from holdsvc.engine.engine import Engine
from holdsvc.errors import HoldError
from holdsvc.ledger.database import Database
from holdsvc.model import Cause, Outcome
from holdsvc.settings import Settings
from holdsvc.streams.encoding import Encoding
from holdsvc.streams.events import EventHub
from holdsvc.streams.follower import Feed, FeedObserver
from holdsvc.streams.watch import WatchHub


class Streams:
    """One per process. `start` it on the loop that serves the calls."""

    def __init__(
        self, settings: Settings, database: Database, engine: Engine, observer: FeedObserver, encoding: Encoding
    ) -> None:
        heartbeat_s = settings.heartbeat_interval.total_seconds()
        self._feed = Feed(database, observer)
        self._max = settings.streams_max
        self._open = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.watch = WatchHub(engine, database, self._feed, encoding, heartbeat_s)
        self.events = EventHub(engine, self._feed, encoding.event, heartbeat_s)
        engine.on_change(self._changed)

    def _changed(self, tenant: str, outcomes: Sequence[Outcome[object]]) -> None:
        if not self.watch.changed(tenant, outcomes) or self.events.active:
            self._feed.wake()

    def start(self) -> None:
        """Begins to follow the feed."""
        self._tasks = [asyncio.create_task(self._feed.run()), asyncio.create_task(self.watch.run())]

    @property
    def lag_s(self) -> float:
        """Events that are younger may not be complete yet."""
        return self._feed.lag_s

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a stream while it lasts; raises OVERLOADED when there are too many."""
        if self._open >= self._max:
            raise HoldError(errors.overloaded(Cause.STREAMS_MAX))
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def close(self) -> None:
        """Ends every stream with SHUTTING_DOWN and stops following."""
        self.watch.close()
        self.events.close()
        await tasks.end(self._tasks)
