"""The books of a stream of events: what its events, added up in order, make of items and reservations."""

from collections import Counter
from collections.abc import Iterable

from inventoryhold.v1 import event_pb2, item_pb2, reservation_pb2

State = reservation_pb2.Reservation.State
Key = tuple[str, str]

FOLLOWS = {
    event_pb2.EVENT_TYPE_RESERVED: (None, State.STATE_HELD),
    event_pb2.EVENT_TYPE_EXTENDED: (State.STATE_HELD, State.STATE_HELD),
    event_pb2.EVENT_TYPE_CONFIRMED: (State.STATE_HELD, State.STATE_CONFIRMED),
    event_pb2.EVENT_TYPE_CANCELLED: (State.STATE_HELD, State.STATE_CANCELLED),
    event_pb2.EVENT_TYPE_EXPIRED: (State.STATE_HELD, State.STATE_EXPIRED),
}
"""From which state to which each event leads."""


class Books:
    """Counters of items and states of reservations, from events alone."""

    def __init__(self) -> None:
        self.remaining: Counter[Key] = Counter()
        self.held: Counter[Key] = Counter()
        self.confirmed: Counter[Key] = Counter()
        self.capacity: Counter[Key] = Counter()
        self.states: dict[str, tuple[int, int]] = {}
        """State and revision of each reservation."""

    def add(self, event: event_pb2.Event) -> None:
        """Adds one event; a state that cannot follow the last fails."""
        if event.HasField("reservation"):
            self._check_order(event)
            self._move(event)
        else:
            for line in event.lines:
                self.capacity[line.sku, line.pool] += line.quantity
                self.remaining[line.sku, line.pool] += line.quantity

    def _check_order(self, event: event_pb2.Event) -> None:
        reservation = event.reservation
        state, revision = self.states.get(reservation.reservation_id, (None, 0))
        assert reservation.revision == revision + 1, "a transition is missing or twice"
        if event.type == event_pb2.EVENT_TYPE_REFUNDED:
            assert state == State.STATE_CONFIRMED
            assert reservation.state in (State.STATE_CONFIRMED, State.STATE_REFUNDED)
        else:
            assert (state, reservation.state) == FOLLOWS[event.type]
        self.states[reservation.reservation_id] = (reservation.state, reservation.revision)

    def _move(self, event: event_pb2.Event) -> None:
        kind = event.type
        for line in event.lines:
            key = (line.sku, line.pool)
            if kind == event_pb2.EVENT_TYPE_RESERVED:
                self.remaining[key] -= line.quantity
                self.held[key] += line.quantity
            elif kind == event_pb2.EVENT_TYPE_CONFIRMED:
                self.held[key] -= line.quantity
                self.confirmed[key] += line.quantity
            elif kind == event_pb2.EVENT_TYPE_REFUNDED:
                self.confirmed[key] -= line.quantity
                self.remaining[key] += line.quantity
            else:
                self.held[key] -= line.quantity
                self.remaining[key] += line.quantity
        if kind == event_pb2.EVENT_TYPE_CONFIRMED:
            for part in event.reservation.lines:
                self.held[part.sku, part.pool] -= part.quantity - part.confirmed_quantity
                self.remaining[part.sku, part.pool] += part.quantity - part.confirmed_quantity
        for line in event.written_off_lines:
            self.remaining[line.sku, line.pool] -= line.quantity
            self.capacity[line.sku, line.pool] -= line.quantity

    def check(self, items: Iterable[item_pb2.Item]) -> None:
        """Compares with the items as they are."""
        for item in items:
            key = (item.sku, item.pool)
            told = (self.capacity[key], self.remaining[key], self.held[key], self.confirmed[key])
            assert told == (item.capacity, item.remaining, item.held, item.confirmed), key
