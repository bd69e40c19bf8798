"""The changes of reservations, each one call of one SQL function over a batch, and reading them.

Every function takes a batch of one tenant and returns the outcome of each request, in order. A refusal is a value in
its place, never raised; `Sweep` and `Again` ask the engine to call once more.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from holdsvc import errors
from holdsvc.ledger import arrays
from holdsvc.ledger.database import Conflict, Connection, Failed, NothingRan, Row, Unknown
from holdsvc.ledger.requests import columns
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
    Reservation,
    ReservationLine,
    Reserve,
    ShortLine,
    State,
    Sweep,
    Targeted,
)

Result = Outcome[Reservation]


def _call(function: str, parameters: int) -> str:
    return f"SELECT * FROM holdsvc.{function}({', '.join(['%s'] * parameters)})"


_RESERVE = _call("reserve", 19)
_CONFIRM = _call("confirm", 19)
_CANCEL = _call("cancel", 12)
_REFUND = _call("refund", 17)
_EXTEND = _call("extend", 13)
_GET = "SELECT * FROM holdsvc.get_reservations(%s, %s)"
_LIST = "SELECT * FROM holdsvc.list_reservations(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
_COUNT = "SELECT * FROM holdsvc.count_reservations(%s, %s, %s, %s, %s, %s, %s, %s, %s)"
_FIND_REFERENCE = "SELECT * FROM holdsvc.find_reference(%s, %s, %s, %s)"


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
    [row] = await connection.fetch(
        _RESERVE,
        (
            tenant,
            *columns(tenant, requests),
            arrays.plain([r.reservation_id for r in requests]),
            arrays.texts([r.holder for r in requests]),
            arrays.texts([r.reference for r in requests]),
            arrays.plain([r.ttl_us for r in requests]),
            arrays.documents([r.metadata for r in requests]) if any(r.metadata for r in requests) else "{}",
            "{}" if plain else arrays.plain([r.duplicate_window_us for r in requests]),
            arrays.plain(flat.request),
            arrays.plain(flat.number),
            arrays.plain(flat.item),
            arrays.plain(flat.quantity),
            arrays.texts([sku for sku, _ in flat.items]),
            arrays.texts([pool for _, pool in flat.items]),
            arrays.plain(flat.item_quantity),
        ),
    )
    judge_time, outcomes, other_ids, short_lines, short_available = row
    short: dict[int, list[ShortLine]] = {}
    for index, available in zip(short_lines, short_available, strict=True):
        at = index - 1
        missing = available is None
        short.setdefault(flat.request[at], []).append(
            ShortLine(flat.sku[at], flat.pool[at], flat.quantity[at], _MISSING if missing else available)
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
    return results


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
    return errors.request_id_reused(request.request_id)


async def _replayed(
    connection: Connection, tenant: str, outcomes: Sequence[str | None], ids: Sequence[Any]
) -> dict[str, Reservation]:
    wanted = {str(id_) for outcome, id_ in zip(outcomes, ids, strict=True) if outcome == "REPLAYED"}
    if not wanted:
        return {}
    try:
        found = await get(connection, tenant, sorted(wanted))
    except (NothingRan, Unknown, Conflict, Failed):
        # The batch's own reservations stand already: nobody but those who replay may ask again.
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
    rows = await connection.fetch(
        _CONFIRM,
        (
            *_target_arrays(tenant, requests),
            arrays.texts(r.order_id for r in requests),
            arrays.flags(r.minted for r in requests),
            arrays.texts(r.customer_name for r in requests),
            arrays.texts(r.customer_email for r in requests),
            *_line_arrays([r.lines for r in requests]),
        ),
    )
    return [_result(request, row, request.order_id) for request, row in zip(requests, rows, strict=True)]


async def cancel(connection: Connection, tenant: str, requests: Sequence[Cancel]) -> list[Result]:
    """Gives back what each request's reservation holds."""
    rows = await connection.fetch(
        _CANCEL, (*_target_arrays(tenant, requests), arrays.texts(r.reason or None for r in requests))
    )
    return [_result(request, row) for request, row in zip(requests, rows, strict=True)]


async def refund(connection: Connection, tenant: str, requests: Sequence[Refund]) -> list[Result]:
    """Takes back what each request's reservation has confirmed, or the part that it names."""
    rows = await connection.fetch(
        _REFUND,
        (
            *_target_arrays(tenant, requests),
            arrays.flags(r.write_off for r in requests),
            arrays.texts(r.reason or None for r in requests),
            *_line_arrays([r.lines for r in requests]),
        ),
    )
    return [_result(request, row) for request, row in zip(requests, rows, strict=True)]


async def extend(
    connection: Connection, tenant: str, requests: Sequence[Extend], *, max_lifetime_us: int
) -> list[Result]:
    """Gives each request's reservation more time."""
    rows = await connection.fetch(
        _EXTEND, (*_target_arrays(tenant, requests), arrays.plain(r.ttl_us for r in requests), max_lifetime_us)
    )
    return [_result(request, row) for request, row in zip(requests, rows, strict=True)]


def _target_arrays(tenant: str, requests: Sequence[Targeted]) -> tuple[str, ...]:
    client, key_id, request_id, request_key, fingerprint = columns(tenant, requests)
    return (
        tenant,
        client,
        key_id,
        arrays.texts(pool_list(r.caller) for r in requests),
        arrays.flags(r.caller.reads_all for r in requests),
        arrays.flags(r.caller.writes_all for r in requests),
        request_id,
        request_key,
        fingerprint,
        arrays.plain(r.reservation_id for r in requests),
        arrays.texts(r.reference for r in requests),
    )


def pool_list(caller: Caller) -> str | None:
    """The caller's pools as the SQL functions take them: each between U+001F, which no pool's name may contain."""
    if not caller.pools:
        return None
    return "\x1f" + "".join(f"{pool}\x1f" for pool in sorted(caller.pools))


def _line_arrays(lines: Sequence[Sequence[Line]]) -> tuple[str, ...]:
    flat = [(number, line) for number, group in enumerate(lines, 1) for line in group]
    return (
        arrays.plain(number for number, _ in flat),
        arrays.texts(line.sku for _, line in flat),
        arrays.texts(line.pool for _, line in flat),
        arrays.plain(line.quantity for _, line in flat),
    )


def _result(request: Targeted, row: Row, order_id: str = "") -> Result:
    """What came of a change of an existing reservation, from a row of type reservation_answer."""
    outcome = row[1]
    if outcome is None or outcome == "REPLAYED":
        return Done(_reservation(row), replayed=outcome is not None)
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
        return errors.quantity_exceeded(row[2], row[3], row[4], row[5])
    if outcome == "ORDER_ID_IN_USE":
        return errors.order_id_in_use(order_id, str(row[6]))
    reservation = _reservation(row)
    return errors.wrong_state(outcome, reservation.reservation_id, reservation.state.name, reservation.order_id)


def _reservation(row: Row) -> Reservation:
    """A reservation from a row of type reservation_answer."""
    (
        reservation_id, client, holder, reference, state, sku, pool, quantity, confirmed, refunded,
        order_id, customer_name, customer_email, metadata,
        create_time, expire_time, confirm_time, cancel_time, refund_time, reason, revision,
    ) = row[7:]  # fmt: skip
    return Reservation(
        reservation_id=str(reservation_id),
        client=client,
        holder=holder,
        reference=reference,
        state=State(state),
        lines=[ReservationLine(*line) for line in zip(sku, pool, quantity, confirmed, refunded, strict=True)],
        create_time=create_time,
        expire_time=expire_time,
        metadata=metadata or {},
        order_id=order_id or "",
        customer_name=customer_name,
        customer_email=customer_email,
        confirm_time=confirm_time,
        cancel_time=cancel_time,
        refund_time=refund_time,
        reason=reason or "",
        revision=revision,
    )


async def get(connection: Connection, tenant: str, ids: Sequence[str]) -> list[Reservation | None]:
    """Reads reservations by id, in order; None where there is none."""
    rows = await connection.fetch(_GET, (tenant, arrays.plain(ids)))
    return [_reservation(row) if row[7] is not None else None for row in rows]


async def find_reference(connection: Connection, caller: Caller, reference: str) -> list[str]:
    """The ids of the caller's own reservations with this reference, newest first, two at most."""
    [[ids]] = await connection.fetch(_FIND_REFERENCE, (caller.tenant, caller.client, pool_list(caller), reference))
    return [str(id_) for id_ in ids or []]


class Filter:
    """Which reservations a list shows; None leaves a filter out."""

    __slots__ = ("client", "holder", "order_id", "pool", "pools", "reference", "sku", "states")

    def __init__(
        self,
        *,
        client: str | None,
        states: Sequence[int] | None,
        sku: str | None,
        pool: str | None,
        holder: str | None,
        reference: str | None,
        order_id: str | None,
        pools: Sequence[str] | None,
    ) -> None:
        self.client = client
        self.states = states
        self.sku = sku
        self.pool = pool
        self.holder = holder
        self.reference = reference
        self.order_id = order_id
        self.pools = pools

    def parameters(self) -> tuple[Any, ...]:
        """In the order of the SQL functions."""
        return (
            self.client,
            None if self.states is None else arrays.plain(self.states),
            self.sku,
            self.pool,
            self.holder,
            self.reference,
            self.order_id,
            None if self.pools is None else arrays.texts(self.pools),
        )


async def list_page(
    connection: Connection, tenant: str, wanted: Filter, before: str | None, limit: int
) -> list[Reservation]:
    """One page, newest first, after the reservation `before`."""
    rows = await connection.fetch(_LIST, (tenant, *wanted.parameters(), before, limit))
    return [_reservation(row) for row in rows]


async def count(connection: Connection, tenant: str, wanted: Filter) -> int:
    """How many match; reads them all."""
    [[total]] = await connection.fetch(_COUNT, (tenant, *wanted.parameters()))
    return int(total)
