"""What callers saw, against what the tables say: nothing lost, nothing twice, every answer true when it was given.

Every change has exactly one row in the event table, and event_id orders the events of each item. So a history needs no
search for an order, as a general checker does: replay the events, then hold every answer against them.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.levels import check_levels

Sql = Callable[..., list[tuple[Any, ...]]]
Key = tuple[str, str]

RESERVED, CONFIRMED, CANCELLED, EXPIRED, REFUNDED, EXTENDED = range(1, 7)
MODIFIED, FULFILLED, RESCUED = 12, 13, 14
CLOSED = 2

_PATHS = {
    None: {RESERVED: "held"},
    "held": {EXTENDED: "held", MODIFIED: "held", CONFIRMED: "sold", CANCELLED: "cancelled", EXPIRED: "expired"},
    "expired": {RESCUED: "rescued"},
    "rescued": {CONFIRMED: "sold"},
    "sold": {FULFILLED: "sold", REFUNDED: "sold"},
    "cancelled": {},
}
_SHOWN = {"held": {1}, "sold": {2, 5, 6}, "cancelled": {3}, "expired": {4}}

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
    """The units that it wants of each item, those that it has left out."""

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
    oversell_limit: int = 0
    buffer: int = 0

    @property
    def free(self) -> int:
        """What a new hold may take."""
        return self.remaining + self.oversell_limit - self.buffer


@dataclass
class _Item:
    """What an item was at which time, after each event."""

    free: list[tuple[float, int]] = field(default_factory=list)
    open: list[tuple[float, int]] = field(default_factory=list)
    """1 while its sale was open."""


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
            " written_off_quantity, restored_quantity, extract(epoch FROM occur_time)::float8,"
            " oversell_limit, buffer, sale_state FROM holdsvc.event ORDER BY event_id"
        )
        self._check_requests(events, sql)
        lines = _lines_of_reservations(sql)
        _check_paths(events, sql)
        items = _replay(events, lines, sql)
        self._check_refusals(items)
        check_levels(sql)

    def _check_requests(self, events: list[tuple[Any, ...]], sql: Sql) -> None:
        """Each request took effect once or not at all, and an acknowledged one did, between its call and its answer."""
        by_request: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for event in events:
            if event[2]:
                by_request[event[2]].append(event)
        twice = {
            request_id: rows
            for request_id, rows in by_request.items()
            # A rescue is told by two events.
            if len(rows) > 1 and [row[1] for row in rows] != [RESCUED, CONFIRMED]
        }
        assert not twice, f"took effect more than once: {twice}"
        remembered = {request_id: rows[0][3] for request_id, rows in by_request.items()}
        [[kept]] = sql("SELECT count(*) FROM holdsvc.request")
        assert kept == len(remembered), "the request table and the events differ"
        for call in self.calls:
            if call.acknowledged:
                assert remembered.get(call.request_id) == call.reservation_id, f"acknowledged and lost: {call}"
                occurred_s = by_request[call.request_id][0][9]
                assert call.called_s - CLOCK_SLACK_S <= occurred_s <= call.returned_s + CLOCK_SLACK_S, call
            elif call.reason and call.request_id in remembered:
                # An earlier try that was not answered may still have been in flight and have arrived after the last.
                occurred_s = by_request[call.request_id][0][9]
                assert call.tries > 1, f"refused, yet it took effect: {call}"
                assert occurred_s > call.last_try_s, f"it had taken effect, yet it was refused: {call}"

    def _check_refusals(self, items: dict[Key, _Item]) -> None:
        """Sold out, or closed, is only said when it was, at some moment between call and answer."""
        for call in self.calls:
            if call.reason == "CAPACITY_EXCEEDED":
                least = {key: _least(items[key].free, call.called_s, call.returned_s) for key in call.lines}
                assert any(least[key] < units for key, units in call.lines.items()), (call, least)
            elif call.reason == "SALE_CLOSED":
                assert any(_least(items[key].open, call.called_s, call.returned_s) == 0 for key in call.lines), call


def _lines_of_reservations(sql: Sql) -> dict[str, list[tuple[str, str, int]]]:
    lines = defaultdict(list)
    for reservation_id, sku, pool, quantity in sql(
        "SELECT reservation_id::text, sku, pool, quantity FROM holdsvc.reservation_line"
    ):
        lines[reservation_id].append((sku, pool, quantity))
    return lines


def _check_paths(events: list[tuple[Any, ...]], sql: Sql) -> None:
    """Every reservation went along the allowed path, to one end, and the table shows where it stands."""
    stands: dict[str, str] = {}
    for event in events:
        kind, reservation_id = event[1], event[3]
        if reservation_id is not None:
            before = stands.get(reservation_id)
            assert kind in _PATHS[before], f"{reservation_id}: {kind} after {before}"
            stands[reservation_id] = _PATHS[before][kind]
    rows = sql(
        "SELECT v.reservation_id::text, v.state, CASE"
        " WHEN sum(l.confirmed_quantity) = 0 THEN NULL"
        " WHEN sum(l.refunded_quantity) = sum(l.confirmed_quantity) THEN 5"
        " WHEN sum(l.fulfilled_quantity) > 0 AND sum(l.confirmed_quantity - l.fulfilled_quantity - l.refunded_quantity"
        " + l.returned_quantity) = 0 THEN 6 ELSE 2 END"
        " FROM holdsvc.reservation v JOIN holdsvc.reservation_line l USING (tenant, reservation_id)"
        " GROUP BY v.reservation_id, v.state"
    )
    assert {row[0] for row in rows} == set(stands), (
        "a reservation without its events, or events without their reservation"
    )
    for reservation_id, state, by_lines in rows:
        assert state in _SHOWN[stands[reservation_id]], (reservation_id, state, stands[reservation_id])
        assert by_lines in (None, state), (reservation_id, state, by_lines)


def _replay(events: list[tuple[Any, ...]], lines: dict[str, list[tuple[str, str, int]]], sql: Sql) -> dict[Key, _Item]:
    """Adds the events up, item by item; returns what each item was after each, with its time."""
    counters: dict[Key, _Counters] = defaultdict(_Counters)
    items: dict[Key, _Item] = defaultdict(_Item)
    for event_id, kind, _, reservation_id, skus, pools, quantities, written, restored, at_s, *settings in events:
        others = zip(written or [0] * len(skus), restored or [0] * len(skus), strict=True)
        moved = list(zip(skus, pools, quantities, others, strict=True))
        if kind == CONFIRMED:
            sold = {(sku, pool): quantity for sku, pool, quantity, _ in moved}
            moved = [
                (sku, pool, sold.get((sku, pool), 0), (quantity, 0)) for sku, pool, quantity in lines[reservation_id]
            ]
        for sku, pool, quantity, (other, back) in moved:
            item = counters[sku, pool]
            if reservation_id is None:
                item.oversell_limit, item.buffer, sale_state = settings
                items[sku, pool].open.append((at_s, int(sale_state != CLOSED)))
            _apply(item, kind, quantity, other, back, write_off=written is not None)
            where = f"after event {event_id}: {(sku, pool)} {item}"
            assert item.held >= 0, where
            assert item.confirmed >= 0, where
            assert item.remaining >= -item.oversell_limit, where
            assert item.capacity == item.remaining + item.held + item.confirmed, where
            items[sku, pool].free.append((at_s, item.free))
    for sku, pool, *stored in sql("SELECT sku, pool, capacity, remaining, held, confirmed FROM holdsvc.item"):
        item = counters[sku, pool]
        assert stored == [item.capacity, item.remaining, item.held, item.confirmed], (sku, pool, stored, item)
    return items


def _apply(item: _Counters, kind: int, quantity: int, other: int, back: int, *, write_off: bool) -> None:
    """`other`: of CONFIRMED the units held, of REFUNDED those written off; `back`: those that were fulfilled."""
    if kind in (RESERVED, MODIFIED, RESCUED):
        item.remaining -= quantity
        item.held += quantity
    elif kind == CONFIRMED:
        item.held -= other
        item.confirmed += quantity
        item.remaining += other - quantity
    elif kind in (CANCELLED, EXPIRED):
        item.held -= quantity
        item.remaining += quantity
    elif kind == FULFILLED:
        item.confirmed -= quantity
        item.capacity -= quantity
    elif kind == REFUNDED:
        came = -other if write_off else back
        item.confirmed -= quantity - back
        item.capacity += came
        item.remaining += quantity - back + came
    else:
        item.capacity += quantity
        item.remaining += quantity


def _least(states: list[tuple[float, int]], called_s: float, returned_s: float) -> int:
    """The least that an item had at any moment of a call."""
    least = [units for at_s, units in states if called_s - CLOCK_SLACK_S <= at_s <= returned_s + CLOCK_SLACK_S]
    before = [units for at_s, units in states if at_s < called_s]
    return min(least + before[-1:])
