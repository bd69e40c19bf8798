"""Request bodies that are on their way: how many may be incomplete at once, and for how long.

gRPC buffers a message until it is complete, and makes room for all of it as soon as it is asked for. A caller that
sends half of it holds that memory. So a body is asked for only after identity and limits, and the number of incomplete
ones is bounded.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from holdsvc import errors
from holdsvc.errors import HoldError

LOOK_S = 0.01
"""Pause between two looks at the bodies that are incomplete."""

LOOKS_MIN = 3
"""Looks that a body may outlast before it counts as incomplete: one that arrived with its headers needs a round of the
loop, however many calls arrive in the same instant."""

BODY_S = 10.0
"""The longest that a body may take, also when few are incomplete."""


CANCEL_S = 0.5
"""The longest between the end of a cancelled call's messages and its cancel."""


class Reads(Protocol):
    """The part of gRPC's context that reads."""

    def read(self) -> Awaitable[object]:
        """Returns the next message as bytes, or gRPC's EOF."""


@dataclass(slots=True, eq=False)
class _Body:
    task: asyncio.Task[object]
    since: float
    looks: int = 0
    given_up: bool = False


class Bodies:
    """Reads the one message of a call. Construct it on the loop that will serve."""

    def __init__(self, incomplete_max: int, *, size_max: int | None = None, at_once_max: int | None = None) -> None:
        self._incomplete_max = incomplete_max
        self._size_max = size_max
        self._turns = asyncio.Semaphore(at_once_max) if at_once_max else None
        self._waiting: dict[_Body, None] = {}
        self._loop = asyncio.get_running_loop()
        self._look: asyncio.TimerHandle | None = None

    async def read(self, context: Reads) -> bytes:
        """Returns a call's one message; raises INVALID_FIELD where there is none or it is too large, and OVERLOADED.

        While more than `incomplete_max` bodies are incomplete, those that began first are given up.
        """
        data = await self.read_next(context)
        if data is None:
            # So does the read of a call that its caller has cancelled: then the cancel arrives here.
            await asyncio.sleep(CANCEL_S)
            raise HoldError(errors.invalid_field("request", "is missing: the call brought no message", "MALFORMED"))
        return data

    async def read_next(self, context: Reads) -> bytes | None:
        """Returns the next message of a stream of them, None after the last; raises as `read`."""
        if self._turns is None:
            data = await self._read(context)
        else:
            async with self._turns:
                data = await self._read(context)
        if data is not None and self._size_max is not None and len(data) > self._size_max:
            raise HoldError(errors.invalid_field("request", f"is larger than {self._size_max} bytes", "TOO_LARGE"))
        return data

    async def _read(self, context: Reads) -> bytes | None:
        task = asyncio.current_task()
        assert task is not None
        body = _Body(task, self._loop.time())
        self._waiting[body] = None
        if self._look is None:
            self._look = self._loop.call_later(LOOK_S, self._give_up)
        try:
            data = await context.read()
        except asyncio.CancelledError:
            if not body.given_up or task.uncancel() > 0:
                raise
            raise HoldError(errors.overloaded()) from None
        finally:
            self._waiting.pop(body, None)
        return data if isinstance(data, bytes) else None

    def _give_up(self) -> None:
        incomplete = []
        for body in self._waiting:
            body.looks += 1
            if body.looks > LOOKS_MIN:
                incomplete.append(body)
        too_old = self._loop.time() - BODY_S
        excess = len(incomplete) - self._incomplete_max
        for number, body in enumerate(incomplete):
            if number < excess or body.since < too_old:
                del self._waiting[body]
                body.given_up = True
                body.task.cancel()
        self._look = self._loop.call_later(LOOK_S, self._give_up) if self._waiting else None
