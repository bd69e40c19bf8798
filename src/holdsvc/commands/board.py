"""What `holdsvc top` knows: the items, the holds, how much happens, and how late it hears of it."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from inventoryhold.v1 import event_pb2, item_pb2

Key = tuple[str, str]
"""The sku and pool of an item."""

HISTORY_S = 60
"""How far back the history of changes goes."""

RATE_OVER_S = 10
"""The time over which a rate is taken."""


class Rates:
    """Events of the last minute, counted by second and type."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seconds: deque[tuple[int, Counter[event_pb2.EventType]]] = deque()

    def add(self, kind: event_pb2.EventType) -> None:
        """Counts an event that was heard now."""
        now = int(self._clock())
        if not self._seconds or self._seconds[-1][0] != now:
            self._seconds.append((now, Counter()))
        self._seconds[-1][1][kind] += 1
        self._forget(now)

    def per_second(self) -> Mapping[event_pb2.EventType, float]:
        """Events per second by type, over the last 10 whole seconds."""
        now = int(self._clock())
        self._forget(now)
        total: Counter[event_pb2.EventType] = Counter()
        for second, counts in self._seconds:
            if now - RATE_OVER_S <= second < now:
                total.update(counts)
        return {kind: count / RATE_OVER_S for kind, count in total.items()}

    def history(self) -> Sequence[float]:
        """Events in each of the last 60 whole seconds, the oldest first."""
        now = int(self._clock())
        self._forget(now)
        counted = {second: counts.total() for second, counts in self._seconds}
        return [float(counted.get(second, 0)) for second in range(now - HISTORY_S, now)]

    def _forget(self, now: int) -> None:
        while self._seconds and self._seconds[0][0] < now - HISTORY_S:
            self._seconds.popleft()


class Stock:
    """Items as a stream of snapshots and changes tells them, and which of them changed since they were last drawn."""

    def __init__(self) -> None:
        self._items: dict[Key, item_pb2.Item] = {}
        self._changed: set[Key] = set()

    def __len__(self) -> int:
        return len(self._items)

    def begin(self) -> None:
        """Forgets everything: a new stream sends a whole snapshot."""
        self._changed |= self._items.keys()
        self._items.clear()

    def take(self, items: Iterable[item_pb2.Item], deleted: Iterable[item_pb2.ItemKey]) -> None:
        """Takes what a message of the stream tells."""
        for item in items:
            self._items[item.sku, item.pool] = item
            self._changed.add((item.sku, item.pool))
        for key in deleted:
            self._items.pop((key.sku, key.pool), None)
            self._changed.add((key.sku, key.pool))

    def first(self, count: int, *, by_remaining: bool) -> list[item_pb2.Item]:
        """The first items: in order of sku and pool, or those of which least remains first."""
        order = _share_left if by_remaining else _key
        return sorted(self._items.values(), key=order)[:count]

    def changed(self) -> set[Key]:
        """Items that changed since the last call, those that ended too."""
        changed, self._changed = self._changed, set()
        return changed

    def totals(self) -> tuple[int, int, int]:
        """Units that remain, are held and are confirmed."""
        return (
            sum(item.remaining for item in self._items.values()),
            sum(item.held for item in self._items.values()),
            sum(item.confirmed for item in self._items.values()),
        )


def _key(item: item_pb2.Item) -> tuple[float, Key]:
    return 0.0, (item.sku, item.pool)


def _share_left(item: item_pb2.Item) -> tuple[float, Key]:
    return item.remaining / max(item.capacity, 1), (item.sku, item.pool)
