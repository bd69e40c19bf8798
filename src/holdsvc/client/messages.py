"""Requests from plain values, for both clients."""

import random
from collections.abc import Iterable, Mapping
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from inventoryhold.v1 import event_service_pb2, item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb

Lines = Mapping[str, int] | Iterable[item_pb2.ItemQuantity | tuple[str, str, int]]
"""`{sku: quantity}` of the default pool, or `(sku, pool, quantity)`, or messages."""

ABANDONED = "the caller failed"
"""Reason of the Cancel when a `hold` block ends with an exception."""


def lines_of(lines: Lines) -> list[item_pb2.ItemQuantity]:
    """Lines as messages."""
    if isinstance(lines, Mapping):
        return [item_pb2.ItemQuantity(sku=sku, quantity=quantity) for sku, quantity in lines.items()]
    return [
        line
        if isinstance(line, item_pb2.ItemQuantity)
        else item_pb2.ItemQuantity(sku=line[0], pool=line[1], quantity=line[2])
        for line in lines
    ]


def duration_of(time: timedelta | None) -> Duration | None:
    """A duration as a message; None stays unset."""
    if time is None:
        return None
    message = Duration()
    message.FromTimedelta(time)
    return message


def reserve(
    lines: Lines,
    ttl: timedelta | None,
    holder: str,
    reference: str,
    metadata: Mapping[str, str] | None,
    duplicate_window: timedelta | None,
    request_id: str,
) -> pb.ReserveRequest:
    """A ReserveRequest."""
    return pb.ReserveRequest(
        request_id=request_id,
        lines=lines_of(lines),
        holder=holder,
        reference=reference,
        ttl=duration_of(ttl),
        metadata=metadata,
        duplicate_window=duration_of(duplicate_window),
    )


def confirm(
    reservation_id: str, order_id: str, name: str, email: str, lines: Lines | None, request_id: str
) -> pb.ConfirmRequest:
    """A ConfirmRequest."""
    customer = pb.CustomerInput(name=name, email=email) if name or email else None
    return pb.ConfirmRequest(
        reservation_id=reservation_id,
        request_id=request_id,
        order_id=order_id,
        customer=customer,
        lines=lines_of(lines or ()),
    )


def copy_of(request: event_service_pb2.StreamEventsRequest) -> event_service_pb2.StreamEventsRequest:
    """A copy that `advance` may change."""
    copy = event_service_pb2.StreamEventsRequest()
    copy.CopyFrom(request)
    return copy


def advance(request: event_service_pb2.StreamEventsRequest, message: event_service_pb2.StreamEventsResponse) -> None:
    """Lets the request begin after this message."""
    if message.resume_token:
        request.resume_token = message.resume_token
        request.from_oldest = False


def reopen_pause_s(failures: int) -> float:
    """How long to wait before a stream is opened again, after so many failures in a row."""
    return random.uniform(0.0, min(2.0, 0.1 * 2 ** min(failures, 8)))
