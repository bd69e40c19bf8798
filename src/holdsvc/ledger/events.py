"""The event table: what happened, rebuilt from its rows."""

from datetime import date, datetime
from typing import NamedTuple, TypedDict
from uuid import UUID

from holdsvc.entries import EntryState, WaitlistEntry
from holdsvc.ledger.binding import bind
from holdsvc.ledger.database import Connection
from holdsvc.ledger.reservations import Snapshot, original
from holdsvc.model import (
    Event,
    EventType,
    Item,
    LevelChange,
    Line,
    Original,
    Reservation,
    ReservationLine,
    SaleState,
    State,
    StockLevel,
    WaitlistPolicy,
)


class EntrySnapshot(TypedDict):
    """A waitlist entry in its event, as write_waitlist_events writes it; times in ISO 8601."""

    entry_id: str
    client: str
    holder: str
    reference: str
    priority: int
    offer_ttl_us: int
    metadata: dict[str, str] | None
    create_time: str
    expire_time: str | None
    offer_time: str | None
    end_time: str | None


class EventRow(NamedTuple):
    """An event as the functions answer it."""

    event_id: int
    occur_day: date
    tenant: str
    type: int
    client: str
    key_id: str
    request_id: str | None
    reason: str | None
    occur_time: datetime
    revision: int
    line_sku: list[str]
    line_pool: list[str]
    line_quantity: list[int]
    reservation_id: UUID | None
    state: int | None
    expire_time: datetime | None
    refunded_quantity: list[int] | None
    fulfilled_quantity: list[int] | None
    returned_quantity: list[int] | None
    written_off_quantity: list[int] | None
    restored_quantity: list[int] | None
    snapshot: Snapshot | None
    display_name: str | None
    capacity: int | None
    remaining: int | None
    held: int | None
    confirmed: int | None
    oversell_limit: int | None
    sale_state: int | None
    buffer: int | None
    count_time: datetime | None
    low_at: int | None
    return_pool: str | None
    return_time: datetime | None
    from_level: int | None
    to_level: int | None
    waitlist_policy: int | None
    waiting: int | None
    entry: EntrySnapshot | None
    hash: int | None
    filters: list[int] | None
    """Of the reader's filters, those that want it."""


_LIST = bind("list_reservation_events", EventRow, "tenant", "reservation_id", "after", "limit")


def rebuild(r: EventRow, subject: Reservation | None) -> Event:
    """Makes the event of a row.

    `subject` is the event's reservation as it is by now: what never changes comes from it, what does from the row. None
    stands for an item's event, and for a reservation that retention has removed: the row then has the rest itself.
    """
    subject = subject or _removed(r)
    lines = [Line(*line) for line in zip(r.line_sku, r.line_pool, r.line_quantity, strict=True) if line[2] != 0]
    event = Event(
        event_id=r.event_id,
        type=EventType(r.type),
        lines=lines,
        client=r.client,
        key_id=r.key_id,
        request_id=r.request_id or "",
        reason=r.reason or "",
        occur_time=r.occur_time,
    )
    event.written_off_lines = _lines(r, r.written_off_quantity)
    event.returned_lines = _lines(r, r.restored_quantity)
    if r.entry is not None:
        event.entry = _entry(r, r.entry, lines)
    elif subject is not None:
        event.reservation = _as_it_was(r, subject)
    elif r.capacity is not None:
        event.item = Item(
            r.line_sku[0], r.line_pool[0], r.display_name or "", r.capacity, r.remaining or 0, r.held or 0,
            r.confirmed or 0, r.oversell_limit or 0, r.revision, None, r.occur_time,
            SaleState(r.sale_state or SaleState.OPEN), r.buffer or 0, r.count_time, r.low_at, r.return_pool,
            r.return_time,
            WaitlistPolicy(r.waitlist_policy or WaitlistPolicy.OFF), r.waiting or 0,
        )  # fmt: skip
    if r.from_level is not None and r.to_level is not None:
        event.level_change = LevelChange(StockLevel(r.from_level), StockLevel(r.to_level))
    return event


def _removed(row: EventRow) -> Reservation | None:
    """What never changes of a removed reservation; None where the row's reservation was there when it was read."""
    rest = None if row.snapshot is None else row.snapshot.get("removed")
    if rest is None or row.snapshot is None or row.expire_time is None:
        return None
    was = original(row.snapshot)
    return Reservation(
        reservation_id=str(row.reservation_id),
        client=rest["client"],
        holder=was.holder,
        reference=was.reference,
        state=State(row.state or 0),
        lines=[ReservationLine(*line) for line in rest.get("lines", [])],
        create_time=datetime.fromisoformat(rest["create_time"]),
        expire_time=row.expire_time,
        order_id=rest["order_id"] or "",
        confirm_time=_time(rest["confirm_time"]),
        refund_time=_time(rest["refund_time"]),
        fulfil_time=_time(rest["fulfil_time"]),
    )


def _entry(row: EventRow, was: EntrySnapshot, lines: list[Line]) -> WaitlistEntry:
    state = EntryState(row.state or 0)
    return WaitlistEntry(
        entry_id=was["entry_id"],
        client=was["client"],
        holder=was["holder"],
        reference=was["reference"],
        state=state,
        lines=lines,
        priority=was["priority"],
        offer_ttl_us=was["offer_ttl_us"],
        create_time=datetime.fromisoformat(was["create_time"]),
        metadata=was["metadata"] or {},
        expire_time=_time(was["expire_time"]),
        offer_time=_time(was["offer_time"]),
        end_time=_time(was["end_time"]),
        reservation_id="" if row.reservation_id is None else str(row.reservation_id),
        reason=(row.reason or "") if state is EntryState.LEFT else "",
        revision=row.revision,
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _lines(row: EventRow, quantities: list[int] | None) -> list[Line]:
    """The lines of an event with other quantities, where these are not 0."""
    if quantities is None:
        return []
    return [Line(*line) for line in zip(row.line_sku, row.line_pool, quantities, strict=True) if line[2] != 0]


def _as_it_was(row: EventRow, now: Reservation) -> Reservation:
    state = State(row.state or 0)
    sold = state in (State.CONFIRMED, State.REFUNDED, State.FULFILLED)
    # A snapshot is written with each event from the first Modify on; events before that show the original.
    was = now.original if row.snapshot is None else original(row.snapshot)
    return Reservation(
        reservation_id=now.reservation_id,
        client=now.client,
        holder=now.holder if was is None else was.holder,
        reference=now.reference if was is None else was.reference,
        state=state,
        lines=_sold_lines(row, now) if sold else _held_lines(now if was is None else was),
        create_time=now.create_time,
        expire_time=row.expire_time or now.expire_time,
        metadata=now.metadata if was is None else was.metadata,
        order_id=now.order_id if sold else "",
        confirm_time=now.confirm_time if sold else None,
        cancel_time=row.occur_time if state is State.CANCELLED else None,
        refund_time=_latest(row, EventType.REFUNDED, now.refund_time),
        fulfil_time=_latest(row, EventType.FULFILLED, now.fulfil_time),
        reason=row.reason or "",
        revision=row.revision,
        entry_id=now.entry_id,
    )


def _held_lines(was: Reservation | Original) -> list[ReservationLine]:
    return [ReservationLine(line.sku, line.pool, line.quantity) for line in was.lines]


def _sold_lines(row: EventRow, now: Reservation) -> list[ReservationLine]:
    """The lines of a reservation after Confirm, which only counts on them: the event has what was counted by then."""
    none = [0] * len(now.lines)
    counts = zip(
        row.refunded_quantity or none, row.fulfilled_quantity or none, row.returned_quantity or none, strict=True
    )
    return [
        line._replace(refunded_quantity=refunded, fulfilled_quantity=fulfilled, returned_quantity=returned)
        for line, (refunded, fulfilled, returned) in zip(now.lines, counts, strict=True)
    ]


def _latest(row: EventRow, type_: EventType, now: datetime | None) -> datetime | None:
    """The time of the latest change of a type up to the event; None where it came later, or where it is not known."""
    if row.type == type_:
        return row.occur_time
    return now if now is not None and now <= row.occur_time else None


async def list_of_reservation(
    connection: Connection, tenant: str, reservation_id: str, subject: Reservation | None, after: int, limit: int
) -> list[Event]:
    """One page of a reservation's audit trail, oldest first, after the event `after`; see `rebuild` for `subject`."""
    rows = await _LIST.fetch(connection, tenant=tenant, reservation_id=reservation_id, after=after, limit=limit)
    return [rebuild(row, subject) for row in rows]


async def reread(connection: Connection, row: EventRow) -> EventRow:
    """A reservation's event as it is by now: retention may have removed the reservation since the row was read."""
    found = await _LIST.fetch(
        connection, tenant=row.tenant, reservation_id=row.reservation_id, after=row.event_id - 1, limit=1
    )
    return found[0] if found else row


class Owner(NamedTuple):
    """What decides who may see a reservation."""

    client: str
    pools: list[str]


async def owner_of_removed(connection: Connection, tenant: str, reservation_id: str) -> Owner | None:
    """Whose a reservation was that retention has removed; None: it has not, or its events have been dropped."""
    for row in await _LIST.fetch(connection, tenant=tenant, reservation_id=reservation_id, after=0, limit=1):
        if row.snapshot is not None and "removed" in row.snapshot:
            return Owner(row.snapshot["removed"]["client"], row.snapshot["removed"]["pools"])
    return None
