"""Changes of reservations, each one call of one SQL function over a batch.

Every function takes a batch of one tenant and returns the outcome of each request, in order. A refusal is a value in
its place, never raised; `Sweep` and `Again` ask the engine to call once more.
"""

from collections.abc import Sequence
from typing import TypedDict

from holdsvc import errors
from holdsvc.change_requests import Cancel, Confirm, Extend, Fulfil, Modify, Refund, Targeted
from holdsvc.ledger import arrays
from holdsvc.ledger.availability import with_next_free
from holdsvc.ledger.binding import bind
from holdsvc.ledger.database import Connection
from holdsvc.ledger.limits import over_limit
from holdsvc.ledger.requests import REQUEST, RequestColumns, columns, inactive_feature, pool_list
from holdsvc.ledger.reservations import ReservationAnswer, Result, reservation_of, without_hidden
from holdsvc.model import Again, Done, ItemKey, Line, Refused, Serve, ShortLine, Sweep

LINES_MAX = 100
"""Lines of a reservation, as the protos have it."""

_TARGET = ("tenant", *REQUEST, "pools", "read_all", "write_all", "target", "reference")
_LINES = ("line_first", "line_sku", "line_pool", "line_quantity")

_MODIFY = bind(
    "modify", ReservationAnswer, *_TARGET, "served", "revision", "sets", "holder", "new_reference", "metadata", *_LINES
)
_CONFIRM = bind(
    "confirm",
    ReservationAnswer,
    *(*_TARGET, "order_id", "minted", "customer_name", "customer_email", "rescue", "rescue_window_us", "served"),
    *_LINES,
)
_CANCEL = bind("cancel", ReservationAnswer, *_TARGET, "reason", *_LINES)
_REFUND = bind("refund", ReservationAnswer, *_TARGET, "write_off", "reason", "units", "effective_time", *_LINES)
_FULFIL = bind("fulfil", ReservationAnswer, *_TARGET, "reason", "effective_time", *_LINES)
_EXTEND = bind("extend", ReservationAnswer, *_TARGET, "ttl_us", "max_lifetime_us")


async def modify(connection: Connection, tenant: str, requests: Sequence[Modify]) -> list[Result]:
    """Changes each request's hold in place."""
    rows = await _MODIFY.fetch(
        connection,
        **_targets(tenant, requests),
        served=arrays.flags(r.served for r in requests),
        revision=arrays.plain(r.revision for r in requests),
        sets=arrays.texts(_sets(r) for r in requests),
        holder=arrays.texts(r.holder for r in requests),
        new_reference=arrays.texts(r.new_reference for r in requests),
        metadata=arrays.documents(r.metadata or {} for r in requests),
        **_lines([r.lines or () for r in requests]),
    )
    results = [_result(request, row) for request, row in zip(requests, rows, strict=True)]
    return await with_next_free(connection, tenant, results, [row.reservation_id for row in rows])


def _sets(request: Modify) -> str:
    """Which parts a request sets, as the SQL function takes them."""
    given = (("l", request.lines), ("h", request.holder), ("r", request.new_reference), ("m", request.metadata))
    return "".join(letter for letter, value in given if value is not None)


async def confirm(
    connection: Connection, tenant: str, requests: Sequence[Confirm], *, rescue_window_us: int
) -> list[Result]:
    """Sells what each request's reservation holds, or the part that it names."""
    rows = await _CONFIRM.fetch(
        connection,
        **_targets(tenant, requests),
        order_id=arrays.texts(r.order_id for r in requests),
        minted=arrays.flags(r.minted for r in requests),
        customer_name=arrays.texts(r.customer_name for r in requests),
        customer_email=arrays.texts(r.customer_email for r in requests),
        rescue=arrays.flags(r.rescue for r in requests),
        rescue_window_us=rescue_window_us,
        served=arrays.flags(r.served for r in requests),
        **_lines([r.lines for r in requests]),
    )
    results = [_result(request, row, request.order_id) for request, row in zip(requests, rows, strict=True)]
    results = await with_next_free(connection, tenant, results)
    return await without_hidden(connection, tenant, requests, results)


async def cancel(connection: Connection, tenant: str, requests: Sequence[Cancel]) -> list[Result]:
    """Gives back what each request's reservation holds, or the part that it names."""
    rows = await _CANCEL.fetch(
        connection,
        **_targets(tenant, requests),
        reason=arrays.texts(r.reason or None for r in requests),
        **_lines([r.lines for r in requests]),
    )
    return [_result(request, row) for request, row in zip(requests, rows, strict=True)]


async def refund(connection: Connection, tenant: str, requests: Sequence[Refund]) -> list[Result]:
    """Takes back what each request's reservation has confirmed, or the part that it names."""
    rows = await _REFUND.fetch(
        connection,
        **_targets(tenant, requests),
        write_off=arrays.flags(r.write_off for r in requests),
        reason=arrays.texts(r.reason or None for r in requests),
        units=arrays.plain(int(r.units) for r in requests),
        effective_time=arrays.times(r.effective_time for r in requests),
        **_lines([r.lines for r in requests]),
    )
    return [_result(request, row) for request, row in zip(requests, rows, strict=True)]


async def fulfil(connection: Connection, tenant: str, requests: Sequence[Fulfil]) -> list[Result]:
    """Takes what each request's reservation has confirmed, or the part that it names, out of the building."""
    rows = await _FULFIL.fetch(
        connection,
        **_targets(tenant, requests),
        reason=arrays.texts(r.reason or None for r in requests),
        effective_time=arrays.times(r.effective_time for r in requests),
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


class _LineColumns(TypedDict):
    line_first: str
    line_sku: str
    line_pool: str
    line_quantity: str


def _lines(groups: Sequence[Sequence[Line]]) -> _LineColumns:
    """Lines as flat columns; those of request i, from 1, are `line_first[i]` to `line_first[i + 1] - 1`."""
    first = [1]
    for group in groups:
        first.append(first[-1] + len(group))
    return {
        "line_first": arrays.plain(first),
        "line_sku": arrays.texts(line.sku for group in groups for line in group),
        "line_pool": arrays.texts(line.pool for group in groups for line in group),
        "line_quantity": arrays.plain(line.quantity for group in groups for line in group),
    }


def _result(request: Targeted, row: ReservationAnswer, order_id: str = "") -> Result:
    """What came of a change of an existing reservation."""
    outcome = row.outcome
    if outcome is None or outcome == "REPLAYED":
        return Done(reservation_of(row), replayed=outcome is not None, due=row.due)
    if outcome == "RETRY":
        return Again()
    if outcome == "SWEEP":
        return Sweep(_wanted_items(request, row))
    if outcome == "SERVE":
        return Serve(_wanted_items(request, row))
    refused = inactive_feature(outcome) or _refused_target(outcome, request) or _refused_lines(outcome, row)
    if refused is not None:
        return refused
    if outcome == "ORDER_ID_IN_USE":
        return errors.order_id_in_use(order_id, str(row.other_id))
    found = reservation_of(row)
    if outcome == "REVISION_MISMATCH":
        return errors.reservation_revision_mismatch(found.reservation_id, found.revision)
    return errors.wrong_state(outcome, found.reservation_id, found.state.name, found.order_id)


def _refused_target(outcome: str, request: Targeted) -> Refused | None:
    """A refusal for which the reservation was not looked at; None for any other."""
    if outcome == "RESERVATION_NOT_FOUND":
        return errors.reservation_not_found(request.reservation_id, request.reference)
    if outcome == "PERMISSION_DENIED":
        return errors.permission_denied("reservations.write_all")
    if outcome == "REFERENCE_AMBIGUOUS":
        return errors.reference_ambiguous(request.reference or "")
    if outcome == "REQUEST_ID_REUSED":
        return errors.request_id_reused(request.request_id)
    return None


def _refused_lines(outcome: str, row: ReservationAnswer) -> Refused | None:
    """A refusal that is about lines, or a bad field that the ledger alone can judge; None for any other."""
    if isinstance(row.short, dict):
        return over_limit(outcome, row.short)
    short = row.short or []
    if outcome == "QUANTITY_EXCEEDED":
        sku, pool, requested, available = short[0]
        return errors.quantity_exceeded(sku, pool, requested, available or 0)
    if outcome == "ITEM_NOT_FOUND":
        sku, pool = next((sku, pool) for sku, pool, _, available in short if available is None)
        return errors.item_not_found(sku, pool)
    if outcome == "SALE_CLOSED":
        sku, pool, _, _ = short[0]
        return errors.sale_closed(sku, pool)
    if outcome == "CAPACITY_EXCEEDED":
        return errors.capacity_exceeded([ShortLine(sku, pool, asked, had or 0) for sku, pool, asked, had in short])
    if outcome == "LINES_EMPTY":
        return errors.invalid_field("lines", "at least one line must stay: cancel the reservation instead", outcome)
    if outcome == "LINES_MANY":
        return errors.invalid_field("lines", f"the reservation would have more than {LINES_MAX} lines", outcome)
    if outcome == "EFFECTIVE_TIME":
        return errors.effective_time_ahead()
    if outcome == "CAPACITY_LIMIT":
        return errors.capacity_limit("lines")
    return None


def _wanted_items(request: Targeted, row: ReservationAnswer) -> list[ItemKey]:
    """The items whose lapsed holds stand in the way of a change."""
    if isinstance(request, Modify):
        return [ItemKey(line.sku, line.pool) for line in request.lines or ()]
    return [ItemKey(sku, pool) for sku, pool in row.line_key]
