"""The changes of reservations, each one call of one SQL function over a batch, and reading them.

Every function takes a batch of one tenant and returns the outcome of each request, in order. A refusal is a value in
its place, never raised; `Sweep` and `Again` ask the engine to call once more.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, TypedDict
from uuid import UUID

from holdsvc import errors
from holdsvc.ledger import arrays
from holdsvc.ledger.binding import bind, bind_out
from holdsvc.ledger.database import Conflict, Connection, Failed, NothingRan, Unknown
from holdsvc.ledger.requests import RequestColumns, columns, inactive_feature
from holdsvc.model import (
    Again,
    Caller,
    Cancel,
    Confirm,
    Done,
    Extend,
    ItemKey,
    Line,
    Outcome,
    Refund,
    Refused,
    Request,
    Reservation,
    ReservationLine,
    Reserve,
    ShortLine,
    State,
    Sweep,
    Targeted,
)

Result = Outcome[Reservation]


class _ReserveAnswer(NamedTuple):
    """What came of a batch, an element each request; `short_line` points into the flat lines, from 1."""

    judge_time: datetime
    outcome: list[str | None]
    other_id: list[UUID | None]
    short_line: list[int]
    short_available: list[int | None]
    """None: there is no such item."""


class ReservationAnswer(NamedTuple):
    """A row of type reservation_answer; `outcome` None: done."""

    ix: int
    outcome: str | None
    short_sku: str | None
    short_pool: str | None
    short_requested: int | None
    short_available: int | None
    other_id: UUID | None
    reservation_id: UUID | None
    """None: there is no reservation to see, and the columns that follow are None too."""
    client: str
    holder: str
    reference: str
    state: int
    line_sku: list[str]
    line_pool: list[str]
    line_quantity: list[int]
    line_confirmed: list[int]
    line_refunded: list[int]
    order_id: str | None
    customer_name: str | None
    customer_email: str | None
    metadata: dict[str, str] | None
    create_time: datetime
    expire_time: datetime
    confirm_time: datetime | None
    cancel_time: datetime | None
    refund_time: datetime | None
    reason: str | None
    revision: int


class _Ids(NamedTuple):
    reservation_ids: list[UUID] | None


_REQUEST = ("client", "key_id", "request_id", "request_key", "fingerprint")
_TARGET = ("tenant", *_REQUEST, "pools", "read_all", "write_all", "target", "reference")
_LINES = ("line_request", "line_sku", "line_pool", "line_quantity")

_RESERVE = bind_out(
    "reserve",
    _ReserveAnswer,
    *("tenant", *_REQUEST, "reservation_id", "holder", "reference", "ttl_us", "metadata", "duplicate_window_us"),
    *("line_request", "line_number", "line_item", "line_quantity", "item_sku", "item_pool", "item_quantity"),
)
_CONFIRM = bind(
    "confirm", ReservationAnswer, *_TARGET, "order_id", "minted", "customer_name", "customer_email", *_LINES
)
_CANCEL = bind("cancel", ReservationAnswer, *_TARGET, "reason")
_REFUND = bind("refund", ReservationAnswer, *_TARGET, "write_off", "reason", *_LINES)
_EXTEND = bind("extend", ReservationAnswer, *_TARGET, "ttl_us", "max_lifetime_us")
_GET = bind("get_reservations", ReservationAnswer, "tenant", "reservation_id")
_FIND_REFERENCE = bind_out("find_reference", _Ids, "tenant", "client", "pools", "reference")


class _Flat:
    """The lines of a batch as flat columns, and its items, each once."""

    __slots__ = ("item", "item_quantity", "items", "number", "pool", "quantity", "request", "sku")

    def __init__(self, requests: Sequence[Reserve]) -> None:
        self.request = [number for number, request in enumerate(requests, 1) for _ in request.lines]
        self.number = [number for request in requests for number in range(1, len(request.lines) + 1)]
        self.sku, self.pool, self.quantity, _, _ = zip(*[line for r in requests for line in r.lines], strict=True)
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
    )
    judge_time, outcomes, other_ids = answer.judge_time, answer.outcome, answer.other_id
    short: dict[int, list[ShortLine]] = {}
    for index, available in zip(answer.short_line, answer.short_available, strict=True):
        at = index - 1
        short.setdefault(flat.request[at], []).append(
            ShortLine(flat.sku[at], flat.pool[at], flat.quantity[at], _MISSING if available is None else available)
        )
    replayed = await _replayed(connection, tenant, outcomes, other_ids)
    expire_time = {ttl_us: judge_time + timedelta(microseconds=ttl_us) for ttl_us in {r.ttl_us for r in requests}}
    results: list[Result] = []
    for number, (request, outcome, other_id) in enumerate(zip(requests, outcomes, other_ids, strict=True), 1):
        if outcome is None:
            results.append(Done(_reserved(request, judge_time, expire_time[request.ttl_us]), replayed=False))
        elif outcome == "REPLAYED":
            found = replayed.get(str(other_id))
            results.append(Done(found, replayed=True) if found else Again())
        else:
            results.append(_not_reserved(request, outcome, other_id, short.get(number, [])))
    return await _without_hidden(connection, tenant, requests, results)


_MISSING = -1
"""What can be had of an item that there is not."""


def _not_reserved(request: Reserve, outcome: str, other_id: object, short: list[ShortLine]) -> Result:
    if outcome == "RETRY":
        return Again()
    if outcome == "SWEEP":
        return Sweep([ItemKey(line.sku, line.pool) for line in request.lines])
    if outcome == "ITEM_NOT_FOUND":
        missing = next(line for line in short if line.available == _MISSING)
        return errors.item_not_found(missing.sku, missing.pool)
    if outcome == "CAPACITY_EXCEEDED":
        return errors.capacity_exceeded(short)
    if outcome == "DUPLICATE_RESERVATION":
        return errors.duplicate_reservation(str(other_id))
    if outcome == "REQUEST_ID_REUSED":
        return errors.request_id_reused(request.request_id)
    refused = inactive_feature(outcome)
    assert refused is not None, outcome
    return refused


async def _without_hidden(
    connection: Connection, tenant: str, requests: Sequence[Request], results: list[Result]
) -> list[Result]:
    """The results; refusals name no reservation that their caller may not see."""
    named: dict[int, str] = {}
    for index, (request, result) in enumerate(zip(requests, results, strict=True)):
        sees_all = request.caller.reads_all and not request.caller.pools
        if isinstance(result, Refused) and result.reason in _NAMING and not sees_all:
            named[index] = result.metadata["reservation_id"]
    if not named:
        return results
    found = await _found(connection, tenant, set(named.values()))
    for index, reservation_id in named.items():
        reservation, result = found.get(reservation_id), results[index]
        assert isinstance(result, Refused)
        if reservation is None or not requests[index].caller.sees(reservation):
            order_id = result.metadata.get("order_id")
            results[index] = (
                errors.duplicate_reservation(None) if order_id is None else errors.order_id_in_use(order_id, None)
            )
    return results


_NAMING = ("DUPLICATE_RESERVATION", "ORDER_ID_IN_USE")
"""Refusals that name another reservation than the request's own."""


async def _replayed(
    connection: Connection, tenant: str, outcomes: Sequence[str | None], ids: Sequence[UUID | None]
) -> dict[str, Reservation]:
    wanted = {str(id_) for outcome, id_ in zip(outcomes, ids, strict=True) if outcome == "REPLAYED"}
    return await _found(connection, tenant, wanted) if wanted else {}


async def _found(connection: Connection, tenant: str, ids: Collection[str]) -> dict[str, Reservation]:
    """The reservations with these ids; none where the database does not answer."""
    try:
        found = await get(connection, tenant, sorted(ids))
    except (NothingRan, Unknown, Conflict, Failed):
        # The batch is committed: an error here must not make all of it look undone.
        return {}
    return {reservation.reservation_id: reservation for reservation in found if reservation is not None}


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


async def confirm(connection: Connection, tenant: str, requests: Sequence[Confirm]) -> list[Result]:
    """Sells what each request's reservation holds, or the part that it names."""
    rows = await _CONFIRM.fetch(
        connection,
        **_targets(tenant, requests),
        order_id=arrays.texts(r.order_id for r in requests),
        minted=arrays.flags(r.minted for r in requests),
        customer_name=arrays.texts(r.customer_name for r in requests),
        customer_email=arrays.texts(r.customer_email for r in requests),
        **_lines([r.lines for r in requests]),
    )
    results = [_result(request, row, request.order_id) for request, row in zip(requests, rows, strict=True)]
    return await _without_hidden(connection, tenant, requests, results)


async def cancel(connection: Connection, tenant: str, requests: Sequence[Cancel]) -> list[Result]:
    """Gives back what each request's reservation holds."""
    rows = await _CANCEL.fetch(
        connection, **_targets(tenant, requests), reason=arrays.texts(r.reason or None for r in requests)
    )
    return [_result(request, row) for request, row in zip(requests, rows, strict=True)]


async def refund(connection: Connection, tenant: str, requests: Sequence[Refund]) -> list[Result]:
    """Takes back what each request's reservation has confirmed, or the part that it names."""
    rows = await _REFUND.fetch(
        connection,
        **_targets(tenant, requests),
        write_off=arrays.flags(r.write_off for r in requests),
        reason=arrays.texts(r.reason or None for r in requests),
        **_lines([r.lines for r in requests]),
    )
    return [_result(request, row) for request, row in zip(requests, rows, strict=True)]


async def extend(
    connection: Connection, tenant: str, requests: Sequence[Extend], *, max_lifetime_us: int
) -> list[Result]:
    """Gives each request's reservation more time."""
    rows = await _EXTEND.fetch(
        connection,
        **_targets(tenant, requests),
        ttl_us=arrays.plain(r.ttl_us for r in requests),
        max_lifetime_us=max_lifetime_us,
    )
    return [_result(request, row) for request, row in zip(requests, rows, strict=True)]


class _TargetColumns(RequestColumns):
    tenant: str
    pools: str
    read_all: str
    write_all: str
    target: str
    reference: str


def _targets(tenant: str, requests: Sequence[Targeted]) -> _TargetColumns:
    return {
        **columns(tenant, requests),
        "tenant": tenant,
        "pools": arrays.texts(pool_list(r.caller) for r in requests),
        "read_all": arrays.flags(r.caller.reads_all for r in requests),
        "write_all": arrays.flags(r.caller.writes_all for r in requests),
        "target": arrays.plain(r.reservation_id for r in requests),
        "reference": arrays.texts(r.reference for r in requests),
    }


def pool_list(caller: Caller) -> str | None:
    """The caller's pools as the SQL functions take them: each between U+001F, which no pool's name may contain."""
    if not caller.pools:
        return None
    return "\x1f" + "".join(f"{pool}\x1f" for pool in sorted(caller.pools))


class _LineColumns(TypedDict):
    line_request: str
    line_sku: str
    line_pool: str
    line_quantity: str


def _lines(lines: Sequence[Sequence[Line]]) -> _LineColumns:
    flat = [(number, line) for number, group in enumerate(lines, 1) for line in group]
    return {
        "line_request": arrays.plain(number for number, _ in flat),
        "line_sku": arrays.texts(line.sku for _, line in flat),
        "line_pool": arrays.texts(line.pool for _, line in flat),
        "line_quantity": arrays.plain(line.quantity for _, line in flat),
    }


def _result(request: Targeted, row: ReservationAnswer, order_id: str = "") -> Result:
    """What came of a change of an existing reservation."""
    outcome = row.outcome
    if outcome is None or outcome == "REPLAYED":
        return Done(reservation_of(row), replayed=outcome is not None)
    if outcome == "RETRY":
        return Again()
    if outcome == "RESERVATION_NOT_FOUND":
        return errors.reservation_not_found(request.reservation_id, request.reference)
    if outcome == "PERMISSION_DENIED":
        return errors.permission_denied("reservations.write_all")
    if outcome == "REFERENCE_AMBIGUOUS":
        return errors.reference_ambiguous(request.reference or "")
    if outcome == "REQUEST_ID_REUSED":
        return errors.request_id_reused(request.request_id)
    if outcome == "QUANTITY_EXCEEDED":
        return errors.quantity_exceeded(
            row.short_sku or "", row.short_pool or "", row.short_requested or 0, row.short_available or 0
        )
    if outcome == "ORDER_ID_IN_USE":
        return errors.order_id_in_use(order_id, str(row.other_id))
    refused = inactive_feature(outcome)
    if refused is not None:
        return refused
    reservation = reservation_of(row)
    return errors.wrong_state(outcome, reservation.reservation_id, reservation.state.name, reservation.order_id)


def reservation_of(row: ReservationAnswer) -> Reservation:
    """The reservation of a row that has one."""
    line_columns = (row.line_sku, row.line_pool, row.line_quantity, row.line_confirmed, row.line_refunded)
    return Reservation(
        reservation_id=str(row.reservation_id),
        client=row.client,
        holder=row.holder,
        reference=row.reference,
        state=State(row.state),
        lines=[ReservationLine(*line) for line in zip(*line_columns, strict=True)],
        create_time=row.create_time,
        expire_time=row.expire_time,
        metadata=row.metadata or {},
        order_id=row.order_id or "",
        customer_name=row.customer_name,
        customer_email=row.customer_email,
        confirm_time=row.confirm_time,
        cancel_time=row.cancel_time,
        refund_time=row.refund_time,
        reason=row.reason or "",
        revision=row.revision,
    )


async def get(connection: Connection, tenant: str, ids: Sequence[str]) -> list[Reservation | None]:
    """Reads reservations by id, in order; None where there is none."""
    rows = await _GET.fetch(connection, tenant=tenant, reservation_id=arrays.plain(ids))
    return [reservation_of(row) if row.reservation_id is not None else None for row in rows]


async def find_reference(connection: Connection, caller: Caller, reference: str) -> list[str]:
    """The ids of the caller's own reservations with this reference, newest first, two at most."""
    row = await _FIND_REFERENCE.one(
        connection, tenant=caller.tenant, client=caller.client, pools=pool_list(caller), reference=reference
    )
    return [str(id_) for id_ in row.reservation_ids or []]
