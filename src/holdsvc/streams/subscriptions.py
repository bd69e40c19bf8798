"""Who watches which items, and what watchers of the same items share: the newest state of each item that changed."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import NamedTuple, TypeVar

from holdsvc.engine.engine import Engine
from holdsvc.engine.pacer import Pacer, Turn
from holdsvc.ledger.database import Connection, Database
from holdsvc.ledger.watched import Watched
from holdsvc.model import Event, ItemKey
from holdsvc.streams.follower import Follower

T = TypeVar("T")

CHANGES_MAX = 10_000
"""Changed items that a topic remembers for watchers that are behind; one that is further behind reads a snapshot."""

CHANGES_MAX_IN_ALL = 200_000
"""The same for all topics of a process together, some 100 MB."""

READ_TIMEOUT_S = 30.0

MESSAGE_PARTS_MAX = 1000
"""Items or events of one message."""

MESSAGE_BYTES_MAX = 256 * 1024
"""A message takes no further item or event beyond this. The largest event has some 300 KB; clients take 4 MiB."""


@dataclass(frozen=True)
class Selection:
    """What a watcher asks for: these items and those of the prefix (None: of none), in the pools that it may see."""

    tenant: str
    keys: frozenset[ItemKey]
    prefix: str | None
    pools: frozenset[str]


class Update(NamedTuple):
    """One message to a watcher. Without payloads and not complete it is a heartbeat."""

    payloads: list[bytes]
    read_time: datetime | None
    complete: bool = False
    """The snapshot has been told."""


@dataclass(frozen=True)
class Encoding:
    """How values become bytes of messages, for streams that know no protobuf. Encoded parts joined are one message."""

    item: Callable[[Watched], bytes]
    update: Callable[[Update], bytes]
    event: Callable[[Event], bytes]


@dataclass(frozen=True)
class Means:
    """What all streams of a process read and send with."""

    engine: Engine
    database: Database
    follower: Follower
    pacer: Pacer
    encoding: Encoding
    heartbeat_s: float

    async def read(self, tenant: str, run: Callable[[Connection], Awaitable[T]]) -> T:
        """Reads for one stream of this tenant."""
        return await self.engine.read(tenant, run, asyncio.get_running_loop().time() + READ_TIMEOUT_S, past=True)


class Change(NamedTuple):
    """The newest state of an item, as bytes, and its place among all changes."""

    number: int
    revision: int
    payload: bytes


class Topic:
    """The changes of one selection, and who watches it."""

    def __init__(self, selection: Selection, number: int, encode: Callable[[Update], bytes]) -> None:
        self.selection = selection
        self.watchers = 0
        self.waiting: set[Turn] = set()
        """Watchers that wait for a change."""
        self.last = number
        """The number of the latest change."""
        self.forgotten = number
        """The highest number that is no longer remembered."""
        self._encode = encode
        self._changes: OrderedDict[ItemKey, Change] = OrderedDict()
        self._message: tuple[int, bytes, int] | None = None
        """The latest one, and the cursors before and after it: most watchers of a topic are at the same place."""

    def put(self, key: ItemKey, change: Change, changes_max: int) -> bool:
        """Remembers the newest state of an item; False: it is known."""
        known = self._changes.get(key)
        if known is not None and known.revision == change.revision:
            return False
        self._changes[key] = change
        self._changes.move_to_end(key)
        self._message = None
        self.last = change.number
        while len(self._changes) > changes_max:
            self.forgotten = self._changes.popitem(last=False)[1].number
        return True

    def forget(self, number: int) -> None:
        """Makes every watcher read a snapshot again."""
        self._changes.clear()
        self._message = None
        self.forgotten = self.last = number

    def changed(self, key: ItemKey, cursor: int) -> bool:
        """Whether `message` will tell this item to a watcher at the cursor."""
        known = self._changes.get(key)
        return known is not None and known.number > cursor

    def message(self, cursor: int, read_time: datetime | None) -> tuple[bytes, int]:
        """The changes after a cursor that one message takes, encoded once for all, and the cursor after them."""
        if self._message is None or self._message[0] != cursor:
            newest_first = takewhile(lambda change: change.number > cursor, reversed(self._changes.values()))
            changes = list(newest_first)[::-1]
            payloads = [change.payload for change in changes]
            count = fitting(payloads)
            end = changes[count - 1].number if count < len(changes) else self.last
            self._message = cursor, self._encode(Update(payloads[:count], read_time)), end
        return self._message[1:]


def fitting(payloads: Iterable[bytes]) -> int:
    """How many of the payloads one message takes, at least one."""
    count = size = 0
    for payload in payloads:
        size += len(payload)
        if count == MESSAGE_PARTS_MAX or (count and size > MESSAGE_BYTES_MAX):
            break
        count += 1
    return count


class Topics:
    """The topics that have watchers, found by item without a walk over all of them."""

    def __init__(self, encode: Callable[[Update], bytes]) -> None:
        self._encode = encode
        self.by_selection: dict[Selection, Topic] = {}
        self._places: dict[tuple[str, str, str | None, bool], set[Topic]] = {}
        """By tenant, sku or prefix, pool (None: all pools), and whether it is a prefix."""
        self._prefix_lengths: dict[str, Counter[int]] = {}
        """Of each tenant, how many topics have a prefix of which length."""

    def join(self, selection: Selection, number: int) -> Topic:
        """The topic of a selection, with one watcher more; a new one begins after the change `number`."""
        topic = self.by_selection.get(selection)
        if topic is None:
            topic = self.by_selection[selection] = Topic(selection, number, self._encode)
            for place in _places(selection):
                self._places.setdefault(place, set()).add(topic)
            if selection.prefix is not None:
                self._prefix_lengths.setdefault(selection.tenant, Counter())[len(selection.prefix)] += 1
        topic.watchers += 1
        return topic

    def leave(self, topic: Topic) -> None:
        """Takes one watcher from a topic; one without watchers is dropped."""
        topic.watchers -= 1
        if topic.watchers:
            return
        selection = topic.selection
        del self.by_selection[selection]
        for place in _places(selection):
            self._places[place].discard(topic)
            if not self._places[place]:
                del self._places[place]
        if selection.prefix is not None:
            lengths = self._prefix_lengths[selection.tenant]
            lengths[len(selection.prefix)] -= 1
            self._prefix_lengths[selection.tenant] = +lengths

    def changes_max(self) -> int:
        """How many changes each topic may remember."""
        return min(CHANGES_MAX, 1 + CHANGES_MAX_IN_ALL // max(1, len(self.by_selection)))

    def of(self, tenant: str, key: ItemKey) -> set[Topic]:
        """The topics whose watchers asked for this item and may see it."""
        found = set(self._places.get((tenant, *key, False), ()))
        for length in self._prefix_lengths.get(tenant, ()):
            if length <= len(key.sku):
                for pool in (None, key.pool):
                    found.update(self._places.get((tenant, key.sku[:length], pool, True), ()))
        return found


def _places(selection: Selection) -> Iterator[tuple[str, str, str | None, bool]]:
    for key in selection.keys:
        if not selection.pools or key.pool in selection.pools:
            yield selection.tenant, key.sku, key.pool, False
    if selection.prefix is not None:
        for pool in selection.pools or (None,):
            yield selection.tenant, selection.prefix, pool, True
