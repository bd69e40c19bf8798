"""How late the event loop of a test was, by the wall clock and by the processor time of its thread."""

import asyncio
from time import thread_time
from types import TracebackType
from typing import Self

TICK_S = 0.01


class Lag:
    """Measures the running loop during the block.

    `worst_s` is the largest delay of any cause; `worst_work_s` is the largest processor time of the thread between two
    ticks: how long one piece of work blocked the loop, whatever else the machine did.
    """

    def __init__(self, tick_s: float = TICK_S) -> None:
        self.worst_s = 0.0
        self.worst_work_s = 0.0
        self._tick_s = tick_s

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, worked_s = loop.time() + self._tick_s, thread_time()
            await asyncio.sleep(self._tick_s)
            self.worst_s = max(self.worst_s, loop.time() - due)
            self.worst_work_s = max(self.worst_work_s, thread_time() - worked_s)
