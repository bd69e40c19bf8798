"""One watcher: where it stands in its topic, and the one message that may be on its way to it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from holdsvc.model import ItemKey
from holdsvc.streams.topic import Topic

Write = Callable[[bytes], Coroutine[Any, Any, None]]
"""Writes a message to a stream; returns when another may be written."""


class Watcher:
    """A cursor into a topic. It has no queue: what it is told next is what its topic remembers by then."""

    __slots__ = (
        "_free",
        "_told",
        "_told_until",
        "cursor",
        "due",
        "ended",
        "heartbeat",
        "interval_s",
        "last_sent",
        "queued",
        "topic",
        "turn",
        "write",
        "writing",
    )

    def __init__(self, topic: Topic, interval_s: float, write: Write) -> None:
        self.topic = topic
        self.interval_s = interval_s
        self.write = write
        self.cursor = 0
        self.due = 0.0
        """When its next message may be sent, on the loop's clock."""
        self.turn = 0
        """When it was sent to last, of all: of a slice, which is due at once again, who was first goes first."""
        self.last_sent = 0.0
        self.heartbeat = b""
        """What it is told when there is nothing else."""
        self.queued = False
        """Whether it is in the queue for a turn."""
        self.writing = False
        """Whether a message is on its way: no other may be written until it has gone."""
        self.ended: asyncio.Future[None] | None = None
        """While it follows the changes: done when it no longer does."""
        self._told: dict[ItemKey, int] | None = None
        self._told_until = 0
        self._free: asyncio.Future[None] | None = None

    def begin(self, told: dict[ItemKey, int], cycle: int) -> "asyncio.Future[None]":
        """Follows the changes after its cursor, until what is returned is done.

        A state that the reader read before the present state was told, but hands out after, must not be told: `told`
        has the revisions to compare with, until a round of reading after `cycle` has been told.
        """
        loop = asyncio.get_running_loop()
        self._told, self._told_until = told, cycle
        self.heartbeat = b""
        self.last_sent = loop.time()
        self.ended = loop.create_future()
        return self.ended

    @property
    def following(self) -> bool:
        """Whether it is to be told of changes."""
        return self.ended is not None and not self.ended.done()

    @property
    def behind(self) -> bool:
        """Whether there is something to tell."""
        return self.topic.last > self.cursor

    def end(self, error: Exception | None = None) -> None:
        """Ends the following: with an error, or because the present state must be read again."""
        if self.ended is not None and not self.ended.done():
            if error is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(error)

    def broke(self) -> None:
        """Ends the following as a cancel would: there is nobody to write to any more."""
        if self.ended is not None:
            self.ended.cancel()

    def take(self, cycle: int) -> bytes:
        """The message to send now; empty where there is none. `cycle` is the reader's latest round."""
        heartbeat, self.heartbeat = self.heartbeat, b""
        if self.cursor < self.topic.forgotten:
            self.end()
            return b""
        message = b""
        if self._told is None:
            if self.behind:
                message, self.cursor = self.topic.message(self.cursor)
        else:
            if self.behind:
                message, self.cursor = self.topic.newer(self.cursor, self._told)
            if cycle > self._told_until and not self.behind:
                self._told = None
        return message or heartbeat

    def sent(self) -> None:
        """Its message has gone, or never will."""
        self.writing = False
        if self._free is not None and not self._free.done():
            self._free.set_result(None)

    async def free(self) -> None:
        """Returns when no message is on its way."""
        while self.writing:
            self._free = asyncio.get_running_loop().create_future()
            await self._free
