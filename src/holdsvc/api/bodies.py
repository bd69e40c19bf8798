"""Request bodies that are on their way: how many at once, and for how long.

gRPC buffers a message until it is complete, and makes room for all of it as soon as it is asked for. A caller that
sends half of it holds that memory. So a body is asked for only after identity and limits, and in a turn of its own.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Hashable
from dataclasses import dataclass
from typing import Protocol

from holdsvc import errors, outages
from holdsvc.errors import HoldError
from holdsvc.model import Cause

LOOK_S = 0.025
"""Pause between two looks at the bodies that are on their way."""

BODY_S = 10.0
"""The longest that a body may take, also when no other waits for its turn."""

CANCEL_S = 0.5
"""The longest between the end of a cancelled call's messages and its cancel."""


class Reads(Protocol):
    """The part of gRPC's context that reads."""

    def read(self) -> Awaitable[object]:
        """Returns the next message as bytes, or gRPC's EOF."""


class _Turns:
    """How many blocks run at once; the next ones wait in order of arrival."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self.users = 0
        self.waiting = 0
        self.stuck = False
        """Whether the last of its bodies was given up."""

    async def __aenter__(self) -> None:
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self._free.release()


@dataclass(slots=True, eq=False)
class _Body:
    task: asyncio.Task[object]
    turns: _Turns
    """Those of its client."""
    looks: int = 0
    given_up: bool = False


class Bodies:
    """Reads the one message of a call. Construct it on the loop that will serve.

    At most `at_once_max` bodies are on their way at once, `client_max` of one client; the next ones wait for a turn.
    While some wait, the bodies in their way that take longer than `patience_s` are given up, the oldest first, as many
    as wait: the more of the same client wait, the sooner, down to a quarter of that. When the last one of a client was
    given up, and as many wait as may be on their way, its next ones are refused at once.

    Times are counted in looks at the bodies, LOOK_S apart: while this machine stalls there are none, so a stall does
    not count as the callers' delay (docs/decisions/0041-request-bodies.md).
    """

    def __init__(
        self,
        at_once_max: int,
        *,
        client_max: int | None = None,
        patience_s: float = BODY_S,
        size_max: int | None = None,
    ) -> None:
        self._turns = _Turns(at_once_max)
        self._client_max = at_once_max if client_max is None else client_max
        self._by_client = client_max is not None
        self._client_turns: dict[Hashable, _Turns] = {}
        self._looks_patient = round(patience_s / LOOK_S)
        self._looks_max = round(BODY_S / LOOK_S)
        self._size_max = size_max
        self._coming: dict[_Body, None] = {}
        self._loop = asyncio.get_running_loop()
        self._look: asyncio.TimerHandle | None = None

    async def read(self, context: Reads, client: Hashable = None) -> bytes:
        """Returns a call's one message; raises INVALID_FIELD where there is none or it is too large, and OVERLOADED."""
        data = await self.read_next(context, client)
        if data is None:
            # So does the read of a call that its caller has cancelled: then the cancel arrives here.
            await asyncio.sleep(CANCEL_S)
            raise HoldError(errors.invalid_field("request", "is missing: the call brought no message", "MALFORMED"))
        return data

    async def read_next(self, context: Reads, client: Hashable = None) -> bytes | None:
        """Returns the next message of a stream of them, None after the last; raises as `read`."""
        turns = self._client_turns.get(client)
        if turns is None:
            turns = self._client_turns[client] = _Turns(self._client_max)
        if self._by_client and turns.stuck and turns.waiting >= self._client_max:
            raise HoldError(outages.overloaded(Cause.BODIES_MAX))
        turns.users += 1
        try:
            async with turns, self._turns:
                data = await self._read(context, turns)
        finally:
            turns.users -= 1
            if not turns.users:
                del self._client_turns[client]
        if data is not None and self._size_max is not None and len(data) > self._size_max:
            raise HoldError(errors.invalid_field("request", f"is larger than {self._size_max} bytes", "TOO_LARGE"))
        return data

    async def _read(self, context: Reads, turns: _Turns) -> bytes | None:
        task = asyncio.current_task(self._loop)
        assert task is not None
        body = _Body(task, turns)
        self._coming[body] = None
        if self._look is None:
            self._look = self._loop.call_later(LOOK_S, self._look_at_all)
        try:
            data = await context.read()
        except asyncio.CancelledError:
            if not body.given_up or task.uncancel() > 0:
                raise
            raise HoldError(outages.overloaded()) from None
        finally:
            self._coming.pop(body, None)
        turns.stuck = False
        return data if isinstance(data, bytes) else None

    def _patience(self, turns: _Turns) -> int:
        if not self._by_client:
            return self._looks_patient
        looks = self._looks_patient * self._client_max // (self._client_max + turns.waiting)
        return max(looks, self._looks_patient // 4)

    def _look_at_all(self) -> None:
        late: list[_Body] = []
        freed: Counter[_Turns] = Counter()
        for body in self._coming:
            body.looks += 1
            in_the_way = freed[body.turns] < body.turns.waiting or len(late) < self._turns.waiting
            if body.looks > (self._patience(body.turns) if in_the_way else self._looks_max):
                late.append(body)
                freed[body.turns] += 1
        for body in late:
            del self._coming[body]
            body.given_up = body.turns.stuck = True
            body.task.cancel()
        self._look = self._loop.call_later(LOOK_S, self._look_at_all) if self._coming else None
