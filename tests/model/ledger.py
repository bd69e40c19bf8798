"""A plain model of the contract: dicts, one caller at a time, no SQL. It says what each call must answer.

Where the contract leaves something open (which lapsed holds have been swept already, revisions of items), the model
says so too: `Item.held_max` and `seen_revision`.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import reservation_service_pb2 as pb

HELD, CONFIRMED, CANCELLED, EXPIRED, REFUNDED = 1, 2, 3, 4, 5
STATE_NAMES = {2: "CONFIRMED", 3: "CANCELLED", 4: "EXPIRED", 5: "REFUNDED", 1: "HELD"}
DEFAULT_TTL = timedelta(minutes=30)
MAX_LIFETIME = timedelta(hours=72)

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

    @property
    def key(self) -> Key:
        return (self.sku, self.pool)


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
    reason: str = ""
    revision: int = 1
    events: list[tuple[int, tuple[tuple[str, str, int], ...]]] = field(default_factory=list)

    def state(self, now: datetime) -> int:
        return EXPIRED if self.stored_state == HELD and self.expire_time <= now else self.stored_state

    def moved(self, kind: int, lines: list[tuple[str, str, int]]) -> None:
        """Notes an event and a revision."""
        self.events.append((kind, tuple(line for line in lines if line[2])))


class Ledger:
    """What one tenant's callers may expect."""

    def __init__(self) -> None:
        self.now = datetime.min.replace(tzinfo=UTC)
        self.items: dict[Key, Item] = {}
        self.reservations: dict[str, Reservation] = {}
        self.requests: dict[tuple[str, str], tuple[str, bytes, Any]] = {}
        self.orders: dict[str, str] = {}

    # What can be had

    def held(self, key: Key) -> int:
        """Units of holds that live."""
        return sum(
            line.quantity
            for reservation in self.reservations.values()
            if reservation.state(self.now) == HELD
            for line in reservation.lines
            if line.key == key
        )

    def lapsed(self, key: Key) -> int:
        """Units of holds that lapsed: the stored `held` may still count them."""
        return sum(
            line.quantity
            for reservation in self.reservations.values()
            if reservation.state(self.now) == EXPIRED
            for line in reservation.lines
            if line.key == key
        )

    def remaining(self, key: Key) -> int:
        item = self.items[key]
        return item.capacity - self.held(key) - item.confirmed

    def available(self, key: Key) -> int:
        return max(0, self.remaining(key) + self.items[key].oversell_limit)

    def item(self, client: Client, key: Key) -> Item:
        item = self.items.get(key)
        if item is None or not item.exists or not client.sees(key[1]):
            raise Refused("ITEM_NOT_FOUND", sku=key[0], pool=key[1])
        return item

    # Request ids

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

    # Reservations

    def reserve(self, client: Client, request: pb.ReserveRequest, reservation_id: str) -> tuple[Reservation, bool]:
        lines: dict[Key, int] = {}
        for line in request.lines:
            lines[line.sku, line.pool] = lines.get((line.sku, line.pool), 0) + line.quantity
        for sku, pool in lines:
            if not client.sees(pool):
                raise Refused("ITEM_NOT_FOUND", sku=sku, pool=pool)
        earlier = self.replay(client, "Reserve", request)
        if earlier is not None:
            return self.reservations[earlier], True
        for key in lines:
            self.item(client, key)
        if request.HasField("duplicate_window"):
            self._refuse_duplicate(client, request, set(lines))
        short = [(key, units) for key, units in lines.items() if units > self.available(key)]
        if short:
            (sku, pool), units = short[0]
            raise Refused(
                "CAPACITY_EXCEEDED",
                sku=sku,
                pool=pool,
                requested=units,
                available=self.available((sku, pool)),
                short_lines=len(short),
            )
        ttl = request.ttl.ToTimedelta() if request.HasField("ttl") else DEFAULT_TTL
        reservation = Reservation(
            reservation_id=reservation_id,
            client=client.name,
            holder=request.holder,
            reference=request.reference,
            lines=[Line(sku, pool, units) for (sku, pool), units in lines.items()],
            create_time=self.now,
            expire_time=self.now + ttl,
            metadata=dict(request.metadata),
        )
        reservation.moved(1, [(sku, pool, units) for (sku, pool), units in lines.items()])
        self.reservations[reservation_id] = reservation
        self.claim(client, "Reserve", request, reservation_id)
        return reservation, False

    def _refuse_duplicate(self, client: Client, request: pb.ReserveRequest, keys: set[Key]) -> None:
        since = self.now - request.duplicate_window.ToTimedelta()
        found = [
            other.reservation_id
            for other in self.reservations.values()
            if other.holder == request.holder
            and other.client == client.name
            and other.create_time >= since
            and other.state(self.now) in (HELD, CONFIRMED)
            and keys & {line.key for line in other.lines if self._has_units(other, line)}
        ]
        if found:
            raise Refused("DUPLICATE_RESERVATION", **self._named(client, max(found)))

    def _has_units(self, reservation: Reservation, line: Line) -> bool:
        return reservation.state(self.now) == HELD or line.confirmed > line.refunded

    def _named(self, client: Client, reservation_id: str) -> dict[str, str]:
        """How a refusal names another reservation: not at all where the client may not see it."""
        seen = self.visible(client, self.reservations[reservation_id])
        return {"reservation_id": reservation_id} if seen else {}

    def find(self, client: Client, request: Any, wanted: int | None) -> Reservation:
        """The reservation that a request names; `wanted` is the state that a change starts from, None for a read."""
        if request.WhichOneof("target") == "reference":
            named = [
                reservation
                for reservation in self.reservations.values()
                if reservation.reference == request.reference and reservation.client == client.name
            ]
            fit = [r for r in named if wanted is None or r.state(self.now) == wanted]
            if len(fit) > 1:
                raise Refused("REFERENCE_AMBIGUOUS", reference=request.reference)
            if not named:
                raise Refused("RESERVATION_NOT_FOUND", reference=request.reference)
            return fit[0] if fit else max(named, key=lambda r: r.reservation_id)
        found = self.reservations.get(request.reservation_id)
        if found is None or not self.visible(client, found):
            raise Refused("RESERVATION_NOT_FOUND", reservation_id=request.reservation_id)
        return found

    def visible(self, client: Client, reservation: Reservation) -> bool:
        return (reservation.client == client.name or client.all_clients) and all(
            client.sees(line.pool) for line in reservation.lines
        )

    def _refuse_state(self, reservation: Reservation, wanted: int) -> None:
        state = reservation.state(self.now)
        if state == wanted:
            return
        reasons = {CONFIRMED: "RESERVATION_ALREADY_CONFIRMED", CANCELLED: "RESERVATION_ALREADY_CANCELLED"}
        reason = "ALREADY_REFUNDED" if state == REFUNDED else reasons.get(state, "RESERVATION_EXPIRED")
        if wanted == CONFIRMED and state != REFUNDED:
            reason = "RESERVATION_NOT_CONFIRMED"
        raise Refused(reason, reservation_id=reservation.reservation_id, state=STATE_NAMES[state])

    def confirm(self, client: Client, request: pb.ConfirmRequest, order_id: str) -> tuple[Reservation, bool]:
        """`order_id` is the answer's: the service mints one when the request has none."""
        earlier = self.replay(client, "Confirm", request)
        if earlier is not None:
            return self.reservations[earlier], True
        reservation = self.find(client, request, HELD)
        named = _merged(request.lines)
        if reservation.state(self.now) == CONFIRMED:
            sold = {line.key: line.confirmed for line in reservation.lines if line.confirmed}
            if request.order_id in ("", reservation.order_id) and (not named or named == sold):
                return reservation, True
        self._refuse_state(reservation, HELD)
        if request.order_id in self.orders:
            named_id = self._named(client, self.orders[request.order_id])
            raise Refused("ORDER_ID_IN_USE", order_id=request.order_id, **named_id)
        there = {line.key: line.quantity for line in reservation.lines}
        self._refuse_more(named, there)
        for line in reservation.lines:
            line.confirmed = named.get(line.key, 0) if named else line.quantity
            self.items[line.key].confirmed += line.confirmed
        reservation.stored_state = CONFIRMED
        reservation.order_id = request.order_id or order_id
        reservation.customer = (request.customer.name, request.customer.email)
        reservation.confirm_time = self.now
        reservation.revision += 1
        reservation.moved(2, [(line.sku, line.pool, line.confirmed) for line in reservation.lines])
        self.orders[reservation.order_id] = reservation.reservation_id
        self.claim(client, "Confirm", request, reservation.reservation_id)
        return reservation, False

    def _refuse_more(self, named: dict[Key, int], there: dict[Key, int]) -> None:
        over = [key for key, units in named.items() if units > there.get(key, 0)]
        if len(over) == 1:
            [(sku, pool)] = over
            raise Refused(
                "QUANTITY_EXCEEDED", sku=sku, pool=pool, requested=named[over[0]], available=there.get(over[0], 0)
            )
        if over:
            raise Refused("QUANTITY_EXCEEDED")

    def cancel(self, client: Client, request: pb.CancelRequest) -> tuple[Reservation, bool]:
        earlier = self.replay(client, "Cancel", request)
        if earlier is not None:
            return self.reservations[earlier], True
        reservation = self.find(client, request, HELD)
        self._refuse_state(reservation, HELD)
        reservation.stored_state = CANCELLED
        reservation.cancel_time = self.now
        reservation.reason = request.reason
        reservation.revision += 1
        reservation.moved(3, [(line.sku, line.pool, line.quantity) for line in reservation.lines])
        self.claim(client, "Cancel", request, reservation.reservation_id)
        return reservation, False

    def extend(self, client: Client, request: pb.ExtendRequest) -> tuple[Reservation, bool]:
        earlier = self.replay(client, "Extend", request)
        if earlier is not None:
            return self.reservations[earlier], True
        reservation = self.find(client, request, HELD)
        self._refuse_state(reservation, HELD)
        ttl = request.ttl.ToTimedelta() if request.HasField("ttl") else DEFAULT_TTL
        latest = reservation.create_time + MAX_LIFETIME
        until = min(self.now + ttl, latest)
        if until > reservation.expire_time:
            reservation.expire_time = until
            reservation.revision += 1
            reservation.moved(6, [])
        self.claim(client, "Extend", request, reservation.reservation_id)
        return reservation, False

    def refund(self, client: Client, request: pb.RefundRequest) -> tuple[Reservation, bool]:
        earlier = self.replay(client, "Refund", request)
        if earlier is not None:
            return self.reservations[earlier], True
        reservation = self.find(client, request, CONFIRMED)
        self._refuse_state(reservation, CONFIRMED)
        left = {line.key: line.confirmed - line.refunded for line in reservation.lines}
        named = _merged(request.lines)
        self._refuse_more(named, left)
        moved = []
        for line in reservation.lines:
            units = named.get(line.key, 0) if named else left[line.key]
            item = self.items[line.key]
            line.refunded += units
            item.confirmed -= units
            if request.write_off:
                item.capacity -= min(units, item.capacity)
            moved.append((line.sku, line.pool, units))
        if all(line.refunded == line.confirmed for line in reservation.lines):
            reservation.stored_state = REFUNDED
        reservation.refund_time = self.now
        reservation.reason = request.reason
        reservation.revision += 1
        reservation.moved(5, moved)
        self.claim(client, "Refund", request, reservation.reservation_id)
        return reservation, False

    # Items

    def create(self, client: Client, wanted: Any) -> None:
        for new in wanted:
            if not client.sees(new.pool):
                raise Refused("ITEM_NOT_FOUND", sku=new.sku, pool=new.pool)
        there = [new for new in wanted if (new.sku, new.pool) in self.items and self.items[new.sku, new.pool].exists]
        if len(there) == 1:
            raise Refused("ITEM_ALREADY_EXISTS", sku=there[0].sku, pool=there[0].pool)
        if there:
            raise Refused("ITEM_ALREADY_EXISTS")
        for new in wanted:
            self._put((new.sku, new.pool), new.capacity, new.oversell_limit, new.display_name)

    def _put(self, key: Key, capacity: int, oversell_limit: int, display_name: str) -> None:
        before = self.items.get(key)
        self.items[key] = Item(
            capacity, oversell_limit, display_name, seen_revision=before.seen_revision if before else 0
        )

    def update(self, client: Client, request: ipb.UpdateItemRequest, revision: int) -> None:
        """`revision` is the item's, as last read."""
        new = request.item
        key = (new.sku, new.pool)
        item = self.item(client, key)
        if request.revision and request.revision != revision:
            raise Refused("REVISION_MISMATCH", sku=new.sku, pool=new.pool, revision=revision)
        paths = set(request.update_mask.paths)
        capacity = new.capacity if "capacity" in paths else item.capacity
        oversell_limit = new.oversell_limit if "oversell_limit" in paths else item.oversell_limit
        if capacity - self.held(key) - item.confirmed < -oversell_limit:
            taken = item.capacity + item.oversell_limit - capacity - oversell_limit
            if taken > 0:
                raise Refused(
                    "CAPACITY_IN_USE", sku=new.sku, pool=new.pool, requested=taken, available=self.available(key)
                )
        item.capacity, item.oversell_limit = capacity, oversell_limit
        if "display_name" in paths:
            item.display_name = new.display_name

    def adjust(self, client: Client, request: ipb.AdjustCapacityRequest) -> bool:
        """Returns whether it is a replay."""
        key = (request.sku, request.pool)
        if not client.sees(request.pool):
            raise Refused("ITEM_NOT_FOUND", sku=request.sku, pool=request.pool)
        if self.replay(client, "AdjustCapacity", request) is not None:
            self.item(client, key)
            return True
        item = self.item(client, key)
        available = max(0, min(item.capacity, self.remaining(key) + item.oversell_limit))
        if available + request.delta < 0:
            raise Refused(
                "CAPACITY_IN_USE", sku=request.sku, pool=request.pool, requested=-request.delta, available=available
            )
        item.capacity += request.delta
        self.claim(client, "AdjustCapacity", request, True)
        return False

    def transfer(self, client: Client, request: ipb.TransferCapacityRequest) -> bool:
        """Returns whether it is a replay."""
        giving, taking = (request.sku, request.from_pool), (request.sku, request.to_pool)
        for key in (giving, taking):
            if not client.sees(key[1]):
                raise Refused("ITEM_NOT_FOUND", sku=key[0], pool=key[1])
        if self.replay(client, "TransferCapacity", request) is not None:
            self.item(client, giving)
            self.item(client, taking)
            return True
        item = self.item(client, giving)
        free = max(0, self.remaining(giving))
        if free < request.quantity:
            raise Refused("CAPACITY_IN_USE", sku=giving[0], pool=giving[1], requested=request.quantity, available=free)
        item.capacity -= request.quantity
        to = self.items.get(taking)
        if to is None or not to.exists:
            self._put(taking, request.quantity, 0, item.display_name)
        else:
            to.capacity += request.quantity
        self.claim(client, "TransferCapacity", request, True)
        return False

    def delete(self, client: Client, key: Key) -> None:
        item = self.item(client, key)
        if item.confirmed or self.held(key):
            raise Refused("CAPACITY_IN_USE", sku=key[0], pool=key[1])
        item.exists = False


def _merged(lines: Any) -> dict[Key, int]:
    merged: dict[Key, int] = {}
    for line in lines:
        merged[line.sku, line.pool] = merged.get((line.sku, line.pool), 0) + line.quantity
    return merged
