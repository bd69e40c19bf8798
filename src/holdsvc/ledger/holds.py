"""Making reservations: one call of one SQL function over a batch."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import NamedTuple
from uuid import UUID

from holdsvc import errors
from holdsvc.change_requests import Reserve
from holdsvc.ledger import arrays
from holdsvc.ledger.availability import with_next_free
from holdsvc.ledger.binding import bind_out
from holdsvc.ledger.database import Connection
from holdsvc.ledger.limits import LimitRefusal, over_limit
from holdsvc.ledger.requests import REQUEST, columns, inactive_feature
from holdsvc.ledger.reservations import Result, committed, without_hidden
from holdsvc.model import Again, Done, ItemKey, Reservation, Serve, ShortLine, State, Sweep


class _ReserveAnswer(NamedTuple):
    """What came of a batch, an element each request; `short_line` points into the flat lines, from 1."""

    judge_time: datetime
    outcome: list[str | None]
    other_id: list[UUID | None]
    short_line: list[int]
    short_available: list[int | None]
    """None: there is no such item, or its sale is closed."""
    comes_free: bool
    """Whether it is worth asking when missing units come free: enough of them are held."""
    over_limit: list[LimitRefusal | None]
    """Empty where no request counts for a limit."""


_RESERVE = bind_out(
    "reserve",
    _ReserveAnswer,
    *("tenant", *REQUEST, "reservation_id", "holder", "reference", "ttl_us", "metadata", "duplicate_window_us"),
    *("line_request", "line_number", "line_item", "line_quantity", "item_sku", "item_pool", "item_quantity", "served"),
)


class _Flat:
    """The lines of a batch as flat columns, and its items, each once."""

    __slots__ = ("item", "item_quantity", "items", "number", "pool", "quantity", "request", "sku")

    def __init__(self, requests: Sequence[Reserve]) -> None:
        self.request = [number for number, request in enumerate(requests, 1) for _ in request.lines]
        self.number = [number for request in requests for number in range(1, len(request.lines) + 1)]
        self.sku, self.pool, self.quantity, *_ = zip(*[line for r in requests for line in r.lines], strict=True)
        keys = list(zip(self.sku, self.pool, strict=True))
        self.items = {key: number for number, key in enumerate(dict.fromkeys(keys), 1)}
        self.item = [self.items[key] for key in keys]
        self.item_quantity = [0] * len(self.items)
        for item, quantity in zip(self.item, self.quantity, strict=True):
            self.item_quantity[item - 1] += quantity


async def reserve(connection: Connection, tenant: str, requests: Sequence[Reserve]) -> list[Result]:
    """Takes the units of each request, or says why not."""
    flat = _Flat(requests)
    plain = all(r.duplicate_window_us is None for r in requests)
    answer = await _RESERVE.one(
        connection,
        tenant=tenant,
        **columns(tenant, requests),
        reservation_id=arrays.plain([r.reservation_id for r in requests]),
        holder=arrays.texts([r.holder for r in requests]),
        reference=arrays.texts([r.reference for r in requests]),
        ttl_us=arrays.plain([r.ttl_us for r in requests]),
        metadata=arrays.documents([r.metadata for r in requests]) if any(r.metadata for r in requests) else "{}",
        duplicate_window_us="{}" if plain else arrays.plain([r.duplicate_window_us for r in requests]),
        line_request=arrays.plain(flat.request),
        line_number=arrays.plain(flat.number),
        line_item=arrays.plain(flat.item),
        line_quantity=arrays.plain(flat.quantity),
        item_sku=arrays.texts([sku for sku, _ in flat.items]),
        item_pool=arrays.texts([pool for _, pool in flat.items]),
        item_quantity=arrays.plain(flat.item_quantity),
        served=arrays.flags([r.served for r in requests]) if any(r.served for r in requests) else "{}",
    )
    judge_time, outcomes, other_ids = answer.judge_time, answer.outcome, answer.other_id
    short: dict[int, list[ShortLine]] = {}
    for index, available in zip(answer.short_line, answer.short_available, strict=True):
        at = index - 1
        short.setdefault(flat.request[at], []).append(
            ShortLine(flat.sku[at], flat.pool[at], flat.quantity[at], _UNKNOWN if available is None else available)
        )
    replayed = await _replayed(connection, tenant, outcomes, other_ids)
    expire_time = {ttl_us: judge_time + timedelta(microseconds=ttl_us) for ttl_us in {r.ttl_us for r in requests}}
    capacity_exceeded = cache(errors.capacity_exceeded)
    results: list[Result] = []
    for number, (request, outcome, other_id) in enumerate(zip(requests, outcomes, other_ids, strict=True), 1):
        if outcome is None:
            results.append(Done(_reserved(request, judge_time, expire_time[request.ttl_us]), replayed=False))
        elif outcome == "REPLAYED":
            results.append(_replay(str(other_id), replayed))
        elif outcome == "CAPACITY_EXCEEDED":
            results.append(capacity_exceeded(tuple(short[number])))
        elif answer.over_limit and (detail := answer.over_limit[number - 1]):
            results.append(over_limit(outcome, detail))
        else:
            results.append(_not_reserved(request, outcome, other_id, short.get(number, [])))
    if answer.comes_free:
        results = await with_next_free(connection, tenant, results)
    return await without_hidden(connection, tenant, requests, results)


_UNKNOWN = -1
"""What is available of an item that does not exist or whose sale is closed."""


def _not_reserved(request: Reserve, outcome: str, other_id: object, short: list[ShortLine]) -> Result:
    if outcome == "RETRY":
        return Again()
    if outcome in ("SWEEP", "SERVE"):
        keys = [ItemKey(line.sku, line.pool) for line in request.lines]
        return Sweep(keys) if outcome == "SWEEP" else Serve(keys)
    if outcome == "ITEM_NOT_FOUND":
        missing = next(line for line in short if line.available == _UNKNOWN)
        return errors.item_not_found(missing.sku, missing.pool)
    if outcome == "SALE_CLOSED":
        closed = next(line for line in short if line.available == _UNKNOWN)
        return errors.sale_closed(closed.sku, closed.pool)
    if outcome == "DUPLICATE_RESERVATION":
        return errors.duplicate_reservation(str(other_id))
    if outcome == "DUPLICATE_UNSEEN":
        return errors.duplicate_unseen()
    if outcome == "REQUEST_ID_REUSED":
        return errors.request_id_reused(request.request_id)
    refused = inactive_feature(outcome)
    assert refused is not None, outcome
    return refused


def _replay(reservation_id: str, replayed: Mapping[str, Reservation | None]) -> Result:
    """The answer of an earlier call, with the reservation as it is now."""
    if reservation_id not in replayed:
        return Again()
    found = replayed[reservation_id]
    return errors.reservation_removed(reservation_id) if found is None else Done(found, replayed=True)


async def _replayed(
    connection: Connection, tenant: str, outcomes: Sequence[str | None], ids: Sequence[UUID | None]
) -> dict[str, Reservation | None]:
    wanted = {str(id_) for outcome, id_ in zip(outcomes, ids, strict=True) if outcome == "REPLAYED"}
    return await committed(connection, tenant, wanted) if wanted else {}


def _reserved(request: Reserve, judge_time: datetime, expire_time: datetime) -> Reservation:
    return Reservation(
        reservation_id=request.reservation_id,
        client=request.caller.client,
        holder=request.holder,
        reference=request.reference,
        state=State.HELD,
        lines=request.lines,
        create_time=judge_time,
        expire_time=expire_time,
        metadata=request.metadata,
    )
