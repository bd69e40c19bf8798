"""The streams of a cell: the follower of its feed, the watchers' and the events' hub, started and ended together."""

import asyncio

from holdsvc.engine import tasks
from holdsvc.engine.engine import Engine
from holdsvc.ledger.database import Database
from holdsvc.settings import Settings
from holdsvc.streams.events import EventHub
from holdsvc.streams.follower import Follower
from holdsvc.streams.sending import Sending
from holdsvc.streams.subscriptions import Encoding, Means
from holdsvc.streams.watch import WatchHub


class Streams:
    """One for each cell. `start` it on the loop that serves the calls."""

    def __init__(
        self, settings: Settings, database: Database, engine: Engine, sending: Sending, encoding: Encoding
    ) -> None:
        self.follower = Follower(database)
        self.sending = sending
        self._tasks: list[asyncio.Task[None]] = []
        heartbeat_s = settings.heartbeat_interval.total_seconds()
        means = Means(engine, database, self.follower, sending.pacer, encoding, heartbeat_s)
        self.watch = WatchHub(means)
        self.events = EventHub(means)

    def start(self) -> None:
        """Begins to follow the feed."""
        loops = (("feed", self.follower.step), ("watch", self.watch.step), ("events", self.events.step))
        self._tasks = [asyncio.create_task(tasks.forever(name, step)) for name, step in loops]

    async def close(self) -> None:
        """Stops following; `Sending.close` ends the streams."""
        await tasks.end(self._tasks)
