"""Requests from plain values, for both clients."""

import functools
import os
import random
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TypedDict, TypeVar

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from holdsvc.client import errors
from inventoryhold.v1 import event_service_pb2, item_pb2, waitlist_service_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb

_random = random.Random()
"""For request ids. Of its own: a program that seeds the module's would repeat them; a forked child takes a new seed."""
os.register_at_fork(after_in_child=_random.seed)

M = TypeVar("M", bound=Message)

Lines = Mapping[str, int] | Iterable[item_pb2.ItemQuantity | tuple[str, str, int]]
"""`{sku: quantity}` of the default pool, or `(sku, pool, quantity)`, or messages."""

Time = timedelta | float
"""A duration: a timedelta, or seconds."""

ABANDONED = "the caller failed"
"""Reason of the Cancel when a `hold` block ends with an exception, or a Reserve before its answer."""


class ReserveFields(TypedDict, total=False):
    """The optional arguments of `reserve` and `hold`."""

    ttl: Time | None
    holder: str
    reference: str
    metadata: Mapping[str, str] | None
    duplicate_window: Time | None
    request_id: str


class ConfirmFields(TypedDict, total=False):
    """The optional arguments of `confirm`."""

    order_id: str
    name: str
    email: str
    lines: Lines | None
    rescue: bool
    request_id: str


class ModifyFields(TypedDict, total=False):
    """The optional arguments of `modify`; what is None stays as it is."""

    lines: Lines | None
    holder: str | None
    reference: str | None
    metadata: Mapping[str, str] | None
    revision: int
    request_id: str


class JoinFields(TypedDict, total=False):
    """The optional arguments of `join_waitlist`."""

    reference: str
    offer_ttl: Time | None
    expire_time: datetime | None
    priority: int
    metadata: Mapping[str, str] | None
    request_id: str


def lines_of(lines: Lines) -> list[item_pb2.ItemQuantity]:
    """Lines as messages."""
    if isinstance(lines, dict | Mapping):  # `dict` is what it mostly is, and the quicker question
        return [item_pb2.ItemQuantity(sku=sku, quantity=quantity) for sku, quantity in lines.items()]
    return [
        line
        if isinstance(line, item_pb2.ItemQuantity)
        else item_pb2.ItemQuantity(sku=line[0], pool=line[1], quantity=line[2])
        for line in lines
    ]


def part_of(lines: Lines | None, what: str) -> list[item_pb2.ItemQuantity]:
    """The lines of a partial change; None means everything. Raises INVALID_FIELD where lines are given and empty."""
    if lines is None:
        return []
    messages = lines_of(lines)
    if not messages:
        raise _no_lines(what)
    return messages


def duration_of(time: Time | None) -> Duration | None:
    """A duration as a message; None stays unset."""
    if time is None:
        return None
    message = Duration()
    message.FromTimedelta(time if isinstance(time, timedelta) else timedelta(seconds=time))
    return message


def reserve(
    lines: Lines,
    *,
    ttl: Time | None = None,
    holder: str = "",
    reference: str = "",
    metadata: Mapping[str, str] | None = None,
    duplicate_window: Time | None = None,
    request_id: str = "",
) -> pb.ReserveRequest:
    """A ReserveRequest."""
    request = pb.ReserveRequest(lines=lines_of(lines))
    # What is not given is not passed: an empty argument costs as much as a set one.
    if request_id:
        request.request_id = request_id
    if holder:
        request.holder = holder
    if reference:
        request.reference = reference
    if (life := duration_of(ttl)) is not None:
        request.ttl.CopyFrom(life)
    if metadata:
        request.metadata.update(metadata)
    if (window := duration_of(duplicate_window)) is not None:
        request.duplicate_window.CopyFrom(window)
    return request


def confirm(
    reservation_id: str,
    *,
    order_id: str = "",
    name: str = "",
    email: str = "",
    lines: Lines | None = None,
    rescue: bool = False,
    request_id: str = "",
) -> pb.ConfirmRequest:
    """A ConfirmRequest."""
    customer = pb.CustomerInput(name=name, email=email) if name or email else None
    return pb.ConfirmRequest(
        reservation_id=reservation_id,
        request_id=request_id,
        order_id=order_id,
        customer=customer,
        lines=part_of(lines, "confirm"),
        rescue=rescue,
    )


def modify(
    reservation_id: str,
    *,
    lines: Lines | None = None,
    holder: str | None = None,
    reference: str | None = None,
    metadata: Mapping[str, str] | None = None,
    revision: int = 0,
    request_id: str = "",
) -> pb.ModifyRequest:
    """A ModifyRequest that sets what is not None."""
    given = {"lines": lines, "holder": holder, "reference": reference, "metadata": metadata}
    return pb.ModifyRequest(
        reservation_id=reservation_id,
        request_id=request_id,
        revision=revision,
        lines=[pb.LineChange(sku=line.sku, pool=line.pool, quantity=line.quantity) for line in lines_of(lines or ())],
        holder=holder or "",
        new_reference=reference or "",
        metadata=metadata,
        update_mask=FieldMask(paths=[path for path, value in given.items() if value is not None]),
    )


def join_waitlist(
    lines: Lines,
    holder: str,
    *,
    reference: str = "",
    offer_ttl: Time | None = None,
    expire_time: datetime | None = None,
    priority: int = 0,
    metadata: Mapping[str, str] | None = None,
    request_id: str = "",
) -> waitlist_service_pb2.JoinWaitlistRequest:
    """A JoinWaitlistRequest; `expire_time` is aware."""
    return waitlist_service_pb2.JoinWaitlistRequest(
        request_id=request_id,
        lines=lines_of(lines),
        holder=holder,
        reference=reference,
        offer_ttl=duration_of(offer_ttl),
        expire_time=expire_time,
        priority=priority,
        metadata=metadata,
    )


def _no_lines(what: str) -> errors.InvalidField:
    """The error of an empty `lines`, which the service would read as everything."""
    description = f"names no units: leave it out to {what} everything"
    violation = error_details_pb2.BadRequest.FieldViolation(field="lines", description=description)
    return errors.InvalidField(
        grpc.StatusCode.INVALID_ARGUMENT,
        f"lines {description}",
        reason=errors.InvalidField.REASON,
        details=[error_details_pb2.BadRequest(field_violations=[violation])],
    )


def copy_of(message: M) -> M:
    """A copy that may be changed."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def with_request_id(request: M) -> M:
    """The request with a request_id, and so each entry of a batch, where its type has one and it is empty.

    A copy: a caller that sends one message twice means two calls, not a replay of the first.
    """
    entries, own = _request_id_fields(request.DESCRIPTOR)
    if own and request.request_id == "":  # type: ignore[attr-defined]
        request = copy_of(request)
        request.request_id = new_request_id()  # type: ignore[attr-defined]
    if entries:
        request = copy_of(request)
        for entry in request.requests:  # type: ignore[attr-defined]
            entry.request_id = entry.request_id or new_request_id()
    return request


def new_request_id() -> str:
    """A UUIDv4 of 120 random bits. `uuid.uuid4` takes four times as long, a sixth of what a shared call costs."""
    digits = _random.randbytes(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


@functools.cache
def _request_id_fields(kind: Descriptor) -> tuple[bool, bool]:
    """Whether the entries of a request have a request_id, and whether it has one itself."""
    entries = kind.fields_by_name.get("requests")
    entry = entries.message_type if entries is not None else None
    return entry is not None and "request_id" in entry.fields_by_name, "request_id" in kind.fields_by_name


def advance(request: event_service_pb2.StreamEventsRequest, message: event_service_pb2.StreamEventsResponse) -> None:
    """Lets the request continue after this message."""
    if message.resume_token:
        request.resume_token = message.resume_token
        request.from_oldest = False


def reopen_pause_s(failures: int) -> float:
    """How long to wait before a stream is opened again, after so many failures in a row."""
    return random.uniform(0.0, min(2.0, 0.1 * 2 ** min(failures, 8)))
