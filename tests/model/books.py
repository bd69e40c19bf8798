"""What the model of the contract keeps: items, reservations, request ids; dicts, one caller at a time, no SQL.

Where the contract leaves something open (which lapsed holds have been swept already, revisions of items), the model
says so too: `Item.seen_revision` and `Books.lapsed`.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

HELD, CONFIRMED, CANCELLED, EXPIRED, REFUNDED, FULFILLED = 1, 2, 3, 4, 5, 6
STATE_NAMES = {1: "HELD", 2: "CONFIRMED", 3: "CANCELLED", 4: "EXPIRED", 5: "REFUNDED", 6: "FULFILLED"}
RESERVED, EXTENDED, MODIFIED, RESCUED = 1, 6, 12, 14
"""Events; the others of reservations have the numbers of their states, FULFILLED that of its own."""
EVENT_FULFILLED = 13

Key = tuple[str, str]


class Refused(Exception):
    """What the service must refuse with: a reason, and the metadata that matter."""

    def __init__(self, reason: str, **metadata: Any) -> None:
        super().__init__(reason)
        self.reason = reason
        self.metadata = {key: str(value) for key, value in metadata.items()}


@dataclass(frozen=True)
class Client:
    """A caller: what its key may do."""

    name: str
    all_clients: bool = False
    pools: frozenset[str] = frozenset()

    def sees(self, pool: str) -> bool:
        return not self.pools or pool in self.pools


@dataclass
class Item:
    """An item by its own counters, lapsed holds taken out of `held` at once."""

    capacity: int
    oversell_limit: int
    display_name: str
    closed: bool = False
    buffer: int = 0
    low_at: int | None = None
    return_pool: str | None = None
    return_time: datetime | None = None
    returned: bool = False
    """Whether it has returned at its present `return_time`."""
    confirmed: int = 0
    exists: bool = True
    seen_revision: int = 0


@dataclass
class Line:
    sku: str
    pool: str
    quantity: int
    confirmed: int = 0
    refunded: int = 0
    fulfilled: int = 0
    returned: int = 0

    @property
    def key(self) -> Key:
        return (self.sku, self.pool)

    @property
    def open(self) -> int:
        """Units that are sold, in the building and not refunded."""
        return self.confirmed - self.fulfilled - (self.refunded - self.returned)

    @property
    def away(self) -> int:
        """Units that have left the building and did not come back."""
        return self.fulfilled - self.returned


@dataclass
class Reservation:
    reservation_id: str
    client: str
    holder: str
    reference: str
    lines: list[Line]
    create_time: datetime
    expire_time: datetime
    metadata: dict[str, str]
    stored_state: int = HELD
    order_id: str = ""
    customer: tuple[str, str] = ("", "")
    confirm_time: datetime | None = None
    cancel_time: datetime | None = None
    refund_time: datetime | None = None
    fulfil_time: datetime | None = None
    reason: str = ""
    revision: int = 1
    events: list[tuple[int, tuple[tuple[str, str, int], ...]]] = field(default_factory=list)

    def state(self, now: datetime) -> int:
        return EXPIRED if self.stored_state == HELD and self.expire_time <= now else self.stored_state

    def moved(self, kind: int, lines: list[tuple[str, str, int]]) -> None:
        """Notes an event, and its revision."""
        self.events.append((kind, tuple(sorted(line for line in lines if line[2]))))
        self.revision += kind != RESERVED

    def expired(self) -> None:
        """Notes that a sweep has ended it."""
        self.stored_state = EXPIRED
        self.moved(EXPIRED, [(line.sku, line.pool, line.quantity) for line in self.lines])


class Books:
    """What one tenant has."""

    def __init__(self) -> None:
        self.now = datetime.min.replace(tzinfo=UTC)
        self.items: dict[Key, Item] = {}
        self.reservations: dict[str, Reservation] = {}
        self.requests: dict[tuple[str, str], tuple[str, bytes, Any]] = {}
        self.orders: dict[str, str] = {}

    def held(self, key: Key) -> int:
        """Units of holds that live."""
        return self._units(key, HELD)

    def lapsed(self, key: Key) -> int:
        """Units of holds that lapsed: the stored `held` may still count them."""
        return self._units(key, EXPIRED)

    def _units(self, key: Key, state: int) -> int:
        return sum(
            line.quantity
            for reservation in self.reservations.values()
            if reservation.state(self.now) == state
            for line in reservation.lines
            if line.key == key
        )

    def remaining(self, key: Key) -> int:
        item = self.items[key]
        return item.capacity - self.held(key) - item.confirmed

    def free(self, key: Key) -> int:
        """What a new hold may take, below 0 where a buffer exceeds it."""
        item = self.items[key]
        return self.remaining(key) + item.oversell_limit - item.buffer

    def available(self, key: Key) -> int:
        return 0 if self.items[key].closed else max(0, self.free(key))

    def item(self, client: Client, key: Key) -> Item:
        item = self.items.get(key)
        if item is None or not item.exists or not client.sees(key[1]):
            raise Refused("ITEM_NOT_FOUND", sku=key[0], pool=key[1])
        return item

    def visible(self, client: Client, reservation: Reservation) -> bool:
        return (reservation.client == client.name or client.all_clients) and all(
            client.sees(line.pool) for line in reservation.lines
        )

    def replay(self, client: Client, rpc: str, request: Any) -> Any:
        """What an earlier call with this request_id did; None: there was none."""
        if not request.request_id:
            return None
        known = self.requests.get((client.name, request.request_id))
        if known is None:
            return None
        if known[:2] != (rpc, request.SerializeToString(deterministic=True)):
            raise Refused("REQUEST_ID_REUSED", request_id=request.request_id)
        return known[2]

    def claim(self, client: Client, rpc: str, request: Any, what: Any) -> None:
        if request.request_id:
            content = request.SerializeToString(deterministic=True)
            self.requests[client.name, request.request_id] = (rpc, content, what)


def merged(lines: Any) -> dict[Key, int]:
    """The units of each item, in the order in which the items first appear."""
    found: dict[Key, int] = {}
    for line in lines:
        found[line.sku, line.pool] = found.get((line.sku, line.pool), 0) + line.quantity
    return found
