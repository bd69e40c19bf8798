"""What streams may use of the machine while calls are served.

Sending: after each slice of messages the loop belongs to others for OTHERS times as long as the slice took, or until it
has nothing else to do and no call waits for a batch. Snapshots and events of the past, besides: one page is read at a
time in the process, and while callers make changes, a pause of PAGE_PAUSE times as long follows, and no more than
BULK_BYTES_S are sent.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import thread_time

from holdsvc import outages
from holdsvc.errors import HoldError

Turn = asyncio.Future[None]
"""Done when its stream may send."""

SLICE = 32
"""Streams that send in one slice: some 4 ms of work."""

OTHERS = 5.0
"""Beside callers at full load streams so have a sixth of the loop's time."""

TICK_S = 0.002
"""A loop that wakes within half of this after a sleep of this length has had nothing else to do."""

PAGE_PAUSE = 4.0
"""A page uses one connection and one core of the database: beside calls, streams have a fifth of those."""

BULK_BYTES_S = 4 * 1024 * 1024
"""What forty readers of large snapshots need of the machine, their own work included, is then small."""


class Pacer:
    """Gives streams their turns. A loop runs `step` for as long as the process serves."""

    def __init__(self, busy: Callable[[], bool], pressed: Callable[[], bool]) -> None:
        """`busy`: callers make changes; `pressed`: some of them wait for a batch."""
        self._busy = busy
        self._pressed = pressed
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Turn] = deque()
        self._asked = asyncio.Event()
        self._turns: set[Turn] = set()
        self._page = asyncio.Lock()
        self._page_due = 0.0
        self._bulk = asyncio.Lock()
        self._closed = False

    async def turn(self, due: float = 0.0, waiting: set[Turn] | None = None) -> None:
        """Returns when a stream may send: not before `due` on the loop's clock, unless `waiting` is woken before.

        Raises SHUTTING_DOWN when the process stops.
        """
        self._check_open()
        turn = self._loop.create_future()
        self._turns.add(turn)
        timer = self._loop.call_at(due, self._ask, turn) if due > self._loop.time() else None
        if timer is None:
            self._ask(turn)
        elif waiting is not None:
            waiting.add(turn)
        try:
            await turn
        finally:
            self._turns.discard(turn)
            if timer is not None:
                timer.cancel()
            if waiting is not None:
                waiting.discard(turn)
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise HoldError(outages.shutting_down())

    def wake(self, waiting: set[Turn]) -> None:
        """Gives a turn to streams that wait for something to send."""
        for turn in waiting:
            self._ask(turn)
        waiting.clear()

    def _ask(self, turn: Turn) -> None:
        self._queue.append(turn)
        self._asked.set()

    @asynccontextmanager
    async def page(self) -> AsyncIterator[None]:
        """Lets one page be read; raises SHUTTING_DOWN when the process stops."""
        async with self._page:
            await asyncio.sleep(self._page_due - self._loop.time())
            self._check_open()
            began = self._loop.time()
            try:
                yield
            finally:
                ended = self._loop.time()
                self._page_due = ended + (PAGE_PAUSE * (ended - began) if self._busy() else 0.0)

    async def bulk(self, size_bytes: int) -> None:
        """Returns when a stream may send so much of a snapshot or of the past."""
        async with self._bulk:
            self._check_open()
            if self._busy():
                await asyncio.sleep(size_bytes / BULK_BYTES_S)
        await self.turn()

    def close(self) -> None:
        """Ends all waiting, now and later, with SHUTTING_DOWN."""
        self._closed = True
        for turn in self._turns:
            if not turn.done():
                turn.set_result(None)

    async def step(self) -> float:
        """Gives one slice its turns, and then the loop to others."""
        await self._asked.wait()
        began = thread_time()
        given = 0
        while self._queue and given < SLICE:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                given += 1
        if not self._queue:
            self._asked.clear()
        if given:
            # Twice, so that the streams have run up to where gRPC takes their messages.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await self._leave_to_others(OTHERS * (thread_time() - began))
        return 0.0

    async def _leave_to_others(self, seconds: float) -> None:
        end = self._loop.time() + seconds
        while (now := self._loop.time()) < end:
            await asyncio.sleep(TICK_S)
            if self._loop.time() < now + 1.5 * TICK_S and not self._pressed():
                return
