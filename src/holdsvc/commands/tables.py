"""What the service answered, as people read it: tables and lines for a terminal."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from holdsvc.commands.lines import name
from inventoryhold.v1 import event_pb2, item_pb2, reservation_pb2

if TYPE_CHECKING:
    from inventoryhold.v1 import inventory_service_pb2

BAR_WIDTH = 24

_STYLES = {
    "HELD": "yellow",
    "CONFIRMED": "green",
    "FULFILLED": "cyan",
    "CANCELLED": "dim",
    "EXPIRED": "dim",
    "REFUNDED": "magenta",
}

_SIGNED = (event_pb2.EVENT_TYPE_MODIFIED, event_pb2.EVENT_TYPE_CAPACITY_ADJUSTED)
"""Types whose lines are differences."""

Row = Sequence[Text | str]


def text(value: str, style: str = "") -> Text:
    """A caller's text: without styles of its own, and without control characters, which a terminal would obey."""
    return Text(
        "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in value), style
    )


def state(reservation: reservation_pb2.Reservation) -> str:
    """A reservation's state without its prefix."""
    return reservation_pb2.Reservation.State.Name(reservation.state).removeprefix("STATE_")


def event_type(event: event_pb2.Event) -> str:
    """An event's type without its prefix."""
    return event_pb2.EventType.Name(event.type).removeprefix("EVENT_TYPE_")


def _level(level: event_pb2.LevelChange.StockLevel) -> str:
    return event_pb2.LevelChange.StockLevel.Name(level).removeprefix("STOCK_LEVEL_")


def time(value: Timestamp) -> str:
    """A time in UTC, to the second."""
    return value.ToDatetime().strftime("%Y-%m-%d %H:%M:%S") if value.seconds else ""


def left(reservation: reservation_pb2.Reservation, now: datetime | None = None) -> str:
    """The time that a hold has left by this machine's clock, as 4m05s; empty for what is no hold."""
    if reservation.state != reservation_pb2.Reservation.STATE_HELD:
        return ""
    seconds = int((reservation.expire_time.ToDatetime(tzinfo=UTC) - (now or datetime.now(UTC))).total_seconds())
    hours, rest = divmod(max(seconds, 0), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s"


def reservation(shown: reservation_pb2.Reservation) -> RenderableType:
    """One reservation with everything that it says."""
    facts: list[tuple[str, Text]] = [
        ("reservation", Text(shown.reservation_id)),
        ("state", Text(state(shown), _STYLES.get(state(shown), ""))),
    ]
    if shown.state == reservation_pb2.Reservation.STATE_HELD:
        facts.append(("expires", Text(f"{time(shown.expire_time)} UTC, in {left(shown)}")))
    facts += [
        (label, text(value))
        for label, value in (
            ("client", shown.client),
            ("holder", shown.holder),
            ("reference", shown.reference),
            ("order", shown.order_id),
            ("customer", " ".join(part for part in (shown.customer.name, shown.customer.email) if part)),
            ("reason", shown.reason),
            ("waitlist entry", shown.waitlist_entry_id),
            *((f"metadata {key}", value) for key, value in sorted(shown.metadata.items())),
        )
        if value
    ]
    facts += [
        (label, Text(f"{time(value)} UTC"))
        for label, value in (
            ("created", shown.create_time),
            ("confirmed", shown.confirm_time),
            ("fulfilled", shown.fulfil_time),
            ("cancelled", shown.cancel_time),
            ("refunded", shown.refund_time),
        )
        if value.seconds
    ]
    facts.append(("revision", Text(str(shown.revision))))
    grid = Table.grid(padding=(0, 2))
    for label, value in facts:
        grid.add_row(text(label, "dim"), value)
    return Group(grid, _lines(shown.lines))


def _lines(lines: Iterable[reservation_pb2.ReservationLine]) -> Table:
    return _table(
        ("item", "units", "confirmed", "fulfilled", "refunded", "returned"),
        (
            (
                text(name(line.sku, line.pool)),
                *_counts(
                    line.quantity,
                    line.confirmed_quantity,
                    line.fulfilled_quantity,
                    line.refunded_quantity,
                    line.returned_quantity,
                ),
            )
            for line in lines
        ),
        right=range(1, 6),
    )


def reservations(shown: Iterable[reservation_pb2.Reservation]) -> Table:
    """A row for each reservation."""
    return _table(
        ("reservation", "state", "left", "items", "reference", "holder", "order"),
        (
            (
                each.reservation_id,
                Text(state(each), _STYLES.get(state(each), "")),
                left(each),
                text(", ".join(f"{line.quantity} {name(line.sku, line.pool)}" for line in each.lines)),
                text(each.reference),
                text(each.holder),
                text(each.order_id),
            )
            for each in shown
        ),
        right=(2,),
        whole=range(3),
    )


def availability(lines: Iterable["inventory_service_pb2.AvailabilityLine"]) -> Table:
    """A row for each item that was asked about."""
    return _table(
        ("item", "wanted", "available", "missing"),
        (
            (
                text(name(line.sku, line.pool)),
                str(line.requested),
                Text(str(line.available), "red" if line.shortfall else "green"),
                *_counts(line.shortfall),
            )
            for line in lines
        ),
        right=range(1, 4),
    )


def explanation(shown: "inventory_service_pb2.ExplainAvailabilityResponse") -> RenderableType:
    """Why so many units can be had, when more may come free, and what the caller holds."""
    grid = Table.grid(padding=(0, 2))
    for label, value in (
        ("available", Text(str(shown.available), "green" if shown.available else "red")),
        ("remaining", Text(str(shown.remaining))),
        ("+ oversell", Text(str(shown.oversell)) if shown.oversell else None),
        ("- buffer", Text(str(shown.buffer)) if shown.buffer else None),
        ("+ lapsed", Text(str(shown.lapsed)) if shown.lapsed else None),
        ("sale", Text("closed: new holds take nothing", "red") if _is_closed(shown) else None),
        ("waiting", Text(f"{shown.waiters} entries of the waitlist") if shown.waiters else None),
    ):
        if value is not None:
            grid.add_row(Text(label, "dim"), value)
    parts: list[RenderableType] = [grid]
    if shown.held:
        steps = [(f"{time(step.time)} UTC", str(step.quantity)) for step in shown.held]
        later = [("later", str(shown.held_later))] if shown.held_later else []
        parts.append(_table(("held until", "units"), [*steps, *later], right=(1,)))
    if shown.own_holds:
        own = [
            (hold.reservation_id, text(hold.reference), str(hold.quantity), f"{time(hold.expire_time)} UTC")
            for hold in shown.own_holds
        ]
        parts.append(_table(("your holds", "reference", "units", "until"), own, right=(2,)))
    return Group(*parts)


def items(shown: Iterable[item_pb2.Item], caption: str = "") -> Table:
    """A row for each item, with a bar of what is sold, held and remains."""
    table = _table(
        ("item", "remaining", "held", "confirmed", "capacity", ""),
        (
            (
                text(name(item.sku, item.pool)),
                Text(str(item.remaining), "green" if item.remaining > 0 else "red"),
                *_counts(item.held, item.confirmed, item.capacity),
                bar(item) + Text("  closed" if _is_closed(item) else "", "red"),
            )
            for item in shown
        ),
        right=range(1, 5),
    )
    table.caption = caption or None
    table.caption_justify = "left"
    return table


def _is_closed(shown: "item_pb2.Item | inventory_service_pb2.ExplainAvailabilityResponse") -> bool:
    return shown.sale_state == item_pb2.Item.SALE_STATE_CLOSED


def bar(item: item_pb2.Item, width: int = BAR_WIDTH) -> Text:
    """What is confirmed (solid), held (shaded) and remains (dots) of the capacity."""
    whole = max(item.capacity, item.held + item.confirmed, 1)
    confirmed = round(item.confirmed * width / whole)
    held = min(round((item.confirmed + item.held) * width / whole), width) - confirmed
    return Text.assemble(("█" * confirmed, "green"), ("▒" * held, "yellow"), ("·" * (width - confirmed - held), "dim"))


def event(shown: event_pb2.Event) -> Text:
    """An event in a line."""
    subject, lines = "", ""
    if shown.HasField("item"):
        subject = name(shown.item.sku, shown.item.pool)
    elif shown.HasField("reservation"):
        subject = shown.reservation.reservation_id
        if shown.reservation.reference:
            subject += f" ({shown.reservation.reference})"
    if shown.lines:
        sign = "+" if shown.type in _SIGNED else ""
        lines = ", ".join(f"{line.quantity:{sign}} {name(line.sku, line.pool)}" for line in shown.lines)
    elif shown.HasField("level_change"):
        # `from` is a word of Python's own.
        lines = f"{_level(getattr(shown.level_change, 'from'))} → {_level(shown.level_change.to)}"
    kind = event_type(shown)
    return Text.assemble(
        (f"{time(shown.occur_time)}  ", "dim"),
        (f"{kind:<20}", _STYLES.get(kind, "")),
        text(f" {subject}"),
        text(f"  {lines}" if lines else ""),
        text(f"  {shown.reason}" if shown.reason else "", "dim"),
    )


def _counts(*counts: int) -> Iterable[str]:
    return (str(count) if count else "" for count in counts)


def _table(head: Sequence[str], rows: Iterable[Row], right: Iterable[int] = (), whole: Iterable[int] = ()) -> Table:
    """`right`: columns of numbers; `whole`: columns that are not broken into lines where the terminal is narrow."""
    table = Table(box=SIMPLE_HEAD, header_style="dim", show_edge=False)
    for index, label in enumerate(head):
        table.add_column(label, justify="right" if index in right else "left", overflow="fold", no_wrap=index in whole)
    for row in rows:
        table.add_row(*row)
    return table
