"""Commands that make, change and show reservations by calling a service."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Annotated, Optional, TypeVar

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from holdsvc.client import Client
from holdsvc.client.messages import new_request_id
from holdsvc.commands.call_options import (
    Address,
    AsJson,
    ByReference,
    Lines,
    Part,
    Pool,
    Reason,
    RequestId,
    Screen,
    Target,
    Timeout,
    called,
    duration_of,
    metadata_of,
    names_of,
    note,
    one_of,
    target_fields,
)
from holdsvc.commands.lines import lines_of
from holdsvc.commands.outcome import known
from inventoryhold.v1 import reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb

PAGE = 500
"""Reservations, or events, that one call fetches."""

Request = TypeVar("Request", pb.ListReservationsRequest, pb.ListReservationEventsRequest)
Page = TypeVar("Page", pb.ListReservationsResponse, pb.ListReservationEventsResponse)

Answer = (
    pb.ReserveResponse
    | pb.ConfirmResponse
    | pb.CancelResponse
    | pb.ExtendResponse
    | pb.RefundResponse
    | pb.FulfilResponse
    | pb.ModifyResponse
)

Metadata = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads annotations of this form
    typer.Option(metavar="KEY=VALUE", help="Kept with the reservation; may be repeated."),
]
EffectiveTime = Annotated[
    Optional[datetime],  # noqa: UP045
    typer.Option(
        formats=["%Y-%m-%dT%H:%M:%S"],
        metavar="TIME",
        help="When it happened (UTC), as 2026-01-31T14:30:00. Default: now.",
    ),
]


def reserve(
    *,
    line: Lines,
    pool: Pool = None,
    ttl: Annotated[
        str,
        typer.Option(
            metavar="DURATION", help="How long it is held, as in 90s or 15m. Default: DEFAULT_TTL of the service."
        ),
    ] = "",
    holder: Annotated[str, typer.Option(help="Who holds it, as your customer's number.")] = "",
    reference: Annotated[str, typer.Option(help="Your own name for it, as an order number: later calls take it.")] = "",
    metadata: Metadata = None,
    duplicate_window: Annotated[
        str,
        typer.Option(
            metavar="DURATION", help="Refuse it where the holder has had one of the items within this time, up to 24h."
        ),
    ] = "",
    request_id: RequestId = "",
    address: Address = "",
    timeout: Timeout = "10s",
    as_json: AsJson = False,
) -> None:
    """Hold units for a while: all of them or none."""
    request = pb.ReserveRequest(
        request_id=request_id or new_request_id(),
        lines=lines_of(line, pool),
        ttl=duration_of("--ttl", ttl),
        holder=holder,
        reference=reference,
        metadata=metadata_of(metadata),
        duplicate_window=duration_of("--duplicate-window", duplicate_window),
    )
    _change(request.request_id, lambda client: client.reservations.Reserve(request), address, timeout, as_json=as_json)


def confirm(
    *,
    target: Target,
    line: Part = None,
    pool: Pool = None,
    by_reference: ByReference = False,
    order_id: Annotated[str, typer.Option(help="Your id of the sale; a second sale with it is refused.")] = "",
    name: Annotated[str, typer.Option(help="The customer's name.")] = "",
    email: Annotated[str, typer.Option(help="The customer's e-mail address.")] = "",
    rescue: Annotated[
        bool, typer.Option("--rescue", help="Sell it although it has expired, where its units are free.")
    ] = False,
    request_id: RequestId = "",
    address: Address = "",
    timeout: Timeout = "10s",
    as_json: AsJson = False,
) -> None:
    """Sell what is held; the rest of it is released."""
    request = pb.ConfirmRequest(
        **target_fields(target, by_reference=by_reference),
        request_id=request_id or new_request_id(),
        lines=lines_of(line, pool),
        order_id=order_id,
        customer=pb.CustomerInput(name=name, email=email) if name or email else None,
        rescue=rescue,
    )
    _change(request.request_id, lambda client: client.reservations.Confirm(request), address, timeout, as_json=as_json)


def cancel(
    *,
    target: Target,
    line: Part = None,
    pool: Pool = None,
    by_reference: ByReference = False,
    reason: Reason = "",
    request_id: RequestId = "",
    address: Address = "",
    timeout: Timeout = "10s",
    as_json: AsJson = False,
) -> None:
    """Give back what is held."""
    request = pb.CancelRequest(
        **target_fields(target, by_reference=by_reference),
        request_id=request_id or new_request_id(),
        lines=lines_of(line, pool),
        reason=reason,
    )
    _change(request.request_id, lambda client: client.reservations.Cancel(request), address, timeout, as_json=as_json)


def extend(
    *,
    target: Target,
    by_reference: ByReference = False,
    ttl: Annotated[
        str,
        typer.Option(
            metavar="DURATION", help="Its new life from now, as in 90s or 15m. Default: DEFAULT_TTL of the service."
        ),
    ] = "",
    request_id: RequestId = "",
    address: Address = "",
    timeout: Timeout = "10s",
    as_json: AsJson = False,
) -> None:
    """Give a hold more time."""
    request = pb.ExtendRequest(
        **target_fields(target, by_reference=by_reference),
        request_id=request_id or new_request_id(),
        ttl=duration_of("--ttl", ttl),
    )
    _change(request.request_id, lambda client: client.reservations.Extend(request), address, timeout, as_json=as_json)


def refund(
    *,
    target: Target,
    line: Part = None,
    pool: Pool = None,
    by_reference: ByReference = False,
    write_off: Annotated[bool, typer.Option("--write-off", help="The units cannot be sold again.")] = False,
    units: Annotated[
        str,
        typer.Option(
            parser=one_of(pb.RefundRequest.Units, "UNITS_"),
            metavar=names_of(pb.RefundRequest.Units, "UNITS_"),
            help="Which units. Default: any, those that were not fulfilled first.",
            show_default=False,
        ),
    ] = "",
    effective_time: EffectiveTime = None,
    reason: Reason = "",
    request_id: RequestId = "",
    address: Address = "",
    timeout: Timeout = "10s",
    as_json: AsJson = False,
) -> None:
    """Take back what was sold."""
    request = pb.RefundRequest(
        **target_fields(target, by_reference=by_reference),
        request_id=request_id or new_request_id(),
        lines=lines_of(line, pool),
        write_off=write_off,
        units=units or None,
        effective_time=_timestamp(effective_time),
        reason=reason,
    )
    _change(request.request_id, lambda client: client.reservations.Refund(request), address, timeout, as_json=as_json)


def fulfil(
    *,
    target: Target,
    line: Part = None,
    pool: Pool = None,
    by_reference: ByReference = False,
    effective_time: EffectiveTime = None,
    reason: Reason = "",
    request_id: RequestId = "",
    address: Address = "",
    timeout: Timeout = "10s",
    as_json: AsJson = False,
) -> None:
    """Book what was sold as gone out: confirmed units and capacity fall together."""
    request = pb.FulfilRequest(
        **target_fields(target, by_reference=by_reference),
        request_id=request_id or new_request_id(),
        lines=lines_of(line, pool),
        effective_time=_timestamp(effective_time),
        reason=reason,
    )
    _change(request.request_id, lambda client: client.reservations.Fulfil(request), address, timeout, as_json=as_json)


def modify(
    *,
    target: Target,
    line: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="LINE",
            help="The units to have: tour=3 sets them, tour=0 drops the item, what is not named stays.",
            show_default=False,
        ),
    ] = None,
    pool: Pool = None,
    by_reference: ByReference = False,
    holder: Annotated[Optional[str], typer.Option(help="The new holder.")] = None,  # noqa: UP045
    new_reference: Annotated[Optional[str], typer.Option(help="The new reference.")] = None,  # noqa: UP045
    metadata: Metadata = None,
    revision: Annotated[int, typer.Option(help="Refuse it where the reservation has another revision. 0: any.")] = 0,
    request_id: RequestId = "",
    address: Address = "",
    timeout: Timeout = "10s",
    as_json: AsJson = False,
) -> None:
    """Change a hold in place; a refusal leaves it as it is, and its end stays."""
    given = {"lines": line, "holder": holder, "reference": new_reference, "metadata": metadata}
    request = pb.ModifyRequest(
        **target_fields(target, by_reference=by_reference),
        request_id=request_id or new_request_id(),
        lines=[pb.LineChange(sku=each.sku, pool=each.pool, quantity=each.quantity) for each in lines_of(line, pool)],
        holder=holder or "",
        new_reference=new_reference or "",
        metadata=metadata_of(metadata),
        revision=revision,
        update_mask=FieldMask(paths=[path for path, value in given.items() if value is not None]),
    )
    _change(request.request_id, lambda client: client.reservations.Modify(request), address, timeout, as_json=as_json)


def get(
    *,
    target: Target,
    by_reference: ByReference = False,
    trail: Annotated[bool, typer.Option("--trail", help="Its events too, oldest first.")] = False,
    address: Address = "",
    timeout: Timeout = "10s",
    as_json: AsJson = False,
) -> None:
    """Show a reservation."""
    screen = Screen(as_json=as_json)
    request = pb.GetReservationRequest(**target_fields(target, by_reference=by_reference))
    with called(address, timeout) as client:
        found = client.reservations.GetReservation(request).reservation
        trail_of = pb.ListReservationEventsRequest(reservation_id=found.reservation_id, page_size=PAGE)
        pages = _pages(client.reservations.ListReservationEvents, trail_of) if trail else ()
        events = [event for page in pages for event in page.events]
    if screen.as_json:
        screen.messages([found, *events])
        return
    from holdsvc.commands import tables

    screen.table(tables.reservation(found))
    for event in events:
        screen.table(tables.event(event))


def list_(
    *,
    state: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            parser=one_of(reservation_pb2.Reservation.State, "STATE_"),
            metavar=names_of(reservation_pb2.Reservation.State, "STATE_"),
            help="Only those in this state; may be repeated.",
            show_default=False,
        ),
    ] = None,
    sku: Annotated[str, typer.Option(help="Only those with this item.")] = "",
    pool: Annotated[Optional[str], typer.Option(help="Only those with an item of this pool.")] = None,  # noqa: UP045
    holder: Annotated[str, typer.Option(help="Only those of this holder.")] = "",
    reference: Annotated[str, typer.Option(help="Only those with this reference.")] = "",
    order_id: Annotated[str, typer.Option(help="Only the one with this order id.")] = "",
    client: Annotated[str, typer.Option(help="Only those of this client.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="The most to show, newest first. 0: all.")] = 50,
    address: Address = "",
    timeout: Timeout = "10s",
    as_json: AsJson = False,
) -> None:
    """List reservations, newest first."""
    screen = Screen(as_json=as_json)
    request = pb.ListReservationsRequest(
        page_size=min(limit + 1, PAGE) if limit else PAGE,
        states=state,
        sku=sku,
        pool=pool,
        holder=holder,
        reference=reference,
        order_id=order_id,
        client=client,
    )
    with called(address, timeout) as caller:
        pages = _pages(caller.reservations.ListReservations, request)
        found = chain.from_iterable(page.reservations for page in pages)
        shown = islice(found, limit or None)
        if screen.as_json:
            screen.messages(shown)
        else:
            from holdsvc.commands import tables

            screen.table(tables.reservations(shown))
        if next(found, None) is not None:
            note(f"there are more than {limit}: --limit 0 shows all of them")


def _change(request_id: str, send: Callable[[Client], Answer], address: str, timeout: str, *, as_json: bool) -> None:
    """Makes a change and shows the reservation as it then is."""
    screen = Screen(as_json=as_json)
    with called(address, timeout) as client, known(request_id):
        answer = send(client)
    if screen.as_json:
        screen.messages([answer.reservation])
    else:
        from holdsvc.commands import tables

        screen.table(tables.reservation(answer.reservation))
    if answer.replayed:
        note("this request id was used before for the same call: it took effect then, and not again")
    if isinstance(answer, pb.ConfirmResponse) and answer.rescued:
        note("the hold had expired, and its units were taken again")


def _pages(read: Callable[[Request], Page], request: Request) -> Iterator[Page]:
    """Reads one page after the other; the request is that of the next page each time."""
    while True:
        page = read(request)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time.replace(tzinfo=UTC))
    return message
