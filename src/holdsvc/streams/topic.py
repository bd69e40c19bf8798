"""What watchers of the same items share: the newest state of each item that changed, in the order of the changes.

A slow watcher costs nothing but its place in it: it gets the newest state of each item, and whoever falls behind what a
topic remembers reads the present state again.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from holdsvc.model import ItemKey

if TYPE_CHECKING:
    from holdsvc.streams.watcher import Watcher

TOPIC_MAX = 10_000
"""Changed items that a topic remembers; a watcher further behind reads the present state again."""

BATCH_MAX = 1000
"""Items of one message."""


@dataclass(frozen=True)
class Wanted:
    """What a watcher asks for: these items and those with the prefix (None: no prefix), in pools that it may see."""

    tenant: str
    keys: frozenset[ItemKey]
    prefix: str | None
    pools: frozenset[str]

    def matches(self, key: ItemKey) -> bool:
        """Whether the watcher asked for this item and may see it."""
        if self.pools and key.pool not in self.pools:
            return False
        return key in self.keys or (self.prefix is not None and key.sku.startswith(self.prefix))


class Change(NamedTuple):
    """The newest state of an item: as bytes for the stream, and in which order it came."""

    number: int
    revision: int
    payload: bytes


class Update(NamedTuple):
    """What a watcher is told at once. Without payloads and not complete it is a heartbeat."""

    payloads: list[bytes]
    read_time: datetime | None
    complete: bool = False
    """The present state has been told."""


class Topic:
    """The changes, and who watches."""

    def __init__(self, wanted: Wanted, encode: Callable[[Update], bytes]) -> None:
        self.wanted = wanted
        self.changes: OrderedDict[ItemKey, Change] = OrderedDict()
        self.forgotten = 0
        """The highest number that is no longer remembered."""
        self.last = 0
        self.read_time: datetime | None = None
        self.watchers: set[Watcher] = set()
        self.idle: set[Watcher] = set()
        """Those that wait for a change."""
        self._encode = encode
        self._messages: dict[int, tuple[bytes, int]] = {}

    def knows(self, key: ItemKey, revision: int) -> bool:
        """Whether it has this state of an item already."""
        known = self.changes.get(key)
        return known is not None and known.revision == revision

    def put(self, key: ItemKey, change: Change, read_time: datetime) -> None:
        """Remembers the newest state of an item."""
        self.changes[key] = change
        self.changes.move_to_end(key)
        self.last = change.number
        self.read_time = max(self.read_time or read_time, read_time)
        self._messages.clear()
        if len(self.changes) > TOPIC_MAX:
            self.forgotten = self.changes.popitem(last=False)[1].number

    def resync(self, number: int) -> None:
        """Makes every watcher read the present state again."""
        self.changes.clear()
        self._messages.clear()
        self.read_time = None
        self.forgotten = self.last = number

    def after(self, cursor: int) -> tuple[list[tuple[ItemKey, Change]], int]:
        """The changes after a cursor, oldest first and no more than one message takes, and the cursor after them."""
        found = []
        for key in reversed(self.changes):
            change = self.changes[key]
            if change.number <= cursor:
                break
            found.append((key, change))
        found.reverse()
        if len(found) > BATCH_MAX:
            del found[BATCH_MAX:]
            return found, found[-1][1].number
        return found, self.last

    def message(self, cursor: int) -> tuple[bytes, int]:
        """The changes after a cursor, made once for all watchers at the same place, and the cursor after them."""
        known = self._messages.get(cursor)
        if known is None:
            found, last = self.after(cursor)
            update = Update([change.payload for _, change in found], self.read_time)
            known = self._messages[cursor] = (self._encode(update), last)
        return known

    def newer(self, cursor: int, told: dict[ItemKey, int]) -> tuple[bytes, int]:
        """As `message`, but without what was told already in this revision or a later one; empty if nothing is left."""
        found, last = self.after(cursor)
        payloads = [change.payload for key, change in found if change.revision > told.get(key, 0)]
        told.update({key: max(change.revision, told.get(key, 0)) for key, change in found})
        return self._encode(Update(payloads, self.read_time)) if payloads else b"", last
