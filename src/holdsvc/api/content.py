"""What requests of several services have in common."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from google.protobuf.message import Message

from holdsvc import errors
from holdsvc.errors import HoldError
from holdsvc.model import Caller, Line
from inventoryhold.v1 import item_pb2


def fingerprint(request: Message) -> bytes:
    """A hash of what the request says, by which a reused request_id is told from a repeated call."""
    return blake2b(request.SerializeToString(deterministic=True), digest_size=16).digest()


def units(lines: Sequence[item_pb2.ItemQuantity]) -> dict[tuple[str, str], int]:
    """The units wanted of each (sku, pool), in the order in which the items first appear."""
    found: dict[tuple[str, str], int] = {}
    # A slice: protobuf's own iteration makes an IndexError to end with, which takes as long as a line.
    for line in lines[:]:
        key = (line.sku, line.pool)
        found[key] = found.get(key, 0) + line.quantity
    return found


def merged_lines(lines: Sequence[item_pb2.ItemQuantity]) -> list[Line]:
    """The lines with those of one item added up."""
    return [Line(sku, pool, quantity) for (sku, pool), quantity in units(lines).items()]


def check_pool(caller: Caller, sku: str, pool: str) -> None:
    """Raises ITEM_NOT_FOUND for a pool that the caller's key may not see."""
    if not caller.sees_pool(pool):
        raise HoldError(errors.item_not_found(sku, pool))


def check_pools(caller: Caller, items: Iterable[tuple[str, str]]) -> None:
    """Raises ITEM_NOT_FOUND for the first item in a pool that the caller's key may not see."""
    if caller.pools:
        for sku, pool in items:
            check_pool(caller, sku, pool)
