"""Requests of the load, serialised once, with placeholders for what differs between calls."""

import random
import uuid
from collections.abc import Sequence

from google.protobuf.message import Message

from benchmark.generator import BATCH, SCRAMBLED, SERIAL
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb

HOT = "hot"
SOLD_OUT = "sold-out"
UNIFORM_COUNT = 10_000
VARIANTS = 64
"""Number of different messages in a load over many items."""

_TAIL = "-4000-8000-benchmarkrun"
_random = random.Random(5)


def sku(number: int) -> str:
    """An item of the uniform load."""
    return f"item-{number:05d}"


def uniform(count: int = 1) -> list[str]:
    """Distinct random items."""
    return [sku(number) for number in _random.sample(range(UNIFORM_COUNT), count)]


def _request_id() -> str:
    # 36 characters like a UUID, and spread over the index like one.
    return SCRAMBLED.decode() + _TAIL


def _reserve(skus: Sequence[str], request_id: str) -> pb.ReserveRequest:
    return pb.ReserveRequest(
        request_id=request_id, lines=[item_pb2.ItemQuantity(sku=name, quantity=1) for name in skus], holder=""
    )


def reserve(skus: Sequence[str], *, with_request_id: bool = True) -> bytes:
    """Reserve of one unit of each item."""
    return _reserve(skus, _request_id() if with_request_id else "").SerializeToString()


def reserves_uniform(lines: int = 1) -> list[bytes]:
    """Reserve of one unit of each of `lines` items, over all of them."""
    return [reserve(uniform(lines)) for _ in range(UNIFORM_COUNT // lines // 10)]


def batch(size: int, *, hot: bool) -> list[bytes]:
    """BatchReserve with a request id in each entry: random digits of the entry, then the call's number."""
    return [
        pb.BatchReserveRequest(
            requests=[
                _reserve([HOT] if hot else uniform(), f"{_random.getrandbits(32):08x}-{_request_id()}"[:36])
                for _ in range(size)
            ]
        ).SerializeToString()
        for _ in range(VARIANTS)
    ]


RESERVATION_PREFIX = "01900000-0000-7000-8000-"
"""Prefix of the ids of reservations loaded in bulk; the number in hexadecimal follows."""


def _target(request: Message) -> bytes:
    # Twelve digits make a valid id for the message; in the serialised bytes the placeholder replaces them.
    return request.SerializeToString().replace(b"f" * 12, SERIAL)


def _reservation_id() -> str:
    return str(uuid.UUID(RESERVATION_PREFIX + "f" * 12))


def confirm() -> bytes:
    """Confirm of the next bulk-loaded hold."""
    return _target(
        pb.ConfirmRequest(
            reservation_id=_reservation_id(),
            request_id=_request_id(),
            customer=pb.CustomerInput(name="A Customer", email="customer@example.com"),
        )
    )


def cancel() -> bytes:
    """Cancel of the next bulk-loaded hold."""
    return _target(pb.CancelRequest(reservation_id=_reservation_id(), request_id=_request_id()))


ENTRIES_MAX = 16**3
"""Numbers of bulk-loaded reservations that a batch has to itself: its number and three hexadecimal digits."""


def batch_confirm(size: int) -> bytes:
    """BatchConfirm of the next bulk-loaded holds."""
    customer = pb.CustomerInput(name="A Customer", email="customer@example.com")
    return _targets(
        pb.BatchConfirmRequest(
            requests=[
                pb.ConfirmRequest(reservation_id=id_, request_id=request_id, customer=customer)
                for id_, request_id in _entries(size)
            ]
        )
    )


def batch_cancel(size: int) -> bytes:
    """BatchCancel of the next bulk-loaded holds."""
    return _targets(
        pb.BatchCancelRequest(
            requests=[pb.CancelRequest(reservation_id=id_, request_id=request_id) for id_, request_id in _entries(size)]
        )
    )


def _entries(size: int) -> list[tuple[str, str]]:
    """The reservation and the request id of each entry."""
    return [
        (f"{RESERVATION_PREFIX}{'f' * 9}{entry:03x}", f"{_random.getrandbits(32):08x}-{_request_id()}"[:36])
        for entry in range(size)
    ]


def _targets(request: Message) -> bytes:
    prefix = RESERVATION_PREFIX.encode()
    return request.SerializeToString().replace(prefix + b"f" * 9, prefix + BATCH)


def refund() -> bytes:
    """Refund of the next bulk-loaded sale."""
    return _target(pb.RefundRequest(reservation_id=_reservation_id(), request_id=_request_id()))
