"""Sends to all watchers from one place, a few at a time, within the share of the loop's time that they may have.

A message through a task and a generator of each watcher cost the loop twice as much. And a thousand watchers woken at
once kept every Reserve waiting for as long as that took, several times on its way: it took the rate from 1,700 to 94 a
second. So whoever has waited longest goes first, in slices of a millisecond or two, with time for others between.
"""

import asyncio
from collections.abc import Iterable
from functools import partial
from heapq import heappop, heappush
from itertools import count
from time import monotonic, thread_time
from typing import Any

from holdsvc.streams.share import Share
from holdsvc.streams.topic import Topic
from holdsvc.streams.watcher import Watcher

SLICE = 64
"""Messages sent without a pause: a millisecond or two. In slices of 16 the loop, which then goes from one kind of work
to another four times as often, was busy for 81 % of the time, not 77, beside 2,700 calls a second."""

TICK_S = 0.001
"""The pause at least: who is due within it goes together."""

SENT = 1.25
"""What a message costs the loop in all, in times of what it costs to begin sending it."""

COST_MAX_S = 0.008
"""The most that a slice is held to have cost: one in which garbage was collected is not made up for by silence."""

SHARE_MIN = 0.03
"""The part of the loop's time that watchers have although calls wait."""

CREDIT_S = 0.02
"""How much of its time sending may make up for after the loop was late."""


class Sender:
    """Sends what watchers have not been told, each at its interval. `run` it for as long as the process serves."""

    def __init__(self) -> None:
        self._share = Share(SHARE_MIN)
        self._queue: list[tuple[float, int, int, Watcher]] = []
        self._numbers = count()
        self._asked = asyncio.Event()
        self._sent = asyncio.Event()
        self.cycle = 0
        """The reader's latest round."""

    def ask(self, watcher: Watcher) -> None:
        """Sends to the watcher when it is due, and for as long as there is something to tell."""
        if watcher.queued or watcher.writing or not watcher.following:
            return
        watcher.topic.idle.discard(watcher)
        watcher.queued = True
        heappush(self._queue, (watcher.due, watcher.turn, next(self._numbers), watcher))
        if self._queue[0][-1] is watcher:
            self._asked.set()

    def wake(self, topic: Topic) -> None:
        """Sends to those watchers of a topic that wait for a change."""
        for watcher in list(topic.idle):
            self.ask(watcher)

    async def caught_up(self) -> None:
        """Returns at once, or after the next slice where somebody who is due has not been sent to."""
        if self._queue and self._queue[0][0] <= asyncio.get_running_loop().time():
            await self._sent.wait()

    def beat(self, watchers: Iterable[Watcher], message: bytes) -> None:
        """Sends a heartbeat to watchers that wait for a change."""
        for watcher in watchers:
            watcher.heartbeat = message
            self.ask(watcher)

    async def run(self) -> None:
        """Sends until it is cancelled."""
        await asyncio.gather(self._send(), self._share.run())

    async def _send(self) -> None:
        ready_at = 0.0
        while True:
            await self._wait()
            started, began = monotonic(), thread_time()
            self._send_slice()
            self._sent.set()
            self._sent.clear()
            cost_s = min(COST_MAX_S, SENT * (thread_time() - began))
            self._share.spend(cost_s)
            ready_at = max(ready_at, started - CREDIT_S) + cost_s / self._share.value
            await asyncio.sleep(max(TICK_S, ready_at - monotonic()))

    async def _wait(self) -> None:
        """Returns when somebody is due."""
        loop = asyncio.get_running_loop()
        while not self._queue or self._queue[0][0] > loop.time():
            self._asked.clear()
            timer = loop.call_at(self._queue[0][0], self._asked.set) if self._queue else None
            await self._asked.wait()
            if timer is not None:
                timer.cancel()

    def _send_slice(self) -> None:
        now = asyncio.get_running_loop().time()
        sent = 0
        while sent < SLICE and self._queue and self._queue[0][0] <= now:
            watcher = heappop(self._queue)[-1]
            watcher.queued = False
            if not watcher.following:
                continue
            try:
                message = watcher.take(self.cycle)
            except Exception as error:  # noqa: BLE001 - ends one stream, not the sending to all
                watcher.end(error)
                continue
            if message:
                watcher.due = now + watcher.interval_s
                watcher.turn = next(self._numbers)
                watcher.last_sent = now
                watcher.writing = True
                self._step(watcher, watcher.write(message))
                sent += 1
            elif watcher.following:
                self.go_on(watcher)

    def _step(self, watcher: Watcher, writing: Any, _: object = None) -> None:
        """Runs the writing of a message up to the future that it waits for, and on when that is done.

        It is what a task does, without the task: making one, and its ways through the loop, cost as much as all else.
        """
        try:
            future = writing.send(None)
        except StopIteration:
            watcher.sent()
            self.go_on(watcher)
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - whatever it is, this stream has ended
            watcher.sent()
            watcher.broke()
        else:
            # So a task says that it has taken the future which a coroutine yielded.
            future._asyncio_future_blocking = False  # noqa: SLF001 - the protocol between futures and tasks
            future.add_done_callback(partial(self._step, watcher, writing))

    def go_on(self, watcher: Watcher) -> None:
        """Sends what there is to tell, or waits for a change."""
        if watcher.behind:
            self.ask(watcher)
        elif watcher.following:
            watcher.topic.idle.add(watcher)
