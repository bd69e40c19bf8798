"""All streams of a process: the follower of the feed, the watchers' and the events' hub, started and ended together."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from holdsvc import outages
from holdsvc.engine import tasks
from holdsvc.engine.engine import Engine
from holdsvc.engine.pacer import Pacer
from holdsvc.errors import HoldError
from holdsvc.ledger.database import Database
from holdsvc.model import Cause
from holdsvc.settings import Settings
from holdsvc.streams.events import EventHub
from holdsvc.streams.follower import Follower
from holdsvc.streams.subscriptions import Encoding, Means
from holdsvc.streams.watch import WatchHub


class Streams:
    """One per process. `start` it on the loop that serves the calls."""

    def __init__(self, settings: Settings, database: Database, engine: Engine, encoding: Encoding) -> None:
        self._follower = Follower(database)
        self._pacer = Pacer(engine.busy, engine.pressed)
        self._max = settings.streams_max
        self._open = 0
        self._tasks: list[asyncio.Task[None]] = []
        heartbeat_s = settings.heartbeat_interval.total_seconds()
        means = Means(engine, database, self._follower, self._pacer, encoding, heartbeat_s)
        self.watch = WatchHub(means)
        self.events = EventHub(means)

    def start(self) -> None:
        """Begins to follow the feed."""
        steps = (self._follower.step, self.watch.step, self.events.step, self._pacer.step)
        loops = zip(("feed", "watch", "events", "stream_turns"), steps, strict=True)
        self._tasks = [asyncio.create_task(tasks.forever(name, step)) for name, step in loops]

    @property
    def lag_s(self) -> float:
        """Events that are younger may not be complete yet."""
        return self._follower.end.lag_s

    @property
    def days_behind(self) -> int:
        """By how many days the partition for new events is behind the database's clock."""
        look = self._follower.end.look
        return max(0, (look.read_time.date() - look.feed_day).days) if look else 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a stream while it lasts; raises OVERLOADED when there are too many."""
        if self._open >= self._max:
            raise HoldError(outages.overloaded(Cause.STREAMS_MAX))
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def close(self) -> None:
        """Ends every stream with SHUTTING_DOWN and stops following."""
        self._pacer.close()
        await tasks.end(self._tasks)
