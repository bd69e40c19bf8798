"""What callers saw, against what the tables say: nothing lost, nothing twice, every answer true when it was given.

Every change has exactly one row in the event table, and event_id orders the events of each item. So a history needs no
search for an order, as a general checker does: replay the events, then hold every answer against them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Sql = Callable[..., list[tuple[Any, ...]]]
Key = tuple[str, str]

RESERVED, CONFIRMED, CANCELLED, EXPIRED, REFUNDED, EXTENDED = range(1, 7)

_PATHS = {None: {RESERVED}, RESERVED: {CONFIRMED, CANCELLED, EXPIRED}, CONFIRMED: {REFUNDED}, REFUNDED: {REFUNDED}}

CLOCK_SLACK_S = 0.05
"""The database's and the callers' clock are one; reading them takes time."""


@dataclass
class Seen:
    """One call as its caller saw it, retries included."""

    rpc: str
    request_id: str
    called_s: float
    returned_s: float = 0.0
    tries: int = 0
    last_try_s: float = 0.0
    reservation_id: str = ""
    """Of a call that succeeded."""
    reason: str = ""
    """Of a call that was refused."""
    lines: dict[Key, int] = field(default_factory=dict)

    @property
    def acknowledged(self) -> bool:
        return bool(self.reservation_id)

    @property
    def unknown(self) -> bool:
        """The caller gave up without an answer."""
        return not self.reservation_id and not self.reason


@dataclass
class _Counters:
    capacity: int = 0
    remaining: int = 0
    held: int = 0
    confirmed: int = 0


class History:
    """The calls of a run."""

    def __init__(self) -> None:
        self.calls: list[Seen] = []

    def summary(self) -> dict[str, int]:
        """What became of the calls."""
        acknowledged = sum(call.acknowledged for call in self.calls)
        unknown = sum(call.unknown for call in self.calls)
        return {
            "calls": len(self.calls),
            "acknowledged": acknowledged,
            "refused": len(self.calls) - acknowledged - unknown,
            "unknown": unknown,
            "retried": sum(call.tries > 1 for call in self.calls),
        }

    def check(self, sql: Sql) -> None:
        """Raises AssertionError where an answer or a table is wrong."""
        events = sql(
            "SELECT event_id, type, request_id, reservation_id::text, line_sku, line_pool, line_quantity,"
            " coalesce(written_off_quantity, array_fill(0::bigint, ARRAY[cardinality(line_sku)])),"
            " extract(epoch FROM occur_time)::float8 FROM holdsvc.event ORDER BY event_id"
        )
        self._check_requests(events, sql)
        lines = _lines_of_reservations(sql)
        _check_paths(events, sql)
        free = _replay(events, lines, sql)
        self._check_refusals(free)

    def _check_requests(self, events: list[tuple[Any, ...]], sql: Sql) -> None:
        """Each request took effect once or not at all, and an acknowledged one did, between its call and its answer."""
        by_request: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for event in events:
            if event[2]:
                by_request[event[2]].append(event)
        twice = {request_id: rows for request_id, rows in by_request.items() if len(rows) > 1}
        assert not twice, f"took effect more than once: {twice}"
        remembered = {request_id: rows[0][3] for request_id, rows in by_request.items()}
        [[kept]] = sql("SELECT count(*) FROM holdsvc.request")
        assert kept == len(remembered), "the request table and the events differ"
        for call in self.calls:
            if call.acknowledged:
                assert remembered.get(call.request_id) == call.reservation_id, f"acknowledged and lost: {call}"
                occurred_s = by_request[call.request_id][0][8]
                assert call.called_s - CLOCK_SLACK_S <= occurred_s <= call.returned_s + CLOCK_SLACK_S, call
            elif call.reason and call.request_id in remembered:
                # An earlier try that was not answered may still have been in flight and have arrived after the last.
                occurred_s = by_request[call.request_id][0][8]
                assert call.tries > 1, f"refused, yet it took effect: {call}"
                assert occurred_s > call.last_try_s, f"it had taken effect, yet it was refused: {call}"

    def _check_refusals(self, free: dict[Key, list[tuple[float, int]]]) -> None:
        """Sold out is only said when it was, at some moment between call and answer."""
        for call in self.calls:
            if call.reason == "CAPACITY_EXCEEDED":
                least = {key: _least_free(free[key], call.called_s, call.returned_s) for key in call.lines}
                assert any(least[key] < units for key, units in call.lines.items()), (call, least)


def _lines_of_reservations(sql: Sql) -> dict[str, list[tuple[str, str, int]]]:
    lines = defaultdict(list)
    for reservation_id, sku, pool, quantity in sql(
        "SELECT reservation_id::text, sku, pool, quantity FROM holdsvc.reservation_line"
    ):
        lines[reservation_id].append((sku, pool, quantity))
    return lines


def _check_paths(events: list[tuple[Any, ...]], sql: Sql) -> None:
    """Every reservation went along the allowed path, to one end, and the table shows where it stands."""
    last: dict[str, int | None] = {}
    ends: Counter[str] = Counter()
    for event in events:
        kind, reservation_id = event[1], event[3]
        if reservation_id is None:
            continue
        if kind == EXTENDED:
            assert last[reservation_id] == RESERVED, event
            continue
        before = last.get(reservation_id)
        assert kind in _PATHS.get(before, set()), f"{reservation_id}: {kind} after {before}"
        last[reservation_id] = kind
        ends[reservation_id] += kind in (CONFIRMED, CANCELLED, EXPIRED)
    assert all(count <= 1 for count in ends.values())
    states: dict[str, int] = dict(sql("SELECT reservation_id::text, state FROM holdsvc.reservation"))
    assert set(states) == set(last), "a reservation without its events, or events without their reservation"
    for reservation_id, state in states.items():
        shown = {RESERVED: {1}, CONFIRMED: {2}, CANCELLED: {3}, EXPIRED: {4}, REFUNDED: {2, 5}}
        kind = last[reservation_id]
        assert kind is not None
        assert state in shown[kind], (reservation_id, state, last[reservation_id])


def _replay(
    events: list[tuple[Any, ...]], lines: dict[str, list[tuple[str, str, int]]], sql: Sql
) -> dict[Key, list[tuple[float, int]]]:
    """Adds the events up, item by item; returns what was free after each, with its time."""
    rows = sql("SELECT sku, pool, oversell_limit, capacity, remaining, held, confirmed FROM holdsvc.item")
    limits = {(row[0], row[1]): row[2] for row in rows}
    items: dict[Key, _Counters] = defaultdict(_Counters)
    free: dict[Key, list[tuple[float, int]]] = defaultdict(list)
    for event_id, kind, _, reservation_id, skus, pools, quantities, written_off, occurred_s in events:
        moved = list(zip(skus, pools, quantities, written_off, strict=True))
        if kind == CONFIRMED:
            sold = {(sku, pool): quantity for sku, pool, quantity, _ in moved}
            moved = [(sku, pool, sold.get((sku, pool), 0), quantity) for sku, pool, quantity in lines[reservation_id]]
        for sku, pool, quantity, other in moved:
            item = items[sku, pool]
            _apply(item, kind, quantity, other)
            where = f"after event {event_id}: {(sku, pool)} {item}"
            assert item.held >= 0, where
            assert item.confirmed >= 0, where
            assert item.remaining >= -limits[sku, pool], where
            assert item.capacity == item.remaining + item.held + item.confirmed, where
            free[sku, pool].append((occurred_s, item.remaining + limits[sku, pool]))
    for sku, pool, _, *counters in rows:
        item = items[sku, pool]
        assert counters == [item.capacity, item.remaining, item.held, item.confirmed], (sku, pool, counters, item)
    return free


def _apply(item: _Counters, kind: int, quantity: int, other: int) -> None:
    """`other`: of CONFIRMED the units that were held, of REFUNDED those written off."""
    if kind == RESERVED:
        item.remaining -= quantity
        item.held += quantity
    elif kind == CONFIRMED:
        item.held -= other
        item.confirmed += quantity
        item.remaining += other - quantity
    elif kind in (CANCELLED, EXPIRED):
        item.held -= quantity
        item.remaining += quantity
    elif kind == REFUNDED:
        item.confirmed -= quantity
        item.capacity -= other
        item.remaining += quantity - other
    else:
        item.capacity += quantity
        item.remaining += quantity


def _least_free(states: list[tuple[float, int]], called_s: float, returned_s: float) -> int:
    """The fewest units that were free at any moment of a call."""
    least = [units for at_s, units in states if called_s - CLOCK_SLACK_S <= at_s <= returned_s + CLOCK_SLACK_S]
    before = [units for at_s, units in states if at_s < called_s]
    return min(least + before[-1:])
