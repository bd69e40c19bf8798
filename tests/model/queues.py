"""A plain model of waitlists: dicts, one caller at a time, everything served after each step."""

from dataclasses import dataclass, field
from datetime import datetime

from inventoryhold.v1 import item_pb2, waitlist_pb2
from tests.model.books import Refused

Entry = waitlist_pb2.WaitlistEntry
OFF = item_pb2.Item.WAITLIST_POLICY_OFF
FIRST_FITTING = item_pb2.Item.WAITLIST_POLICY_FIRST_FITTING
STRICT = item_pb2.Item.WAITLIST_POLICY_STRICT
LIVE = (Entry.STATE_WAITING, Entry.STATE_OFFERED)


@dataclass
class Stock:
    """An item."""

    capacity: int
    policy: item_pb2.Item.WaitlistPolicy
    closed: bool = False
    held: int = 0

    @property
    def free(self) -> int:
        return self.capacity - self.held


@dataclass
class Waiter:
    """An entry."""

    number: int
    holder: str
    lines: dict[str, int]
    priority: int
    expire_time: datetime | None
    offer_end: datetime | None = None
    state: Entry.State = Entry.STATE_WAITING
    held: dict[str, int] = field(default_factory=dict)


class Queues:
    """What the entries of one tenant must be."""

    def __init__(self) -> None:
        self.items: dict[str, Stock] = {}
        self.entries: dict[str, Waiter] = {}
        self.holds: dict[str, tuple[dict[str, int], datetime]] = {}

    def order(self) -> list[tuple[str, Waiter]]:
        return sorted(self.entries.items(), key=lambda each: (-each[1].priority, each[1].number))

    def waiting(self, sku: str) -> list[Waiter]:
        return [w for _, w in self.order() if w.state == Entry.STATE_WAITING and sku in w.lines]

    def _unservable(self, waiter: Waiter) -> bool:
        return any(units > self.items[sku].capacity for sku, units in waiter.lines.items())

    def _blocked(self, waiter: Waiter) -> bool:
        for sku, units in waiter.lines.items():
            item = self.items[sku]
            if item.closed or item.policy == OFF or units > item.free:
                return True
            if item.policy == STRICT:
                heads = [w for w in self.waiting(sku) if not self._unservable(w)]
                if heads[0] is not waiter:
                    return True
        return False

    def serve(self) -> list[str]:
        """Offers what is free in the order of the queue; returns who is offered something."""
        offered = []
        for entry_id, waiter in self.order():
            if waiter.state == Entry.STATE_WAITING and not self._unservable(waiter) and not self._blocked(waiter):
                waiter.state = Entry.STATE_OFFERED
                waiter.held = dict(waiter.lines)
                for sku, units in waiter.lines.items():
                    self.items[sku].held += units
                offered.append(entry_id)
        return offered

    def reserve(self, wanted: dict[str, int]) -> None:
        """Takes units for a new hold, or refuses them."""
        if any(self.items[sku].closed for sku in wanted):
            raise Refused("SALE_CLOSED")
        for sku, units in wanted.items():
            item = self.items[sku]
            if units > (0 if item.policy == STRICT and self.waiting(sku) else item.free):
                raise Refused("CAPACITY_EXCEEDED")
        for sku, units in wanted.items():
            self.items[sku].held += units

    def give_back(self, units: dict[str, int]) -> None:
        for sku, count in units.items():
            self.items[sku].held -= count

    def join(self, holder: str, wanted: dict[str, int]) -> None:
        """Refuses what may not join."""
        if any(self.items[sku].policy == OFF for sku in wanted):
            raise Refused("WAITLIST_CLOSED")
        for waiter in self.entries.values():
            if waiter.state in LIVE and waiter.holder == holder and set(waiter.lines) & set(wanted):
                raise Refused("ALREADY_WAITING")

    def end(self, waiter: Waiter, state: Entry.State) -> None:
        """Ends an entry; what it was offered comes back unless it was taken."""
        if waiter.state == Entry.STATE_OFFERED and state != Entry.STATE_TAKEN:
            self.give_back(waiter.held)
        waiter.state = state

    def lapse(self, now: datetime) -> None:
        """What has ended by now."""
        for hold_id, (units, end) in list(self.holds.items()):
            if end <= now:
                self.give_back(units)
                del self.holds[hold_id]
        for waiter in self.entries.values():
            end_time = {Entry.STATE_WAITING: waiter.expire_time, Entry.STATE_OFFERED: waiter.offer_end}.get(
                waiter.state
            )
            if end_time is not None and end_time <= now:
                self.end(waiter, Entry.STATE_LAPSED)
